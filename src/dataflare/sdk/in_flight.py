"""How many requests to one system may be under way: additive increase, multiplicative decrease.

The limit rises by one with as many successes as it allows requests, and is halved by an error that says that the system has
too much to do, or a tenth smaller while answers take more than twice as long as they did. As TCP does: Chiu and Jain,
"Analysis of the Increase and Decrease Algorithms for Congestion Avoidance" (1989).

Always true:
- at least one request may be under way, and never more than `most`;
- requests that began before the limit was last lowered do not lower it again: they say the same thing;
- the time of an answer is compared with those of requests of about the same size: twice as much takes longer;
- all steps of a run that talk to one system share its limit.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from dataflare.sdk.runtime import current

_SMOOTHING, _SLOWER, _SLOWER_BY_S = 0.1, 2.0, 0.05
_HALF, _TENTH_LESS = 0.5, 0.9
_FORGET = 1.005
"""The shortest time of an answer is forgotten slowly: a system may have become slower for good."""


class Turn:
    """One request. failed: set it where the answer says that the system has too much to do."""

    failed = False


class _Answers:
    """The times of answers to requests of about one size. first_s: of the first one."""

    def __init__(self, first_s: float) -> None:
        self._smoothed_s = self._shortest_s = first_s

    def are_slower(self, seconds: float) -> bool:
        """Add the time of an answer. Gives whether answers take much longer than they did."""
        self._smoothed_s += _SMOOTHING * (seconds - self._smoothed_s)
        self._shortest_s = min(self._shortest_s * _FORGET, self._smoothed_s)
        return self._smoothed_s > max(_SLOWER * self._shortest_s, self._shortest_s + _SLOWER_BY_S)


class AdaptiveLimit:
    """Of one system, on one event loop. most: how many requests may be under way at best. share: of the limit, how many may now."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self._clock = most, clock
        self.share = 1.0
        self.limit = float(most)
        self.under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._lowered_at = float("-inf")
        self._answers: dict[int, _Answers] = {}

    def allow(self, most: int) -> None:
        """Another step talks to the system, and may have so many requests under way."""
        if most > self.most:
            self.limit += most - self.most
            self.most = most

    def ease(self, share: float) -> None:
        """Let only a share of the limit be under way, at least one. share: 1.0 for all of it."""
        self.share = share
        self._wake()

    @asynccontextmanager
    async def turn(self, size: int = 1) -> AsyncIterator[Turn]:
        """Wait until a request may begin; it is under way within. An error counts as `failed`. size: how much it asks for,
        in any unit that the requests to one system have in common, such as rows or bytes."""
        while self.under_way >= max(1, int(self.limit * self.share)):
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            try:
                await waiting
            except asyncio.CancelledError:
                if waiting.done() and not waiting.cancelled():
                    self._wake()
                raise
        self.under_way += 1
        began, turn, is_told = self._clock(), Turn(), True
        try:
            yield turn
        except Exception:
            turn.failed = True
            raise
        except BaseException:
            is_told = False  # cancelled: it says nothing of the system
            raise
        finally:
            self.under_way -= 1
            if is_told:
                self._learn(began, self._clock() - began, size, turn.failed)
            self._wake()

    def _learn(self, began: float, seconds: float, size: int, failed: bool) -> None:
        if failed:
            self._lower(began, _HALF)
            return
        answers = self._answers.setdefault(size.bit_length(), _Answers(seconds))
        if answers.are_slower(seconds):
            self._lower(began, _TENTH_LESS)
        else:
            self.limit = min(float(self.most), self.limit + 1.0 / self.limit)

    def _lower(self, began: float, factor: float) -> None:
        if began >= self._lowered_at:
            self.limit = max(1.0, self.limit * factor)
            self._lowered_at = self._clock()

    def _wake(self) -> None:
        """Let as many go on as there is room for."""
        room = max(1, int(self.limit * self.share)) - self.under_way
        while room > 0 and self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                room -= 1


class InFlight:
    """The limits of a run, by system, and which steps talk to it. They live as long as the run, across its restarts."""

    def __init__(self) -> None:
        self._share = 1.0
        self._limits: dict[str, AdaptiveLimit] = {}
        self._steps: dict[str, str] = {}

    def of(self, step: str, system: str, most: int) -> AdaptiveLimit:
        self._steps[step] = system
        if system not in self._limits:
            self._limits[system] = AdaptiveLimit(most)
            self._limits[system].ease(self._share)
        self._limits[system].allow(most)
        return self._limits[system]

    def ease(self, share: float) -> None:
        """Let only a share of the requests be under way, at least one to each system. share: 1.0 for all."""
        self._share = share
        for limit in self._limits.values():
            limit.ease(share)

    def by_step(self) -> dict[str, AdaptiveLimit]:
        return {step: self._limits[system] for step, system in self._steps.items()}


def limit_of(step: str, system: str, most: int) -> AdaptiveLimit:
    """The limit for the requests of a step to a system such as `host:port`, which the run has once. most: how many of the
    step may be under way."""
    in_flight = current().in_flight
    return AdaptiveLimit(most) if in_flight is None else in_flight.of(step, system, most)
