"""Which task a worker takes next, and what becomes of one that fails. Pure: no clock, no thread, no process.

A worker that is free asks for a task, so fast workers take more of them. A task that fails is tried again, after a wait
that doubles, and set aside after a number of attempts, so that one poisoned task does not hold up the others.

Always true:
- a task has one attempt at a time, and the answer of an earlier attempt changes nothing;
- of the tasks that are due, the one with the highest priority is taken, and of these the one that was submitted first;
- done, cancelled and set_aside are final, unless the user submits the task again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import asdict, replace

from dataflare.resilience.backoff import backoff_s

State = Literal["waiting", "running", "done", "cancelled", "set_aside"]
FINAL: tuple[State, ...] = ("done", "cancelled", "set_aside")


class Retries(Struct, frozen=True):
    """attempts_max: after so many a task is set aside. wait_s: before the second attempt; each next wait is twice as
    long, up to wait_max_s."""

    attempts_max: int = 3
    wait_s: float = 1.0
    wait_max_s: float = 60.0

    def after(self, attempt: int) -> float:
        """The wait after an attempt has failed, from 1."""
        return backoff_s(self.wait_s, self.wait_max_s, attempt)


class Task(Struct, frozen=True):
    """A task and where it stands. number: in the order of submission. attempt: the one that runs, or how many were made.
    not_before: of a task that waits; times are those of the caller's clock. worker: that runs it. error: of its last
    attempt that failed. payload: what the caller needs to run it, as JSON."""

    id: str
    number: int
    payload: Any = None
    priority: int = 0
    state: State = "waiting"
    attempt: int = 0
    not_before: float = 0.0
    worker: str | None = None
    error: str | None = None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class TaskScheduler:
    """All tasks. The caller keeps the clock, runs what `take` gives, and tells how it ended."""

    def __init__(self, retries: Retries | None = None) -> None:
        self._retries = retries or Retries()
        self._tasks: dict[str, Task] = {}
        self._due: list[tuple[int, int, str]] = []
        self._later: list[tuple[float, int, str]] = []
        self._running: dict[str, set[str]] = {}
        self._counts: dict[str, int] = dict.fromkeys(("waiting", "running", *FINAL), 0)
        self._next_number = 0

    # -- submit, cancel, status --------------------------------------------------------------------

    def submit(self, id: str, payload: Any = None, *, priority: int = 0) -> Task:
        """Add a task; one that has its final state begins anew. Raises ValueError for one that waits or runs."""
        before = self._tasks.get(id)
        if before is not None and not before.is_final:
            raise ValueError(f"the task '{id}' is {before.state} already")
        if before is not None:
            self._counts[before.state] -= 1
        task = Task(id, self._next_number, payload, priority)
        self._next_number += 1
        self._tasks[id] = task
        self._counts["waiting"] += 1
        self._push(task)
        return task

    def cancel(self, id: str) -> bool:
        """Begin no attempt of a task any more. Returns whether it had not ended. The answer of an attempt that
        runs changes nothing; the caller may end it."""
        task = self.status(id)
        if task.is_final:
            return False
        self._move(task, "cancelled")
        return True

    def status(self, id: str) -> Task:
        """Where a task stands. Raises KeyError."""
        return self._tasks[id]

    def prioritise(self, id: str, priority: int) -> None:
        """Change the priority of a task that waits, or of the next attempt of one that runs."""
        task = replace(self.status(id), priority=priority)
        self._tasks[id] = task
        if task.state == "waiting":
            self._push(task)

    def tasks(self) -> Iterable[Task]:
        """All tasks, in the order in which they were submitted first."""
        return self._tasks.values()

    def counts(self) -> Mapping[str, int]:
        """How many tasks there are in each state."""
        return dict(self._counts)

    @property
    def is_idle(self) -> bool:
        """Whether no task waits or runs."""
        return not (self._counts["waiting"] or self._counts["running"])

    # -- for workers -------------------------------------------------------------------------------

    def take(self, worker: str, now: float) -> Task | None:
        """The next task for a worker; None if none is due."""
        while self._later and self._later[0][0] <= now:
            _, number, id = heapq.heappop(self._later)
            if self._is_current(id, number) and self._tasks[id].not_before <= now:
                self._push_due(self._tasks[id])
        while self._due:
            minus_priority, number, id = heapq.heappop(self._due)
            task = self._tasks[id]
            # What was cancelled, got another priority, or failed since then is still in the heap.
            is_current = self._is_current(id, number) and task.priority == -minus_priority
            if not is_current or task.not_before > now:
                continue
            taken = self._move(task, "running", attempt=task.attempt + 1, worker=worker)
            self._running.setdefault(worker, set()).add(id)
            return taken
        return None

    def next_due(self) -> float | None:
        """The time at which a task is due, if none is due before; None where none waits for a time."""
        while self._later and not self._is_current(self._later[0][2], self._later[0][1]):
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else None

    def finished(self, id: str, attempt: int) -> bool:
        """An attempt succeeded. Returns False for the answer of one that does not run any more."""
        task = self._answering(id, attempt)
        if task is None:
            return False
        self._move(task, "done", error=None)
        return True

    def failed(
        self, id: str, attempt: int, error: str, now: float, *, is_final: bool = False
    ) -> bool:
        """An attempt failed. is_final: a retry cannot help. Returns False for the answer of one that does not run
        any more."""
        task = self._answering(id, attempt)
        if task is None:
            return False
        if is_final or task.attempt >= self._retries.attempts_max:
            self._move(task, "set_aside", error=error)
        else:
            not_before = now + self._retries.after(task.attempt)
            waits = self._move(task, "waiting", error=error, not_before=not_before)
            heapq.heappush(self._later, (not_before, waits.number, id))
        return True

    def lost(self, worker: str, error: str, now: float) -> list[Task]:
        """A worker is gone: its tasks have failed, and are tried again. Returns them."""
        ids = sorted(self._running.get(worker, ()), key=lambda id: self._tasks[id].number)
        for id in ids:
            self.failed(id, self._tasks[id].attempt, error, now)
        return [self._tasks[id] for id in ids]

    # -- inside ------------------------------------------------------------------------------------

    def _answering(self, id: str, attempt: int) -> Task | None:
        task = self._tasks.get(id)
        runs = task is not None and task.state == "running" and task.attempt == attempt
        return task if runs else None

    def _is_current(self, id: str, number: int) -> bool:
        task = self._tasks[id]
        return task.state == "waiting" and task.number == number

    def _move(self, task: Task, state: State, **changes: Any) -> Task:
        if task.worker is not None:
            self._running[task.worker].discard(task.id)
        moved = replace(task, **{"worker": None, **changes, "state": state})
        self._counts[task.state] -= 1
        self._counts[state] += 1
        self._tasks[task.id] = moved
        return moved

    def _push(self, task: Task) -> None:
        if task.not_before > 0:
            heapq.heappush(self._later, (task.not_before, task.number, task.id))
        else:
            self._push_due(task)

    def _push_due(self, task: Task) -> None:
        heapq.heappush(self._due, (-task.priority, task.number, task.id))
