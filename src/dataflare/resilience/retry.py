"""Make failed calls again: how often, and after which wait.

Always true: a call is retried only if its error says that this can help (`Retry.LATER`). When the
attempts are used up, the last error is raised, with the number of attempts in its message.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from dataflare.errors import DataFlareError, Retry
from dataflare.resilience.breaker import CircuitBreaker, StoppedWaiting
from dataflare.resilience.leaving import Leaving
from dataflare.resilience.policy import AFTER_MAX_S, RetryPolicy
from dataflare.sdk import injected_faults
from dataflare.sdk.tracing import LIVE, called

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")
Fallback = str
"""dead_letter, stale, or the name of a destination."""
Waiting = Callable[[str], AbstractContextManager[None] | None]
"""What is entered while an attempt of a step is made; None: nothing needs to be."""

_ONCE = RetryPolicy.model_construct(max_attempts=1)


class Retried(Struct, frozen=True):
    """A call that will be made again. attempt: how many have failed; of: how many there may be."""

    step: str
    error: DataFlareError
    attempt: int
    of: int
    wait_s: float

    def __str__(self) -> str:
        return f"{self.error.message}; trying again in {round(self.wait_s, 3):g} s ({self.attempt + 1} of {self.of})"


class Retrying:
    """The policy of one step, for its calls.

    breaker: each attempt goes through it. fallback: what the step does while it is open. on_retry: called before each retry. sleep and chance: the wait
    of the clock and a random number in [0, 1); tests replace them. waiting: entered, with the step, while an attempt is made. A system that says when to retry
    (`retry_after_s`) gets the default policy if the step has none. leaving: cuts the waits when the run stops. clock: in seconds, for
    `max_elapsed`.
    """

    def __init__(
        self,
        step: str,
        policy: RetryPolicy | None = None,
        *,
        breaker: CircuitBreaker | None = None,
        on_retry: Callable[[Retried], None] | None = None,
        fallback: Fallback | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
        waiting: Waiting | None = None,
        leaving: Leaving | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.step, self.policy, self._breaker = step, policy, breaker
        self._leaving, self._clock = leaving, clock
        self._on_retry, self._sleep, self._chance = on_retry, sleep, chance
        self.fallback, self._waiting = fallback, waiting
        self._surrounds = breaker is not None or waiting is not None

    async def call(
        self,
        attempt: Callable[[], Awaitable[T]],
        progress: Callable[[], int] = lambda: 0,
        *,
        timed: bool = True,
        is_counted: Callable[[], bool] = lambda: True,
        waits: bool = True,
        is_left: bool = True,
    ) -> T:
        """Make a call until it succeeds or the attempts are used up; returns its result. `attempt` must
        be safe to call again after it raised. progress: a number that grows with each step forward; only
        attempts without progress are counted. timed, is_counted and waits: see
        `CircuitBreaker.call`. is_left: whether a run that stops waits for the call, so that its waits are cut then."""
        leaving = self._leaving if is_left else None
        if self._surrounds or LIVE.get() is not None or injected_faults.ACTIVE is not None:
            attempt = self._wrapped(attempt, leaving, timed, is_counted, waits)
        started = self._clock()
        try:
            return await attempt()
        except DataFlareError as error:
            last_error = error
        while self._may_retry(last_error):
            try:
                return await self._again(attempt, last_error, progress, leaving, started)
            except _FailedAfterProgress as failure:
                last_error = failure.error
        raise last_error

    async def _waited(
        self,
        attempt: Callable[[], Awaitable[T]],
        waiting: Waiting,
    ) -> T:
        with waiting(self.step) or nullcontext():
            return await attempt()

    async def once(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        timed: bool = True,
        is_counted: Callable[[], bool] = lambda: True,
        waits: bool = True,
        is_left: bool = True,
    ) -> T:
        """Make a call that must not be repeated. The rest is as for `call`."""
        if self._surrounds or LIVE.get() is not None or injected_faults.ACTIVE is not None:
            leaving = self._leaving if is_left else None
            attempt = self._wrapped(attempt, leaving, timed, is_counted, waits)
        return await attempt()

    def _wrapped(
        self,
        attempt: Callable[[], Awaitable[T]],
        leaving: Leaving | None,
        timed: bool,
        is_counted: Callable[[], bool],
        waits: bool,
    ) -> Callable[[], Awaitable[T]]:
        """An attempt with all that surrounds it: faults that are injected, traces, the breaker, and who waits."""
        if injected_faults.ACTIVE is not None:
            attempt = injected_faults.ACTIVE.calling(attempt, self.step)
        if LIVE.get() is not None:
            attempt = called(f"call {self.step}", attempt, {"step": self.step})
        if self._breaker is not None:
            call = partial(self._breaker.call, attempt, step=self.step, leaving=leaving)
            attempt = partial(call, timed=timed, is_counted=is_counted, waits=waits)
        if self._waiting is not None and self._waiting(self.step) is not None:
            attempt = partial(self._waited, attempt, self._waiting)
        else:
            # The run has begun: nothing is told any more of who waits.
            self._waiting, self._surrounds = None, self._breaker is not None
        return attempt

    async def _again(
        self,
        attempt: Callable[[], Awaitable[T]],
        first: DataFlareError,
        progress: Callable[[], int],
        leaving: Leaving | None,
        started: float,
    ) -> T:
        from tenacity import AsyncRetrying, retry_if_exception

        errors: list[DataFlareError] = [first]

        async def make() -> T:
            if errors:
                raise errors.pop()
            before = progress()
            try:
                return await attempt()
            except DataFlareError as error:
                if progress() != before:
                    raise _FailedAfterProgress(error) from error
                raise

        retrying = AsyncRetrying(
            retry=retry_if_exception(self._may_retry),
            stop=partial(self._is_over, leaving=leaving, started=started),
            wait=self._wait_s,
            before_sleep=self._tell,
            sleep=self._sleep if leaving is None else leaving.cutting(self._sleep),
            retry_error_callback=_give_up,
        )
        result: T = await retrying(make)
        return result

    def _policy_for(self, error: DataFlareError) -> RetryPolicy:
        if self.policy is not None:
            return self.policy
        return RetryPolicy() if error.retry_after_s is not None else _ONCE

    def _attempts_max(self, error: DataFlareError) -> int:
        return self._policy_for(error).max_attempts

    def _is_over(self, state: RetryCallState, leaving: Leaving | None, started: float) -> bool:
        """Whether no try follows: as many were made as there may be, or the next would begin too late. started: when the
        first one began."""
        error = _error(state)
        wait_s = state.upcoming_sleep  # drawn once: with its jitter, it is the wait that follows
        if leaving is not None and leaving.is_over(wait_s):
            return True
        if state.attempt_number >= self._attempts_max(error):
            return True
        most_s = self._policy_for(error).max_elapsed
        return most_s is not None and self._clock() - started + wait_s > most_s

    def _may_retry(self, error: BaseException) -> bool:
        if not isinstance(error, DataFlareError) or error.retry is not Retry.LATER:
            return False
        if isinstance(error, StoppedWaiting):
            return False
        return self._attempts_max(error) > 1 and (error.retry_after_s or 0.0) <= AFTER_MAX_S

    def _wait_s(self, state: RetryCallState) -> float:
        error = _error(state)
        if self.policy is None:
            return error.retry_after_s or 0.0
        wait_s = self.policy.wait_s(state.attempt_number, self._chance())
        return max(wait_s, error.retry_after_s or 0.0)

    def _tell(self, state: RetryCallState) -> None:
        if self._on_retry is not None and state.next_action is not None:
            error = _error(state)
            attempts_max = self._attempts_max(error)
            wait_s = state.next_action.sleep
            self._on_retry(Retried(self.step, error, state.attempt_number, attempts_max, wait_s))


class _FailedAfterProgress(Exception):
    """A call that failed, but made progress since the attempt before."""

    def __init__(self, error: DataFlareError) -> None:
        super().__init__(str(error))
        self.error = error


def _error(state: RetryCallState) -> DataFlareError:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, DataFlareError)
    return error


def _give_up(state: RetryCallState) -> Any:
    error = _error(state)
    number = state.attempt_number
    error.message = f"{error.message} (after {number} attempt{'s' if number > 1 else ''})"
    raise error


class Retries:
    """The policies of a run, by step. The calls of a step without a policy are made once. breakers: by step;
    they live as long as the run, across its restarts. on_opened: told of a step whose breaker has opened here, for other processes
    of the run."""

    def __init__(
        self,
        policies: Mapping[str, RetryPolicy | None] | None = None,
        on_retry: Callable[[Retried], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        breakers: Mapping[str, CircuitBreaker] | None = None,
        fallbacks: Mapping[str, Fallback] | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        self._policies, self._on_retry, self._sleep = policies or {}, on_retry, sleep
        self._breakers, self._fallbacks = breakers or {}, fallbacks or {}
        self._waiting = waiting
        self.leaving = Leaving()
        self.on_opened: Callable[[str], None] = lambda step: None

    def add(
        self,
        policies: Mapping[str, RetryPolicy | None],
        breakers: Mapping[str, CircuitBreaker],
        fallbacks: Mapping[str, Fallback],
    ) -> None:
        """Steps that came while the run goes on."""
        self._policies = {**policies, **self._policies}
        self._breakers = {**breakers, **self._breakers}
        self._fallbacks = {**fallbacks, **self._fallbacks}

    def held_back(self) -> list[str]:
        """The steps whose breaker is open."""
        return [step for step, breaker in self._breakers.items() if breaker.is_open]

    def trip(self, step: str) -> None:
        """The breaker of a step has opened in another process of the run."""
        if step in self._breakers:
            self._breakers[step].trip()

    def of(self, step: str) -> Retrying:
        return Retrying(
            step,
            self._policies.get(step),
            breaker=self._breakers.get(step),
            on_retry=self._on_retry,
            fallback=self._fallbacks.get(step),
            sleep=self._sleep,
            waiting=self._waiting,
            leaving=self.leaving,
        )
