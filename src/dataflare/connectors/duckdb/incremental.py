"""Incremental reading of a DuckDB table or query, in the order of its cursor column."""

from __future__ import annotations

from typing import Any

import polars as pl

from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.connectors.duckdb.errors import duckdb_errors
from dataflare.connectors.duckdb.reader import DuckPages, Reading
from dataflare.connectors.duckdb.relation import Column, Relation
from dataflare.connectors.duckdb.types import declared, selected
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
from dataflare.sdk.sql.pages import Page

_BOUND = "_dataflare_bound"
_UNFIT = "__dataflare_unfit"


def check_incremental(db: DuckConnection, relation: Relation, config: Incremental) -> None:
    """Refuse a cursor column that does not grow, and settings that do not fit it."""
    column = relation.column(config.column)
    for name in config.key:
        relation.column(name)
    check_cursor(column.name, column.type, config)
    if column.type.name == "string" and column.declared not in ("VARCHAR", "UUID"):
        raise refuse_order(column.name, column.declared)
    initial_cursor(db, column, config.initial_value)


def initial_cursor(db: DuckConnection, column: Column, value: Any) -> Any:
    """The config's first value in the comparable form of cursors."""
    if value is None:
        return None
    text = value.isoformat(" ") if hasattr(value, "isoformat") else str(value)
    type_ = declared(column.type)
    db.db.execute(f"set variable {_BOUND} = ?", [text])
    cast = selected(f"try_cast(getvariable('{_BOUND}') as {type_})", type_)
    result = pl.from_arrow(db.db.sql(f"select {cast} as v").to_arrow_table())
    assert isinstance(result, pl.DataFrame)
    values = cursor_values(result["v"].cast(column.type.to_polars()))
    if values[0] is None:
        raise ConfigError(
            f"initial_value {value!r} does not fit column '{column.name}', which is {column.type}",
            code="E0413",
            help="write 'initial_value' as a value of the column's type",
        )
    return values[0]


class IncrementalReader(DuckPages):
    """The rows since the last run, in order; ends with an empty page that has the state."""

    def __init__(
        self, reading: Reading, db: DuckConnection, config: Incremental, state: State
    ) -> None:
        super().__init__(reading, db, state.to_json())
        self._config, self._state = config, state
        self._column = reading.relation.column(config.column)
        lag = lag_of(self._column.type, config.lag)
        initial = initial_cursor(db, self._column, config.initial_value)
        self._window = Window(state, lag, initial)
        self._row = 0
        self._reported = False

    def _identity(self) -> tuple[str, ...]:
        """The columns that distinguish rows with the same cursor value."""
        relation = self._reading.relation
        names = tuple(relation.column(n).name for n in self._config.key) or relation.key
        return (*(names or relation.names), self._column.name)

    def _query(self) -> str:
        reading, column = self._reading, self._column
        identity = [
            f"{reading.relation.column(name).sql()} as i{place}"
            for place, name in enumerate(self._identity())
        ]
        parts = [*reading.selects(), f"{column.sql()} as {CURSOR}", *identity]
        if (misfit := column.misfit_sql()) is not None:
            parts.append(f"{misfit} as {_UNFIT}")
        name = column.sql()
        return (
            f"select {', '.join(parts)} from {reading.relation.source} "
            f"where {reading.where(f'({self._bounds(name)})')} order by {name} nulls first"
        )

    def _bounds(self, name: str) -> str:
        bound = self._window.bound
        nulls = "" if self._state.nulls_done else f"{name} is null or "
        if bound is None:
            return "true" if nulls else f"{name} is not null"
        type_, parts = declared(self._column.type), []
        text = _text_of(bound, self._column)
        ranges = text_ranges(text) if self._column.type.name == "string" else [(text, None)]
        for place, (low, high) in enumerate(ranges):
            part = f"{name} >= {self._variable(f'{place}', low, type_)}"
            if high is not None:
                part = f"({part} and {name} < {self._variable(f'{place}_end', high, type_)})"
            parts.append(part)
        return nulls + " or ".join(parts)

    def _variable(self, name: str, value: str, type_: str) -> str:
        with duckdb_errors(self._reading.path, self._reading.relation.label):
            self._db.db.execute(f"set variable {_BOUND}{name} = ?", [value])
        return f"cast(getvariable('{_BOUND}{name}') as {type_})"

    def _fetch(self, rows: int) -> Page | None:
        raw = self._take(rows)
        if raw is None:
            return self._end()
        if _UNFIT in raw.columns and (unfit := raw[_UNFIT].drop_nulls()).len():
            label = self._reading.relation.label
            raise refuse_cursor(label, self._column.name, self._column.type, unfit[0])
        typed = raw[CURSOR].cast(self._column.type.to_polars())
        nulls_before = self._window.state().null_rows
        new = self._window.take(
            cursor_values(typed).alias(CURSOR), row_hashes(raw.select(pl.col("^i\\d+$")))
        )
        first, self._row = self._row, self._row + raw.height
        state = self._window.state()
        page = self._page(raw.filter(new), state.to_json(), first)
        nulls = state.null_rows - nulls_before
        metadata = {"null_cursors": nulls} if nulls else {}
        return Page(page.good, page.after, page.key, page.good_rows, page.bad, page.place, metadata)

    def _end(self) -> Page | None:
        """Return the state once, also if there were no new rows."""
        if self._reported:
            return None
        self._reported = True
        self._count_nulls()
        columns = {c.name: c.type.to_polars() for c in self._reading.columns}
        return Page(pl.DataFrame(schema=columns), self._window.state().to_json(), self._row)

    def _count_nulls(self) -> None:
        reading, name = self._reading, self._column.sql()
        with duckdb_errors(reading.path, reading.relation.label):
            ((rows,),) = self._db.rows(
                f"select count(*) from {reading.relation.source} "
                f"where {reading.where(f'{name} is null')}"
            )
        if rows:
            self.warnings = {null_warning(self._column.name): rows}


def _text_of(bound: Any, column: Column) -> str:
    """A cursor value as text for DuckDB."""
    if column.type.name == "decimal":
        return decimal_text(bound, column.type.scale or 0)
    if not column.type.is_temporal:
        return str(bound)
    dtype = column.type.to_polars()
    value = pl.Series([bound], dtype=pl.Int64)
    if column.type.name == "date":
        return str(value.cast(pl.Int32).cast(dtype).dt.to_string("%Y-%m-%d")[0])
    naive = value.cast(pl.Datetime(getattr(dtype, "time_unit", "us")))
    text = str(naive.dt.to_string("%Y-%m-%d %H:%M:%S%.9f")[0])
    if column.type.timezone is None:
        return text if column.type.unit == "ns" else text[:-3]
    return text[:-3] + "+00"
