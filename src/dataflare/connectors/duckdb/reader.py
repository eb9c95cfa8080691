"""Read a DuckDB relation as one Arrow stream, divided into pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from msgspec import Struct

from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.connectors.duckdb.errors import duckdb_errors
from dataflare.connectors.duckdb.relation import Column, Relation, bind, mark
from dataflare.connectors.duckdb.shards import condition
from dataflare.errors import CheckpointError, InternalError
from dataflare.model.types import RESERVED
from dataflare.sdk.source import BadRow
from dataflare.sdk.sql.incremental import row_hashes
from dataflare.sdk.sql.originals import original, original_row
from dataflare.sdk.sql.pages import PAGE_ROWS, Page, PageReader

if TYPE_CHECKING:
    from dataflare.expr.sql import SqlText

_ROWID = "__dataflare_rowid"


class Reading(Struct, frozen=True):
    """The columns and rows to read: the same for each split of a source."""

    path: Path
    step: str
    relation: Relation
    output: tuple[str, ...]
    filters: tuple[SqlText, ...]
    rows_max: int | None

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(self.relation.column(name) for name in self.output)

    def bind(self, db: DuckConnection) -> None:
        with duckdb_errors(self.path, self.relation.label):
            bind(db, "q", self.relation.params)
            bind(db, "f", tuple(param for f in self.filters for param in f.params))

    def where(self, *conditions: str) -> str:
        parts, place = list(conditions), 0
        for pushed in self.filters:
            text = pushed.text
            for _ in pushed.params:
                text = text.replace("?", mark("f", place), 1)
                place += 1
            parts.append(f"({text})")
        return " and ".join(parts) or "true"

    def selects(self) -> list[str]:
        """Column i as `c<i>`; if values may not fit, their text as `t<i>`."""
        parts = []
        for place, column in enumerate(self.columns):
            misfit = column.misfit_sql()
            parts.append(f"{column.sql()} as c{place}")
            if misfit is not None:
                parts.append(f"{misfit} as t{place}")
        return parts

    def typed(self, raw: pl.DataFrame) -> pl.DataFrame:
        """The output columns of a page."""
        if not self.columns:
            return pl.DataFrame(height=raw.height)
        return raw.select(
            pl.col(f"c{place}").cast(column.type.to_polars()).alias(column.name)
            for place, column in enumerate(self.columns)
        )


class DuckPages(PageReader):
    """A stream that is buffered until a page is full; the size of a page does not depend on
    DuckDB's batches."""

    def __init__(self, reading: Reading, db: DuckConnection, start: Mapping[str, Any]) -> None:
        super().__init__(reading.step, start)
        self._reading, self._db = reading, db
        self._stream: Any = None
        self._frames: list[pl.DataFrame] = []
        self._ended = False
        reading.bind(db)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._db.close()

    def _query(self) -> str:
        """The SQL to stream. Called once."""
        raise NotImplementedError

    def _take(self, rows: int) -> pl.DataFrame | None:
        """The next rows of the stream, or None."""
        reading = self._reading
        if reading.rows_max is not None:
            rows = min(rows, reading.rows_max)
        with duckdb_errors(reading.path, reading.relation.label):
            if self._stream is None:
                relation = self._db.db.sql(self._query())
                self._stream = relation.to_arrow_reader(PAGE_ROWS)
            while not self._ended and sum(frame.height for frame in self._frames) < rows:
                try:
                    batch = self._stream.read_next_batch()
                except StopIteration:
                    self._ended = True
                    break
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                self._frames.append(frame)
        if not any(frame.height for frame in self._frames):
            return None
        every = pl.concat(self._frames, rechunk=False)
        self._frames = [every.slice(rows)] if every.height > rows else []
        return every.head(rows)

    def _page(
        self, raw: pl.DataFrame, after: Mapping[str, Any], key: int, place_name: str = ""
    ) -> Page:
        columns = self._reading.columns
        misfits = [n for n in (f"t{place}" for place in range(len(columns))) if n in raw.columns]

        def place_of(row: int) -> str:
            where = (
                f" {place_name.removeprefix(RESERVED)} {raw[place_name][row]}" if place_name else ""
            )
            return self._reading.relation.label + where

        if not misfits or all(raw[name].null_count() == raw.height for name in misfits):
            return Page(self._reading.typed(raw), after, key, place=place_of)
        unfit = raw.select(pl.any_horizontal(pl.col(name).is_not_null() for name in misfits))
        is_misfit = unfit.to_series()
        bad = [self._bad(raw, row, place_of(row)) for row in is_misfit.arg_true().to_list()]
        typed = self._reading.typed(raw.filter(~is_misfit))
        return Page(typed, after, key, (~is_misfit).arg_true(), bad, place_of)

    def _bad(self, raw: pl.DataFrame, row: int, place: str) -> BadRow:
        values: dict[str, Any] = {}
        first = ""
        for number, column in enumerate(self._reading.columns):
            text = raw[f"t{number}"][row] if f"t{number}" in raw.columns else None
            values[column.name] = original(raw[f"c{number}"], row) if text is None else text
            if text is not None:
                first = first or column.name
        type_ = self._reading.relation.column(first).type
        value_text = repr(values[first])[:80]
        message = f"column '{first}' is {type_}, and {value_text} does not fit"
        return BadRow(row, "E0501", message, original_row(values), place)


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

    def _query(self) -> str:
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
        raw = self._take(rows)
        if raw is None:
            return None
        before, last = int(self._after["rows"]), int(raw[_ROWID][-1])
        first, last_rowid = raw[_ROWID][0], self._after["after"]
        if not raw[_ROWID].is_sorted() or (last_rowid is not None and first <= last_rowid):
            raise InternalError(f"{self._reading.relation.label}: rows are not in order at {first}")
        after = {"after": last, "rows": before + raw.height, "hash": self._hash(raw.tail(1))}
        return self._page(raw, after, before, _ROWID)

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


class StreamReader(DuckPages):
    """The result of a query or view. A position counts rows, so it is valid only if the query's
    order is stable."""

    def __init__(self, reading: Reading, db: DuckConnection, start: Mapping[str, Any]) -> None:
        super().__init__(reading, db, start or {"rows": 0})

    def _query(self) -> str:
        reading = self._reading
        parts: Sequence[str] = reading.selects() or ["1 as one"]
        skip = f" offset {int(self._after['rows'])}" if self._after["rows"] else ""
        return (
            f"select {', '.join(parts)} from {reading.relation.source} "
            f"where {reading.where()}{skip}"
        )

    def _fetch(self, rows: int) -> Page | None:
        raw = self._take(rows)
        if raw is None:
            return None
        before = int(self._after["rows"])
        raw = raw.with_row_index("__dataflare_row", before + 1)
        return self._page(raw, {"rows": before + raw.height}, before, "__dataflare_row")
