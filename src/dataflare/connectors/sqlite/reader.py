"""Pages of an SQLite table by key, or of any relation through a temporary table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from dataflare.connectors.sqlite.connection import Opened
from dataflare.connectors.sqlite.decode import advice, guarded, is_doubtful, selected
from dataflare.connectors.sqlite.errors import sqlite_errors
from dataflare.connectors.sqlite.relation import Column
from dataflare.connectors.sqlite.shards import condition
from dataflare.errors import DataError
from dataflare.model.types import RESERVED, STRING
from dataflare.sdk.sql import relation as relations
from dataflare.sdk.sql.names import listed, quoted
from dataflare.sdk.sql.originals import original
from dataflare.sdk.sql.pages import Page
from dataflare.sdk.sql.table_pages import TablePages
from dataflare.sdk.sql.text_values import decoded

SPOOL = "temp._dataflare_spool"


class Reading(relations.Reading, frozen=True):
    """The columns and rows to read: the same for each split of a source."""

    path: Path = Path()

    def where(self, *conditions: str) -> str:
        every = [*conditions, *(f"({f.text})" for f in self.filters)]
        return " and ".join(every) or "true"

    @property
    def filter_params(self) -> tuple[Any, ...]:
        return tuple(param for f in self.filters for param in f.params)


class SqlitePages(TablePages):
    """The common part of all readers. A doubtful column is fetched as numbers, and as `t<i>` the text of
    other values."""

    _reading: Reading

    def __init__(self, reading: Reading, opened: Opened, start: Mapping[str, Any]) -> None:
        super().__init__(reading, start)
        self._opened = opened

    def _close(self) -> None:
        self._opened.close()

    def _frame(self, sql: str, params: Sequence[Any]) -> pl.DataFrame:
        with sqlite_errors(self._reading.path, self._reading.relation.label):
            return self._opened.db.frame(sql, params)

    def _names(self) -> Sequence[str]:
        """The names of the output columns in the table that pages are fetched from."""
        return self._reading.output

    def _checked(self, fetch: Callable[[str], pl.DataFrame]) -> pl.DataFrame:
        """A page, fetched again if a column of numbers has other values. fetch: with the columns in SQL."""
        raw = fetch(self._selects(frozenset()))
        columns = enumerate(self._reading.columns)
        doubtful = frozenset(n for n, c in columns if is_doubtful(raw[f"c{n}"], c.type))
        return fetch(self._selects(doubtful)) if raw.height and doubtful else raw

    def _selects(self, doubtful: frozenset[int]) -> str:
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

    def decode(self, raw: pl.DataFrame, place: int, column: Column) -> tuple[pl.Series, pl.Series]:
        fetched = raw[f"c{place}"]
        others = raw[f"t{place}"] if f"t{place}" in raw.columns else None
        values = decoded(fetched, others, column.type, column.time_numbers)
        present = fetched.is_not_null()
        if others is not None:
            present |= others.is_not_null()
        return values, values.is_null() & present

    def original_of(self, raw: pl.DataFrame, place: int, row: int) -> Any:
        value = original(raw[f"c{place}"], row)
        if value is None and f"t{place}" in raw.columns:
            return original(raw[f"t{place}"], row)
        return value

    def advice(self, column: Column, value: Any) -> str:
        if column.type.name not in ("date", "timestamp"):
            return ""
        return advice(str(value), column.type, column.time_numbers)


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
        raw = self._checked(lambda selects: self._read(self._reading.rows(rows), selects))
        if not raw.height:
            return None
        keys = {c: c.removeprefix(RESERVED) for c in raw.columns if c.startswith(RESERVED)}
        before = int(self._after["rows"])
        last = [self._key_value(raw[name]) for name in keys]
        return self.page(raw, {"after": last, "rows": before + raw.height}, before, keys)

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

    def _read(self, rows: int, selects: str) -> pl.DataFrame:
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
        return self._frame(
            f"select {keys}{', ' if selects else ''}{selects} from {relation.source} "
            f"where {self._reading.where(*conditions)} order by {key} limit {rows}",
            [*params, *self._reading.filter_params],
        )


class SpoolPages(SqlitePages):
    """Pages of a temporary table with internal column names: `v<i>` for output column i."""

    _is_spooled = False

    @abstractmethod
    def _spooled(self) -> tuple[str, list[Any]]:
        """The query for the temporary table, and its parameters."""

    def _names(self) -> Sequence[str]:
        return [f"v{place}" for place in range(len(self._reading.output))]

    def _spooled_columns(self) -> list[str]:
        return [f"{quoted(name)} as v{place}" for place, name in enumerate(self._reading.output)]

    def _after_row(self, first: int, rows: int, more: str = "") -> pl.DataFrame:
        """The rows after the one with the number `first`. more: other columns to fetch."""
        if not self._is_spooled:
            query, params = self._spooled()
            with sqlite_errors(self._reading.path, self._reading.relation.label):
                self._opened.db.execute(f"create temp table _dataflare_spool as {query}", params)
            self._is_spooled = True
        chosen = f"rowid > {first} order by rowid limit {self._reading.rows(rows)}"
        return self._checked(
            lambda selects: self._frame(f"select {selects}{more} from {SPOOL} where {chosen}", ())
        )


class SpoolReader(SpoolPages):
    """The whole result, copied once to a temporary table of this connection."""

    def __init__(self, reading: Reading, opened: Opened, start: Mapping[str, Any]) -> None:
        super().__init__(reading, opened, start or {"rows": 0})

    def _fetch(self, rows: int) -> Page | None:
        before = int(self._after["rows"])
        raw = self._after_row(before, rows)
        if not raw.height:
            return None
        raw = raw.with_row_index("__dataflare_row", before + 1)
        return self.page(raw, {"rows": before + raw.height}, before, {"__dataflare_row": "row"})

    def _spooled(self) -> tuple[str, list[Any]]:
        relation = self._reading.relation
        columns = ", ".join(self._spooled_columns()) or "1 as v0"
        query = f"select {columns} from {relation.source} where {self._reading.where()}"
        return query, [*relation.params, *self._reading.filter_params]
