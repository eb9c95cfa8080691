"""A circuit breaker: calls to a failing system stop for a while, then one of them tries.

    closed      calls pass; the outcomes within the window are counted
    open        the share of failed calls reached the limit: calls wait until `recovery_s` has passed
    half-open   one trial call passes and the others wait for it; the breaker then closes or opens again

Always true: a call is delayed and never refused. So the breaker has no error of its own: the retry
policy around it decides when to give up.
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
"""The breaker does not open after fewer calls than this within the window."""


class CircuitBreaker:
    """For one system, shared by all tasks that call it, on one event loop.

    failure_rate: share of failed calls, above 0 up to 1, at which it opens. window_s: calls within this
    time are counted. slow_s: a call that takes this long counts as failed, though its result is used;
    None for never. recovery_s: how long it stays open. opened: called with that time each time it
    opens.
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
        """Make the call as soon as the breaker allows it; returns or raises what `call` does. timed: a slow
        call counts as failed; False for calls that wait for new rows."""
        trial = await self._admitted()
        try:
            started = self._clock()
            try:
                result = await call()
            except Exception as error:
                retryable = isinstance(error, DataFlareError) and error.retry is not Retry.NEVER
                self._count(not retryable, trial)
                raise
            slow = timed and self._slow_s is not None and self._clock() - started >= self._slow_s
            self._count(not slow, trial)
            return result
        finally:
            if trial and self._trial is not None:
                self._trial.set()
                self._trial = None

    async def _admitted(self) -> bool:
        """Wait until a call may be made. Returns whether it is the trial call."""
        while self._open_until is not None:
            remaining_s = self._open_until - self._clock()
            if remaining_s > 0:
                await self._sleep(remaining_s)
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
            return  # the call began before the breaker opened
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
