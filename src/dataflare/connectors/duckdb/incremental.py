"""Incremental reading of a DuckDB table or query, in the order of its cursor column."""

from __future__ import annotations

from typing import Any

import polars as pl

from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.connectors.duckdb.reader import DuckPages, Reading
from dataflare.connectors.duckdb.relation import Column, Relation
from dataflare.connectors.duckdb.types import declared, selected
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.incremental import (
    State,
    check_settings,
    cursor_values,
    plain_text,
    refuse_cursor,
    refuse_initial,
    refuse_order,
)
from dataflare.sdk.sql.table_pages import NewRowsOfStream

_BOUND = "_dataflare_bound"
_UNFIT = "__dataflare_unfit"


def check_incremental(db: DuckConnection, relation: Relation, config: Incremental) -> None:
    """Refuse a cursor column that does not grow, and settings that do not fit it."""
    column = check_settings(relation, config)
    if column.type.name == "string" and column.declared not in ("VARCHAR", "UUID"):
        raise refuse_order(column.name, column.declared)
    initial_cursor(db, column, config.initial_value)


def initial_cursor(db: DuckConnection, column: Column, value: Any) -> Any:
    """The config's first value in the comparable form of cursors."""
    if value is None:
        return None
    type_ = declared(column.type)
    db.db.execute(f"set variable {_BOUND} = ?", [plain_text(value)])
    cast = selected(f"try_cast(getvariable('{_BOUND}') as {type_})", type_)
    result = pl.from_arrow(db.db.sql(f"select {cast} as v").to_arrow_table())
    assert isinstance(result, pl.DataFrame)
    values = cursor_values(result["v"].cast(column.type.to_polars()))
    if values[0] is None:
        raise refuse_initial(column.name, column.type, value)
    return values[0]


class IncrementalReader(NewRowsOfStream, DuckPages):
    """The rows since the last run, in order."""

    def __init__(
        self, reading: Reading, db: DuckConnection, config: Incremental, state: State
    ) -> None:
        super().__init__(reading, db, state.to_json())
        column = reading.relation.column(config.column)
        self.watch(config, state, initial_cursor(db, column, config.initial_value))

    def selects(self) -> list[str]:
        misfit = self._column.guarded()
        return [*super().selects(), *([] if misfit is None else [f"{misfit} as {_UNFIT}"])]

    def column_sql(self) -> str:
        return str(self._column.selected())

    def bound(self, name: str, value: str) -> str:
        self._db.db.execute(f"set variable {_BOUND}{name} = ?", [value])
        return f"cast(getvariable('{_BOUND}{name}') as {declared(self._column.type)})"

    def cursor(self, raw: pl.DataFrame) -> pl.Series:
        if _UNFIT in raw.columns and (unfit := raw[_UNFIT].drop_nulls()).len():
            label = self._reading.relation.label
            raise refuse_cursor(label, self._column.name, self._column.type, unfit[0])
        return super().cursor(raw)

    def typed_cursor(self, values: pl.Series) -> pl.Series:
        return values.cast(self._column.type.to_polars())
