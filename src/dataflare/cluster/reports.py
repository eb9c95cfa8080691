"""What a worker tells its job of its tasks and of itself: only of tasks that did something, and the less often the more there is to say.

Always true: nothing is decided by a report. What an epoch counts comes with the shares of its tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from dataflare.cluster.link import Link
from dataflare.cluster.orders import Report, TaskReport
from dataflare.engine.deploy import Worker
from dataflare.engine.hosting import TaskView
from dataflare.engine.messages import Deploy
from dataflare.engine.metrics import JobMetrics, TaskMetrics
from dataflare.engine.pace import Pace
from dataflare.observability.resources import this_process
from dataflare.observability.times import Doing, Spent, TaskClock
from dataflare.observability.view import ProcessView, WorkerView

REPORT_S, PROCESS_S = 0.25, 1.0
BYTES_PER_S = 4 << 20
"""So much all workers of a job tell it. A report of a task has about 700 bytes."""


class Reports:
    """Of one worker in an attempt. paces: by step, with the share of its rate. links: to other workers, by their
    numbers. held_back: gives the steps whose breaker is open. workers: how many tell the job."""

    def __init__(
        self,
        worker: Worker,
        metrics: JobMetrics,
        paces: Mapping[str, tuple[Pace, float]],
        links: Mapping[int, Link],
        held_back: Callable[[], Sequence[str]],
        workers: int,
    ) -> None:
        self._worker, self._metrics, self._paces, self._links = worker, metrics, paces, links
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
        return Report(
            reports,
            metrics.beside,
            dict(metrics.degraded),
            used_s,
            {number: link.wire.bytes_out for number, link in self._links.items()},
            self._held_back(),
            self._process(),
        )

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


class ToldTasks:
    """One worker of an attempt and its tasks, as it said last. Kept by the job, and added to what the job counts. names: of all workers of
    the attempt, by their numbers."""

    def __init__(
        self, name: str, metrics: JobMetrics, paces: Mapping[str, Pace], names: Mapping[int, str]
    ) -> None:
        self._name, self._names = name, names
        self._all_metrics, self._paces = metrics, paces
        self._beside = metrics.of_no_task()
        self._rates_used_s: Mapping[str, float] = {}
        self._degraded: set[str] = set()
        self.metrics: dict[str, TaskMetrics] = {}
        self.views: dict[str, TaskView] = {}
        self.uncut: dict[str, str] = {}

    def add(self, specs: Sequence[Deploy]) -> None:
        """The tasks that it will run."""
        for spec in specs:
            metrics = self._all_metrics.of_task(spec.stage.name)
            metrics.times.clock = ToldClock()
            self.metrics[spec.task] = metrics

    def tell(self, report: Report) -> None:
        """The worker has said how it is."""
        for told in report.tasks:
            task = told.view.task
            self.views[task] = told.view
            metrics = self.metrics[task]
            metrics.counts = dict(told.counts)
            metrics.times.latency = told.latency
            clock = metrics.times.clock
            assert isinstance(clock, ToldClock)
            clock.tell(told.spent, told.doing)
            if told.uncut is None:
                self.uncut.pop(task, None)
            else:
                self.uncut[task] = told.uncut
        self._beside.counts = dict(report.beside)
        for step in self._degraded - report.degraded.keys():
            self._all_metrics.degraded.pop(step, None)
        self._degraded = set(report.degraded)
        self._all_metrics.degraded.update(report.degraded)
        for step, used_s in report.rates_used_s.items():
            self._paces[step].used_elsewhere(used_s - self._rates_used_s.get(step, 0.0))
        self._rates_used_s = report.rates_used_s
        self._tell_worker(report)

    def _tell_worker(self, report: Report) -> None:
        workers, spent = self._all_metrics.workers, Spent()
        for metrics in self.metrics.values():
            spent.add(metrics.times.clock.spent())
        before = workers.get(self._name)
        workers[self._name] = WorkerView(
            len(self.metrics),
            spent,
            {self._names[number]: sent for number, sent in report.sent_bytes.items()},
            tuple(report.held_back),
            report.process or (before.process if before is not None else None),
        )

    def lost(self) -> None:
        """The worker is gone, or has ended."""
        self._all_metrics.workers.pop(self._name, None)
