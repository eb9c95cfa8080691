"""Incremental reading of a ClickHouse table or query, in the order of its cursor column."""

from __future__ import annotations

from typing import Any

import polars as pl

from dataflare.connectors.clickhouse.connection import Client, literal
from dataflare.connectors.clickhouse.decode import decoded
from dataflare.connectors.clickhouse.errors import clickhouse_errors
from dataflare.connectors.clickhouse.reader import ClickhousePages, Reading
from dataflare.connectors.clickhouse.relation import Column, Relation
from dataflare.connectors.clickhouse.types import escaped
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
    kind = column.kind.bare.name
    if column.type.is_text and kind != "String":
        raise refuse_order(column.name, f"{kind} in ClickHouse")
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


class IncrementalReader(NewRowsOfStream, ClickhousePages):
    """The rows since the last run, in order, NULLs first."""

    def __init__(self, reading: Reading, config: Incremental, state: State) -> None:
        super().__init__(reading, state.to_json())
        column = reading.relation.column(config.column)
        self.watch(config, state, initial_cursor(column, config.initial_value))

    def _may_reopen(self) -> bool:
        return self._row == 0

    def identity(self) -> tuple[str, ...]:
        # A sorting key is not unique: without a key in the config, all columns tell rows apart.
        if self._config.key:
            return super().identity()
        return (*self._reading.relation.names, self._column.name)

    def query(self) -> str:
        reading, column = self._reading, self._column
        relation = reading.relation
        identity = [
            f"{relation.column(name).selected()} as i{at}"
            for at, name in enumerate(self.identity())
        ]
        parts = [*reading.selects(), f"{column.selected()} as {CURSOR}", *identity]
        order = self.column_sql()
        return (
            f"select {', '.join(parts)} from {relation.source} "
            f"where {reading.where(self.new_rows(order))} order by {order} nulls first"
        )

    def column_sql(self) -> str:
        return escaped(self._column.name)

    def bound(self, name: str, value: str) -> str:
        type_ = self._column.type
        if type_.is_text or type_.is_integer:
            return value if type_.is_integer else literal(value)
        if type_.is_float:
            return literal(float(value))
        to = self._column.sent_as.removeprefix("Nullable(")
        to = to[:-1] if self._column.kind.takes_null else to
        return f"CAST({literal(value.removesuffix('+00'))}, {escaped(to, chr(39))})"

    def cursor(self, raw: pl.DataFrame) -> pl.Series:
        typed = decoded(raw[CURSOR], self._column.type, as_text=False)
        unfit = typed.is_null() & raw[CURSOR].is_not_null()
        if unfit.any():
            label, value = self._reading.relation.label, text_or_hex(raw[CURSOR].filter(unfit)[0])
            raise refuse_cursor(label, self._column.name, self._column.type, value)
        return cursor_values(typed)

    def count(self, condition: str) -> int:
        reading = self._reading
        client = Client(reading.server)
        try:
            with clickhouse_errors(reading.server.label, reading.relation.label):
                [(rows,)] = client.rows(
                    f"select count() from {reading.relation.source} where {reading.where(condition)}"
                )
        finally:
            client.close()
        return int(rows)
