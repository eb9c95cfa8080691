"""Incremental reading of a MySQL table or query, in the order of its cursor column."""

from __future__ import annotations

from typing import Any

import polars as pl

from dataflare.connectors.mysql.connection import literal
from dataflare.connectors.mysql.decode import decoded
from dataflare.connectors.mysql.reader import MysqlPages
from dataflare.connectors.mysql.relation import Column, Relation, backticked
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import check_settings, first_cursor, refuse_cast, refuse_order
from dataflare.sdk.sql.server_pages import NewRowsOfServer


def check_incremental(relation: Relation, config: Incremental) -> None:
    """Refuse a cursor column that does not grow, and settings that do not fit it."""
    column = check_settings(relation, config)
    refuse_cast(column)
    if not column.keyed and not column.type.is_float:
        raise refuse_order(
            column.name, f"{column.type} in the database, such as an enum or a long text"
        )
    initial_cursor(column, config.initial_value)


def initial_cursor(column: Column, value: Any) -> Any:
    """The config's first value in the comparable form of cursors."""
    return first_cursor(
        column,
        value,
        lambda text: decoded(pl.Series([text.encode()]), column.type, as_text=True),
    )


class IncrementalReader(NewRowsOfServer, MysqlPages):
    """The rows since the last run, in order. NULLs are first in the server's order."""

    nulls_first = ""
    first_value = staticmethod(initial_cursor)

    def identity_sql(self, name: str) -> str:
        return backticked(name)

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
