"""What carries messages from a listener into the log, many in one write.

Always true: `put` returns when its messages are on disk. Messages of one caller keep their order. What waits for room
is bounded by the listener: each of its connections puts once at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from dataflare.errors import DataFlareError, InternalError
from dataflare.sdk.push.blocks import Message
from dataflare.sdk.push.log import LogFull, PushLog

_GROUP_MESSAGES = 20_000
_GROUP_BYTES = 4 << 20
_LOOK_S = 1.0
"""How long it waits before it looks again whether the disk has room."""


class _Waiting:
    __slots__ = ("done", "messages", "num_bytes", "waits")

    def __init__(self, messages: Sequence[Message], num_bytes: int, waits: bool) -> None:
        self.messages, self.num_bytes, self.waits = messages, num_bytes, waits
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Inbox:
    """Of one reader, on its event loop. warnings: what users are told at the end, with numbers of messages."""

    def __init__(self, log: PushLog, bytes_max: int) -> None:
        self.log, self._group_bytes = log, max(1, min(_GROUP_BYTES, bytes_max // 8))
        self.warnings: dict[str, int] = {}
        self.failure: DataFlareError | None = None
        self.ended = False
        self._waiting: deque[_Waiting] = deque()
        self._wake, self._room, self._arrived = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="push-log")
        self._loop = asyncio.get_running_loop()
        log.trimmed = self._trimmed
        self._writing = asyncio.ensure_future(self._write())

    # -- of the listener ---------------------------------------------------------------------------

    async def put(self, messages: Sequence[Message], num_bytes: int, *, waits: bool = True) -> None:
        """Put messages into the log. waits: for room. Raises LogFull, DataFlareError."""
        if not messages:
            return
        if self.failure is not None:
            raise self.failure
        if waits and num_bytes > self._group_bytes and len(messages) > 1:
            # A small log has no room for all at once.
            half = len(messages) // 2
            for part in (messages[:half], messages[half:]):
                await self.put(part, sum(len(message[0]) for message in part))
            return
        each = _Waiting(messages, num_bytes, waits)
        self._waiting.append(each)
        self._wake.set()
        await each.done

    def fail(self, error: DataFlareError) -> None:
        """The listener cannot go on: the reader raises this."""
        if self.failure is None:
            self.failure = error
        self._arrived.set()

    def end(self) -> None:
        """Nothing will ever follow what was put."""
        self.ended = True
        self._arrived.set()

    def warn(self, text: str, number: int = 1) -> None:
        self.warnings[text] = self.warnings.get(text, 0) + number

    # -- of the reader -----------------------------------------------------------------------------

    async def arrived(self) -> None:
        """Wait until something has changed."""
        await self._arrived.wait()
        self._arrived.clear()

    async def aclose(self) -> None:
        self._writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writing
        for each in self._waiting:
            each.done.cancel()
        await self._loop.run_in_executor(self._thread, self.log.close)
        self._thread.shutdown(wait=False)

    # -- writing -----------------------------------------------------------------------------------

    def _trimmed(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop of the reader has ended
            self._loop.call_soon_threadsafe(self._room.set)

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            if not self._waiting:
                self._wake.clear()
                continue
            group = self._group()
            messages = [message for each in group for message in each.messages]
            self._room.clear()
            try:
                writing = self._loop.run_in_executor(self._thread, self.log.append, messages)
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                # What is on disk is acknowledged, if anyone still waits for that.
                await asyncio.wait([writing])
                for each in group:
                    _settle(each, writing.exception())
                raise
            except LogFull as full:
                await self._keep(group, full)
            except DataFlareError as error:
                if error.code == "E0603":
                    await self._keep(group, error)
                    continue
                self._give_up(group, error)
                return
            except Exception as error:
                self._give_up(
                    group, InternalError(f"a message cannot be put into the log: {error!r}")
                )
                return
            else:
                for each in group:
                    _settle(each, None)
                self._arrived.set()

    def _give_up(self, group: list[_Waiting], error: DataFlareError) -> None:
        for each in (*group, *self._waiting):
            _settle(each, error)
        self._waiting.clear()
        self.fail(error)

    def _group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        count = num_bytes = 0
        while self._waiting:
            each = self._waiting[0]
            count, num_bytes = count + len(each.messages), num_bytes + each.num_bytes
            if group and (count > _GROUP_MESSAGES or num_bytes > self._group_bytes):
                break
            group.append(self._waiting.popleft())
        return group

    async def _keep(self, group: list[_Waiting], why: Exception) -> None:
        """There is no room: refuse those who do not wait, and wait with the others."""
        for each in (*group, *self._waiting):
            if not each.waits:
                _settle(each, why)
        self._waiting.extendleft(reversed(group))
        self._waiting = deque(each for each in self._waiting if not each.done.done())
        if self._waiting:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), _LOOK_S)


def _settle(each: _Waiting, error: BaseException | None) -> None:
    if each.done.done():
        return
    if error is None:
        each.done.set_result(None)
    else:
        each.done.set_exception(error)
