"""When calls are held back, and when they pass again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dataflare.errors import DataError, Retry, SystemError_
from dataflare.resilience.breaker import CircuitBreaker, HeldBack, Opened, StoppedWaiting
from dataflare.resilience.leaving import Leaving
from dataflare.resilience.policy import RetryPolicy
from dataflare.resilience.retry import Retried, Retrying
from dataflare.testing import VirtualClock


class Bench:
    """A breaker on a virtual clock, and calls that fail or take long when told to."""

    def __init__(self, **more: Any) -> None:
        self.clock = VirtualClock()
        self.opened: list[Opened] = []
        self.closed = 0
        given: dict[str, Any] = {"failure_rate": 0.5, "window_s": 60, "recovery_s": 30} | more
        self.breaker = CircuitBreaker(
            clock=self.clock,
            sleep=self.clock.sleep,
            opened=self.opened.append,
            closed=self._has_closed,
            **given,
        )
        self.calls = 0

    def _has_closed(self) -> None:
        self.closed += 1

    async def good(self, takes_s: float = 0.0, *, timed: bool = True) -> None:
        async def call() -> None:
            self.calls += 1
            self.clock.advance(takes_s)

        await self.breaker.call(call, timed=timed)

    async def bad(self, error: Exception | None = None) -> None:
        raised = error or SystemError_("lost", code="E0607", retry=Retry.LATER)

        async def call() -> None:
            self.calls += 1
            raise raised

        with pytest.raises(type(raised)):
            await self.breaker.call(call)

    async def open(self) -> None:
        for _ in range(5):
            await self.bad()
        assert self.breaker.is_open


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_it_opens_at_the_share_of_failed_calls() -> None:
    async def main() -> None:
        bench = Bench()
        for _ in range(3):
            await bench.good()
            await bench.bad() if bench.calls < 5 else None
        assert not bench.breaker.is_open, "2 of 5"
        await bench.bad()
        assert bench.breaker.is_open, "3 of 6"
        assert bench.opened == [Opened("", 6, 3, 0)]
        assert bench.opened[0].reason == "of 6 calls 3 failed"

    asyncio.run(main())


def test_few_calls_say_nothing() -> None:
    async def main() -> None:
        bench = Bench()
        for _ in range(4):
            await bench.bad()
        assert not bench.breaker.is_open

    asyncio.run(main())


def test_what_is_older_than_the_window_is_forgotten() -> None:
    async def main() -> None:
        bench = Bench()
        for _ in range(4):
            await bench.bad()
        bench.clock.advance(60)
        for _ in range(4):
            await bench.bad()
        assert not bench.breaker.is_open
        await bench.bad()
        assert bench.breaker.is_open

    asyncio.run(main())


def test_only_errors_worth_retrying_count() -> None:
    async def main() -> None:
        bench = Bench()
        for _ in range(9):
            await bench.bad(DataError("nonsense"))
        assert not bench.breaker.is_open

    asyncio.run(main())


def test_slow_calls_count_as_failed_though_their_result_is_used() -> None:
    async def main() -> None:
        bench = Bench(slow_s=5)
        for _ in range(5):
            await bench.good(takes_s=9, timed=False)
            await bench.good(takes_s=4.9)
        assert not bench.breaker.is_open
        for _ in range(10):
            await bench.good(takes_s=5)
            if bench.breaker.is_open:
                return
        raise AssertionError("it never opened")

    asyncio.run(main())


def test_calls_wait_until_one_of_them_has_found_it_well_again() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.open()
        waiting = [asyncio.ensure_future(bench.good()) for _ in range(3)]
        await settled()
        bench.clock.advance(29)
        await settled()
        assert bench.calls == 5
        bench.clock.advance(1)
        await asyncio.gather(*waiting)
        assert bench.calls == 8
        assert not bench.breaker.is_open

    asyncio.run(main())


def test_one_call_alone_tries_and_a_failure_opens_it_again() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.open()
        first = asyncio.ensure_future(bench.bad())
        await settled()
        second = asyncio.ensure_future(bench.good())
        await settled()
        bench.clock.advance(30)
        await first
        await settled()
        assert bench.calls == 6
        assert [each.reason for each in bench.opened][1:] == ["a trial call failed or was slow"]
        assert bench.closed == 0
        bench.clock.advance(30)
        await second
        assert bench.calls == 7
        assert bench.closed == 1

    asyncio.run(main())


def test_a_trial_that_is_cancelled_leaves_the_next_one_its_turn() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.open()
        bench.clock.advance(30)

        async def forever() -> None:
            await asyncio.get_running_loop().create_future()

        trial = asyncio.ensure_future(bench.breaker.call(forever))
        await settled()
        other = asyncio.ensure_future(bench.good())
        await settled()
        assert bench.calls == 5
        trial.cancel()
        await other
        assert not bench.breaker.is_open

    asyncio.run(main())


def test_slow_calls_have_a_share_of_their_own() -> None:
    async def main() -> None:
        bench = Bench(failure_rate=0.2, slow_s=5, slow_rate=0.5)
        for _ in range(6):
            await bench.good()
        for _ in range(5):
            await bench.good(takes_s=5)
        assert not bench.breaker.is_open, "5 of 11 are slow, and none failed"
        await bench.good(takes_s=5)
        assert bench.breaker.is_open
        assert bench.opened == [Opened("", 12, 0, 6)]
        assert bench.opened[0].reason == "of 12 calls 6 were slow"

    asyncio.run(main())


def test_several_trial_calls_must_succeed() -> None:
    async def main() -> None:
        bench = Bench(trials=2)
        await bench.open()
        bench.clock.advance(30)
        await bench.good()
        assert bench.breaker.is_open
        await bench.bad()
        assert len(bench.opened) == 2
        bench.clock.advance(30)
        await bench.good()
        assert bench.breaker.is_open, "the trial before the failure does not count"
        await bench.good()
        assert not bench.breaker.is_open
        assert bench.closed == 1

    asyncio.run(main())


def test_no_more_trial_calls_are_out_than_must_succeed() -> None:
    async def main() -> None:
        bench = Bench(trials=2)
        await bench.open()
        bench.clock.advance(30)
        answers: list[asyncio.Future[None]] = []

        async def asked() -> None:
            answers.append(asyncio.get_running_loop().create_future())
            await answers[-1]

        calls = [asyncio.ensure_future(bench.breaker.call(asked)) for _ in range(4)]
        await settled()
        assert len(answers) == 2
        answers[0].set_result(None)
        await settled()
        assert len(answers) == 2
        answers[1].set_result(None)
        await settled()
        assert len(answers) == 4
        for each in answers[2:]:
            each.set_result(None)
        await asyncio.gather(*calls)

    asyncio.run(main())


def test_a_call_that_did_not_reach_the_system_closes_nothing() -> None:
    async def main() -> None:
        bench = Bench()

        async def local() -> None:
            return None

        for _ in range(4):
            await bench.bad()
        for _ in range(50):
            await bench.breaker.call(local, is_counted=lambda: False)
        await bench.bad()
        assert bench.breaker.is_open, "5 of 5"
        bench.clock.advance(30)
        await bench.breaker.call(local, is_counted=lambda: False)
        assert bench.breaker.is_open
        await bench.good()
        assert not bench.breaker.is_open

    asyncio.run(main())


def test_a_call_that_began_before_it_opened_says_nothing_about_now() -> None:
    async def main() -> None:
        bench = Bench()
        go_on = asyncio.Event()
        early = asyncio.ensure_future(bench.breaker.call(go_on.wait))
        await settled()
        await bench.open()
        go_on.set()
        await early
        assert bench.breaker.is_open
        assert bench.closed == 0

    asyncio.run(main())


def test_an_error_worth_retrying_counts_also_where_the_call_says_that_it_did_not_reach_the_system() -> (
    None
):
    async def lost() -> None:
        raise SystemError_("lost", code="E0607", retry=Retry.LATER)

    async def main() -> None:
        bench = Bench()
        for _ in range(5):
            with pytest.raises(SystemError_):
                await bench.breaker.call(lost, is_counted=lambda: False)
        assert bench.breaker.is_open

    asyncio.run(main())


def test_a_call_that_waits_while_the_run_stops_is_left_and_not_made_again() -> None:
    async def main() -> None:
        bench, leaving, told = Bench(), Leaving(), list[Retried]()
        await bench.open()
        before = bench.calls
        policy = RetryPolicy(max_attempts=9, initial_backoff="0s")
        retrying = Retrying(
            "db", policy, breaker=bench.breaker, on_retry=told.append, leaving=leaving
        )
        leaving.begin()
        with pytest.raises(StoppedWaiting) as left:
            await retrying.call(bench.good)
        assert "attempt" not in left.value.message
        assert told == []
        assert bench.calls == before

    asyncio.run(main())


@pytest.mark.parametrize("once", [True, False])
def test_no_call_waits_for_the_breaker_of_a_run_that_stops(once: bool) -> None:
    async def scenario() -> None:
        bench, leaving = Bench(), Leaving()
        await bench.open()
        retrying = Retrying("orders", breaker=bench.breaker, leaving=leaving)
        made = retrying.once if once else retrying.call
        left = asyncio.ensure_future(made(_nothing))
        inside = asyncio.ensure_future(made(_nothing, is_left=False))
        await settled()
        assert not left.done()
        leaving.begin()
        with pytest.raises(StoppedWaiting, match="the circuit breaker of step 'orders' is open"):
            await left
        assert not inside.done(), "it is awaited by the stop: the breaker decides"
        bench.clock.advance(30)
        await inside

    asyncio.run(scenario())


def test_a_call_that_is_made_once_may_refuse_to_wait() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.open()
        with pytest.raises(HeldBack):
            await Retrying("orders", breaker=bench.breaker).once(_nothing, waits=False)

    asyncio.run(scenario())


async def _nothing() -> None:
    pass


def test_a_breaker_that_is_tripped_holds_calls_back_and_is_not_told() -> None:
    told: list[object] = []
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    now = [0.0]
    breaker = CircuitBreaker(
        failure_rate=0.5, window_s=10, recovery_s=5, clock=lambda: now[0], sleep=sleep,
        opened=told.append,
    )  # fmt: skip
    breaker.trip()
    breaker.trip()
    assert breaker.is_open

    async def succeed() -> int:
        return 1

    assert asyncio.run(breaker.call(succeed)) == 1
    assert slept == [5.0]
    assert not breaker.is_open
    assert told == []
