"""Whether the system of an optional lookup is away, so that rows go on without its values.

    there    a call that used up its tries: away
    away     one call in `_TRY_S` tries, and the others are not made; `_SUCCESSES` in a row: there

A call that has answers for half of its keys, or more, does not count as failed. So a system that answers now and then stays away, and rows do not wait for it each time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, MutableMapping

_TRY_S = 2.0
_SUCCESSES = 3
_TOLD_S = 10.0
"""So long it is told that keys have no answer: they are not asked for in each call."""


class Away:
    """Of one step; used by several threads. degraded: by step that gives less than it should, why; it is told here."""

    def __init__(
        self,
        step: str,
        degraded: MutableMapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step, self._degraded, self._clock = step, degraded, clock
        self._lock = threading.Lock()
        self._is_away = self._is_trying = False
        self._successes, self._next_try, self._told_until = 0, 0.0, 0.0

    @property
    def is_away(self) -> bool:
        return self._is_away

    def may_ask(self) -> bool:
        """Whether a call is to be made now. It must be followed by `failed`, `succeeded` or `given_up`."""
        with self._lock:
            if not self._is_away:
                return True
            if self._is_trying or self._clock() < self._next_try:
                return False
            self._is_trying = True
            return True

    def failed(self, reason: str) -> None:
        with self._lock:
            self._is_away, self._is_trying, self._successes = True, False, 0
            self._told_until = 0.0
            self._next_try = self._clock() + _TRY_S
            self._degraded[self._step] = (
                f"its system is away, and rows go on without its values: {reason}"
            )

    def succeeded(self) -> None:
        with self._lock:
            self._end_well()
            if not self._is_away and self._told_until and self._clock() >= self._told_until:
                self._told_until = 0.0
                self._degraded.pop(self._step, None)

    def _end_well(self) -> None:
        self._is_trying = False
        if not self._is_away:
            return
        self._successes += 1
        if self._successes >= _SUCCESSES:
            self._is_away = False
            self._degraded.pop(self._step, None)

    def answered_in_part(self, reason: str) -> None:
        """The call had answers for some keys, and none for a few."""
        with self._lock:
            self._end_well()
            if not self._is_away:
                self._told_until = self._clock() + _TOLD_S
                self._degraded[self._step] = (
                    f"its system has no answer for some keys, and their rows go on without its values: {reason}"
                )

    def given_up(self) -> None:
        """The call said nothing of the system."""
        with self._lock:
            self._is_trying = False
