"""Marks among the rows of a scripted source: crashes, checkpoints and pauses."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from dataflare.errors import Retry, SystemError_


def rows(start: int, end: int) -> list[dict[str, Any]]:
    """Rows `{"n": start}` to `{"n": end - 1}`."""
    return [{"n": n} for n in range(start, end)]


class Crash:
    """The read fails here `times` times, over all attempts. After that, reading continues.

    error: the exception to raise; by default a lost connection that may be retried.
    """

    def __init__(self, error: Exception | None = None, *, times: int = 1) -> None:
        self.error, self.times_left = error, times

    def strike(self) -> None:
        """Raise the error, unless it was raised `times` times already."""
        if self.times_left > 0:
            self.times_left -= 1
            raise self.error or SystemError_(
                "the connection was lost", code="E0607", retry=Retry.LATER, help="run again"
            )


class Checkpoint:
    """Reading continues once a checkpoint with all rows before this mark is committed."""


class Pause:
    """Reading waits here until the test calls `release`."""

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
            raise TimeoutError(f"no reader reached the pause in {timeout_s:g} s")

    def release(self) -> None:
        """Let all readers continue, now and later. May be called from any thread."""
        with self._lock:
            self._released = True
            for loop, event in self._waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)
            self._waiting.clear()

    async def hold(self) -> None:
        """Wait for `release`. Called by the reader."""
        event = asyncio.Event()
        with self._lock:
            if self._released:
                return
            self._waiting.append((asyncio.get_running_loop(), event))
        self._reached.set()
        await event.wait()


Mark = Crash | Checkpoint | Pause
