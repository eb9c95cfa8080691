"""Waits of a run that stops."""

from __future__ import annotations

import asyncio

import pytest

from dataflare.resilience import leaving
from dataflare.resilience.leaving import Leaving


async def for_ever(_: float = 0.0) -> None:
    await asyncio.Event().wait()


def test_a_wait_ends_when_the_run_stops() -> None:
    async def go() -> None:
        run = Leaving()
        waiting = asyncio.gather(run.unless_begun(for_ever()), run.cutting(for_ever)(60.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        run.begin()
        await waiting

    asyncio.run(go())


def test_a_wait_ends_by_itself_while_the_run_goes_on() -> None:
    async def go() -> None:
        run = Leaving()
        await run.unless_begun(asyncio.sleep(0))
        await run.cutting(asyncio.sleep)(0.0)
        assert not run.is_begun

    asyncio.run(go())


def test_a_wait_that_begins_after_the_stop_is_not_cut() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)
        slept.append(seconds)

    async def go() -> None:
        run = Leaving()
        run.begin()
        await run.cutting(sleep)(0.3)

    asyncio.run(go())
    assert slept == [0.3]


def test_nothing_is_tried_after_the_time_that_the_first_stop_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(leaving.time, "monotonic", lambda: now[0])
    run = Leaving()
    assert not run.is_over(1e9)
    run.begin()
    assert not run.is_over(2.0)
    assert run.is_over(2.1)
    now[0] = 101.0
    run.begin()
    assert not run.is_over(1.0)
    assert run.is_over(1.1)
