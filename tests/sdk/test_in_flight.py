"""How many requests may be under way: the limit follows errors and the time of answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dataflare.sdk.in_flight import AdaptiveLimit, InFlight, limit_of
from dataflare.sdk.runtime import Runtime


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def one(limit: AdaptiveLimit, clock: Clock, seconds: float, *, failed: bool = False) -> None:
    async with limit.turn() as turn:
        clock.now += seconds
        turn.failed = failed


def test_an_error_halves_the_limit_and_successes_raise_it_by_one_a_round():
    async def main() -> list[float]:
        clock = Clock()
        limit = AdaptiveLimit(16, clock)
        seen = []
        await one(limit, clock, 0.1, failed=True)
        seen.append(limit.limit)
        for _ in range(8):
            await one(limit, clock, 0.1)
        seen.append(limit.limit)
        for _ in range(2_000):
            await one(limit, clock, 0.1)
        seen.append(limit.limit)
        for _ in range(20):
            await one(limit, clock, 0.1, failed=True)
        return [*seen, limit.limit]

    assert asyncio.run(main()) == pytest.approx([8.0, 9.0, 16.0, 1.0], abs=0.1)


def test_requests_that_fail_together_lower_the_limit_once():
    async def main() -> float:
        clock, go = Clock(), asyncio.Event()
        limit = AdaptiveLimit(8, clock)

        async def request() -> None:
            async with limit.turn() as turn:
                await go.wait()
                turn.failed = True

        requests = [asyncio.ensure_future(request()) for _ in range(8)]
        await asyncio.sleep(0)
        clock.now = 1.0
        go.set()
        await asyncio.gather(*requests)
        return limit.limit

    assert asyncio.run(main()) == 4.0


def test_answers_that_take_longer_lower_it_and_it_comes_back():
    async def main() -> list[float]:
        clock = Clock()
        limit = AdaptiveLimit(32, clock)
        for _ in range(50):
            await one(limit, clock, 0.1)
        before = limit.limit
        for _ in range(60):
            await one(limit, clock, 1.0)
        slow = limit.limit
        for _ in range(4_000):
            await one(limit, clock, 0.1)
        return [before, slow, limit.limit]

    before, slow, after = asyncio.run(main())
    assert (before, after) == (32.0, 32.0)
    assert slow < 8


def test_no_more_than_the_limit_are_under_way_and_all_get_their_turn():
    async def main() -> tuple[int, int]:
        limit, most, done = AdaptiveLimit(3), 0, 0

        async def request() -> None:
            nonlocal most, done
            async with limit.turn():
                most = max(most, limit.under_way)
                await asyncio.sleep(0)
                done += 1

        waiting = [asyncio.ensure_future(request()) for _ in range(50)]
        await asyncio.sleep(0)
        for each in waiting[10:20]:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert limit.under_way == 0
        return most, done

    assert asyncio.run(asyncio.wait_for(main(), 20)) == (3, 40)


def test_steps_share_the_limit_of_their_system():
    in_flight = InFlight()
    with Runtime(in_flight=in_flight).entered():
        first: Any = limit_of("a", "api:443", 8)
        assert limit_of("b", "api:443", 4) is first
        assert limit_of("c", "other:443", 4) is not first
    assert limit_of("a", "api:443", 8) is not first
    assert in_flight.by_step()["b"] is first


def test_larger_requests_that_take_longer_do_not_lower_it():
    """Ten times as many rows take ten times as long: the system is not slower than before."""

    async def main() -> list[float]:
        clock, seen = Clock(), []
        limit = AdaptiveLimit(8, clock)
        for _ in range(100):
            for size in (10, 100, 1_000, 10_000):
                async with limit.turn(size):
                    clock.now += size / 1_000
            seen.append(limit.limit)
        for _ in range(60):
            async with limit.turn(10):
                clock.now += 1.0
        return [min(seen), limit.limit]

    least, slow = asyncio.run(main())
    assert least == 8.0
    assert slow < 4
