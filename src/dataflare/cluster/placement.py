"""Which worker runs which task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dataflare.engine.messages import Deploy

Placement = Literal["spread", "pack"]


def placed(
    specs: Sequence[Deploy], workers: int, placement: Placement = "spread", *, slots: int = 1
) -> dict[str, int]:
    """By task, the number of its worker.

    Tasks that send all their rows to one other task are placed together with it, so that these rows stay in memory. spread: such groups
    go to all workers in turn. pack: to as few as have `slots` groups each.
    """
    heads: dict[str, str] = {spec.task: spec.task for spec in specs}

    def head(task: str) -> str:
        while heads[task] != task:
            heads[task] = heads[heads[task]]
            task = heads[task]
        return task

    for spec in specs:
        for outlet in spec.outlets:
            if outlet.exchange == "forward":
                heads[head(outlet.tasks[0])] = head(spec.task)
    numbers: dict[str, int] = {}
    for spec in specs:
        numbers.setdefault(head(spec.task), len(numbers))
    if placement == "pack":
        return {s.task: min(numbers[head(s.task)] // slots, workers - 1) for s in specs}
    return {s.task: numbers[head(s.task)] % workers for s in specs}
