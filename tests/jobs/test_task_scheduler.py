"""The scheduler of tasks against a plain model, through any interleaving of calls."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dataflare.jobs.task_scheduler import Retries, TaskScheduler

ATTEMPTS = 3
WAIT_S = 2.0
NAMES = ["a", "b", "c", "d", "e"]
WORKERS = ["w1", "w2"]


@dataclass
class Modelled:
    number: int
    priority: int
    state: str = "waiting"
    attempt: int = 0
    not_before: float = 0.0
    worker: str = ""


class SchedulerAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scheduler = TaskScheduler(Retries(ATTEMPTS, WAIT_S, 60.0))
        self.model: dict[str, Modelled] = {}
        self.now, self.number = 0.0, 0
        self.old: list[tuple[str, int]] = []
        """Attempts that have ended."""

    @rule(name=st.sampled_from(NAMES), priority=st.integers(-1, 2))
    def submit(self, name: str, priority: int) -> None:
        known = self.model.get(name)
        if known is not None and known.state in ("waiting", "running"):
            with pytest.raises(ValueError, match=f"'{name}' is {known.state}"):
                self.scheduler.submit(name, priority=priority)
            return
        self.scheduler.submit(name, priority=priority)
        self.old = [each for each in self.old if each[0] != name]
        self.model[name] = Modelled(self.number, priority)
        self.number += 1

    @rule(seconds=st.sampled_from([0.0, 1.0, 2.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(worker=st.sampled_from(WORKERS))
    def take(self, worker: str) -> None:
        due = {
            name: task
            for name, task in self.model.items()
            if task.state == "waiting" and task.not_before <= self.now
        }
        expected = min(due, key=lambda name: (-due[name].priority, due[name].number), default=None)
        taken = self.scheduler.take(worker, self.now)
        assert (None if taken is None else taken.id) == expected
        if taken is not None:
            task = self.model[taken.id]
            task.state, task.attempt, task.worker = "running", task.attempt + 1, worker
            assert (taken.attempt, taken.worker) == (task.attempt, worker)

    def fail(self, task: Modelled, *, is_final: bool = False) -> None:
        if is_final or task.attempt == ATTEMPTS:
            task.state = "set_aside"
        else:
            task.state, task.not_before = "waiting", self.now + WAIT_S * 2 ** (task.attempt - 1)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), how=st.sampled_from(["finished", "failed", "refused"]))
    def answer(self, data: st.DataObject, how: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        task = self.model[name]
        runs = task.state == "running"
        if how == "finished":
            counts = self.scheduler.finished(name, task.attempt)
        else:
            counts = self.scheduler.failed(
                name, task.attempt, "no", self.now, is_final=how == "refused"
            )
        assert counts is runs
        if runs:
            self.old.append((name, task.attempt))
            if how == "finished":
                task.state = "done"
            else:
                self.fail(task, is_final=how == "refused")

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def an_old_answer_changes_nothing(self, data: st.DataObject) -> None:
        name, attempt = data.draw(st.sampled_from(self.old))
        if self.model[name].state != "running" or self.model[name].attempt != attempt:
            before = self.scheduler.status(name)
            assert not self.scheduler.finished(name, attempt)
            assert not self.scheduler.failed(name, attempt, "late", self.now)
            assert self.scheduler.status(name) == before

    @rule(worker=st.sampled_from(WORKERS))
    def a_worker_is_lost(self, worker: str) -> None:
        lost = [n for n, t in self.model.items() if t.state == "running" and t.worker == worker]
        found = self.scheduler.lost(worker, "gone", self.now)
        assert {task.id for task in found} == set(lost)
        for name in lost:
            self.old.append((name, self.model[name].attempt))
            self.fail(self.model[name])

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        task = self.model[name]
        assert self.scheduler.cancel(name) is (task.state in ("waiting", "running"))
        if task.state == "running":
            self.old.append((name, task.attempt))
        if task.state in ("waiting", "running"):
            task.state = "cancelled"

    @precondition(lambda self: self.model)
    @rule(data=st.data(), priority=st.integers(-1, 2))
    def prioritise(self, data: st.DataObject, priority: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        self.scheduler.prioritise(name, priority)
        self.model[name].priority = priority

    @invariant()
    def states_and_counts_are_those_of_the_model(self) -> None:
        for name, task in self.model.items():
            status = self.scheduler.status(name)
            assert (status.state, status.attempt) == (task.state, task.attempt)
        states = [task.state for task in self.model.values()]
        assert all(states.count(state) == n for state, n in self.scheduler.counts().items())
        assert self.scheduler.is_idle is not ({"waiting", "running"} & set(states) != set())

    @invariant()
    def a_task_that_waits_for_a_time_is_told(self) -> None:
        later = [
            task.not_before
            for task in self.model.values()
            if task.state == "waiting" and task.not_before > self.now
        ]
        if later:
            due = self.scheduler.next_due()
            assert due is not None
            assert due <= min(later)


TestSchedulerAgainstModel = SchedulerAgainstModel.TestCase
TestSchedulerAgainstModel.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)


@pytest.mark.parametrize("priority", [0, 1])
def test_a_task_that_failed_waits_also_after_its_priority_was_set(priority: int) -> None:
    scheduler = TaskScheduler(Retries(ATTEMPTS, WAIT_S, 60.0))
    scheduler.submit("a")
    for each in (priority, 0):
        scheduler.prioritise("a", each)
    assert scheduler.take("w1", 0.0) is not None
    assert scheduler.failed("a", 1, "no", 0.0)
    assert scheduler.take("w1", 0.0) is None
    assert scheduler.next_due() == WAIT_S
    again = scheduler.take("w1", WAIT_S)
    assert again is not None
    assert again.attempt == 2


def test_waits_double_up_to_their_most() -> None:
    assert [Retries(9, 1.0, 5.0).after(n) for n in (1, 2, 3, 4, 1_000)] == [1.0, 2.0, 4.0, 5.0, 5.0]
