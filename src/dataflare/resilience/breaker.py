"""A circuit breaker: calls to a failing system stop for a while, then some of them try.

    closed      calls pass; the outcomes within the window are counted
    open        the share of failed or of slow calls reached its limit: calls wait until `recovery_s` has passed
    half-open   a few trial calls pass and the others wait for them; the breaker then closes or opens again

Always true: a call is delayed and not refused, except one that does not wait. So the retry policy around the breaker
decides when to give up.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from msgspec import Struct

from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.resilience.leaving import Leaving

T = TypeVar("T")

CALLS_MIN = 5
"""The breaker does not open after fewer calls than this within the window."""


class HeldBack(SystemError_):
    """A call was not made, because the breaker is open and the call is one that does not wait."""

    default_code = "E0615"


class StoppedWaiting(SystemError_):
    """A call was not made, because the breaker is open and the run stops. It is not made again."""

    default_code = "E0615"


class Opened(Struct, frozen=True):
    """The breaker has opened. step: whose call it was. calls: how many were counted within the window; failed and slow:
    of these. All 0 after a trial call."""

    step: str
    calls: int
    failed: int
    slow: int

    @property
    def reason(self) -> str:
        """In words: 'of 10 calls 6 failed'."""
        if not self.calls:
            return "a trial call failed or was slow"
        parts = ((self.failed, "failed"), (self.slow, "were slow"))
        counts = " and ".join(f"{count:,} {verb}" for count, verb in parts if count)
        return f"of {self.calls:,} calls {counts}"


class _Outcome(Struct, frozen=True):
    at: float
    failed: bool
    slow: bool


class CircuitBreaker:
    """For one system, shared by all tasks that call it, on one event loop.

    failure_rate: share of failed calls, above 0 up to 1, at which it opens. window_s: calls within this
    time are counted. slow_s: a call that takes this long is slow, though its result is used; None for never.
    slow_rate: share of slow calls at which it opens; None: they count as failed. recovery_s: how long it stays
    open. trials: so many calls in a row must succeed then. opened and closed: called each time it opens or closes.
    """

    def __init__(
        self,
        *,
        failure_rate: float,
        window_s: float,
        recovery_s: float,
        slow_s: float | None = None,
        slow_rate: float | None = None,
        trials: int = 1,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        opened: Callable[[Opened], None] = lambda opened: None,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        self._failure_rate, self._window_s = failure_rate, window_s
        self._recovery_s, self._slow_s, self._slow_rate = recovery_s, slow_s, slow_rate
        self._clock, self._sleep = clock, sleep
        self._opened, self._closed = opened, closed
        self._outcomes: deque[_Outcome] = deque()
        self._failed = self._slow = 0
        self._open_until: float | None = None
        self._opening = 0
        self._trials, self._trying, self._succeeded = trials, 0, 0
        self._changed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        return self._open_until is not None

    async def call(
        self,
        call: Callable[[], Awaitable[T]],
        *,
        step: str = "",
        timed: bool = True,
        is_counted: Callable[[], bool] = lambda: True,
        waits: bool = True,
        leaving: Leaving | None = None,
    ) -> T:
        """Make the call as soon as the breaker allows it; returns or raises what `call` does.

        step: whose call it is. timed: a slow call counts; False for calls that wait for new rows. is_counted: asked after
        the call; False where it did not reach the system, and so says nothing of it. An error that is worth retrying
        always counts. waits: False for a call that raises HeldBack where others wait. leaving: when the run stops, a call
        that waits raises StoppedWaiting.
        """
        trial = await self._admitted(step, waits, leaving)
        try:
            started = self._clock()
            try:
                result = await call()
            except Exception as error:
                failed = isinstance(error, DataFlareError) and error.retry is not Retry.NEVER
                if failed or is_counted():
                    self._count(step, failed, False, trial)
                raise
            slow = timed and self._slow_s is not None and self._clock() - started >= self._slow_s
            if is_counted():
                self._count(step, slow and self._slow_rate is None, slow, trial)
            return result
        finally:
            if trial is not None and trial == self._opening:
                self._trying -= 1
            self._wake()

    async def _admitted(self, step: str, waits: bool, leaving: Leaving | None) -> int | None:
        """Wait until a call may be made. Returns for a trial call which opening it is a trial of, else None."""
        while self._open_until is not None:
            remaining_s = self._open_until - self._clock()
            is_tried = self._trying + self._succeeded < self._trials
            if not waits and (remaining_s > 0 or not is_tried):
                raise HeldBack(f"the circuit breaker of step '{step}' is open", step=step)
            if remaining_s <= 0 and is_tried:
                self._trying += 1
                return self._opening
            wait = self._sleep(remaining_s) if remaining_s > 0 else self._changed.wait()
            if leaving is None:
                await wait
                continue
            await leaving.unless_begun(wait)
            if leaving.is_begun:
                raise StoppedWaiting(
                    f"the circuit breaker of step '{step}' is open", step=step, retry=Retry.LATER
                )
        return None

    def _wake(self) -> None:
        """Let those look again that wait for trial calls."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _count(self, step: str, failed: bool, slow: bool, trial: int | None) -> None:
        now = self._clock()
        if self._open_until is not None:
            if trial != self._opening:
                return  # the call began before the breaker opened
            if failed or slow:
                self._open(now, Opened(step, 0, 0, 0))
                return
            self._succeeded += 1
            if self._succeeded >= self._trials:
                self._open_until = None
                self._closed()
            return
        self._outcomes.append(_Outcome(now, failed, slow))
        self._failed, self._slow = self._failed + failed, self._slow + slow
        while self._outcomes[0].at <= now - self._window_s:
            old = self._outcomes.popleft()
            self._failed, self._slow = self._failed - old.failed, self._slow - old.slow
        calls = len(self._outcomes)
        if calls < CALLS_MIN:
            return
        too_many = failed and self._failed >= self._failure_rate * calls
        too_slow = slow and self._slow_rate is not None and self._slow >= self._slow_rate * calls
        if too_many or too_slow:
            also_failed = self._slow if self._slow_rate is None else 0
            self._open(now, Opened(step, calls, self._failed - also_failed, self._slow))

    def trip(self) -> None:
        """Open, because the system fails for other processes. `opened` is not called."""
        if self._open_until is None:
            self._begin_recovery(self._clock())

    def _open(self, now: float, opened: Opened) -> None:
        self._begin_recovery(now)
        self._opened(opened)

    def _begin_recovery(self, now: float) -> None:
        self._open_until = now + self._recovery_s
        self._opening += 1
        self._trying = self._succeeded = 0
        self._outcomes.clear()
        self._failed = self._slow = 0
