"""Small batches gathered until they are worth encoding; encoding on a thread, one at a time.

Always true: at most one encode is in flight and at most one buffer waits behind it, so memory has a
bound; frames are encoded in the order in which they came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import polars as pl

BUFFER_BYTES = 64 << 20

Result = TypeVar("Result")


class EncodeBuffer:
    """encode: called on a thread with the gathered rows. rows_max: when to stop gathering."""

    def __init__(
        self,
        encode: Callable[[pl.DataFrame], None],
        rows_max: int,
        bytes_max: int = BUFFER_BYTES,
    ) -> None:
        self._encode, self._rows_max, self._bytes_max = encode, rows_max, bytes_max
        self._frames: list[pl.DataFrame] = []
        self._rows = self._bytes = 0
        self._running: asyncio.Future[Any] | None = None

    async def add(self, frame: pl.DataFrame, num_bytes: int) -> None:
        """Take rows. Waits when one buffer is being encoded and another one is full."""
        while frame.height:
            room = self._rows_max - self._rows
            part = frame if frame.height <= room else frame.head(room)
            self._frames.append(part)
            self._rows += part.height
            self._bytes += num_bytes * part.height // frame.height
            num_bytes -= num_bytes * part.height // frame.height
            frame = frame.slice(part.height)
            if self._rows >= self._rows_max or self._bytes >= self._bytes_max:
                await self._start()

    async def drain(self) -> None:
        """Encode all that is left, and wait for it."""
        if self._frames:
            await self._start()
        await self._wait()

    async def call(self, work: Callable[[], Result]) -> Result:
        """Do other work on the file, on a thread and after what is in flight."""
        await self._wait()
        task = asyncio.ensure_future(asyncio.to_thread(work))
        self._running = task
        await self._wait()
        return task.result()

    async def _start(self) -> None:
        await self._wait()
        frames, self._frames, self._rows, self._bytes = self._frames, [], 0, 0

        def work() -> None:
            frame = pl.concat(frames, rechunk=False) if len(frames) > 1 else frames[0]
            frames.clear()
            self._encode(frame)

        self._running = asyncio.ensure_future(asyncio.to_thread(work))

    async def _wait(self) -> None:
        """Until the thread is done. Who is cancelled here leaves it known: `aclose` waits for it, so
        no thread of a dead attempt writes into a file that the next one has opened."""
        running = self._running
        if running is not None:
            await asyncio.wait([running])
            self._running = None
            running.result()

    async def aclose(self) -> None:
        """Wait for the thread, whatever became of its work."""
        if self._running is not None:
            await asyncio.wait([self._running])
            if not self._running.cancelled():
                self._running.exception()
            self._running = None
