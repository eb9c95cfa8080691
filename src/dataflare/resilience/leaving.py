"""What tells the waits of a run that it stops: none of them goes on for long then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

_GRACE_S = 2.0
"""For so long calls that fail are still made again: a system that fails for a moment costs no last checkpoint."""


class Leaving:
    """Of one run, on one event loop."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._until_s: float | None = None

    @property
    def is_begun(self) -> bool:
        return self._begun.is_set()

    def begin(self) -> None:
        """The run stops. Called once, or again without effect."""
        if not self.is_begun:
            self._until_s = time.monotonic() + _GRACE_S
            self._begun.set()

    def is_over(self, wait_s: float) -> bool:
        """Whether nothing should be tried again after such a wait."""
        return self._until_s is not None and time.monotonic() + wait_s > self._until_s

    async def unless_begun(self, waiting: Awaitable[object]) -> None:
        """Wait, at most until the run stops."""
        waited = asyncio.ensure_future(waiting)
        begun = asyncio.ensure_future(self._begun.wait())
        try:
            await asyncio.wait([waited, begun], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waited.cancel()
            begun.cancel()

    def cutting(
        self, sleep: Callable[[float], Awaitable[None]]
    ) -> Callable[[float], Awaitable[None]]:
        """A sleep that ends when the run stops. One that begins later is not cut: `is_over` bounds it."""

        async def cut(seconds: float) -> None:
            await (sleep(seconds) if self.is_begun else self.unless_begun(sleep(seconds)))

        return cut
