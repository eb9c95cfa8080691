"""What every task does: take part in epochs, send to its channels, end once.

Always true:
- a task answers each epoch once, with its snapshot or committable;
- what it sent before a barrier is exactly what its snapshot has let go of.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import polars as pl
from msgspec import Struct

from dataflare.engine.channel import END, Channel, Inbox
from dataflare.engine.exchange import split_by_key
from dataflare.engine.metrics import TaskMetrics
from dataflare.engine.pool import WorkerPool
from dataflare.engine.segments import Outcome
from dataflare.model.batch import SharedDataBatch
from dataflare.model.new_fields import NewFields
from dataflare.model.progress import Barrier

if TYPE_CHECKING:
    from dataflare.checkpoint.manifest import OperatorSnapshot, SplitState
    from dataflare.sdk.destination import Committable


class Answer(Struct, frozen=True):
    """A task's share of an epoch."""

    splits: tuple[SplitState, ...] = ()
    snapshot: OperatorSnapshot | None = None
    committable: Committable | None = None


class Coordination(Protocol):
    """What a task tells the coordinator."""

    stopping: bool
    """The epoch being cut is this attempt's last: sources read nothing after it."""

    @property
    def current(self) -> Barrier | None:
        """The epoch being cut now."""

    def answered(self, task: Task, epoch: int, answer: Answer) -> None:
        """The task's share of the epoch is durable."""

    def appeared(self, step: str, found: Sequence[NewFields]) -> None:
        """A source has found fields that its columns lack, and stands still."""

    def ended(self, task: Task, answer: Answer) -> None:
        """The task has nothing more to do but for the final epoch; its share from now on."""


class Output(Struct, frozen=True):
    """An edge, seen from one sending subtask: its channels by receiving subtask."""

    edge: int
    exchange: str
    keys: tuple[str, ...]
    channels: tuple[Channel, ...]
    subtask: int


class Task(ABC):
    """One parallel copy of a stage."""

    def __init__(
        self,
        stage: int,
        name: str,
        subtask: int,
        *,
        outputs: Sequence[Output],
        inbox: Inbox,
        pool: WorkerPool,
        metrics: TaskMetrics,
        coordination: Coordination,
        letter_edges: Mapping[str, int],
        letters: Callable[[Sequence[pl.DataFrame]], pl.DataFrame],
    ) -> None:
        self.stage, self.name, self.subtask = stage, name, subtask
        self.outputs = {output.edge: output for output in outputs}
        self.inbox, self.pool, self.metrics = inbox, pool, metrics
        self.coordination = coordination
        self._letter_edges, self._letters = letter_edges, letters
        self.answered_epoch = 0
        self.has_ended = False

    @property
    def id(self) -> str:
        return f"{self.name}[{self.subtask}]"

    @property
    @abstractmethod
    def is_root(self) -> bool:
        """Whether barriers come to it from the coordinator, not through channels."""

    @abstractmethod
    async def run(self) -> None:
        """Live until the end of input (a destination: until the final epoch) or an error."""

    def request(self, barrier: Barrier) -> None:
        """The coordinator asks a root to cut here. Seen through `coordination.current`."""
        self.inbox.wake()

    @property
    def asked(self) -> Barrier | None:
        """The barrier this task has yet to answer by itself."""
        barrier = self.coordination.current
        if barrier is not None and barrier.epoch > self.answered_epoch and self.is_root:
            return barrier
        return None

    async def emit(self, outcome: Outcome) -> None:
        """Count what left and send it on."""
        outcome.apply(self.metrics)
        for edge, frame in outcome.frames:
            if frame.height:
                await self.send(edge, frame)
        await self.send_letters(outcome.failed)

    async def send_letters(self, failed: Sequence[pl.DataFrame]) -> None:
        """Send failed rows to where their steps' dead letters go. failed: frames as FAILED says."""
        by_edge: dict[int, list[pl.DataFrame]] = {}
        for part in (part for frame in failed for part in frame.partition_by("step")):
            by_edge.setdefault(self._letter_edges[part["step"][0]], []).append(part)
        for edge, parts in by_edge.items():
            rows = sum(part.height for part in parts)
            await self.send(edge, await self.pool.run(rows, self._letters, parts))

    async def send(self, edge: int, frame: pl.DataFrame) -> None:
        output = self.outputs[edge]
        channels = output.channels
        if output.exchange != "hash" or len(channels) == 1:
            await channels[output.subtask % len(channels)].send(SharedDataBatch(frame))
            return
        parts = await self.pool.run(frame.height, split_by_key, frame, output.keys, len(channels))
        for channel, part in zip(channels, parts, strict=True):
            if part.height:
                await channel.send(SharedDataBatch(part))

    async def broadcast(self, mark: Barrier) -> None:
        """Send a mark down every channel."""
        for output in self.outputs.values():
            for channel in output.channels:
                await channel.send(mark)

    async def finish(self, answer: Answer) -> None:
        """Say that nothing follows."""
        for output in self.outputs.values():
            for channel in output.channels:
                await channel.send(END)
        self.has_ended = True
        self.metrics.step(self.name).ended += 1
        self.coordination.ended(self, answer)

    async def aclose(self) -> None:
        """Release what the task holds. Called once, after it has ended or was cancelled."""

    def answer(self, barrier: Barrier, answer: Answer) -> None:
        self.answered_epoch = barrier.epoch
        self.metrics.cut(barrier.epoch)
        self.coordination.answered(self, barrier.epoch, answer)


class Alignment:
    """Which barrier a task with several inputs is collecting, and which channels have shown it."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self.barrier: Barrier | None = None

    def arrived(self, channel: Channel, barrier: Barrier) -> None:
        self.barrier = barrier
        channel.blocked = True

    @property
    def complete(self) -> bool:
        """Whether every live channel has shown the barrier."""
        return self.barrier is not None and all(
            channel.blocked or channel.ended for channel in self._inbox.channels
        )

    def release(self) -> None:
        self.barrier = None
        for channel in self._inbox.channels:
            channel.blocked = False
        self._inbox.wake()


async def first_of(*waiting: asyncio.Future[object]) -> None:
    """Wait until one is done; cancels nothing and raises nothing."""
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
