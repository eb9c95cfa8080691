"""Pages of an SQLite table by key, or of any relation through a temporary table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from msgspec import Struct

from dataflare.connectors.sqlite.connection import Opened
from dataflare.connectors.sqlite.decode import advice, decoded, guarded, is_doubtful, selected
from dataflare.connectors.sqlite.errors import sqlite_errors
from dataflare.connectors.sqlite.relation import Column, Relation
from dataflare.connectors.sqlite.shards import condition
from dataflare.errors import DataError
from dataflare.model.types import RESERVED, STRING
from dataflare.sdk.source import BadRow
from dataflare.sdk.sql.names import listed, quoted
from dataflare.sdk.sql.originals import original, original_row
from dataflare.sdk.sql.pages import Page, PageReader

if TYPE_CHECKING:
    from dataflare.expr.sql import SqlText

KEY = "__dataflare_key"
SPOOL = "temp._dataflare_spool"


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

    def rows(self, limit: int) -> int:
        return limit if self.rows_max is None else min(limit, self.rows_max)

    def where(self, *conditions: str) -> str:
        every = [*conditions, *(f"({f.text})" for f in self.filters)]
        return " and ".join(every) or "true"

    @property
    def filter_params(self) -> tuple[Any, ...]:
        return tuple(param for f in self.filters for param in f.params)


class SqlitePages(PageReader):
    """The common part of all readers: it converts a fetched page to typed rows and bad rows."""

    def __init__(self, reading: Reading, opened: Opened, start: Mapping[str, Any]) -> None:
        super().__init__(reading.step, start)
        self._reading, self._opened = reading, opened

    def _close(self) -> None:
        self._opened.close()

    def _frame(self, sql: str, params: Sequence[Any]) -> pl.DataFrame:
        with sqlite_errors(self._reading.path, self._reading.relation.label):
            return self._opened.db.frame(sql, params)

    def _names(self) -> Sequence[str]:
        """The names of the output columns in the table that pages are fetched from."""
        return self._reading.output

    def _selects(self, doubtful: frozenset[int] = frozenset()) -> str:
        """Column i as `c<i>`; a doubtful one as numbers, and as `t<i>` the text of other values."""
        parts = []
        columns = zip(self._reading.columns, map(quoted, self._names()), strict=True)
        for place, (column, name) in enumerate(columns):
            if place in doubtful:
                numbers, others = guarded(name, column.type)
                parts += [f"{numbers} as c{place}", f"{others} as t{place}"]
            else:
                sql = selected(name, column.type, text_affinity=column.text_affinity)
                parts.append(f"{sql} as c{place}")
        return ", ".join(parts)

    def _doubtful(self, raw: pl.DataFrame) -> frozenset[int]:
        """Columns of numbers whose page contains other values."""
        return frozenset(
            place
            for place, column in enumerate(self._reading.columns)
            if is_doubtful(raw[f"c{place}"], column.type)
        )

    def _page(
        self, raw: pl.DataFrame, after: Mapping[str, Any], key: int, keys: Sequence[str]
    ) -> Page:
        """keys: columns of `raw` for the place of a row in messages."""
        columns = self._reading.columns
        series = []
        unfit = pl.Series([False]).new_from_index(0, raw.height)
        first_unfit: dict[int, str] = {}
        for place, column in enumerate(columns):
            fetched = raw[f"c{place}"]
            others = raw[f"t{place}"] if f"t{place}" in raw.columns else None
            values = decoded(fetched, others, column.type, column.time_numbers).alias(column.name)
            present = (
                fetched.is_not_null()
                if others is None
                else fetched.is_not_null() | others.is_not_null()
            )
            is_misfit = values.is_null() & present
            if is_misfit.any():
                for row in is_misfit.arg_true().to_list():
                    first_unfit.setdefault(row, column.name)
                unfit |= is_misfit
            series.append(values)
        frame = pl.DataFrame(series) if series else pl.DataFrame(height=raw.height)

        def place_of(row: int) -> str:
            where = ", ".join(
                f"{name.removeprefix(RESERVED)} {original(raw[name], row)}" for name in keys
            )
            return f"{self._reading.relation.label} {where}".rstrip()

        if not first_unfit:
            return Page(frame, after, key, place=place_of)
        bad = [self._bad(raw, row, first_unfit[row], place_of(row)) for row in sorted(first_unfit)]
        good_rows = (~unfit).arg_true()
        return Page(frame.filter(~unfit), after, key, good_rows, bad, place_of)

    def _bad(self, raw: pl.DataFrame, row: int, name: str, place: str) -> BadRow:
        column = self._reading.relation.column(name)
        values = {}
        for number, other in enumerate(self._reading.output):
            value = original(raw[f"c{number}"], row)
            if value is None and f"t{number}" in raw.columns:
                value = original(raw[f"t{number}"], row)
            values[other] = value
        value_text = repr(values[name])
        message = f"column '{name}' is {column.type}, and {value_text[:80]} does not fit"
        if column.type.name in ("date", "timestamp"):
            message += advice(str(values[name]), column.type, column.time_numbers)
        return BadRow(row, "E0501", message, original_row(values), place)


class KeyReader(SqlitePages):
    """A range of a table in the order of its rowid or primary key."""

    def __init__(
        self,
        reading: Reading,
        opened: Opened,
        data: Mapping[str, Any],
        start: Mapping[str, Any],
    ) -> None:
        super().__init__(reading, opened, start or {"after": None, "rows": 0})
        self._data = data

    def _fetch(self, rows: int) -> Page | None:
        rows = self._reading.rows(rows)
        raw = self._read(rows, frozenset())
        if not raw.height:
            return None
        if doubtful := self._doubtful(raw):
            raw = self._read(rows, doubtful)
        keys = [c for c in raw.columns if c.startswith(RESERVED)]
        before = int(self._after["rows"])
        last = [self._key_value(raw[name]) for name in keys]
        after = {"after": last, "rows": before + raw.height}
        return self._page(raw, after, before, keys)

    def _key_value(self, values: pl.Series) -> Any:
        """The last key of a page. Raises an error if reading cannot continue after it."""
        if values.dtype in (pl.String, pl.Binary):
            key_text = decoded(values.tail(1), None, STRING)[0]
            if key_text is None and values[[-1]].is_not_null()[0]:
                relation, name = self._reading.relation, values.name.removeprefix(RESERVED)
                raise DataError(
                    f"{relation.label}: the key column '{name}' contains text that is not UTF-8: "
                    f"{original(values, values.len() - 1)}",
                    code="E0501",
                    help="read the table with a query that leaves such rows out",
                )
            return key_text
        return values[-1]

    def _read(self, rows: int, doubtful: frozenset[int]) -> pl.DataFrame:
        relation = self._reading.relation
        key = listed(relation.key)
        conditions, params = condition(self._data, relation)
        if relation.rowid and self._data.get("to") is not None:
            conditions.append(f"{key} between ? and ?")
            params += [self._data["from"], self._data["to"]]
        if self._after["after"] is not None:
            marks = ", ".join("?" * len(relation.key))
            conditions.append(f"({key}) > ({marks})")
            params += self._after["after"]
        keys = ", ".join(f"{quoted(name)} as {quoted(RESERVED + name)}" for name in relation.key)
        selects = self._selects(doubtful)
        return self._frame(
            f"select {keys}{', ' if selects else ''}{selects} from {relation.source} "
            f"where {self._reading.where(*conditions)} order by {key} limit {rows}",
            [*params, *self._reading.filter_params],
        )


class SpoolPages(SqlitePages):
    """Pages of a temporary table with internal column names: `v<i>` for output column i."""

    def _names(self) -> Sequence[str]:
        return [f"v{place}" for place in range(len(self._reading.output))]

    def _spooled_columns(self) -> list[str]:
        return [f"{quoted(name)} as v{place}" for place, name in enumerate(self._reading.output)]


class SpoolReader(SpoolPages):
    """The whole result, copied once to a temporary table of this connection."""

    def __init__(self, reading: Reading, opened: Opened, start: Mapping[str, Any]) -> None:
        super().__init__(reading, opened, start or {"rows": 0})
        self._spooled = False

    def _fetch(self, rows: int) -> Page | None:
        if not self._spooled:
            self._spool()
            self._spooled = True
        before = int(self._after["rows"])
        chosen = f"rowid > {before} order by rowid limit {self._reading.rows(rows)}"
        raw = self._frame(f"select {self._selects()} from {SPOOL} where {chosen}", ())
        if not raw.height:
            return None
        if doubtful := self._doubtful(raw):
            raw = self._frame(f"select {self._selects(doubtful)} from {SPOOL} where {chosen}", ())
        raw = raw.with_row_index("__dataflare_row", before + 1)
        return self._page(raw, {"rows": before + raw.height}, before, ["__dataflare_row"])

    def _spool(self) -> None:
        relation = self._reading.relation
        columns = ", ".join(self._spooled_columns()) or "1 as v0"
        with sqlite_errors(self._reading.path, relation.label):
            self._opened.db.execute(
                f"create temp table _dataflare_spool as select {columns} from {relation.source} "
                f"where {self._reading.where()}",
                [*relation.params, *self._reading.filter_params],
            )
