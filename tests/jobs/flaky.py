"""A source that fails on purpose, for tests of restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
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

GATES: list[tuple[int, Callable[[], bool]]] = []
"""A reader that comes to the row goes on only when the condition holds."""


class FlakyConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rows: int = 1_000


@register
class FlakySource(SourceConnector):
    """Rows 0 to `rows`, ten at a time."""

    type = "flaky"
    Config = FlakyConfig

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(Replay.EXACT, "a row is its number", local=True)

    async def schema(self) -> Schema:
        return Schema.of({"n": "int64"})

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [Split("all")]

    async def open(self, split: Split, position: Position | None) -> SplitReader:
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


def lost() -> SystemError_:
    return SystemError_("the connection was lost", code="E0607", retry=Retry.LATER)
