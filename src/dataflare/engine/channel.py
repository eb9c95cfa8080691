"""Bounded channels between tasks, and the inbox a task reads them from.

Always true:
- messages of one channel arrive in the order they were sent;
- batches cost credit in rows and bytes, barriers and ends cost none;
- after a barrier of an epoch a channel is not read until all other live channels have shown theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct

from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Barrier

if TYPE_CHECKING:
    from dataflare.engine.backpressure import BackpressureController


class EndOfStream(Struct, frozen=True):
    """Nothing follows in this channel."""


END = EndOfStream()
Message = SharedDataBatch | Barrier | EndOfStream


class MemoryBudget:
    """Bytes of rows in all channels and of state, against what the job may use."""

    def __init__(self, budget_bytes: int, controller: BackpressureController) -> None:
        self.budget_bytes = budget_bytes
        self.controller = controller
        self.channel_bytes = 0
        self.state_bytes: dict[str, int] = {}
        self.waiting: set[Inbox] = set()

    def add(self, num_bytes: int) -> None:
        self.channel_bytes += num_bytes
        self._update()
        if num_bytes < 0:
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


class Channel:
    """From one task to another. Written by one, read through the other's inbox."""

    def __init__(self, inbox: Inbox, edge: int) -> None:
        self.inbox = inbox
        self.edge = edge
        self.messages: deque[Message] = deque()
        self.queued_rows = 0
        self.blocked = False
        self.ended = False

    async def send(self, message: Message) -> None:
        """Put a message in; a batch waits for credit."""
        if isinstance(message, SharedDataBatch):
            await self.inbox.credit(self, message)
            self.queued_rows += message.num_rows
        self.messages.append(message)
        self.inbox.wake()


class Inbox:
    """All channels that lead to one task."""

    def __init__(self, task: str, controller: BackpressureController, budget: MemoryBudget) -> None:
        self.task = task
        self.channels: list[Channel] = []
        self._controller = controller
        self._budget = budget
        self._arrival = asyncio.Event()
        self._credit = asyncio.Event()
        self._turn = 0
        controller.register_task(task)

    def channel(self, edge: int) -> Channel:
        """A new channel to this task."""
        made = Channel(self, edge)
        self.channels.append(made)
        return made

    @property
    def all_ended(self) -> bool:
        return all(channel.ended for channel in self.channels)

    @property
    def queued_rows(self) -> int:
        return sum(channel.queued_rows for channel in self.channels)

    def wake(self) -> None:
        """Let the reader look again."""
        self._arrival.set()

    async def next(self) -> tuple[Channel, Message] | None:
        """The next message of a channel that is not blocked, or None when woken for another reason."""
        found = self._pick()
        if found is not None:
            return found
        self._arrival.clear()
        await self._arrival.wait()
        return self._pick()

    def _pick(self) -> tuple[Channel, Message] | None:
        count = len(self.channels)
        for offset in range(count):
            channel = self.channels[(self._turn + offset) % count]
            if channel.messages and not channel.blocked:
                self._turn = (self._turn + offset + 1) % count
                return channel, channel.messages.popleft()
        return None

    def done(self, channel: Channel, batch: SharedDataBatch, seconds: float) -> None:
        """The batch has been processed: its credit goes back to the writers."""
        channel.queued_rows -= batch.num_rows
        self._controller.report_processing(self.task, batch.num_rows, seconds)
        self._budget.add(-batch.num_bytes)
        self._credit.set()

    async def credit(self, channel: Channel, batch: SharedDataBatch) -> None:
        """Wait until the batch may be sent. A channel that is empty owns credit for one batch."""
        while True:
            own = channel.queued_rows == 0
            if own or not self._budget.full:
                if self._controller.request_credits(self.task, batch.num_rows, own=own):
                    break
                wait_s = self._controller.wait_s(self.task, batch.num_rows)
            else:
                wait_s = None
            self._credit.clear()
            self._budget.waiting.add(self)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._credit.wait(), wait_s)
        self._budget.add(batch.num_bytes)

    def credit_freed(self) -> None:
        """Let waiting writers ask again."""
        self._credit.set()
