"""Bounded channels between tasks, and the inbox a task reads them from.

Always true:
- messages of one channel arrive in the order they were sent;
- batches cost credit in rows and bytes; marks cost none and are put in at once;
- small batches that wait for a reader which joins them come out as one, in their order, but never with those behind a mark;
- a channel whose reader needs no more rows takes none, and tells its writer;
- a batch is handed over in place only while the reader has nothing else to do and nothing else to read: the reader
  is called by the writer's task, and what arrives meanwhile waits until it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

import polars as pl

from dataflare.engine.backpressure import BackpressureController
from dataflare.engine.gate import Event, GateState, Rows
from dataflare.engine.pool import INLINE_ROWS
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Mark
from dataflare.sdk.tracing import joined_traces


class MemoryBudget:
    """Bytes of rows in all channels and of state, against what the job may use. entries: channels that come from other
    processes."""

    def __init__(self, budget_bytes: int, controller: BackpressureController) -> None:
        self.budget_bytes = budget_bytes
        self.controller = controller
        self.channel_bytes = self.entries = 0
        self.state_bytes: dict[str, int] = {}
        self.waiting: set[Inbox] = set()

    def add(self, num_bytes: int) -> None:
        self.channel_bytes += num_bytes
        self._update()
        if num_bytes < 0 and self.waiting:
            for inbox in self.waiting:
                inbox.credit_freed()
            self.waiting.clear()

    def set_state(self, task: str, num_bytes: int) -> None:
        self.state_bytes[task] = num_bytes
        self._update()

    @property
    def full(self) -> bool:
        return self.channel_bytes + sum(self.state_bytes.values()) >= self.budget_bytes

    def _update(self) -> None:
        used = self.channel_bytes + sum(self.state_bytes.values())
        self.controller.update_memory_pressure(used / self.budget_bytes)


class Receiver(Protocol):
    """The task that reads an inbox, where the task in front of it may call it. joins_batches: it takes small batches that
    wait for it as one."""

    @property
    def joins_batches(self) -> bool: ...

    def takes_at_once(self, batch: SharedDataBatch) -> bool:
        """Whether to process the batch mostly needs no waiting."""

    async def take(self, rows: Rows) -> None:
        """Process a batch. Called while it waits in `Inbox.next`."""

    def timely_rows(self) -> int | None:
        """How large a batch may be for the tasks behind it; None: of any size."""


class WritableChannel(Protocol):
    """A channel as its writer sees it; the reader may be in another process. cancelled: its reader needs no more rows.
    on_cancel: what its writer does then."""

    cancelled: bool
    on_cancel: Callable[[], None]

    async def send(self, batch: SharedDataBatch) -> None:
        """Send a batch, as soon as there is credit for it."""

    async def queue(self, batch: SharedDataBatch) -> None:
        """As `send`, but the batch waits until the reader's turn comes."""

    def put(self, mark: Mark) -> None:
        """Send a mark, at once."""

    def timely_rows(self) -> int | None:
        """How large a batch may be so that the reader, and those behind it, are soon done with it; None: of any
        size."""


class Channel:
    """From one task to another of this process. Written by one, read through the other's inbox. It is a
    `WritableChannel`."""

    __slots__ = ("cancelled", "inbox", "number", "on_cancel", "queued_rows")

    def __init__(self, inbox: Inbox, number: int) -> None:
        self.inbox, self.number = inbox, number
        self.queued_rows = 0
        self.cancelled = False
        self.on_cancel: Callable[[], None] = _nothing

    async def send(self, batch: SharedDataBatch) -> None:
        """Hand a batch over in place if the reader waits for it. Else put it in, as soon as there is credit for it."""
        if self.inbox.takes_at_once(self.number, batch):
            await self.inbox.hand_over(self.number, batch)
            return
        await self.queue(batch)

    async def queue(self, batch: SharedDataBatch) -> None:
        """Put a batch in, as soon as there is credit for it. It is never handed over in place, so an error of the reader
        does not come here."""
        if not self.queues_at_once(batch):
            await self.inbox.credit(self, batch)
            self._put_rows(batch)

    def queues_at_once(self, batch: SharedDataBatch) -> bool:
        """Put a batch in, if there is credit for it. Gives whether it needs no more waiting."""
        if not (self.cancelled or self.inbox.grants(self, batch)):
            return False
        self._put_rows(batch)
        return True

    def _put_rows(self, batch: SharedDataBatch) -> None:
        if not self.cancelled:
            self.queued_rows += batch.num_rows
            self.inbox.queued_rows += batch.num_rows
            self.inbox.put(self.number, batch)

    def put(self, mark: Mark) -> None:
        self.inbox.put(self.number, mark)

    def timely_rows(self) -> int | None:
        return self.inbox.timely_rows()


def _nothing() -> None:
    """What a writer does that goes on in any case."""


class Inbox:
    """All channels that lead to one task, as an asynchronous face of their gate."""

    def __init__(self, task: str, controller: BackpressureController, budget: MemoryBudget) -> None:
        self.task = task
        self.gate = GateState()
        self.channels: list[Channel] = []
        self.queued_rows = 0
        self._controller = controller
        self.budget = budget
        self.receiver: Receiver | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._is_handing = self._is_woken = False
        self._credit = asyncio.Event()
        controller.register_task(task)

    def channel(self, port: int = 0, origins: frozenset[str] = frozenset()) -> Channel:
        """A new channel to this task. origins: see `GateState.add`."""
        channel = Channel(self, self.gate.add(port, origins))
        self.channels.append(channel)
        return channel

    def put(self, number: int, message: SharedDataBatch | Mark) -> None:
        self.gate.put(number, message)
        self.wake()

    def wake(self) -> None:
        """Let the reader look again, when what is handed over has been processed."""
        if self._is_handing:
            self._is_woken = True
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def takes_at_once(self, number: int, batch: SharedDataBatch) -> bool:
        """Whether a batch of a channel can be handed over in place."""
        return (
            self._waiter is not None
            and not self._waiter.done()
            and not self._is_handing
            and self.receiver is not None
            and self.gate.is_clear(number)
            and self._controller.refill_rate is None
            and self.receiver.takes_at_once(batch)
        )

    async def hand_over(self, number: int, batch: SharedDataBatch) -> None:
        """Let the reader process a batch, in the task that sends it. It takes no credit, because its writer waits."""
        assert self.receiver is not None
        self._is_handing = True
        try:
            await self.receiver.take(self.gate.pass_through(number, batch))
        finally:
            self._is_handing = False
            if self._is_woken:
                self._is_woken = False
                self.wake()

    def timely_rows(self) -> int | None:
        """How large a batch may be so that the reader, and those behind it, are soon done with it; None: of any
        size."""
        own = self._controller.timely_rows(self.task)
        behind = self.receiver.timely_rows() if self.receiver is not None else None
        return behind if own is None else own if behind is None else min(own, behind)

    async def next(self) -> Event | None:
        """The next event, or None when woken for another reason."""
        event = self.gate.next()
        if event is None and not self.gate.ended:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
            event = self.gate.next()
        if (
            type(event) is Rows
            and event.batch.num_rows < INLINE_ROWS
            and self.receiver is not None
            and self.receiver.joins_batches
        ):
            return self._with_following(event)
        return event

    def _with_following(self, rows: Rows) -> Rows:
        """A small batch and those that wait behind it, as one: most of what a small batch costs does not depend on its
        rows, so a reader that falls behind gets larger ones and catches up."""
        most = min(INLINE_ROWS, self._controller.timely_rows(self.task) or INLINE_ROWS)
        more = self.gate.more_rows(rows, most - rows.batch.num_rows)
        if not more:
            return rows
        parts = ((rows.channel, rows.batch), *more)
        frame = pl.concat([batch.frame for _, batch in parts], rechunk=True)
        oldest_s = min(batch.read_at_s for _, batch in parts)
        traced = joined_traces(batch.traced for _, batch in parts)
        joined = SharedDataBatch(frame, read_at_s=oldest_s, traced=traced)
        return Rows(rows.port, joined, rows.channel, parts)

    def done(self, rows: Rows, seconds: float) -> None:
        """The batch has been processed: its credit goes back to the writers. seconds: the work it took."""
        self._controller.report_processing(self.task, rows.batch.num_rows, seconds)
        for channel, batch in rows.parts or ((rows.channel, rows.batch),):
            self._returned(self.channels[channel], batch)

    def cancel(self, port: int) -> None:
        """No more rows of an input are needed. Those that wait are dropped."""
        for number, batch in self.gate.cancel(port):
            self._controller.report_processing(self.task, batch.num_rows, 0.0)
            self._returned(self.channels[number], batch)
        for channel in self.channels:
            if self.gate.port_of(channel.number) == port and not channel.cancelled:
                channel.cancelled = True
                channel.on_cancel()
        self._credit.set()

    def _returned(self, channel: Channel, batch: SharedDataBatch) -> None:
        channel.queued_rows -= batch.num_rows
        self.queued_rows -= batch.num_rows
        self.budget.add(-batch.num_bytes)
        self._credit.set()

    def grants(self, channel: Channel, batch: SharedDataBatch) -> bool:
        """Take credit for a batch, if there is some. A channel that is empty owns credit for one."""
        own = channel.queued_rows == 0
        if not own and self.budget.full:
            return False
        if not self._controller.request_credits(self.task, batch.num_rows, own=own):
            return False
        self.budget.add(batch.num_bytes)
        return True

    async def credit(self, channel: Channel, batch: SharedDataBatch) -> None:
        """Wait until a batch has credit, or is not needed any more."""
        while True:
            wait_s = self._controller.wait_s(self.task, batch.num_rows)
            if channel.queued_rows and self.budget.full:
                wait_s = None
            self._credit.clear()
            self.budget.waiting.add(self)
            with contextlib.suppress(TimeoutError):
                # Not `wait_for`: that of Python 3.11 loses a cancellation that comes with the credit.
                async with asyncio.timeout(wait_s):
                    await self._credit.wait()
            if channel.cancelled or self.grants(channel, batch):
                return

    def credit_freed(self) -> None:
        """Let waiting writers ask again."""
        self._credit.set()
