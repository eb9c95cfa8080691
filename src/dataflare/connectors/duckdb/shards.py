"""Divide a full read of a DuckDB table into parts by a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataflare.connectors.duckdb.connection import DuckConnection
from dataflare.connectors.duckdb.relation import Column, Relation
from dataflare.connectors.duckdb.types import type_of_declaration
from dataflare.errors import ConfigError
from dataflare.model.progress import Split
from dataflare.sdk.sql.config import FileSharding
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.shards import (
    edge_splits,
    hash_splits,
    moment_text,
    need_time,
    span_starts,
    uncuttable,
)


def cut(db: DuckConnection, relation: Relation, sharding: FileSharding) -> Sequence[Split]:
    """The parts. Raises E0413, E0606 and errors of the library."""
    if sharding.by == "hash":
        name = relation.column(sharding.column).name if sharding.column else None
        return hash_splits(name, sharding.splits or 1)
    assert sharding.column is not None
    column = relation.column(sharding.column)
    kind = type_of_declaration(column.declared)
    if sharding.by == "time":
        need_time(column.name, kind)
    if not (kind.is_numeric or kind.name in ("date", "timestamp") or column.declared == "VARCHAR"):
        raise uncuttable(column.name, kind)
    if sharding.boundaries is not None:
        edges = _sorted(db, column, [str(value) for value in sharding.boundaries])
    elif sharding.by == "time":
        edges = _spans(db, relation, column, sharding)
    else:
        edges = _even(db, relation, column, sharding.splits or 1)
    return edge_splits(column.name, edges)


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
    name, parts = quoted(column.name), []
    for end, sign in (("low", ">="), ("high", "<")):
        if data[end] is not None:
            parts.append(f"{_ordered(column, name)} {sign} {_literal(column, data[end])}")
    bounds = " and ".join(parts) or "true"
    return [f"({bounds} or {name} is null)" if data["low"] is None else bounds]


def _ordered(column: Column, sql: str) -> str:
    """The order of text is that of its bytes, for any declared collation."""
    return f"encode({sql})" if column.declared == "VARCHAR" else sql


def _literal(column: Column, text: str) -> str:
    spelled = "'" + str(text).replace("'", "''") + "'"
    return _ordered(column, f"cast({spelled} as {column.declared})")


def _sorted(db: DuckConnection, column: Column, values: Sequence[str]) -> list[str]:
    listed = ", ".join("('" + value.replace("'", "''") + "')" for value in values)
    if not listed:
        return []
    rows = db.rows(
        f"select t.v, try_cast(t.v as {column.declared}) is null from (values {listed}) t(v)"
    )
    for value, is_misfit in rows:
        if is_misfit:
            raise ConfigError(
                f"boundary {value!r} is not a value of column '{column.name}', which is {column.type}",
                code="E0413",
                help="set boundaries of the column's type, and not null",
            )
    sorted_rows = db.rows(
        f"select cast(v as varchar) from (select distinct cast(t.v as {column.declared}) as v "
        f"from (values {listed}) t(v)) order by {_ordered(column, 'v')}"
    )
    return [text for (text,) in sorted_rows]


def _even(db: DuckConnection, relation: Relation, column: Column, count: int) -> list[str]:
    """The values at equal steps of the ordered rows."""
    name = quoted(column.name)
    if count < 2:
        return []
    fractions = ", ".join(str(i / count) for i in range(1, count))
    (quantiles,) = db.rows(
        f"select cast(quantile_disc({name}, [{fractions}]) as varchar[]) "
        f"from (select {name} from {relation.source} where {name} is not null)"
    )
    return _sorted(db, column, quantiles[0] or [])


def _spans(
    db: DuckConnection, relation: Relation, column: Column, sharding: FileSharding
) -> list[str]:
    name = quoted(column.name)
    ((low, high),) = db.rows(
        f"select epoch(min({name})), epoch(max({name})) from {relation.source} "
        f"where isfinite({name})"
    )
    if low is None:
        return []
    starts = span_starts(low, high, sharding.every, sharding.splits or 1, relation.label)
    return _sorted(db, column, sorted({moment_text(m, column.type) for m in starts}))
