"""A clock that the test moves."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class VirtualClock:
    """Seconds since it was created. Pass it as a `clock` (it is called without arguments), and its
    `sleep` to code that waits.

        clock = VirtualClock()
        batcher = AdaptiveBatcher(clock=clock)
        clock.advance(5)
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has moved by this time."""
        if seconds <= 0:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    def advance(self, seconds: float) -> None:
        """Move the clock, and wake sleepers in the order of their times."""
        if seconds < 0:
            raise ValueError("time does not go back")
        until = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            self._now, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
        self._now = until

    @property
    def sleepers(self) -> int:
        """The number of waiting sleepers."""
        return sum(not future.done() for _, _, future in self._sleepers)
