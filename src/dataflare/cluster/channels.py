"""Channels whose two ends are in different processes, over a link.

The writer's end is a `RemoteChannel`: for its task it is a channel as any other. The reader's end is an `Entry`, which puts
what arrives into a channel of this process. Both ends know the number of the channel; the link keeps what comes for an end
that is not there yet.

Always true:
- rows and marks come out in the order in which they were sent, and each once;
- at most a window of bytes is on its way, or one batch that is larger; so much the reader's process holds at most, besides
  one batch that it decodes;
- credit goes back when the inbox of the reader has taken a batch, so a slow reader stops its writer, and only that one;
- when the link has ended, what the writer sends raises its error.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable

from dataflare.cluster.frames import (
    BadBody,
    Credit,
    Kind,
    is_soon_read,
    mark_body,
    read_mark,
    read_rows,
    room_for,
    rows_body,
)
from dataflare.cluster.link import Link
from dataflare.cluster.wire import Frame, Line
from dataflare.engine.channel import Channel
from dataflare.engine.pool import INLINE_BYTES
from dataflare.errors import InternalError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Mark

WINDOW_BYTES, WINDOW_BYTES_MIN = 8 << 20, 64 << 10
"""A window is at most so large: with 4 MiB, batches of 4 MiB went one by one, at 1.2 GB/s; with 8 MiB 1.6 GB/s."""
WINDOWS_SHARE = 8
"""All windows together take this part of the memory budget, where that leaves enough for each."""
_OWED_SHARE = 4
"""When this part of the window is owed to the writer, it gets it at once."""


class RemoteChannel:
    """A channel to a task of another process. It is a `WritableChannel`. Made once for each number of a link."""

    __slots__ = (
        *("_line", "_link", "_timely_rows", "_waiter", "_window"),
        *("cancelled", "flying_bytes", "number", "on_cancel"),
    )

    def __init__(self, link: Link, number: int) -> None:
        self._link, self.number = link, number
        self.cancelled = False
        self.on_cancel: Callable[[], None] = _nothing
        self._line = Line()
        self.flying_bytes = 0
        """What was sent and has not come back as credit."""
        self._window: int | None = None
        """None until the reader is there."""
        self._timely_rows: int | None = None
        self._waiter: asyncio.Future[None] | None = None
        link.add_sender(number, self)

    async def send(self, batch: SharedDataBatch) -> None:
        """Send a batch, as soon as there is credit for it. Raises the link's error if it has ended."""
        link = self._link
        link.check()
        if self.cancelled:
            return
        target = room_for(batch)
        if link.pool is None or batch.num_bytes < INLINE_BYTES:
            body = rows_body(batch, link.compression, target)
        else:
            body = await link.pool.submit(rows_body, batch, link.compression, target)
        await self.send_frame(Frame(Kind.ROWS, self.number, body, batch.read_at_s))

    async def send_frame(self, frame: Frame) -> None:
        """Send a batch that is encoded, as soon as there is credit for it."""
        link, length = self._link, frame.length
        while not (self.cancelled or self._has_credit(length)):
            link.check()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if not self.cancelled:
            self.flying_bytes += length
            link.send(self._line, frame)

    async def queue(self, batch: SharedDataBatch) -> None:
        """As `send`: its reader is never called in place."""
        await self.send(batch)

    def put(self, mark: Mark) -> None:
        """Send a mark, at once. Raises the link's error if it has ended."""
        self._link.send(self._line, Frame(Kind.MARK, self.number, mark_body(mark)))

    def timely_rows(self) -> int | None:
        """As the reader said with its last credit."""
        return self._timely_rows

    def _has_credit(self, length: int) -> bool:
        if self._window is None:
            return False
        return not self.flying_bytes or self.flying_bytes + length <= self._window

    # -- called by the link ------------------------------------------------------------------------

    def credited(self, credit: Credit) -> None:
        self.flying_bytes -= credit.returned
        self._window, self._timely_rows = credit.window, credit.timely_rows
        self._wake()

    def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self._wake()
            self.on_cancel()

    def link_ended(self) -> None:
        self._wake()

    def close(self) -> None:
        """Forget the channel. The number may be used again after that."""
        self._link.remove_sender(self.number)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Rows:
    """What has arrived. content: a body, or its batch."""

    __slots__ = ("arrived_s", "content", "length")

    def __init__(self, length: int, content: bytes | SharedDataBatch, arrived_s: float) -> None:
        self.length, self.content, self.arrived_s = length, content, arrived_s


class Entry:
    """Where a channel from another process comes in.

    channel: of the inbox of the task that reads. window_bytes: so many bytes may be on their way; by default a part of the
    memory budget, which is less the more such channels there are. They are counted in the budget from when they are here
    until they are decoded and in the inbox, which counts them then.
    """

    __slots__ = (
        *("_backlog", "_channel", "_context", "_given_bytes", "_link", "_moving", "_owed"),
        "number",
    )

    def __init__(
        self, link: Link, number: int, channel: Channel, window_bytes: int | None = None
    ) -> None:
        self._link, self.number, self._channel = link, number, channel
        self._given_bytes = window_bytes
        channel.inbox.budget.entries += 1
        self._backlog: deque[_Rows | Mark] = deque()
        self._owed = 0
        self._moving: asyncio.Task[None] | None = None
        # What arrives is handled inside of the run's context, as what a local writer sends.
        self._context = contextvars.copy_context()
        channel.on_cancel = self._cancel
        link.send_credit(number, Credit(0, self.window_bytes, channel.timely_rows()))
        if channel.cancelled:
            self._cancel()
        link.add_receiver(number, self)

    @property
    def window_bytes(self) -> int:
        """So many bytes may be on their way. It changes with the number of channels, and goes with each credit."""
        if self._given_bytes is not None:
            return self._given_bytes
        budget = self._channel.inbox.budget
        share = budget.budget_bytes // WINDOWS_SHARE // budget.entries
        return max(WINDOW_BYTES_MIN, min(WINDOW_BYTES, share))

    def close(self) -> None:
        """Take nothing more. Called once. The number may be used again after that."""
        self.give_back()
        self._link.remove_receiver(self.number)
        self._channel.inbox.budget.entries -= 1
        if self._moving is not None:
            self._moving.cancel()
        self.link_ended()

    # -- called by the link ------------------------------------------------------------------------

    def arrived(self, kind: Kind, body: bytes, arrived_s: float) -> None:
        self._context.run(self._arrived, kind, body, arrived_s)

    def link_ended(self) -> None:
        """Drop what has not come in: nothing that follows it ever comes."""
        for item in self._backlog:
            if isinstance(item, _Rows):
                self._channel.inbox.budget.add(-item.length)
        self._backlog.clear()

    def _arrived(self, kind: Kind, body: bytes, arrived_s: float) -> None:
        if kind is Kind.MARK:
            self._arrived_mark(read_mark(body))
        else:
            self._arrived_rows(body, arrived_s)

    def _arrived_mark(self, mark: Mark) -> None:
        if self._moving is None:
            self._channel.put(mark)
        else:
            self._backlog.append(mark)

    def _arrived_rows(self, body: bytes, arrived_s: float) -> None:
        rows = _Rows(len(body), body, arrived_s)
        if self._moving is None and (self._link.pool is None or is_soon_read(body)):
            rows.content = read_rows(body, arrived_s)
            if self._channel.queues_at_once(rows.content):
                self._return(rows.length)
                return
        self._channel.inbox.budget.add(rows.length)
        self._backlog.append(rows)
        if self._moving is None:
            loop = asyncio.get_running_loop()
            self._moving = loop.create_task(self._move(), context=self._context)

    async def _move(self) -> None:
        """Put what waits into the inbox, until nothing waits."""
        try:
            while self._backlog:
                item = self._backlog.popleft()
                if isinstance(item, _Rows):
                    await self._move_rows(item)
                else:
                    self._channel.put(item)
        except BadBody as error:
            self._link.fail(str(error))
        except Exception as error:
            self._link.fail(
                InternalError(f"rows could not be taken in: {error!r}", help="please report this")
            )
        finally:
            self._moving = None

    async def _move_rows(self, rows: _Rows) -> None:
        try:
            if not self._channel.cancelled:
                await self._channel.queue(await self._batch(rows))
        finally:
            self._channel.inbox.budget.add(-rows.length)
        self._return(rows.length)

    async def _batch(self, rows: _Rows) -> SharedDataBatch:
        content = rows.content
        if isinstance(content, SharedDataBatch):
            return content
        if self._link.pool is None or is_soon_read(content):
            return read_rows(content, rows.arrived_s)
        return await self._link.pool.submit(read_rows, content, rows.arrived_s)

    def _return(self, length: int) -> None:
        """Give credit back: soon, or at once where the writer may wait for it."""
        if not self._owed:
            self._link.give_back_soon(self)
        self._owed += length
        if self._owed * _OWED_SHARE >= self.window_bytes:
            self.give_back()

    def give_back(self) -> None:
        owed, self._owed = self._owed, 0
        if owed:
            credit = Credit(owed, self.window_bytes, self._channel.timely_rows())
            self._link.send_credit(self.number, credit)

    def _cancel(self) -> None:
        self._link.send_cancel(self.number)


def _nothing() -> None:
    """What a writer does that goes on in any case."""
