"""Incremental reading of a ClickHouse table or query, in the order of its cursor column."""

from __future__ import annotations

from typing import Any

import polars as pl

from dataflare.connectors.clickhouse.connection import literal
from dataflare.connectors.clickhouse.decode import decoded
from dataflare.connectors.clickhouse.reader import ClickhousePages
from dataflare.connectors.clickhouse.relation import Column, Relation
from dataflare.connectors.clickhouse.types import escaped
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import check_settings, first_cursor, refuse_cast, refuse_order
from dataflare.sdk.sql.server_pages import NewRowsOfServer


def check_incremental(relation: Relation, config: Incremental) -> None:
    """Refuse a cursor column that does not grow, and settings that do not fit it."""
    column = check_settings(relation, config)
    refuse_cast(column)
    kind = column.kind.bare.name
    if column.type.is_text and kind != "String":
        raise refuse_order(column.name, f"{kind} in ClickHouse")
    initial_cursor(column, config.initial_value)


def initial_cursor(column: Column, value: Any) -> Any:
    """The config's first value in the comparable form of cursors."""
    return first_cursor(
        column,
        value,
        lambda text: decoded(pl.Series([text.encode()]), column.type, as_text=True),
    )


class IncrementalReader(NewRowsOfServer, ClickhousePages):
    """The rows since the last run, in order, NULLs first."""

    first_value = staticmethod(initial_cursor)

    def identity(self) -> tuple[str, ...]:
        # A sorting key is not unique: without a key in the config, all columns tell rows apart.
        if self._config.key:
            return super().identity()
        return (*self._reading.relation.names, self._column.name)

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
