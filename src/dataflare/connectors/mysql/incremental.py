"""Incremental reading of a MySQL table or query, in the order of its cursor column."""

from __future__ import annotations

from typing import Any

import polars as pl

from dataflare.connectors.mysql.connection import literal
from dataflare.connectors.mysql.decode import decoded
from dataflare.connectors.mysql.errors import mysql_errors
from dataflare.connectors.mysql.reader import MysqlPages, Reading
from dataflare.connectors.mysql.relation import Column, Relation, backticked
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
from dataflare.sdk.sql.originals import text_or_hex
from dataflare.sdk.sql.table_pages import NewRowsOfStream


def check_incremental(relation: Relation, config: Incremental) -> None:
    """Refuse a cursor column that does not grow, and settings that do not fit it."""
    column = check_settings(relation, config)
    if column.as_text:
        raise ConfigError(
            f"'schema' makes column '{column.name}' {column.type}, and an incremental column is read "
            "by its own type",
            code="E0413",
            help="leave the column out of 'schema', and cast it in a map",
        )
    if not column.keyed and not column.type.is_float:
        raise refuse_order(
            column.name, f"{column.type} in the database, such as an enum or a long text"
        )
    initial_cursor(column, config.initial_value)


def initial_cursor(column: Column, value: Any) -> Any:
    """The config's first value in the comparable form of cursors."""
    if value is None:
        return None
    text = value.isoformat(" ") if hasattr(value, "isoformat") else str(value)
    if column.type.name == "string":
        return text
    typed = decoded(pl.Series([text.encode()], dtype=pl.Binary), column.type, as_text=True)
    cursor = cursor_values(typed)[0]
    if cursor is None:
        raise refuse_initial(column.name, column.type, value)
    return cursor


class IncrementalReader(NewRowsOfStream, MysqlPages):
    """The rows since the last run, in order. NULLs are first in the server's order."""

    def __init__(self, reading: Reading, config: Incremental, state: State) -> None:
        super().__init__(reading, state.to_json())
        column = reading.relation.column(config.column)
        self.watch(config, state, initial_cursor(column, config.initial_value))

    def _may_reopen(self) -> bool:
        return self._row == 0

    def query(self) -> str:
        reading, column = self._reading, self._column
        identity = [f"{backticked(name)} as i{at}" for at, name in enumerate(self.identity())]
        parts = [*reading.selects(), f"{column.selected()} as {CURSOR}", *identity]
        order = self.column_sql()
        return (
            f"select {', '.join(parts)} from {reading.relation.source} "
            f"where {reading.where(self.new_rows(order))} order by {order}"
        )

    def column_sql(self) -> str:
        name = backticked(self._column.name)
        # Text is compared by its bytes here, so the rows must be in that order.
        return f"cast({name} as binary)" if self._column.type.is_text else name

    def bound(self, name: str, value: str) -> str:
        column = self._column
        if column.type.is_text:
            return literal(value.encode())
        if column.type.is_integer or column.type.is_float or column.type.name == "decimal":
            return value if not column.type.is_float else literal(float(value))
        return literal(value.removesuffix("+00"))

    def cursor(self, raw: pl.DataFrame) -> pl.Series:
        typed = decoded(raw[CURSOR], self._column.type, as_text=False)
        unfit = typed.is_null() & raw[CURSOR].is_not_null()
        if unfit.any():
            label, value = self._reading.relation.label, text_or_hex(raw[CURSOR].filter(unfit)[0])
            raise refuse_cursor(label, self._column.name, self._column.type, value)
        return cursor_values(typed)

    def count(self, condition: str) -> int:
        reading = self._reading
        sql = f"select count(*) from {reading.relation.source} where {reading.where(condition)}"
        with mysql_errors(reading.server.label, reading.relation.label):
            if self._db is None:
                return 0
            [(rows,)] = self._db.rows(sql)
        return int(rows)
