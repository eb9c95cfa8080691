"""Worker processes: calls that fail, hang, take memory or kill their process, and pools that grow, shrink and end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from dataflare.sdk import worker_pool
from dataflare.sdk.worker_pool import WorkerLost, WorkerPool

LONG_S = 60.0


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(2)
    yield pool
    pool.close(wait=False)


def double(number: int) -> int:
    return 2 * number


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(mark: str) -> str:
    """Kill the process at the first call only."""
    if not Path(mark).exists():
        Path(mark).touch()
        die()
    return "alive"


def eat() -> int:
    held = [bytes(range(256)) * 4096 * 300]
    while True:
        held.append(held[0] * 1)
        held[-1] = bytes(bytearray(held[0]))


def refuse(why: str) -> None:
    raise KeyError(why)


class Unpicklable(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def refuse_oddly() -> None:
    raise Unpicklable("a", "b")


def wait_for(path: str) -> str:
    """Wait until a file is there."""
    Path(path).with_suffix(".begun").touch()
    while not Path(path).exists():
        time.sleep(0.01)
    return "done"


def until(condition: object) -> None:
    """Wait until a condition holds; the test's own timeout ends it."""
    tick = threading.Event()
    while not condition():  # type: ignore[operator]
        tick.wait(0.01)


def test_calls_have_their_results_and_errors(pool: WorkerPool) -> None:
    results = [pool.submit(double, n) for n in range(20)]
    assert [each.result(LONG_S) for each in results] == [2 * n for n in range(20)]
    with pytest.raises(KeyError, match="no such thing"):
        pool.submit(refuse, "no such thing").result(LONG_S)
    with pytest.raises(RuntimeError, match="Unpicklable: a"):
        pool.submit(refuse_oddly).result(LONG_S)
    assert pool.submit(double, 4).result(LONG_S) == 8
    assert pool.health().lost == 0


def test_what_cannot_be_sent_is_an_error_of_its_call_alone(pool: WorkerPool) -> None:
    with pytest.raises(Exception, match="pickle"):
        pool.submit(lambda: 1).result(LONG_S)
    assert pool.submit(double, 4).result(LONG_S) == 8


def test_a_call_that_kills_its_process_costs_that_call_alone(
    pool: WorkerPool, tmp_path: Path
) -> None:
    others = [pool.submit(double, n) for n in range(5)]
    dead = pool.submit(die)
    others += [pool.submit(double, n) for n in range(5)]
    with pytest.raises(WorkerLost, match="signal SIGKILL") as lost:
        dead.result(LONG_S)
    assert lost.value.why == "died"
    assert [each.result(LONG_S) for each in others] == [2 * n for n in range(5)] * 2
    assert pool.health().lost == 1
    mark = str(tmp_path / "mark")
    with pytest.raises(WorkerLost):
        pool.submit(die_once, mark).result(LONG_S)
    assert pool.submit(die_once, mark).result(LONG_S) == "alive"


def test_a_process_that_was_killed_between_calls_costs_nothing(pool: WorkerPool) -> None:
    pid = pool.submit(pid_after, 0.0).result(LONG_S)
    os.kill(pid, signal.SIGKILL)
    killed = psutil.Process(pid)
    # Its threads end one by one; before the last one it is not gone.
    until(lambda: killed.status() == psutil.STATUS_ZOMBIE and killed.num_threads() <= 1)
    assert pool.submit(pid_after, 0.0).result(LONG_S) != pid


def test_a_call_that_hangs_is_ended(pool: WorkerPool) -> None:
    hanging = pool.submit(pid_after, LONG_S, timeout_s=0.2)
    with pytest.raises(WorkerLost, match=r"took longer than 0\.2 s") as lost:
        hanging.result(LONG_S)
    assert lost.value.why == "hung"
    assert pool.submit(double, 1).result(LONG_S) == 2


def test_what_a_call_needs_first_does_not_take_of_its_time(pool: WorkerPool) -> None:
    """A call of no time, whose process needs longer to be ready than the call may take."""
    slow = partial(pid_after, 1.0)
    assert pool.submit(double, 4, prepare=slow, timeout_s=0.5).result(LONG_S) == 8
    with pytest.raises(WorkerLost, match=r"took longer than 0\.2 s") as lost:
        pool.submit(pid_after, LONG_S, prepare=partial(double, 1), timeout_s=0.2).result(LONG_S)
    assert lost.value.is_ready


def test_a_process_that_is_never_ready_is_told_from_a_call_that_fails(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WorkerLost, match="SIGKILL") as lost:
        pool.submit(double, 1, prepare=die).result(LONG_S)
    assert not lost.value.is_ready
    with pytest.raises(KeyError, match="why"):
        pool.submit(double, 1, prepare=partial(refuse, "why")).result(LONG_S)
    monkeypatch.setattr(worker_pool, "START_S", 0.2)
    with pytest.raises(WorkerLost, match=r"took longer than 0\.2 s") as lost:
        pool.submit(double, 1, prepare=partial(pid_after, LONG_S), timeout_s=LONG_S).result(LONG_S)
    assert not lost.value.is_ready
    with pytest.raises(WorkerLost) as lost:
        pool.submit(die).result(LONG_S)
    assert lost.value.is_ready


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say")
def test_a_call_that_takes_too_much_memory_is_ended(pool: WorkerPool) -> None:
    with pytest.raises(WorkerLost, match="more than 600 MiB") as lost:
        pool.submit(eat, memory_max=600 << 20).result(LONG_S)
    assert lost.value.why == "memory"
    assert pool.submit(double, 1).result(LONG_S) == 2


def test_a_pool_grows_and_shrinks_while_it_works(pool: WorkerPool, tmp_path: Path) -> None:
    begun, go = (
        [tmp_path / f"{n}.begun" for n in range(4)],
        [tmp_path / f"{n}.go" for n in range(4)],
    )
    results = [pool.submit(wait_for, str(path)) for path in go]
    until(lambda: sum(path.exists() for path in begun) == 2)
    assert pool.health().waiting == 2
    pool.resize(4)
    until(lambda: all(path.exists() for path in begun))
    assert [worker.busy_s is not None for worker in pool.health().workers] == [True] * 4
    pool.resize(1)
    for path in go:
        path.touch()
    assert [each.result(LONG_S) for each in results] == ["done"] * 4
    until(lambda: len(pool.health().workers) == 1)
    assert pool.submit(double, 3).result(LONG_S) == 6


def test_a_pool_that_closes_lets_calls_end_and_cancels_those_that_wait(tmp_path: Path) -> None:
    pool = WorkerPool(1)
    go = tmp_path / "one.go"
    running, waiting = pool.submit(wait_for, str(go)), pool.submit(double, 1)
    until(lambda: go.with_suffix(".begun").exists())
    closing = threading.Thread(target=pool.close)
    closing.start()
    until(waiting.cancelled)
    go.touch()
    assert running.result(LONG_S) == "done"
    closing.join(LONG_S)
    assert not closing.is_alive()
    with pytest.raises(RuntimeError, match="no calls any more"):
        pool.submit(double, 1)


def test_a_pool_that_waits_no_longer_ends_its_processes(tmp_path: Path) -> None:
    pool = WorkerPool(1)
    running = pool.submit(wait_for, str(tmp_path / "never"))
    until(lambda: pool.health().workers[0].pid is not None)
    pid = pool.health().workers[0].pid
    pool.close(timeout_s=0.05)
    with pytest.raises(WorkerLost):
        running.result(LONG_S)
    assert pid is not None
    assert not psutil.pid_exists(pid)
