"""Divide a full read into parts that are read and resumed separately.

Always true: each row is in exactly one part, also rows without a value: the first part has no lower bound
and the last no upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dataflare.connectors.mysql.config import Sharding
from dataflare.connectors.mysql.connection import Db, literal
from dataflare.connectors.mysql.relation import Column, Relation, backticked
from dataflare.errors import ConfigError
from dataflare.model.progress import Split
from dataflare.sdk.sql.shards import (
    edge_splits,
    hash_splits,
    moment_text,
    need_time,
    span_starts,
    uncuttable,
)
from dataflare.sdk.sql.source import ONE, no_parts

_ROWS_PER_SPLIT = 250_000
_SPLITS_MAX = 16


def make_splits(db: Db, relation: Relation, sharding: Sharding | None) -> Sequence[Split]:
    """The parts of a full read. Raises pymysql's errors."""
    count = min(_SPLITS_MAX, relation.rows // _ROWS_PER_SPLIT)
    if sharding is None:
        whole = (
            relation.is_table and relation.key and relation.column(relation.key[0]).type.is_integer
        )
        if count < 2 or not whole:
            return [Split(ONE, {})]
        column = relation.column(relation.key[0])
        return edge_splits(column.name, _even(db, relation, column, count))
    count = sharding.splits or max(2, count)
    if sharding.by == "hash":
        return hash_splits(_column(relation, sharding).name, count)
    column = _column(relation, sharding)
    if sharding.by == "time":
        need_time(column.name, column.type)
    if not column.keyed:
        raise uncuttable(column.name, column.type)
    if sharding.boundaries is not None:
        edges = _sorted(db, relation, column, sharding.boundaries)
    elif sharding.by == "time":
        edges = _spans(db, relation, column, sharding, count)
    else:
        edges = _quantiles(db, relation, column, count)
    return edge_splits(column.name, edges)


def condition(data: Mapping[str, Any], relation: Relation) -> str:
    """The SQL condition for a part's rows."""
    if "hash" in data:
        place, count = data["hash"]
        column = relation.column(data["column"])
        text = f"coalesce(cast({backticked(column.name)} as char charset utf8mb4), '')"
        return f"crc32({text}) % {int(count)} = {int(place)}"
    if "low" not in data:
        return ""
    column = relation.column(data["column"])
    name, parts = backticked(column.name), []
    for end, sign in (("low", ">="), ("high", "<")):
        if data[end] is not None:
            parts.append(f"{name} {sign} {_value(column, data[end])}")
    bounds = " and ".join(parts) or "true"
    return f"(({bounds}) or {name} is null)" if data["low"] is None else bounds


def _value(column: Column, edge: Any) -> str:
    """An edge as SQL: a number, or the bytes of a text in hexadecimal."""
    if column.type.is_integer or column.type.name == "decimal":
        return str(edge)
    if column.type.name == "binary":
        return literal(bytes.fromhex(edge))
    return literal(edge)


def _column(relation: Relation, sharding: Sharding) -> Column:
    if sharding.column is not None:
        return relation.column(sharding.column)
    if not relation.key:
        raise no_parts(relation.label, "key", "name a 'column' in 'sharding'")
    return relation.column(relation.key[0])


def _even(db: Db, relation: Relation, column: Column, count: int) -> list[int]:
    """Numbers at equal distances between the least and the greatest."""
    name = backticked(column.name)
    [(low, high)] = db.rows(f"select min({name}), max({name}) from {relation.source}")
    if low is None:
        return []
    span = int(high) + 1 - int(low)
    return sorted({int(low) + span * i // count for i in range(1, count)} - {int(low)})


def _quantiles(db: Db, relation: Relation, column: Column, count: int) -> list[Any]:
    """The values at equal steps of the ordered rows."""
    if column.type.is_integer:
        return list(_even(db, relation, column, count))
    name = backticked(column.name)
    shown = f"hex({name})" if column.type.name == "binary" else f"cast({name} as char)"
    [(rows,)] = db.rows(f"select count({name}) from {relation.source}")
    places = sorted({rows * i // count for i in range(1, count)} - {0})
    edges: list[Any] = []
    for place in places:
        found = db.rows(
            f"select {shown} from {relation.source} where {name} is not null order by {name} "
            f"limit 1 offset {place}"
        )
        edges += [value for (value,) in found if value not in edges]
    return edges


def _sorted(db: Db, relation: Relation, column: Column, values: Sequence[Any]) -> list[Any]:
    """The values in the column's order, without duplicates. The empty half gives the whole the column's
    type and collation, by which its rows are compared with these values."""
    for value in values:
        fits = isinstance(value, int) and not isinstance(value, bool)
        if value is None or (column.type.is_integer and not fits) or column.type.name == "binary":
            raise ConfigError(
                f"boundary {value!r} is not a value of column '{column.name}', which is {column.type}",
                code="E0413",
                help="set boundaries of the column's type, and not null",
            )
    if column.type.is_integer:
        return sorted(set(values))
    name = backticked(column.name)
    given = " union ".join(f"select {literal(str(value))}" for value in values)
    rows = db.rows(
        f"select cast(v as char) from (select {name} as v from {relation.source} where false union "
        f"{given}) as d order by v"
    )
    if column.type.name == "decimal":
        return sorted({str(value) for (value,) in rows}, key=float)
    return [str(value) for (value,) in rows]


def _spans(db: Db, relation: Relation, column: Column, sharding: Sharding, count: int) -> list[str]:
    name = backticked(column.name)
    [(low, high)] = db.rows(
        f"select cast(min({name}) as char), cast(max({name}) as char) from {relation.source} "
        f"where {name} >= '0001-01-01'"
    )
    if low is None:
        return []
    first, last = (
        datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() for text in (low, high)
    )
    starts = span_starts(first, last, sharding.every, count, relation.label)
    return sorted({moment_text(each, column.type).removesuffix("+00:00") for each in starts})
