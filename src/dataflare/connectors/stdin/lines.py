"""Read lines from a file descriptor that belongs to the process.

Always true: lines come in their order, each once, whatever reads them; not much more than `BYTES_MAX` of them wait, so the program
before in the pipe waits as well. Lines outlive a reader: one that is opened after another goes on behind it.

A thread of its own reads, because a read that waits cannot be ended; the thread ends with the process.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable

from dataflare.sdk.push.framing import Lines, TooLong

BYTES_MAX = 4 << 20
_READ_BYTES = 256 << 10


class Input:
    """descriptor: such as 0. line_bytes_max: a longer line is an error."""

    def __init__(self, descriptor: int, line_bytes_max: int) -> None:
        self._descriptor, self._framing = descriptor, Lines(line_bytes_max)
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._error: Exception | None = None
        self._wake: Callable[[], object] | None = None
        self._thread: threading.Thread | None = None
        self.header: bytes | None = None
        self.taken = 0

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, name="stdin", daemon=True)
            self._thread.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._descriptor, _READ_BYTES):
                self._add(self._framing.feed(data))
            self._add(self._framing.rest())
        except (OSError, TooLong) as error:
            self._error = error
        self._ended = True
        self._tell()

    def _add(self, lines: list[bytes]) -> None:
        with self._changed:
            self._lines.extend(lines)
            self._bytes += sum(map(len, lines))
            self._tell()
            while self._bytes > BYTES_MAX:
                self._changed.wait()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
            if self._wake is not None:
                self._wake()

    def head(self, most: int, wait_s: float) -> list[bytes]:
        """The first lines that wait, which stay there: at most so many, and waits so long at most for the first one.
        Blocking. Raises what reading raised."""
        self._start()
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._ended, wait_s)
            if not self._lines and self._error is not None:
                raise self._error
            return list(self._lines)[:most]

    def take_header(self, wait_s: float) -> bytes | None:
        """The first line of all, which is taken once; None where none has come. Blocking."""
        if self.header is None:
            found = self.head(1, wait_s)
            if found:
                self.header = self._taken(1)[0]
        return self.header

    def _taken(self, most: int) -> list[bytes]:
        with self._changed:
            found = [self._lines.popleft() for _ in range(min(most, len(self._lines)))]
            self._bytes -= sum(map(len, found))
            self.taken += len(found)
            self._changed.notify_all()
        return found

    async def take(self, most: int, wait_s: float | None) -> list[bytes] | None:
        """The next lines, and waits until there is one, so long at most. None: nothing will follow. Raises what reading
        raised."""
        self._start()
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        with self._changed:
            self._wake = lambda: loop.call_soon_threadsafe(changed.set)
        try:
            if not self._lines and not self._ended:
                async with asyncio.timeout(wait_s):
                    await changed.wait()
        except TimeoutError:
            return []
        finally:
            with self._changed:
                self._wake = None
        found = self._taken(most)
        if not found and self._error is not None:
            raise self._error
        return found if found or not self._ended else None
