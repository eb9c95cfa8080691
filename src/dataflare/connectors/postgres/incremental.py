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
    check_settings,
    cursor_values,
    refuse_cursor,
    refuse_initial,
    refuse_order,
)
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.table_pages import NewRowsOfStream

_BOUND = "dataflare.bound"
_ORDERED = ("text", "varchar", "bpchar", "name", "uuid")
"""The types that are read as text and whose values can be sorted by bytes."""


def check_incremental(relation: Relation, config: Incremental) -> None:
    """Refuse a cursor column that does not grow, and settings that do not fit it."""
    column = check_settings(relation, config)
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
        raise refuse_initial(column.name, column.type, value)
    return cursor


class IncrementalReader(NewRowsOfStream, PostgresPages):
    """The rows since the last run, in order."""

    def __init__(self, reading: Reading, config: Incremental, state: State) -> None:
        super().__init__(reading, state.to_json())
        column = reading.relation.column(config.column)
        self.watch(config, state, initial_cursor(column, config.initial_value))

    def _may_reopen(self) -> bool:
        return self._row == 0

    def query(self) -> str:
        reading, column = self._reading, self._column
        identity = [f"{quoted(name)}::text as i{at}" for at, name in enumerate(self.identity())]
        parts = [*reading.selects(), f"{column.selected()} as {CURSOR}", *identity]
        name = quoted(column.name)
        # Text is compared by its bytes here, so the rows must be in that order.
        order = f'{name} collate "C"' if column.type.is_text and column.base != "uuid" else name
        return (
            f"select {', '.join(parts)} from {reading.relation.source} "
            f"where {reading.where(self._values, self.new_rows(order))} order by {order} nulls first"
        )

    def column_sql(self) -> str:
        return quoted(self._column.name)

    def bound(self, name: str, value: str) -> str:
        self._values[f"{_BOUND}{name}"] = value
        return f"cast(current_setting('{_BOUND}{name}') as {self._column.pg})"

    def cursor(self, raw: pl.DataFrame) -> pl.Series:
        typed = decoded(raw[CURSOR], self._column.type, as_text=False)
        unfit = typed.is_null() & raw[CURSOR].is_not_null()
        if unfit.any():
            label, value = self._reading.relation.label, original(raw[CURSOR].filter(unfit), 0)
            raise refuse_cursor(label, self._column.name, self._column.type, value)
        return cursor_values(typed)

    def count(self, condition: str) -> int:
        reading = self._reading
        if self._db is None:
            return 0
        sql = f"select count(*) as n from {reading.relation.source} where {reading.where({}, condition)}"
        with postgres_errors(reading.server.label, reading.relation.label):
            return sum(int(frame["n"].sum()) for frame in self._db.stream(sql))
