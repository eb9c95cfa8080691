"""The `generate` source: ranges of row numbers as splits, and the pace at which rows become due."""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

import polars as pl

from dataflare.connectors.generate.config import GenerateConfig, own_type
from dataflare.connectors.generate.values import Rows, extremes
from dataflare.errors import ConfigError, did_you_mean
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Position, Split
from dataflare.model.types import DataType, Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import (
    EndOfSplit,
    Replay,
    SourceCapabilities,
    SourceConnector,
    SplitReader,
    SupportsProjection,
)
from dataflare.sdk.threads import in_thread

_BLOCK_ROWS = 1_000_000
_BLOCKS_MAX = 4096
_INTERLEAVED = 8
_AHEAD_MIN = 64
_INLINE_CELLS = 50_000
"""At least this many values are generated at once, about 0.5 ms of work, even if a batch is
smaller: the next rows are then ready. More than that are generated on a thread."""


class GenerateSource(SourceConnector, SupportsProjection):
    """Rows made from a seed."""

    type = "generate"
    Config = GenerateConfig
    summary = "Makes rows from a seed: numbers, choices and times, at a rate or as fast as it goes."
    example = """\
clicks:
  type: generate
  config:
    columns:
      id: {sequence: 0}
      user: {int: [1, 1000]}
      amount: {float: [0, 100], nulls: 0.01}
      status: {choice: [paid, open]}
      at: {time: {start: "2024-01-01T00:00:00Z", step: 1ms, jitter: 5s}}
    rows: 100000
    seed: 42
"""
    clock: Callable[[], float] = staticmethod(time.monotonic)
    sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)
    wall: Callable[[], float] = staticmethod(time.time)

    def __init__(self, config: GenerateConfig, context: ConnectorContext) -> None:
        super().__init__(config, context)
        self._names: tuple[str, ...] = tuple(config.columns)

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(
            replay=Replay.EXACT,
            replay_reason="each row is a function of its number",
            bounded=self.config.rows is not None,
            local=True,
            paced=self.config.rate is not None,
        )

    def reads_all(self) -> bool:
        return self.config.rows is not None

    def with_columns(self, columns: Sequence[str]) -> Self:
        copy_ = copy.copy(self)
        copy_._names = tuple(columns)
        return copy_

    async def schema(self) -> Schema:
        return Schema.of([(name, type_) for name, type_ in self._types().items()])

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        rows = self.config.rows
        if self.config.rate is not None or (rows is None and self.has_event_time):
            return [self._split(0, rows, 1)]
        if rows is None:
            return [self._split(first, None, _INTERLEAVED) for first in range(_INTERLEAVED)]
        block = max(_BLOCK_ROWS, -(-rows // _BLOCKS_MAX))
        starts = range(0, max(rows, 1), block)
        return [self._split(start, min(start + block, rows), 1) for start in starts]

    def _split(self, start: int, end: int | None, stride: int) -> Split:
        size = None if end is None else (end - start) * 8 * len(self.config.columns)
        data = {"start": start, "end": end, "stride": stride}
        return Split(f"rows-{start:019d}", data, size)

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        row = split.data["start"] if position is None else position.value["row"]
        rate, stride = self.config.rate, split.data["stride"]
        pace = Pace(self, rate / stride if rate is not None else None)
        rows = Rows(self.config, self._types())
        return GenerateReader(rows, row, split.data["end"], stride, pace)

    def _types(self) -> dict[str, DataType]:
        """The type of each selected column: the contract's, if its values fit, else its own."""
        contract = self.contract or Schema(())
        for name in contract.names:
            if name not in self.config.columns:
                raise ConfigError(
                    f"'schema' names '{name}', which is not in 'columns'",
                    code="E0405",
                    step=self.context.step,
                    help=did_you_mean(name, self.config.columns),
                )
        return {
            name: self._fitting(name, contract[name])
            if name in contract
            else own_type(self.config.columns[name])
            for name in self._names
        }

    def _fitting(self, name: str, type_: DataType) -> DataType:
        ends = extremes(self.config.columns[name], self.config.rows)
        try:
            ends.cast(type_.to_polars(), strict=True)
        except pl.exceptions.PolarsError as error:
            raise ConfigError(
                f"column '{name}' does not fit the type {type_} that 'schema' gives it",
                code="E0405",
                step=self.context.step,
                help="change the type in 'schema', or the column's values",
            ) from error
        return type_


class Pace:
    """When rows are due: row n at n / rate seconds after the pace began; without a rate, at once.

    Deadlines are absolute, so the reader catches up after a delay and the rate does not drift.
    """

    def __init__(self, source: GenerateSource, rate: float | None) -> None:
        self._source, self._rate = source, rate
        self._began = source.clock()
        self._began_us = int(source.wall() * 1e6)
        self._rows_given = 0
        self._last = -math.inf

    async def due(self, rows_max: int, hold_s: float) -> int:
        """Wait until a row is due, and for at least `hold_s` after the last call unless `rows_max`
        rows are due earlier; return how many are due."""
        if self._rate is None:
            return rows_max
        full = self._deadline(self._rows_given + rows_max - 1)
        wake = max(self._deadline(self._rows_given), min(self._last + hold_s, full))
        while (time_now := self._source.clock()) < wake:
            await self._source.sleep(wake - time_now)
        due = math.floor((time_now - self._began) * self._rate) + 1
        due += self._deadline(due) <= time_now  # if the product was rounded down
        count = max(1, min(due - self._rows_given, rows_max))
        self._rows_given += count
        self._last = time_now
        return count

    def due_us(self, start: int, count: int) -> pl.Series:
        """The wall clock times, in microseconds, at which rows are due. start: of the first row,
        counted from the last row returned (negative: before it)."""
        if self._rate is None:
            return pl.repeat(int(self._source.wall() * 1e6), count, dtype=pl.Int64, eager=True)
        first = self._rows_given + start
        numbers = pl.int_range(first, first + count, eager=True)
        return (numbers * (1e6 / self._rate)).cast(pl.Int64) + self._began_us

    def rows_ahead(self, rows: int) -> int:
        """How many of `rows` rows to make at once: those that fall due within a second, and a few at a slow
        pace, because a frame of one row costs as much as one of many."""
        return rows if self._rate is None else min(rows, max(_AHEAD_MIN, math.ceil(self._rate)))

    def _deadline(self, row: int) -> float:
        assert self._rate is not None
        return self._began + row / self._rate


class GenerateReader(SplitReader):
    """One range of row numbers, or every eighth row. hold_s: with a rate, how long to collect due
    rows into one batch; the engine sets it."""

    hold_s: float = 0.002

    def __init__(self, rows: Rows, row: int, end: int | None, stride: int, pace: Pace) -> None:
        self._rows, self._row, self._end, self._stride, self._pace = rows, row, end, stride, pace
        self._ready: pl.DataFrame | None = None
        self._ahead = pace.rows_ahead(_INLINE_CELLS // max(1, len(rows.types)))

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        rows_left = self._rows_left(self._row)
        if rows_left <= 0:
            raise EndOfSplit
        count = await self._pace.due(int(min(rows_max, rows_left)), self.hold_s)
        ready = self._ready
        if ready is None or ready.height < count:
            ready = await self._extended(ready, count)
        self._ready = ready.slice(count)
        self._row += count * self._stride
        return SharedDataBatch(ready.head(count))

    def _rows_left(self, row: int) -> int | float:
        """The number of rows from `row` on."""
        return math.inf if self._end is None else -(-(self._end - row) // self._stride)

    async def _extended(self, ready: pl.DataFrame | None, count: int) -> pl.DataFrame:
        """The ready rows, extended to at least `count`."""
        have = ready.height if ready is not None else 0
        row = self._row + have * self._stride
        rows_needed = int(min(max(count - have, self._ahead), self._rows_left(row)))
        due_us = self._pace.due_us(have - count, rows_needed) if self._rows.reads_clock else None
        args = (row, rows_needed, self._stride, due_us)
        if rows_needed * len(self._rows.types) > _INLINE_CELLS:
            frame = await in_thread(self._rows.frame, *args)
        else:
            frame = self._rows.frame(*args)
        return frame if ready is None or not have else pl.concat([ready, frame])

    def position(self) -> Position:
        return Position({"row": self._row})
