"""What may stand among the rows of a scripted source."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from dataflare.errors import Retry, SystemError_


def rows(start: int, end: int) -> list[dict[str, Any]]:
    """Rows `{"n": start}` to `{"n": end - 1}`."""
    return [{"n": n} for n in range(start, end)]


class Crash:
    """The read fails here, `times` times over all attempts; after that rows go on.

    error: what is raised; by default a lost connection, which is worth retrying.
    """

    def __init__(self, error: Exception | None = None, *, times: int = 1) -> None:
        self.error, self.left = error, times

    def strike(self) -> None:
        """Raise what is to be raised, if anything is left."""
        if self.left > 0:
            self.left -= 1
            raise self.error or SystemError_(
                "the connection was lost", code="E0607", retry=Retry.LATER, help="run again"
            )


class Checkpoint:
    """Reading goes on once a checkpoint that includes all rows before it has been committed."""


class Pause:
    """Reading waits here until the test lets it go on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._lock = threading.Lock()
        self._released = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def is_reached(self) -> bool:
        return self._reached.is_set()

    def wait_reached(self, timeout_s: float = 30.0) -> None:
        """Block until a reader waits here. Raises TimeoutError."""
        if not self._reached.wait(timeout_s):
            raise TimeoutError(f"no reader came to the pause in {timeout_s:g} s")

    def release(self) -> None:
        """Let readers go on, now and later. From any thread."""
        with self._lock:
            self._released = True
            for loop, event in self._waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)
            self._waiting.clear()

    async def hold(self) -> None:
        """Called by the reader."""
        event = asyncio.Event()
        with self._lock:
            if self._released:
                return
            self._waiting.append((asyncio.get_running_loop(), event))
        self._reached.set()
        await event.wait()


Mark = Crash | Checkpoint | Pause
