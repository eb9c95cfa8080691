"""What a worker tells its job of its tasks: only of those that did something, and the less often the more there is to say.

Always true: nothing is decided by a report. What an epoch counts comes with the shares of its tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from dataflare.cluster.orders import Report, TaskReport
from dataflare.engine.deploy import Worker
from dataflare.engine.metrics import JobMetrics
from dataflare.engine.pace import Pace
from dataflare.observability.resources import this_process
from dataflare.observability.times import Doing, Spent, TaskClock
from dataflare.observability.view import ProcessView

REPORT_S, PROCESS_S = 0.25, 1.0
BYTES_PER_S = 4 << 20
"""So much all workers of a job tell it. A report of a task has about 700 bytes."""


class Reports:
    """Of one worker in an attempt. paces: by step, with the share of its rate. held_back: gives the steps whose breaker is
    open. workers: how many tell the job."""

    def __init__(
        self,
        worker: Worker,
        metrics: JobMetrics,
        paces: Mapping[str, tuple[Pace, float]],
        held_back: Callable[[], Sequence[str]],
        workers: int,
    ) -> None:
        self._worker, self._metrics, self._paces = worker, metrics, paces
        self._held_back, self._process_told_s = held_back, 0.0
        self._bytes_per_s = BYTES_PER_S / max(1, workers)
        self._told: dict[str, Any] = {}
        self.next_s = REPORT_S
        """When the next one is due."""

    def changed(self) -> Report:
        """Of the tasks that are not as they were told."""
        reports = []
        for view, task in zip(self._worker.views(), self._worker.tasks, strict=True):
            times, uncut = task.metrics.times, task.uncut()
            counts, latency = task.metrics.counts, times.latency
            moment = times.clock.moment
            facts = moment, msgspec.msgpack.encode((view, counts, latency, uncut))
            if self._told.get(task.id) == facts:
                continue
            self._told[task.id] = facts
            spent = times.clock.spent()
            reports.append(TaskReport(view, counts, spent, moment[0], latency, uncut))
        used_s = {step: pace.used_s * share for step, (pace, share) in self._paces.items()}
        metrics = self._metrics
        degraded, held_back = dict(metrics.degraded), self._held_back()
        return Report(reports, metrics.beside, degraded, used_s, held_back, self._process())

    def _process(self) -> ProcessView | None:
        now_s = time.monotonic()
        if now_s - self._process_told_s < PROCESS_S:
            return None
        self._process_told_s = now_s
        return this_process()

    def sent(self, num_bytes: int) -> None:
        """A report of this size was sent."""
        self.next_s = max(REPORT_S, num_bytes / self._bytes_per_s)


class ToldClock(TaskClock):
    """The time of a task in another process, as it was told. What it did then it does since."""

    __slots__ = ("_told",)

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(now)
        self._told: Spent = Spent()

    def tell(self, spent: Spent, doing: Doing | None) -> None:
        self._told, self._doing, self._since = spent, doing, self._now()

    def enter(self, doing: Doing | None) -> Doing | None:
        """Only its own process knows what it does. None: it has ended."""
        if doing is None:
            self.tell(self.spent(), None)
        return self._doing

    def spent(self) -> Spent:
        seconds = [self._told.busy_s, self._told.waiting_s, self._told.blocked_s]
        if self._doing is not None:
            seconds[self._doing] += self._now() - self._since
        return Spent(*seconds)
