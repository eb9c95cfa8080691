"""Who is slow among workers, and what goes over their links."""

from __future__ import annotations

import pytest

from dataflare.observability.times import Spent
from dataflare.observability.view import ProcessView, RunView, WorkerView
from dataflare.observability.worker_load import slowest_worker, worker_loads


def view(at: float, **workers: tuple[float, float, dict[str, int]]) -> RunView:
    made = RunView("w", "run", "running", at, 0.0, at, ProcessView(1, 0.0))
    made.workers = {
        name: WorkerView(1, Spent(busy_s=busy, waiting_s=waiting), sent)
        for name, (busy, waiting, sent) in workers.items()
    }
    return made


def test_only_the_time_between_two_looks_counts() -> None:
    before = view(10.0, a=(9.0, 1.0, {"b": 1_000}), b=(1.0, 9.0, {"a": 0}))
    now = view(12.0, a=(9.2, 2.8, {"b": 5_000}), b=(2.8, 9.2, {"a": 10}))
    a, b = worker_loads(now, before)
    assert a.bytes_per_s == {"b": 2_000.0}
    assert a.busy == pytest.approx(0.1)
    assert b.bytes_per_s == {"a": 5.0}
    slow = slowest_worker(now, before)
    assert slow is not None
    assert slow.worker == "b"
    whole = slowest_worker(now)
    assert whole is not None
    assert whole.worker == "a"


def test_a_new_attempt_counts_from_nothing() -> None:
    before = view(10.0, a=(9.0, 1.0, {"b": 1_000}))
    (a,) = worker_loads(view(11.0, a=(0.1, 0.1, {"b": 10})), before)
    assert (a.busy, a.bytes_per_s) == (0.0, {"b": 0.0})


def test_no_worker_is_slow_where_all_wait_or_there_is_none() -> None:
    assert slowest_worker(view(10.0, a=(1.0, 9.0, {}), b=(2.0, 8.0, {}))) is None
    assert slowest_worker(view(10.0)) is None
