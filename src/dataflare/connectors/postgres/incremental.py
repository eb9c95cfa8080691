"""Incremental reading of a PostgreSQL table or query, in the order of its cursor column."""

from __future__ import annotations

from typing import Any

import polars as pl

from dataflare.connectors.postgres.decode import decoded
from dataflare.connectors.postgres.reader import PostgresPages
from dataflare.connectors.postgres.relation import Column, Relation, sql_text
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import check_settings, first_cursor, refuse_cast, refuse_order
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.server_pages import NewRowsOfServer

_BOUND = "dataflare.bound"
_ORDERED = ("text", "varchar", "bpchar", "name", "uuid")
"""The types that are read as text and whose values can be sorted by bytes."""


def check_incremental(relation: Relation, config: Incremental) -> None:
    """Refuse a cursor column that does not grow, and settings that do not fit it."""
    column = check_settings(relation, config)
    if column.type.name == "string" and column.base not in _ORDERED:
        raise refuse_order(column.name, column.pg)
    refuse_cast(column)
    initial_cursor(column, config.initial_value)


def initial_cursor(column: Column, value: Any) -> Any:
    """The config's first value in the comparable form of cursors."""
    return first_cursor(
        column,
        value,
        lambda text: decoded(pl.Series([text]), column.type, as_text=True),
        sql_text,
    )


class IncrementalReader(NewRowsOfServer, PostgresPages):
    """The rows since the last run, in order."""

    first_value = staticmethod(initial_cursor)

    def identity_sql(self, name: str) -> str:
        return f"{quoted(name)}::text"

    def order_sql(self) -> str:
        name = quoted(self._column.name)
        # Text is compared by its bytes here, so the rows must be in that order.
        is_text = self._column.type.is_text and self._column.base != "uuid"
        return f'{name} collate "C"' if is_text else name

    def column_sql(self) -> str:
        return quoted(self._column.name)

    def bound(self, name: str, value: str) -> str:
        self._values[f"{_BOUND}{name}"] = value
        return f"cast(current_setting('{_BOUND}{name}') as {self._column.pg})"
