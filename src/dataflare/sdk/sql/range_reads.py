"""Rows of a table that are read again while its changes are followed, because a user asks for it (`resync --where`).

Always true: what is given is what one snapshot has of these rows, except those with a change that the log has given already
and the snapshot does not see. Rows that destinations have and the snapshot has not are deleted. No checkpoint is cut between
the first of these rows and the last. Nothing here knows what a log looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import polars as pl
from msgspec import Struct

from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.sdk import resyncs
from dataflare.sdk.resyncs import Range
from dataflare.sdk.source import SourceBatch
from dataflare.sdk.sql.table_reads import TableReads

K = TypeVar("K")

_KEYS = 1_000
"""How many keys are asked for at a time."""


class Ranged(Struct, Generic[K], frozen=True):
    """A table of which ranges may be asked for. id: by which its reader knows it. not_ranged: the step behind it that takes
    no single rows."""

    id: K
    not_ranged: str | None


class RangeRequests(Generic[K]):
    """folder: the workflow's. tables: by step. warnings: what users are told is added here."""

    def __init__(
        self, folder: Path | None, tables: Mapping[str, Ranged[K]], warnings: dict[str, int]
    ) -> None:
        self._folder, self._tables, self._warnings = folder, tables, warnings
        self._asked: Sequence[Range] = ()

    def look(self) -> None:
        """See what is asked for. Blocking."""
        self._asked = resyncs.ranges(self._folder)

    def due(self, done: Mapping[K, Sequence[str]]) -> tuple[K, Range] | None:
        """The table and the range to read now. done: by table that is followed, the ids of those that are done."""
        for each in self._asked:
            table = self._tables.get(each.source)
            if table is None or table.id not in done or each.id in done[table.id]:
                continue
            if table.not_ranged is None:
                return table.id, each
            self._warnings[
                f"rows of '{each.source}' are not read again, as was asked for: step '{table.not_ranged}' could not take them"
            ] = 0
        return None

    def with_done(self, done: Sequence[str], id_: str) -> tuple[str, ...]:
        """The ids that a position keeps of a table when one more is done."""
        asked = {each.id for each in self._asked}
        return (*(each for each in done if each in asked), id_)


class RangeRows:
    """One range. key: the types of its columns. nothing: a batch of the table without rows. open_: makes the reader of the
    rows of a condition. among: the condition that some keys meet."""

    def __init__(
        self,
        asked: Range,
        key: Mapping[str, pl.DataType],
        nothing: SourceBatch,
        open_: Callable[[str], TableReads[Any]],
        among: Callable[[pl.DataFrame], str],
    ) -> None:
        self.asked = asked
        self._key, self._nothing, self._open, self._among = list(key), nothing, open_, among
        self._left = pl.read_parquet(asked.keys).select(pl.col(n).cast(t) for n, t in key.items())
        self._changed = self._left.clear()
        self._gone = self._left.clear()
        self._chunk: pl.DataFrame | None = None
        self._reads: TableReads[Any] | None = open_(asked.condition)

    def note(self, keys: pl.DataFrame) -> None:
        """The log has given changes of these keys, which the snapshot does not see."""
        self._changed = pl.concat([self._changed, keys])

    async def next(self, rows_max: int) -> SourceBatch:
        """The last one may be cut behind."""
        while self._reads is not None:
            rows = await self._reads.read_batch(rows_max)
            if rows is None:
                self._begin_chunk()
            elif rows.batch is not None:
                return self._given(rows.batch)
        return self._deletes()

    async def aclose(self) -> None:
        if self._reads is not None:
            await self._reads.aclose()

    def _begin_chunk(self) -> None:
        """Ask for the next rows that destinations have, and which were not in the range."""
        if self._chunk is not None:
            self._gone = pl.concat([self._gone, self._chunk])
        self._chunk, self._left = self._left.head(_KEYS), self._left.slice(_KEYS)
        self._reads = self._open(self._among(self._chunk)) if self._chunk.height else None

    def _given(self, batch: SourceBatch) -> SourceBatch:
        keys = batch.frame.select(self._key)
        if self._chunk is None:
            self._left = self._without(self._left, keys)
        else:
            self._chunk = self._without(self._chunk, keys)
        frame, numbers = batch.frame, batch.row_numbers
        if self._changed.height:
            numbers = (
                pl.int_range(frame.height, dtype=pl.Int64, eager=True)
                if numbers is None
                else numbers
            )
            kept = self._without(keys.with_row_index("__dataflare_at"), self._changed)
            frame, numbers = frame[kept["__dataflare_at"]], numbers.gather(kept["__dataflare_at"])
        return SourceBatch(
            frame,
            bad=batch.bad,
            row_numbers=numbers,
            place=batch.place,
            may_cut=False,
            stream=batch.stream,
        )

    def _deletes(self) -> SourceBatch:
        gone = self._without(self._gone, self._changed)
        columns = {n: t for n, t in self._nothing.frame.schema.items() if n != KIND_COLUMN}
        lacking = (pl.lit(None, t).alias(n) for n, t in columns.items() if n not in self._key)
        kind = pl.lit(RowKind.DELETE, pl.UInt8).alias(KIND_COLUMN)
        frame = gone.with_columns(*lacking, kind).select(*columns, KIND_COLUMN)
        return SourceBatch(frame, stream=self._nothing.stream)

    def _without(self, rows: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
        return rows.join(keys, on=self._key, how="anti", nulls_equal=True, maintain_order="left")
