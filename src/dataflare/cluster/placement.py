"""Which worker runs which task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from dataflare.engine.messages import Deploy


def is_beside_job(spec: Deploy) -> bool:
    """Whether a task can only run in the process of its job."""
    ends = spec.stage.source, spec.stage.destination
    return any(end is not None and end.beside_job for end in ends)


def neighbours(specs: Sequence[Deploy], where: Mapping[str, int]) -> dict[int, set[int]]:
    """By worker, those that it exchanges rows with. where: as from `placed`."""
    found: dict[int, set[int]] = {number: set() for number in where.values()}
    for spec in specs:
        reader = where[spec.task]
        for inlet in spec.inlets:
            writer = where[inlet.sender]
            if reader != writer:
                found[reader].add(writer)
                found[writer].add(reader)
    return found


def placed(
    specs: Sequence[Deploy], workers: int, preferred: Mapping[str, Collection[int]] | None = None
) -> dict[str, int]:
    """By task, the number of its worker; `workers` is the number of the one in the process of the job.

    Tasks that send all their rows to one other task are placed together with it, so that these rows stay in memory. Such groups
    go to all workers in turn. preferred: by task, the workers whose machines have its state; of them the one with the fewest tasks
    gets it, if it is not its turn anyway.
    """
    beside_job = {spec.task for spec in specs if is_beside_job(spec)}
    senders = Counter((inlet.edge, spec.task) for spec in specs for inlet in spec.inlets)
    heads: dict[str, str] = {spec.task: spec.task for spec in specs}

    def head(task: str) -> str:
        while heads[task] != task:
            heads[task] = heads[heads[task]]
            task = heads[task]
        return task

    for spec in specs:
        for outlet in spec.outlets:
            both = {spec.task, outlet.tasks[0]}
            is_alone = len(outlet.tasks) == 1 == senders[outlet.edge, outlet.tasks[0]]
            if (outlet.exchange == "forward" or is_alone) and not both & beside_job:
                heads[head(outlet.tasks[0])] = head(spec.task)
    numbers: dict[str, int] = {}
    for spec in specs:
        if spec.task not in beside_job:
            numbers.setdefault(head(spec.task), len(numbers))
    wanted: dict[str, frozenset[int]] = {}
    for task, those in (preferred or {}).items():
        if those and task not in beside_job:
            wanted[head(task)] = wanted.get(head(task), frozenset(those)) & frozenset(those)
    load = Counter(number % workers for each, number in numbers.items() if not wanted.get(each))
    for each, number in numbers.items():
        those = wanted.get(each, frozenset())
        if those:
            turn = number % workers
            numbers[each] = turn if turn in those else min(sorted(those), key=load.__getitem__)
            load[numbers[each]] += 1
    return {
        spec.task: workers if spec.task in beside_job else numbers[head(spec.task)] % workers
        for spec in specs
    }
