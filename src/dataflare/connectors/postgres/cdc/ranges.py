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
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.resyncs import Range
from dataflare.sdk.source import SourceBatch
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.range_reads import Ranged, RangeRequests, RangeRows
from dataflare.sdk.sql.table_reads import TableReads


class Ranges:
    """Those of one reader, one after the other. warnings: what users are told is added here."""

    def __init__(self, following: Following, warnings: dict[str, int]) -> None:
        self._following = following
        self._requests = RangeRequests(
            following.folder,
            {
                each.reading.step: Ranged(oid, following.not_ranged.get(each.stream))
                for oid, each in following.tables.items()
            },
            warnings,
        )
        self._read: RangeRead | None = None

    @property
    def is_open(self) -> bool:
        """Whether one is read, or waits for its place of the log."""
        return self._read is not None

    def look(self) -> None:
        """See what is asked for. Blocking."""
        self._requests.look()

    def due(self, place: Place) -> tuple[int, Range] | None:
        """The table and the range to read now."""
        if self._read is not None:
            return None
        return self._requests.due({oid: each.ranged for oid, each in place.tables.items()})

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
        batch = await read.rows.next(rows_max)
        if not batch.may_cut:
            return batch, place
        self.close()
        there = place.tables[read.table]
        ranged = self._requests.with_done(there.ranged, read.rows.asked.id)
        return batch, place.with_table(read.table, replace(there, ranged=ranged))

    def close(self) -> None:
        if self._read is not None:
            self._read.close()
            self._read = None


class RangeRead:
    """One range. lsn: the log up to here has all that its snapshot sees."""

    def __init__(self, followed: Followed, asked: Range, snapshot: HeldSnapshot) -> None:
        self.lsn, self.table = snapshot.lsn, followed.table.oid
        self._followed, self._snapshot, self._sight = followed, snapshot, Sight.of(snapshot.text)
        relation = followed.reading.relation
        key = {name: relation.column(name).type.to_polars() for name in followed.key}
        empty = SourceBatch(followed.truncation.frame.clear(), stream=followed.stream)
        self.rows = RangeRows(asked, key, empty, self._of, self._among)

    def _of(self, condition: str) -> TableReads[int]:
        reading = replace(self._followed.reading, filters=(SqlText(condition),))
        followed = replace(self._followed, reading=reading)
        return TableReads([unread_table(followed, None, self._snapshot)])

    def _among(self, keys: pl.DataFrame) -> str:
        rows = ", ".join(f"({', '.join(map(literal, row))})" for row in keys.rows())
        return f"({', '.join(map(quoted, keys.columns))}) in ({rows})"

    def note(
        self, decoder: TableDecoder, messages: Sequence[bytes], transactions: Sequence[int]
    ) -> None:
        unseen = [
            message
            for message, number in zip(messages, transactions, strict=True)
            if not self._sight.sees(number)
        ]
        if unseen:
            self.rows.note(decoder.keys(unseen))

    def close(self) -> None:
        self._snapshot.close()
