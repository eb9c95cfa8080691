"""Collect small batches into pieces, encode the pieces on threads and append them in order.

Always true: at most two pieces are being encoded or wait to be appended, and one more is being
filled, so memory is bounded; pieces are appended one at a time, in the order in which their rows
arrived, and none after a failed piece.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import polars as pl

from dataflare.sdk.threads import in_thread

BUFFER_BYTES_MAX = 64 << 20
_IN_FLIGHT = 2
"""Mostly one thread encodes a piece; it shares the processors with the readers."""

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class EncodeBuffer(Generic[Piece]):
    """encode: makes a piece of the collected rows, on any thread, without state. append: writes a
    piece, on a thread. rows_max, bytes_max: the size of a full piece."""

    def __init__(
        self,
        encode: Callable[[pl.DataFrame], Piece],
        append: Callable[[Piece], None],
        rows_max: int,
        bytes_max: int = BUFFER_BYTES_MAX,
    ) -> None:
        self._encode, self._append = encode, append
        self._rows_max, self._bytes_max = rows_max, min(bytes_max, BUFFER_BYTES_MAX)
        self._frames: list[pl.DataFrame] = []
        self._rows = self._bytes = 0
        self._running: deque[asyncio.Future[Any]] = deque()

    async def add(self, frame: pl.DataFrame, num_bytes: int) -> None:
        """Add rows. Waits while the next piece is full and two pieces are in progress."""
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

    async def call(self, work: Callable[[], Result]) -> Result:
        """Encode and append all remaining rows, then do other work on the file, on a thread."""
        if self._frames:
            await self._start()
        await self._wait(0)
        result = asyncio.ensure_future(in_thread(work))
        self._running.append(result)
        await self._wait(0)
        return result.result()

    async def _start(self) -> None:
        await self._wait(_IN_FLIGHT - 1)
        frames, self._frames, self._rows, self._bytes = self._frames, [], 0, 0
        before = self._running[-1] if self._running else None
        self._running.append(asyncio.ensure_future(self._piece(frames, before)))

    async def _piece(self, frames: list[pl.DataFrame], before: asyncio.Future[Any] | None) -> None:
        def encoded() -> Piece:
            frame = pl.concat(frames, rechunk=False) if len(frames) > 1 else frames[0]
            frames.clear()
            return self._encode(frame)

        piece = await in_thread(encoded)
        if before is not None:
            await asyncio.wait([before])
            before.result()
        await in_thread(self._append, piece)

    async def _wait(self, running_max: int) -> None:
        """Wait until at most `running_max` pieces are in progress. If the caller is cancelled here,
        the pieces stay in `_running` and `aclose` waits for them. So a thread of a dead attempt
        cannot write into a file that the next attempt has opened."""
        while len(self._running) > running_max:
            first = self._running[0]
            await asyncio.wait([first])
            first.result()
            self._running.popleft()

    async def aclose(self) -> None:
        """Wait for the threads, and ignore their errors."""
        if self._running:
            await asyncio.wait(self._running)
        for task in self._running:
            if not task.cancelled():
                task.exception()
        self._running.clear()
