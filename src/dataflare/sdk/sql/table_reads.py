"""The rows that are there before the changes: table by table, in one snapshot.

Always true: a position inside a table is behind the last key that was given; a table without a key is read to its end
before a checkpoint may be cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import polars as pl
from msgspec import Struct

from dataflare.formats.text_write import python_row
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.new_fields import NewFields, typed_fields
from dataflare.sdk.source import EndOfSplit, SourceBatch
from dataflare.sdk.sql.table_pages import StreamPages

K = TypeVar("K")

_AHEAD_ROWS = 5_000
"""From so many rows on the next ones are read while these go through the steps. Fewer are asked for where the steps behind are
slow."""


class Unread(Struct, Generic[K], frozen=True):
    """A table that is not read to its end. id: by which the reader of changes knows it. stream: its name; None where
    the source is of one table. open: makes the reader of its rows, from the last key that was read on. is_keyed: whether
    it has a key. new: the types of columns at the end of the rows that the plan does not have. given: makes what is
    given of the rows of the plan."""

    id: K
    stream: str | None
    open: Callable[[], StreamPages]
    is_keyed: bool
    new: Mapping[str, str] = MappingProxyType({})
    given: Callable[[pl.DataFrame], pl.DataFrame] | None = None


class ReadRows(Struct, Generic[K], frozen=True):
    """batch: None at the end of a table. after, rows: the last key that was read, and how many rows were."""

    id: K
    batch: SourceBatch | None
    after: list[Any] | None = None
    rows: int = 0


class TableReads(Generic[K]):
    """tables: in the order in which they are read."""

    def __init__(self, tables: Sequence[Unread[K]]) -> None:
        self._waiting = list(tables)
        self._table: Unread[K] | None = None
        self._reader: StreamPages | None = None
        self._ahead: asyncio.Future[tuple[SourceBatch, Mapping[str, Any]]] | None = None
        self.was_keyed = True
        """Whether a checkpoint may be cut behind the last rows."""
        self.warnings: dict[str, int] = {}

    @property
    def may_stop(self) -> bool:
        """Whether the rest can be read later, from the last key on."""
        return self._reader is None or self._table is None or self._table.is_keyed

    async def read_batch(self, rows_max: int) -> ReadRows[K] | None:
        """The next rows, or the end of a table; None if all are read."""
        if self._reader is None:
            if not self._waiting:
                return None
            self._table = self._waiting.pop(0)
            self._reader = self._table.open()
        table, reader = self._table, self._reader
        assert table is not None
        ahead, self._ahead = self._ahead, None
        try:
            batch, key = await (ahead or self._read(reader, rows_max))
        except EndOfSplit:
            await self.aclose()
            self.was_keyed = table.is_keyed
            return ReadRows(table.id, None)
        if rows_max >= _AHEAD_ROWS:
            self._ahead = asyncio.ensure_future(self._read(reader, rows_max))
        kinds = pl.lit(RowKind.INSERT.value, pl.UInt8).alias(KIND_COLUMN)
        frame = batch.frame.drop(table.new.keys()).with_columns(kinds)
        rows = SourceBatch(
            frame if table.given is None else table.given(frame),
            bad=batch.bad,
            row_numbers=batch.row_numbers,
            place=batch.place,
            may_cut=table.is_keyed,
            new_fields=new_fields(batch.frame, table.new, batch.row_numbers),
            stream=table.stream,
        )
        return ReadRows(table.id, rows, key.get("after"), int(key["rows"]))

    async def _read(
        self, reader: StreamPages, rows_max: int
    ) -> tuple[SourceBatch, Mapping[str, Any]]:
        """The next rows, and the position behind them."""
        batch = await reader.read_batch(rows_max)
        return batch, reader.position().value

    async def aclose(self) -> None:
        """Close the reader of the table that is read now. The snapshot stays open."""
        reader, self._reader = self._reader, None
        ahead, self._ahead = self._ahead, None
        if reader is not None:
            await reader.aclose()
            if ahead is not None:
                # What was read ahead was not given, so it is read again.
                await asyncio.gather(ahead, return_exceptions=True)
            for text, number in reader.warnings.items():
                self.warnings[text] = self.warnings.get(text, 0) + number


def new_fields(
    frame: pl.DataFrame, types: Mapping[str, str], numbers: pl.Series | None
) -> NewFields | None:
    """The rows with a value in a column that the plan does not have. types: of these columns. numbers: of the rows of the
    frame; None: 0, 1, 2 ..."""
    if not types:
        return None
    has = frame.select(pl.any_horizontal(pl.col(name).is_not_null() for name in types))
    rows = has.to_series().arg_true()
    if not rows.len():
        return None
    told = rows.to_list() if numbers is None else numbers.gather(rows).to_list()
    places = dict(zip(told, rows.to_list(), strict=True))
    return typed_fields(dict(types), told, lambda row: str(python_row(frame, places[row])))
