"""What a worker tells of its tasks: only what changed, and the less often the more it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dataflare.cluster.orders import Report, TaskReport
from dataflare.cluster.reports import BYTES_PER_S, REPORT_S, Reports, ToldClock, ToldTasks
from dataflare.engine.hosting import TaskView
from dataflare.engine.metrics import JobMetrics
from dataflare.observability.times import Doing, Spent
from dataflare.observability.view import ProcessView, WorkerView


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def tasks_of(metrics: JobMetrics, count: int) -> Any:
    """A worker with tasks that do nothing."""
    tasks = []
    for number in range(count):
        task = SimpleNamespace(id=f"t{number}", metrics=metrics.of_task("t"), uncut=lambda: None)
        task.metrics.times.clock.enter(Doing.WAITING)
        tasks.append(task)
    views = [TaskView(task.id, 0, 0, 0, {}) for task in tasks]
    return SimpleNamespace(tasks=tasks, views=lambda: views)


def deploy(task: str) -> Any:
    return SimpleNamespace(task=task, stage=SimpleNamespace(name="t"))


def test_only_tasks_that_did_something_are_told() -> None:
    metrics = JobMetrics({"t": "transformation"})
    worker = tasks_of(metrics, 5)
    reports = Reports(worker, metrics, {}, {}, list, 1)
    assert [told.view.task for told in reports.changed().tasks] == ["t0", "t1", "t2", "t3", "t4"]
    assert reports.changed().tasks == []
    worker.tasks[1].metrics.step("t").add_in(3)
    worker.tasks[3].metrics.times.clock.enter(Doing.BUSY)
    assert [told.view.task for told in reports.changed().tasks] == ["t1", "t3"]
    worker.tasks[4].uncut = lambda: "it waits"
    (told,) = reports.changed().tasks
    assert (told.view.task, told.uncut) == ("t4", "it waits")


def test_reports_of_many_tasks_come_less_often() -> None:
    metrics = JobMetrics({})
    reports = Reports(tasks_of(metrics, 0), metrics, {}, {}, list, 100)
    reports.sent(1_000)
    assert reports.next_s == REPORT_S
    reports.sent(140_000)  # 200 tasks, all of which did something
    assert reports.next_s == 140_000 / (BYTES_PER_S / 100)
    reports.sent(1_000)
    assert reports.next_s == REPORT_S, "and as often as before when there is less"


def test_the_clock_of_a_task_that_is_not_told_goes_on() -> None:
    now = Clock()
    clock = ToldClock(now)
    clock.tell(Spent(1.0, 2.0, 3.0), Doing.WAITING)
    now.now_s = 5.0
    assert clock.spent() == Spent(1.0, 7.0, 3.0)
    assert clock.is_on
    clock.enter(None)
    now.now_s = 9.0
    assert clock.spent() == Spent(1.0, 7.0, 3.0)
    assert not clock.is_on


def test_a_worker_is_known_as_it_said_last_until_it_is_lost() -> None:
    metrics = JobMetrics({"t": "transformation"})
    told = ToldTasks("w0", metrics, {}, {0: "w0", 1: "w1"})
    told.add([deploy("t0"), deploy("t1")])
    view, process = TaskView("t0", 0, 0, 0, {}), ProcessView(7, 1.0, rss_bytes=64)
    task = TaskReport(view, {}, Spent(1.0, 2.0, 3.0), None, None, None)
    told.tell(Report([task], {}, {}, {}, {1: 10}, ["t"], process))
    assert metrics.workers == {
        "w0": WorkerView(2, Spent(1.0, 2.0, 3.0), {"w1": 10}, ("t",), process)
    }
    before = metrics.workers["w0"]
    told.tell(Report([], {}, {}, {}, {1: 25}))
    assert metrics.workers == {"w0": WorkerView(2, Spent(1.0, 2.0, 3.0), {"w1": 25}, (), process)}
    assert before.sent_bytes == {"w1": 10}, "an earlier look stays as it was"
    told.lost()
    assert metrics.workers == {}
