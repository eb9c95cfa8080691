"""A circuit breaker: calls to a failing system stop for a while, then one of them tries.

    closed      calls pass; their outcomes within the window are counted
    open        the share of failed calls came to the limit: calls wait until `recovery_s` is over
    half-open   one call passes, the others wait for its outcome: closed again, or open again

Always true: a call is never refused, only held back. So it needs no error of its own: whoever gives
up is the retry policy around it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dataflare.errors import DataFlareError, Retry

T = TypeVar("T")

CALLS_MIN = 5
"""Fewer calls than this within the window say nothing of a system."""


class CircuitBreaker:
    """For one system, shared by all tasks that call it, on one event loop.

    failure_rate: share of failed calls, above 0 to 1, at which it opens. window_s: calls within this
    time count. slow_s: a call that takes as long counts as failed, though its result is used; None
    for never. recovery_s: how long it stays open. opened: told how long, each time it opens.
    """

    def __init__(
        self,
        *,
        failure_rate: float,
        window_s: float,
        recovery_s: float,
        slow_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        opened: Callable[[float], None] = lambda recovery_s: None,
    ) -> None:
        self._rate, self._window_s = failure_rate, window_s
        self._recovery_s, self._slow_s = recovery_s, slow_s
        self._clock, self._sleep, self._opened = clock, sleep, opened
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._failed = 0
        self._open_until: float | None = None
        self._trial: asyncio.Event | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        return self._open_until is not None

    async def call(self, call: Callable[[], Awaitable[T]], *, timed: bool = True) -> T:
        """What `call` returns or raises, once it may be made. timed: a slow one counts as failed;
        False for calls that wait for rows to come."""
        trial = await self._admitted()
        try:
            started = self._clock()
            try:
                result = await call()
            except Exception as error:
                lost = isinstance(error, DataFlareError) and error.retry is not Retry.NEVER
                self._count(not lost, trial)
                raise
            slow = timed and self._slow_s is not None and self._clock() - started >= self._slow_s
            self._count(not slow, trial)
            return result
        finally:
            if trial and self._trial is not None:
                self._trial.set()
                self._trial = None

    async def _admitted(self) -> bool:
        """Wait until a call may be made. Returns whether it is the one that tries."""
        while self._open_until is not None:
            left = self._open_until - self._clock()
            if left > 0:
                await self._sleep(left)
            elif self._trial is not None:
                await self._trial.wait()
            else:
                self._trial = asyncio.Event()
                return True
        return False

    def _count(self, succeeded: bool, trial: bool) -> None:
        now = self._clock()
        if trial:
            if succeeded:
                self._open_until = None
            else:
                self._open(now)
            return
        if self._open_until is not None:
            return  # begun before it opened
        self._outcomes.append((now, succeeded))
        self._failed += not succeeded
        while self._outcomes[0][0] <= now - self._window_s:
            self._failed -= not self._outcomes.popleft()[1]
        calls = len(self._outcomes)
        if calls >= CALLS_MIN and not succeeded and self._failed >= self._rate * calls:
            self._open(now)

    def _open(self, now: float) -> None:
        self._open_until = now + self._recovery_s
        self._outcomes.clear()
        self._failed = 0
        self._opened(self._recovery_s)
