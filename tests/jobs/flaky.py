"""A source and a destination that fail on purpose, for tests of restarts and retries."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from dataflare.connectors.memory import MemoryCommitter, MemoryDestination, MemoryWriter
from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committable, Committer, Epoch, Writer, WriteStats
from dataflare.sdk.registry import register
from dataflare.sdk.source import (
    EndOfSplit,
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
)

FAILURES: list[tuple[int, DataFlareError]] = []
"""Raised, first to last, when a reader comes to the row."""

CALLS: dict[str, list[DataFlareError | None]] = {}
"""By call (`source.open`, `open`, `begin`, `recover`, `write`, `prepare`, `commit`, `committed`), what
its next ones raise; None lets one pass. `committed` is raised when the commit has been done."""

MADE: Counter[str] = Counter()
"""How often each call was made."""

GATES: list[tuple[int, Callable[[], bool]]] = []
"""A reader that comes to the row goes on only when the condition holds."""


def fail(call: str) -> None:
    """Count a call, and raise what it is to raise."""
    MADE[call] += 1
    coming = CALLS.get(call)
    error = coming.pop(0) if coming else None
    if error is not None:
        raise error


class FlakyConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rows: int = 1_000
    replays: bool = True


@register
class FlakySource(SourceConnector):
    """Rows 0 to `rows`, ten at a time."""

    type = "flaky"
    Config = FlakyConfig

    def capabilities(self) -> SourceCapabilities:
        if not self.config.replays:
            return SourceCapabilities(Replay.NONE, "rows come once", local=True)
        return SourceCapabilities(Replay.EXACT, "a row is its number", local=True)

    async def schema(self) -> Schema:
        return Schema.of({"n": "int64"})

    def reads_all(self) -> bool:
        return True

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [Split("all")]

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        fail("source.open")
        return _Reader(self.config.rows, position.value["at"] if position else 0)


class _Reader(SplitReader):
    def __init__(self, rows: int, at: int) -> None:
        self.rows, self.at = rows, at

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        while GATES and self.at >= GATES[0][0]:
            if GATES[0][1]():
                GATES.pop(0)
            await asyncio.sleep(0)
        if FAILURES and self.at >= FAILURES[0][0]:
            raise FAILURES.pop(0)[1]
        if self.at >= self.rows:
            raise EndOfSplit
        end = min(self.rows, self.at + 10)
        frame = pl.DataFrame({"n": range(self.at, end)}, schema={"n": pl.Int64})
        self.at = end
        return SharedDataBatch(frame)

    def position(self) -> Position:
        return Position({"at": self.at})


@register
class FlakyDestination(MemoryDestination):
    """Memory that is hard to reach."""

    type = "flaky_memory"

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        fail("open")
        real = await super().open(context, restored)
        return _Writer(real._ledger, real._subtask)

    async def committer(self, context: DestinationContext) -> Committer:
        return _Committer(self._store(), self._ledger(context), context)


class _Writer(MemoryWriter):
    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        fail("write")
        return await super().write_batch(batch)

    async def prepare(self, epoch: int, *, final: bool) -> Committable:
        fail("prepare")
        return await super().prepare(epoch, final=final)


class _Committer(MemoryCommitter):
    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        fail("recover")
        await super().recover(epoch, committables)

    async def begin(self, epoch: int) -> None:
        fail("begin")
        await super().begin(epoch)

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        fail("commit")
        await super().commit(epoch, committables)
        fail("committed")


def lost() -> SystemError_:
    return SystemError_("the connection was lost", code="E0607", retry=Retry.LATER)
