"""Rows of a table that are read again while its changes are followed, because a user asks for it.

Always true: what is given is what one snapshot has of these rows. It is given at a place of the log that is behind all that
the snapshot sees; of a row with a change before that place which the snapshot does not see, nothing is given, because the
log has given it already. No checkpoint is cut between the first of these rows and the last.
Watermarks as in DBLog (Andreakis and Papapanagiotou, 2020), with what the snapshot sees in place of positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl
from msgspec.structs import replace

from dataflare.connectors.postgres.cdc.following import Followed, Following
from dataflare.connectors.postgres.cdc.place import Place
from dataflare.connectors.postgres.cdc.sight import Sight
from dataflare.connectors.postgres.cdc.snapshot import HeldSnapshot, Waiting
from dataflare.connectors.postgres.cdc.table_now import as_it_is, unread_table
from dataflare.connectors.postgres.cdc.tables import SeenOnly, TableDecoder
from dataflare.connectors.postgres.reader import literal
from dataflare.expr.sql import SqlText
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.sdk import resyncs
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.resyncs import Range
from dataflare.sdk.source import SourceBatch
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.table_reads import TableReads

_KEYS = 1_000
"""How many keys are asked for at a time."""


class Ranges:
    """Those of one reader, one after the other. warnings: what users are told is added here."""

    def __init__(self, following: Following, warnings: dict[str, int]) -> None:
        self._following, self._warnings = following, warnings
        self._asked: Sequence[Range] = ()
        self._read: RangeRead | None = None

    @property
    def is_open(self) -> bool:
        """Whether one is read, or waits for its place of the log."""
        return self._read is not None

    def look(self) -> None:
        """See what is asked for. Blocking."""
        self._asked = resyncs.ranges(self._following.folder)

    def due(self, place: Place) -> tuple[int, Range] | None:
        """The table and the range to read now."""
        if self._read is not None:
            return None
        by_step = {each.reading.step: oid for oid, each in self._following.tables.items()}
        for each in self._asked:
            oid = by_step.get(each.source)
            if oid is None or oid not in place.tables or each.id in place.tables[oid].ranged:
                continue
            step = self._following.not_ranged.get(self._following.tables[oid].stream)
            if step is None:
                return oid, each
            self._warnings[
                f"rows of '{each.source}' are not read again, as was asked for: step '{step}' could not take them"
            ] = 0
        return None

    def begin(self, place: Place, is_closed: Callable[[], bool]) -> None:
        """Take the snapshot. Blocking; raises psycopg's errors."""
        due = self.due(place)
        if due is None:
            return
        following, (oid, asked) = self._following, due
        db = following.server.connect(following.application)
        try:
            name = f"{following.application} (range) snapshot"
            snapshot = Waiting(following.server, name, is_closed).taken(db, [], is_first=True)
            crash_point("postgres.cdc.after_range_snapshot")
            followed = as_it_is(db, following.tables[oid], following.server.label)
        finally:
            db.close()
        self._read = RangeRead(replace(followed, new=()), asked, snapshot)

    def note(
        self, table: int, decoder: TableDecoder | SeenOnly, messages: Sequence[bytes], transactions: Sequence[int]
    ) -> None:  # fmt: skip
        """Changes of a table that are given."""
        if (
            self._read is not None
            and self._read.table == table
            and isinstance(decoder, TableDecoder)
        ):
            self._read.note(decoder, messages, transactions)

    async def read_batch(
        self, place: Place, reached: int, rows_max: int
    ) -> tuple[SourceBatch, Place] | None:
        """The next rows and the place behind them. None where there is nothing to give at this place of the log."""
        read = self._read
        if read is None or reached < read.lsn:
            return None
        batch = await read.next(rows_max)
        if not batch.may_cut:
            return batch, place
        self.close()
        there, asked = place.tables[read.table], {each.id for each in self._asked}
        ranged = (*(id_ for id_ in there.ranged if id_ in asked), read.asked.id)
        return batch, place.with_table(read.table, replace(there, ranged=ranged))

    def close(self) -> None:
        if self._read is not None:
            self._read.close()
            self._read = None


class RangeRead:
    """One range. lsn: the log up to here has all that its snapshot sees."""

    def __init__(self, followed: Followed, asked: Range, snapshot: HeldSnapshot) -> None:
        self.asked, self.lsn, self.table = asked, snapshot.lsn, followed.table.oid
        self._followed, self._snapshot, self._sight = followed, snapshot, Sight.of(snapshot.text)
        self._key = list(followed.key)
        types = {
            name: followed.reading.relation.column(name).type.to_polars() for name in self._key
        }
        self._left = pl.read_parquet(asked.keys).select(pl.col(n).cast(t) for n, t in types.items())
        self._changed = self._left.clear()
        self._gone = self._left.clear()
        self._chunk: pl.DataFrame | None = None
        self._reads: TableReads[int] | None = self._of(asked.condition)

    def _of(self, condition: str) -> TableReads[int]:
        reading = replace(self._followed.reading, filters=(SqlText(condition),))
        followed = replace(self._followed, reading=reading)
        return TableReads([unread_table(followed, None, self._snapshot)])

    def note(
        self, decoder: TableDecoder, messages: Sequence[bytes], transactions: Sequence[int]
    ) -> None:
        unseen = [
            message
            for message, number in zip(messages, transactions, strict=True)
            if not self._sight.sees(number)
        ]
        if unseen:
            self._changed = pl.concat([self._changed, decoder.keys(unseen)])

    async def next(self, rows_max: int) -> SourceBatch:
        """The last one may be cut behind."""
        while self._reads is not None:
            rows = await self._reads.read_batch(rows_max)
            if rows is None:
                self._begin_chunk()
            elif rows.batch is not None:
                return self._given(rows.batch)
        return self._deletes()

    def _begin_chunk(self) -> None:
        """Ask for the next rows that destinations have, and which were not in the range."""
        if self._chunk is not None:
            self._gone = pl.concat([self._gone, self._chunk])
        self._chunk, self._left = self._left.head(_KEYS), self._left.slice(_KEYS)
        self._reads = None
        if self._chunk.height:
            names = ", ".join(quoted(name) for name in self._key)
            rows = ", ".join(f"({', '.join(map(literal, row))})" for row in self._chunk.rows())
            self._reads = self._of(f"({names}) in ({rows})")

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
        columns = self._followed.truncation.frame.clear().schema
        nothing = (
            pl.lit(None, type_).alias(name)
            for name, type_ in columns.items()
            if name not in (*self._key, KIND_COLUMN)
        )
        kind = pl.lit(RowKind.DELETE, pl.UInt8).alias(KIND_COLUMN)
        frame = gone.with_columns(*nothing, kind).select(columns.names())
        return SourceBatch(frame, stream=self._followed.stream)

    def _without(self, rows: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
        return rows.join(keys, on=self._key, how="anti", nulls_equal=True, maintain_order="left")

    def close(self) -> None:
        self._snapshot.close()
