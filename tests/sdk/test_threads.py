"""Runs share threads: each has its share, and none waits for another's."""

from __future__ import annotations

import threading
from concurrent.futures import wait

import pytest

from dataflare.sdk.threads import ThreadsOfRun


def test_a_run_makes_as_many_calls_at_a_time_as_it_may_and_all_in_the_end() -> None:
    threads, lock = ThreadsOfRun(3), threading.Lock()
    full, go = threading.Event(), threading.Event()
    now, most, order = 0, 0, []

    def call(number: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            order.append(number)
            if now == 3:
                full.set()
        assert go.wait(10)
        with lock:
            now -= 1
        return number * 2

    futures = [threads.submit(call, n) for n in range(20)]
    assert full.wait(10)
    go.set()
    assert [f.result(10) for f in futures] == [n * 2 for n in range(20)]
    assert (most, sorted(order)) == (3, list(range(20)))


def test_a_run_whose_calls_block_does_not_hold_up_another() -> None:
    blocked, go = [ThreadsOfRun(2) for _ in range(20)], threading.Event()
    waiting = [each.submit(go.wait, 10) for each in blocked for _ in range(2)]
    assert ThreadsOfRun(1).submit(lambda: 5).result(10) == 5
    go.set()
    assert not wait(waiting, 10).not_done


def test_the_end_waits_for_calls_that_run_and_cancels_those_that_wait() -> None:
    threads, running, go = ThreadsOfRun(1), threading.Event(), threading.Event()
    done: list[str] = []

    def slow() -> None:
        running.set()
        assert go.wait(10)
        done.append("slow")

    first, second = threads.submit(slow), threads.submit(done.append, "late")
    assert running.wait(10)
    ending = threading.Thread(
        target=lambda: (threads.shutdown(cancel_futures=True), done.append("end"))
    )
    ending.start()
    while not second.cancelled():
        pass
    go.set()
    ending.join(10)
    assert done == ["slow", "end"]
    assert first.result(10) is None
    with pytest.raises(RuntimeError):
        threads.submit(print)


def test_an_error_belongs_to_its_call_and_the_next_one_is_made() -> None:
    threads = ThreadsOfRun(1)
    failed, fine = threads.submit(int, "x"), threads.submit(int, "7")
    with pytest.raises(ValueError, match="invalid literal"):
        failed.result(10)
    assert fine.result(10) == 7
