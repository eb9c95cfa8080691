"""When a source is asked for new splits, and which of them wait for a reader."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.engine.discovery import Finder
from dataflare.engine.split_queue import WAITING_MAX, SplitQueue
from dataflare.errors import DataError, Retry, SystemError_
from dataflare.model.progress import Position, Split
from dataflare.resilience.policy import RetryPolicy
from dataflare.resilience.retry import Retrying
from dataflare.sdk.source import KnownSplits, SupportsDiscovery

NONE_KNOWN = KnownSplits((), frozenset(), frozenset())


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 20))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Answers(SupportsDiscovery):
    """Answers each look as the test says. An exception is raised."""

    def __init__(self, *answers: Sequence[Split] | Exception | None) -> None:
        self.answers, self.looks = list(answers), 0

    async def discover(self, known: KnownSplits) -> Sequence[Split] | None:
        self.looks += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def finder_of(
    source: Answers, interval_s: float, *, at_once: bool = False, retrying: Retrying | None = None
) -> tuple[Finder, list[Any]]:
    told: list[Any] = []

    async def known() -> KnownSplits:
        return NONE_KNOWN

    finder = Finder(
        source,
        interval_s,
        retrying or Retrying("in"),
        known=known,
        found=told.append,
        at_once=at_once,
    )
    return finder, told


def test_it_looks_after_each_interval_until_there_will_be_no_more() -> None:
    async def main() -> None:
        a, b = Split("a"), Split("b")
        finder, told = finder_of(Answers([a], [], [b], None), 0.001)
        await finder.run()
        assert told == [[a], [], [b], None]

    run(main())


def test_it_looks_at_once_when_it_is_woken() -> None:
    async def main() -> None:
        source = Answers([], [], None)
        finder, _ = finder_of(source, 3600)
        running = asyncio.ensure_future(finder.run())
        await settle()
        assert source.looks == 0
        for look in (1, 2, 3):
            finder.wake()
            await settle()
            assert source.looks == look
        await running

    run(main())


def test_a_run_that_resumes_looks_at_once() -> None:
    async def main() -> None:
        finder, told = finder_of(Answers(None), 3600, at_once=True)
        await finder.run()
        assert told == [None]

    run(main())


def test_a_look_that_fails_is_retried_or_ends_the_attempt() -> None:
    async def main() -> None:
        away = SystemError_("away", code="E0601", retry=Retry.LATER)
        retrying = Retrying("in", RetryPolicy(max_attempts=2, initial_backoff="1ms"))
        finder, told = finder_of(Answers(away, None), 0.001, retrying=retrying)
        await finder.run()
        assert told == [None]
        finder, told = finder_of(Answers(DataError("wrong", code="E0503", help="x")), 0.001)
        with pytest.raises(DataError):
            await finder.run()

    run(main())


@given(
    listed=st.integers(0, 5),
    looks=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 80))),
)
def test_each_split_is_given_once_and_few_wait(listed: int, looks: list[tuple[int, int]]) -> None:
    """looks: up to which number splits are there, and how many are taken before the next look."""
    every = [Split(f"{n:03d}") for n in range(200)]
    queue = SplitQueue(every[:listed], discovers=True)
    taken: list[Split] = []
    in_manifests = list(every[:listed])
    count = listed
    for there, takes in [*looks, (0, 0), *[(0, 100)] * 4]:
        count = max(count, there)
        queue.find(every[:count])
        for _ in range(takes):
            assign = queue.take()
            if assign is not None:
                taken.append(assign.split)
        assert len(queue) <= max(WAITING_MAX, listed)
        in_manifests += queue.admitted()
        assert {split.id for split in in_manifests} == queue.known, "a manifest has what is known"
    assert taken == every[:count]


def test_a_split_that_was_begun_goes_on_and_one_that_is_done_is_not_taken_again() -> None:
    a, b, c = Split("a"), Split("b"), Split("c")
    queue = SplitQueue(
        [a, b], {"b": Position({"at": 3})}, frozenset({"a"}), {"b": 7}, discovers=True
    )
    queue.find([a, b, c])
    first = queue.take()
    assert first is not None
    assert (first.split, first.position, first.event_time_us) == (b, Position({"at": 3}), 7)
    second = queue.take()
    assert second is not None
    assert (second.split, second.position) == (c, None)
    assert queue.take() is None
