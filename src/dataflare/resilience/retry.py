"""Calls that failed are made again: how often, and after which wait.

Always true: only errors that say so (`Retry.LATER`) are tried again; the last error of a call that
was given up is raised as it was, and says how many attempts there were.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from dataflare.errors import DataFlareError, Retry
from dataflare.resilience.breaker import CircuitBreaker
from dataflare.resilience.policy import RetryPolicy

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

AFTER_MAX_S = 300.0
"""Nobody waits longer for a system that says when to come again; then the error is final."""

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

    breaker: what each try passes through. said: told of every retry. sleep and chance: the clock's wait and a random number in [0, 1), for
    tests. A system that says itself when to come again (`retry_after_s`) is asked again also where
    no policy is given.
    """

    def __init__(
        self,
        step: str,
        policy: RetryPolicy | None = None,
        *,
        breaker: CircuitBreaker | None = None,
        said: Callable[[Retried], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.step, self.policy, self._breaker = step, policy, breaker
        self._said, self._sleep, self._chance = said, sleep, chance

    async def call(
        self,
        attempt: Callable[[], Awaitable[T]],
        came: Callable[[], int] = lambda: 0,
        *,
        timed: bool = True,
    ) -> T:
        """The result of a call, made until it succeeds or the attempts are used up. `attempt` must
        be safe to be made again after it raised. came: how far it has come; attempts that come no
        further are counted. timed: see `CircuitBreaker.call`."""
        if self._breaker is not None:
            attempt = partial(self._breaker.call, attempt, timed=timed)
        try:
            return await attempt()
        except DataFlareError as error:
            failed = error
        while self._worth(failed):
            try:
                return await self._again(attempt, failed, came)
            except _Further as further:
                failed = further.error
        raise failed

    async def once(self, attempt: Callable[[], Awaitable[T]], *, timed: bool = True) -> T:
        """The result of a call that may not be made again; the breaker counts it all the same."""
        if self._breaker is None:
            return await attempt()
        return await self._breaker.call(attempt, timed=timed)

    async def _again(
        self, attempt: Callable[[], Awaitable[T]], first: DataFlareError, came: Callable[[], int]
    ) -> T:
        from tenacity import AsyncRetrying, retry_if_exception

        failed: list[DataFlareError] = [first]

        async def make() -> T:
            if failed:
                raise failed.pop()
            before = came()
            try:
                return await attempt()
            except DataFlareError as error:
                if came() != before:
                    raise _Further(error) from error
                raise

        retrying = AsyncRetrying(
            retry=retry_if_exception(self._worth),
            stop=lambda state: state.attempt_number >= self._attempts_max(_error(state)),
            wait=self._wait_s,
            before_sleep=self._tell,
            sleep=self._sleep,
            retry_error_callback=_give_up,
        )
        made: T = await retrying(make)
        return made

    def _policy_for(self, error: DataFlareError) -> RetryPolicy:
        if self.policy is not None:
            return self.policy
        return RetryPolicy() if error.retry_after_s is not None else _ONCE

    def _attempts_max(self, error: DataFlareError) -> int:
        return self._policy_for(error).max_attempts

    def _worth(self, error: BaseException) -> bool:
        if not isinstance(error, DataFlareError) or error.retry is not Retry.LATER:
            return False
        return self._attempts_max(error) > 1 and (error.retry_after_s or 0.0) <= AFTER_MAX_S

    def _wait_s(self, state: RetryCallState) -> float:
        error = _error(state)
        if self.policy is None:
            return error.retry_after_s or 0.0
        wait_s = self.policy.wait_s(state.attempt_number, self._chance())
        return max(wait_s, error.retry_after_s or 0.0)

    def _tell(self, state: RetryCallState) -> None:
        if self._said is not None and state.next_action is not None:
            error = _error(state)
            most = self._attempts_max(error)
            wait_s = state.next_action.sleep
            self._said(Retried(self.step, error, state.attempt_number, most, wait_s))


class _Further(Exception):
    """A call that failed, but came further than the one before."""

    def __init__(self, error: DataFlareError) -> None:
        super().__init__(str(error))
        self.error = error


def _error(state: RetryCallState) -> DataFlareError:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, DataFlareError)
    return error


def _give_up(state: RetryCallState) -> Any:
    error = _error(state)
    error.message = f"{error.message} (after {state.attempt_number} attempts)"
    raise error


class Retries:
    """The policies of a run, by step; a step without one is tried once. breakers: those of steps that
    have one; they live as long as the run, over its restarts."""

    def __init__(
        self,
        policies: Mapping[str, RetryPolicy | None] | None = None,
        said: Callable[[Retried], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        breakers: Mapping[str, CircuitBreaker] | None = None,
    ) -> None:
        self._policies, self._said, self._sleep = policies or {}, said, sleep
        self._breakers = breakers or {}

    def of(self, step: str) -> Retrying:
        return Retrying(
            step,
            self._policies.get(step),
            breaker=self._breakers.get(step),
            said=self._said,
            sleep=self._sleep,
        )
