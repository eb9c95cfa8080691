"""Divide a full read of a DuckDB table into parts by a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.connectors.duckdb.relation import Column, Relation
from dataflare.connectors.duckdb.types import type_of_declaration
from dataflare.model.progress import Split
from dataflare.sdk.sql.config import FileSharding
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.shards import ColumnCut, bad_boundary, hash_splits, range_condition


def cut(db: DuckConnection, relation: Relation, sharding: FileSharding) -> Sequence[Split]:
    """The parts. Raises E0413, E0606 and errors of the library."""
    if sharding.by == "hash":
        name = relation.column(sharding.column).name if sharding.column else None
        return hash_splits(name, sharding.splits or 1)
    assert sharding.column is not None
    column = relation.column(sharding.column)
    return _Cut(db, relation, column).splits(sharding, sharding.splits or 1)


def condition(data: Mapping[str, Any], relation: Relation) -> list[str]:
    """The SQL condition for a part's rows."""
    if "hash" in data:
        place, count = data["hash"]
        name = quoted(data["column"]) if data["column"] else "rowid"
        # `hash` may return other numbers in the next version of DuckDB; md5 does not.
        number = f"md5_number_lower(cast({name} as varchar)) % {int(count)}"
        return [f"coalesce({number}, 0) = {int(place)}"]
    if "low" not in data:
        return []
    column = relation.column(data["column"])
    name = quoted(column.name)
    ordered = _ordered(column, name)
    bounds = range_condition(
        ordered, data["low"], data["high"], lambda edge: _literal(column, edge), null_of=name
    )
    return [bounds]


def _ordered(column: Column, sql: str) -> str:
    """The order of text is that of its bytes, for any declared collation."""
    return f"encode({sql})" if column.declared == "VARCHAR" else sql


def _literal(column: Column, text: str) -> str:
    spelled = "'" + str(text).replace("'", "''") + "'"
    return _ordered(column, f"cast({spelled} as {column.declared})")


class _Cut(ColumnCut):
    column: Column

    def __init__(self, db: DuckConnection, relation: Relation, column: Column) -> None:
        super().__init__(relation, column, type_of_declaration(column.declared))
        self._db, self._source = db, relation.source
        self._name = quoted(column.name)

    def has_order(self) -> bool:
        ordered = self.type.is_numeric or self.type.name in ("date", "timestamp")
        return ordered or self.column.declared == "VARCHAR"

    def sorted_boundaries(self, values: Sequence[Any]) -> Sequence[Any]:
        return self.time_edges([str(value) for value in values])

    def time_edges(self, texts: Sequence[str]) -> Sequence[Any]:
        declared = self.column.declared
        listed = ", ".join("('" + text.replace("'", "''") + "')" for text in texts)
        if not listed:
            return []
        rows = self._db.rows(
            f"select t.v, try_cast(t.v as {declared}) is null from (values {listed}) t(v)"
        )
        for value, is_misfit in rows:
            if is_misfit:
                raise bad_boundary(value, self.column.name, self.column.type)
        sorted_rows = self._db.rows(
            f"select cast(v as varchar) from (select distinct cast(t.v as {declared}) as v "
            f"from (values {listed}) t(v)) order by {_ordered(self.column, 'v')}"
        )
        return [text for (text,) in sorted_rows]

    def even_edges(self, count: int) -> Sequence[Any]:
        """The values at equal steps of the ordered rows."""
        if count < 2:
            return []
        fractions = ", ".join(str(i / count) for i in range(1, count))
        (quantiles,) = self._db.rows(
            f"select cast(quantile_disc({self._name}, [{fractions}]) as varchar[]) "
            f"from (select {self._name} from {self._source} where {self._name} is not null)"
        )
        return self.time_edges(quantiles[0] or [])

    def times(self) -> tuple[float, float] | None:
        name = self._name
        ((low, high),) = self._db.rows(
            f"select epoch(min({name})), epoch(max({name})) from {self._source} "
            f"where isfinite({name})"
        )
        return None if low is None else (low, high)
