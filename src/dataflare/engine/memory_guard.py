"""How many tasks may go on at once, by the memory of the process. Pure, except that it asks for that memory.

What counts is the memory of the process, as the system says it: rows and state, and what clients and users' functions hold. A
run may use `resources.memory` beside what the process had when it began. Near that, half as many tasks compute at once,
read ahead, open splits and have requests under way; after some calm a quarter of all more may, up to all.

Always true: between the two bounds nothing changes, so that the number does not swing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dataflare.model import human
from dataflare.sdk.process_memory import rss_bytes

OVERHEAD = 128 << 20
"""What libraries and threads take by themselves once a run goes on."""
_HIGH, _LOW = 0.9, 0.6
"""Of the budget. Above the one fewer tasks go on, below the other more may."""
_LESS, _MORE = 0.5, 0.25
_SETTLE_S, _CALM_S = 0.5, 1.5
"""Memory that is free comes back to the system within a second or so."""
_LOOK_S, _LOOK_SOON_S, _SOON = 1.0, 0.1, 0.3


class MemoryGuard:
    """budget_bytes: what the run may use. tasks: how many may compute at once at best. share: of them, how many may now. used: of
    the budget; above 1 it is too much. told: why fewer may, None while all may."""

    def __init__(
        self,
        budget_bytes: int,
        tasks: int,
        *,
        rss: Callable[[], int | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget_bytes, self._tasks, self._clock = budget_bytes, tasks, clock
        self._rss = rss or rss_bytes
        self._began_bytes = self._rss() or 0
        self.share, self.used = 1.0, 0.0
        self.told: str | None = None
        self._lowered_at = float("-inf")
        self._calm_since: float | None = None

    @property
    def at_once(self) -> int:
        """How many tasks may compute at once."""
        return max(1, int(self._tasks * self.share))

    @property
    def look_s(self) -> float:
        """When to look again, in seconds."""
        return _LOOK_SOON_S if self.used > _SOON or self.share < 1.0 else _LOOK_S

    def look(self) -> bool:
        """Look at the memory. Gives whether `share` has changed."""
        rss, now = self._rss(), self._clock()
        if rss is None:
            return False
        self._began_bytes = min(self._began_bytes, rss)
        self.used = max(0.0, (rss - self._began_bytes - OVERHEAD) / self._budget_bytes)
        before = self.share
        if self.used >= _HIGH:
            self._calm_since = None
            if now - self._lowered_at >= _SETTLE_S:
                self.share = max(1.0 / self._tasks, self.share * _LESS)
                self._lowered_at = now
        elif self.used >= _LOW:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= _CALM_S:
            self.share, self._calm_since = min(1.0, self.share + _MORE), now
        if self.share < 1.0:
            self.told = (
                f"memory is short, so {self.at_once} of {self._tasks} tasks compute at once: the process has "
                f"{human.size(rss)}, and 'resources.memory' is {human.size(self._budget_bytes)}"
            )
        else:
            self.told = None
        return self.share != before
