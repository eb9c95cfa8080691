"""Incremental reading of a PostgreSQL table or query, in the order of its cursor column."""

from __future__ import annotations

from typing import Any

import polars as pl

from dataflare.connectors.postgres.decode import decoded
from dataflare.connectors.postgres.errors import postgres_errors
from dataflare.connectors.postgres.originals import original
from dataflare.connectors.postgres.reader import PostgresPages, Reading
from dataflare.connectors.postgres.relation import Column, Relation, sql_text
from dataflare.errors import ConfigError
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import (
    CURSOR,
    State,
    Window,
    check_cursor,
    cursor_values,
    decimal_text,
    lag_of,
    null_warning,
    refuse_cursor,
    refuse_order,
    row_hashes,
    text_ranges,
)
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.pages import Page

_BOUND = "dataflare.bound"
_ORDERED = ("text", "varchar", "bpchar", "name", "uuid")
"""The types that are read as text and whose values can be sorted by bytes."""


def check_incremental(relation: Relation, config: Incremental) -> None:
    """Refuse a cursor column that does not grow, and settings that do not fit it."""
    column = relation.column(config.column)
    for name in config.key:
        relation.column(name)
    check_cursor(column.name, column.type, config)
    if column.type.name == "string" and column.base not in _ORDERED:
        raise refuse_order(column.name, column.pg)
    if column.as_text:
        raise ConfigError(
            f"'schema' makes column '{column.name}' {column.type}, and an incremental column is read "
            "by its own type",
            code="E0413",
            help="leave the column out of 'schema', and cast it in a map",
        )
    initial_cursor(column, config.initial_value)


def initial_cursor(column: Column, value: Any) -> Any:
    """The config's first value in the comparable form of cursors."""
    if value is None:
        return None
    if column.type.name == "string":
        return sql_text(value)
    text = pl.Series([sql_text(value)], dtype=pl.String)
    cursor = cursor_values(decoded(text, column.type, as_text=True))[0]
    if cursor is None:
        raise ConfigError(
            f"initial_value {value!r} does not fit column '{column.name}', which is {column.type}",
            code="E0413",
            help="write 'initial_value' as a value of the column's type",
        )
    return cursor


class IncrementalReader(PostgresPages):
    """The rows since the last run, in order; ends with an empty page that has the state."""

    def __init__(self, reading: Reading, config: Incremental, state: State) -> None:
        super().__init__(reading, state.to_json())
        self._config, self._state = config, state
        self._column = reading.relation.column(config.column)
        lag = lag_of(self._column.type, config.lag)
        self._window = Window(state, lag, initial_cursor(self._column, config.initial_value))
        self._row = 0
        self._reported = False

    def _may_reopen(self) -> bool:
        return self._row == 0

    def _identity(self) -> tuple[str, ...]:
        """The columns that distinguish rows with the same cursor value."""
        relation = self._reading.relation
        names = tuple(relation.column(n).name for n in self._config.key) or relation.key
        return (*(names or relation.names), self._column.name)

    def _query(self, values: dict[str, str]) -> str:
        reading, column = self._reading, self._column
        identity = [
            f"{quoted(name)}::text as i{place}" for place, name in enumerate(self._identity())
        ]
        parts = [*reading.selects(), f"{column.selected()} as {CURSOR}", *identity]
        name = quoted(column.name)
        # Text is compared by its bytes here, so the rows must be in that order.
        order = f'{name} collate "C"' if column.type.is_text and column.base != "uuid" else name
        bounds = f"({self._bounds(order, values)})"
        return (
            f"select {', '.join(parts)} from {reading.relation.source} "
            f"where {reading.where(values, bounds)} order by {order} nulls first"
        )

    def _bounds(self, name: str, values: dict[str, str]) -> str:
        bound = self._window.bound
        nulls = "" if self._state.nulls_done else f"{quoted(self._column.name)} is null or "
        if bound is None:
            return "true" if nulls else f"{name} is not null"
        text, parts = _text_of(bound, self._column), []
        ranges = text_ranges(text) if self._column.type.name == "string" else [(text, None)]
        for place, (low, high) in enumerate(ranges):
            part = f"{name} >= {self._setting(f'{place}', low, values)}"
            if high is not None:
                part = f"({part} and {name} < {self._setting(f'{place}_end', high, values)})"
            parts.append(part)
        return nulls + " or ".join(parts)

    def _setting(self, name: str, value: str, values: dict[str, str]) -> str:
        values[f"{_BOUND}{name}"] = value
        return f"cast(current_setting('{_BOUND}{name}') as {self._column.pg})"

    def _fetch(self, rows: int) -> Page | None:
        raw = self._take(rows)
        if raw is None:
            return self._end()
        nulls_before = self._window.state().null_rows
        new = self._window.take(self._cursor(raw), row_hashes(raw.select(pl.col("^i\\d+$"))))
        first, self._row = self._row, self._row + raw.height
        state = self._window.state()
        page = self._page(raw.filter(new), state.to_json(), first, {CURSOR: self._column.name})
        nulls = state.null_rows - nulls_before
        metadata = {"null_cursors": nulls} if nulls else {}
        return Page(page.good, page.after, page.key, page.good_rows, page.bad, page.place, metadata)

    def _cursor(self, raw: pl.DataFrame) -> pl.Series:
        typed = decoded(raw[CURSOR], self._column.type, as_text=False)
        unfit = typed.is_null() & raw[CURSOR].is_not_null()
        if unfit.any():
            label, value = self._reading.relation.label, original(raw[CURSOR].filter(unfit), 0)
            raise refuse_cursor(label, self._column.name, self._column.type, value)
        return cursor_values(typed).alias(CURSOR)

    def _end(self) -> Page | None:
        """Return the state once, also if there were no new rows."""
        if self._reported:
            return None
        self._reported = True
        self._count_nulls()
        columns = {c.name: c.type.to_polars() for c in self._reading.columns}
        return Page(pl.DataFrame(schema=columns), self._window.state().to_json(), self._row)

    def _count_nulls(self) -> None:
        reading, name = self._reading, quoted(self._column.name)
        if self._db is None:
            return
        values: dict[str, str] = {}
        where = reading.where(values, f"{name} is null")
        sql = f"select count(*) as n from {reading.relation.source} where {where}"
        with postgres_errors(reading.server.label, reading.relation.label):
            rows = sum(int(frame["n"].sum()) for frame in self._db.stream(sql))
        if rows:
            self.warnings[null_warning(self._column.name)] = rows


def _text_of(bound: Any, column: Column) -> str:
    """A cursor value as text for PostgreSQL."""
    if column.type.name == "decimal":
        return decimal_text(bound, column.type.scale or 0)
    if not column.type.is_temporal:
        return repr(bound) if isinstance(bound, float) else str(bound)
    value = pl.Series([bound], dtype=pl.Int64)
    if column.type.name == "date":
        return str(value.cast(pl.Int32).cast(pl.Date).dt.to_string("%Y-%m-%d")[0])
    text = str(value.cast(pl.Datetime("us")).dt.to_string("%Y-%m-%d %H:%M:%S%.6f")[0])
    return text if column.type.timezone is None else text + "+00"
