"""Read a DuckDB relation as one Arrow stream, divided into pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl

from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.connectors.duckdb.errors import duckdb_errors
from dataflare.connectors.duckdb.relation import Column, bind, mark
from dataflare.connectors.duckdb.shards import condition
from dataflare.errors import CheckpointError, InternalError
from dataflare.sdk.sql import relation as relations
from dataflare.sdk.sql.incremental import row_hashes
from dataflare.sdk.sql.pages import PAGE_ROWS, Page
from dataflare.sdk.sql.relation import with_values
from dataflare.sdk.sql.table_pages import CountedPages, StreamPages

_ROWID = "__dataflare_rowid"
_NONE = pl.Series([], dtype=pl.Boolean)


class Reading(relations.Reading, frozen=True):
    """The columns and rows to read: the same for each split of a source."""

    path: Path = Path()

    def bind(self, db: DuckConnection) -> None:
        with duckdb_errors(self.path, self.relation.label):
            bind(db, "q", self.relation.params)
            bind(db, "f", tuple(param for f in self.filters for param in f.params))

    def where(self, *conditions: str) -> str:
        places = count()
        filters = [f"({with_values(f, lambda _: mark('f', next(places)))})" for f in self.filters]
        return " and ".join([*conditions, *filters]) or "true"


class DuckPages(StreamPages):
    """One Arrow stream."""

    _reading: Reading

    def __init__(self, reading: Reading, db: DuckConnection, start: Mapping[str, Any]) -> None:
        super().__init__(reading, start)
        self._db = db
        self._batches: Any = None
        reading.bind(db)

    def _close(self) -> None:
        if self._batches is not None:
            self._batches.close()
        self._db.close()

    def number(self, sql: str) -> int:
        with duckdb_errors(self._reading.path, self._reading.relation.label):
            ((number,),) = self._db.rows(sql)
        return int(number)

    def pull(self) -> pl.DataFrame | None:
        with duckdb_errors(self._reading.path, self._reading.relation.label):
            if self._batches is None:
                self._batches = self._db.db.sql(self.query()).to_arrow_reader(PAGE_ROWS)
            batch = next(self._batches, None)
        if batch is None:
            return None
        frame = pl.from_arrow(batch)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def decode(self, raw: pl.DataFrame, place: int, column: Column) -> tuple[pl.Series, pl.Series]:
        values, dtype = raw[f"c{place}"], column.type.to_polars()
        if f"t{place}" not in raw.columns or raw[f"t{place}"].null_count() == raw.height:
            return values.cast(dtype), _NONE
        return values.cast(dtype, strict=False), raw[f"t{place}"].is_not_null()


class RowidReader(DuckPages):
    """A range of a table in the order of its rowid.

    DuckDB changes rowids when it rewrites a table after deletes. So the position has a hash of the
    last row read, and a resume checks that row first.
    """

    def __init__(
        self,
        reading: Reading,
        db: DuckConnection,
        data: Mapping[str, Any],
        start: Mapping[str, Any],
    ) -> None:
        super().__init__(reading, db, start or {"after": None, "rows": 0, "hash": None})
        self._data = data

    def query(self) -> str:
        reading = self._reading
        low = int(self._data.get("from", 0))
        if self._after["after"] is not None:
            self._refuse_rewritten()
            low = int(self._after["after"]) + 1
        parts = ", ".join([f"rowid as {_ROWID}", *reading.selects()])
        bounds = [f"rowid >= {low}", *condition(self._data, reading.relation)]
        if "to" in self._data:
            bounds.append(f"rowid <= {int(self._data['to'])}")
        return f"select {parts} from {reading.relation.source} where {reading.where(*bounds)}"

    def _fetch(self, rows: int) -> Page | None:
        raw = self.take(rows)
        if raw is None:
            return None
        before, last = int(self._after["rows"]), int(raw[_ROWID][-1])
        first, last_rowid = raw[_ROWID][0], self._after["after"]
        if not raw[_ROWID].is_sorted() or (last_rowid is not None and first <= last_rowid):
            raise InternalError(f"{self._reading.relation.label}: rows are not in order at {first}")
        after = {"after": last, "rows": before + raw.height, "hash": self._hash(raw.tail(1))}
        return self.page(raw, after, before, {_ROWID: "rowid"})

    def _hash(self, row: pl.DataFrame) -> str:
        return format(row_hashes(row)[0], "016x")

    def _refuse_rewritten(self) -> None:
        reading = self._reading
        parts = ", ".join([f"rowid as {_ROWID}", *reading.selects()])
        row = self._db.db.sql(
            f"select {parts} from {reading.relation.source} where rowid = {int(self._after['after'])}"
        ).to_arrow_table()
        frame = pl.from_arrow(row)
        assert isinstance(frame, pl.DataFrame)
        if frame.height != 1 or self._hash(frame) != self._after["hash"]:
            raise CheckpointError(
                f"{reading.relation.label} was changed since it was read up to rowid "
                f"{self._after['after']}, so reading cannot continue from there",
                code="E0704",
                help="run with --fresh to read it from the start",
            )


class StreamReader(CountedPages, DuckPages):
    """The result of a query or view."""

    def __init__(self, reading: Reading, db: DuckConnection, start: Mapping[str, Any]) -> None:
        DuckPages.__init__(self, reading, db, start or {"rows": 0})

    def parts(self) -> tuple[Sequence[str], str]:
        return self._reading.selects(), self._reading.where()
