"""How many tasks may go on at once follows the memory of the process, and does not swing."""

from __future__ import annotations

import asyncio
import threading

from hypothesis import given
from hypothesis import strategies as st

from dataflare.engine.easing import SplitTurns
from dataflare.engine.memory_guard import OVERHEAD, MemoryGuard
from dataflare.sdk.threads import ThreadsOfRun

BUDGET = 100 << 20


class Machine:
    """The memory of a process and the time, as a test says them."""

    def __init__(self, tasks: int = 8) -> None:
        self.now, self.used = 0.0, -OVERHEAD / BUDGET
        self.guard = MemoryGuard(BUDGET, tasks, rss=self.rss, clock=lambda: self.now)

    def rss(self) -> int:
        return (50 << 20) + OVERHEAD + int(self.used * BUDGET)

    def stay(self, used: float, seconds: float) -> list[int]:
        """What it says while so much of the budget is used, ten times a second."""
        self.used, seen = used, []
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.guard.look()
            seen.append(self.guard.at_once)
        return seen


def test_too_much_memory_halves_the_tasks_until_one_is_left_and_calm_brings_them_back() -> None:
    machine = Machine()
    assert {*machine.stay(0.5, 10)} == {8}
    assert [*dict.fromkeys(machine.stay(1.2, 5))] == [4, 2, 1]
    assert machine.guard.told is not None
    assert {*machine.stay(0.75, 60)} == {1}, "between the bounds nothing changes"
    assert [*dict.fromkeys(machine.stay(0.5, 20))] == [1, 3, 5, 7, 8]
    assert machine.guard.told is None


def test_a_process_without_numbers_has_all_its_tasks() -> None:
    guard = MemoryGuard(BUDGET, 4, rss=lambda: None)
    assert not guard.look()
    assert guard.at_once == 4


@given(st.lists(st.floats(-1, 5), max_size=200), st.integers(1, 64))
def test_one_task_at_least_and_all_at_most_go_on(used: list[float], tasks: int) -> None:
    machine = Machine(tasks)
    for each in used:
        before = machine.guard.at_once
        (after,) = machine.stay(each, 0.1)
        assert 1 <= after <= tasks
        if 0.6 <= machine.guard.used < 0.9:
            assert after == before


def test_threads_are_as_many_as_are_allowed_and_all_calls_are_made() -> None:
    threads = ThreadsOfRun(6)
    lock, go, under_way, greatest = threading.Lock(), threading.Semaphore(0), [0], [0]
    begun, ended = threading.Semaphore(0), threading.Semaphore(0)

    def call() -> None:
        with lock:
            under_way[0] += 1
            greatest[0] = max(greatest[0], under_way[0])
        begun.release()
        go.acquire()
        with lock:
            under_way[0] -= 1
        ended.release()

    def take(semaphore: threading.Semaphore, count: int) -> None:
        assert all(semaphore.acquire(timeout=30) for _ in range(count))

    futures = [threads.submit(call) for _ in range(40)]
    take(begun, 6)
    threads.allow(2)
    go.release(4)
    take(ended, 4)
    with lock:
        assert under_way[0] == 2
        greatest[0] = 0
    for _ in range(10):
        go.release()
        take(begun, 1)
    assert greatest[0] == 2
    threads.allow(5)
    take(begun, 3)
    with lock:
        assert under_way[0] == 5
    go.release(40)
    for future in futures:
        future.result(30)
    threads.shutdown()


def test_splits_wait_for_a_turn_and_none_is_lost() -> None:
    async def main() -> tuple[int, int]:
        turns, most, done = SplitTurns(asyncio.Semaphore(4)), [0], [0]
        open_now = [0]

        async def read() -> None:
            await turns.acquire()
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])
            await asyncio.sleep(0)
            open_now[0] -= 1
            done[0] += 1
            turns.release()

        turns.allow(2)
        readers = [asyncio.ensure_future(read()) for _ in range(30)]
        await asyncio.sleep(0)
        for each in readers[5:10]:
            each.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        few = most[0]
        turns.allow(None)
        await asyncio.gather(*(read() for _ in range(30)))
        return few, most[0]

    assert asyncio.run(asyncio.wait_for(main(), 30)) == (2, 4)
