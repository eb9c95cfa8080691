"""Rows of a table that are read again while its changes are followed, because a user asks for it.

Always true: they are given at the place of the log that belongs to the snapshot which has them, so no change is between the
two.
"""

from __future__ import annotations

import time
from functools import partial

import polars as pl
from msgspec.structs import replace

from dataflare.connectors.mysql.cdc.following import Followed, Following
from dataflare.connectors.mysql.cdc.standing import Standing
from dataflare.connectors.mysql.cdc.table_rows import KeyedRows, Snapshot
from dataflare.connectors.mysql.connection import literal
from dataflare.connectors.mysql.relation import backticked
from dataflare.expr.sql import SqlText
from dataflare.sdk.resyncs import Range
from dataflare.sdk.source import SourceBatch
from dataflare.sdk.sql.range_reads import Ranged, RangeRequests, RangeRows
from dataflare.sdk.sql.table_reads import TableReads, Unread

_LOOK_S = 1.0


class Ranges:
    """Those of one reader, one after the other. warnings: what users are told is added here."""

    def __init__(self, following: Following, warnings: dict[str, int]) -> None:
        self._following = following
        self._requests = RangeRequests(
            following.folder,
            {
                each.reading.step: Ranged(name, each.not_ranged)
                for name, each in following.tables.items()
            },
            warnings,
        )
        self._looked_at = 0.0
        self._table: str | None = None
        self._rows: RangeRows | None = None

    @property
    def is_open(self) -> bool:
        return self._rows is not None

    def due(self, standing: Standing) -> tuple[str, Range] | None:
        """The table and the range to read now. Blocking."""
        if time.monotonic() - self._looked_at > _LOOK_S:
            self._requests.look()
            self._looked_at = time.monotonic()
        followed = self._following.tables
        there = {
            name: each.ranged
            for name, each in standing.tables.items()
            if name in followed and not each.gone
        }
        return self._requests.due(there)

    def begin(self, table: str, asked: Range, snapshot: Snapshot, nothing: SourceBatch) -> None:
        """The log was read up to the place of the snapshot. nothing: a batch of the table without rows."""
        self._table = table
        followed = self._following.tables[self._table]
        relation = followed.reading.relation
        key = {name: relation.column(name).type.to_polars() for name in relation.key}
        of = partial(_of, followed, snapshot)
        self._rows = RangeRows(asked, key, nothing, of, _among)

    async def read_batch(
        self, standing: Standing, rows_max: int
    ) -> tuple[SourceBatch, Standing] | None:
        """The next rows and where the reader is behind them; None where no range is read."""
        rows, table = self._rows, self._table
        if rows is None or table is None:
            return None
        batch = await rows.next(rows_max)
        if not batch.may_cut:
            return batch, standing
        self._rows = None
        there = standing.tables[table]
        ranged = self._requests.with_done(there.ranged, rows.asked.id)
        return batch, standing.with_tables({table: replace(there, ranged=ranged)})

    async def aclose(self) -> None:
        if self._rows is not None:
            await self._rows.aclose()


def _of(followed: Followed, snapshot: Snapshot, condition: str) -> TableReads[str]:
    reading = replace(followed.reading, filters=(SqlText(condition),))
    rows = partial(KeyedRows, reading, {}, snapshot)
    return TableReads(
        [Unread(followed.name, followed.stream, rows, True, {}, followed.facts.of_table)]
    )


def _among(keys: pl.DataFrame) -> str:
    rows = ", ".join(f"({', '.join(map(literal, row))})" for row in keys.rows())
    return f"({', '.join(map(backticked, keys.columns))}) in ({rows})"
