"""Divide a full read into parts that are read and resumed separately.

Always true: each row is in exactly one part, also rows without a value: the first part has no lower bound
and the last no upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataflare.connectors.mysql.connection import Db, literal
from dataflare.connectors.mysql.relation import Column, Relation, backticked
from dataflare.model.progress import Split
from dataflare.sdk.sql.config import Sharding
from dataflare.sdk.sql.shards import (
    ColumnCut,
    bad_boundary,
    edge_splits,
    hash_splits,
    range_condition,
    utc_seconds,
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
    column = _column(relation, sharding)
    if sharding.by == "hash":
        return hash_splits(column.name, count)
    return _Cut(db, relation, column).splits(sharding, count)


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
    name = backticked(column.name)
    return range_condition(name, data["low"], data["high"], lambda edge: _value(column, edge))


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


class _Cut(ColumnCut):
    column: Column

    def __init__(self, db: Db, relation: Relation, column: Column) -> None:
        super().__init__(relation, column, column.type)
        self._db, self._relation = db, relation
        self._name, self._source = backticked(column.name), relation.source

    def has_order(self) -> bool:
        return self.column.keyed

    def even_edges(self, count: int) -> Sequence[Any]:
        """The values at equal steps of the ordered rows."""
        if self.type.is_integer:
            return _even(self._db, self._relation, self.column, count)
        name = self._name
        shown = f"hex({name})" if self.type.name == "binary" else f"cast({name} as char)"
        [(rows,)] = self._db.rows(f"select count({name}) from {self._source}")
        places = sorted({rows * i // count for i in range(1, count)} - {0})
        edges: list[Any] = []
        for place in places:
            found = self._db.rows(
                f"select {shown} from {self._source} where {name} is not null order by {name} "
                f"limit 1 offset {place}"
            )
            edges += [value for (value,) in found if value not in edges]
        return edges

    def sorted_boundaries(self, values: Sequence[Any]) -> Sequence[Any]:
        """The empty half gives the whole the column's type and collation, by which its rows are compared with these
        values."""
        whole = self.type.is_integer
        for value in values:
            fits = isinstance(value, int) and not isinstance(value, bool)
            if value is None or (whole and not fits) or self.type.name == "binary":
                raise bad_boundary(value, self.column.name, self.type)
        if whole:
            return sorted(set(values))
        given = " union ".join(f"select {literal(str(value))}" for value in values)
        rows = self._db.rows(
            f"select cast(v as char) from (select {self._name} as v from {self._source} where false "
            f"union {given}) as d order by v"
        )
        if self.type.name == "decimal":
            return sorted({str(value) for (value,) in rows}, key=float)
        return [str(value) for (value,) in rows]

    def times(self) -> tuple[float, float] | None:
        name = self._name
        [(low, high)] = self._db.rows(
            f"select cast(min({name}) as char), cast(max({name}) as char) from {self._source} "
            f"where {name} >= '0001-01-01'"
        )
        return None if low is None else (utc_seconds(low), utc_seconds(high))

    def time_edges(self, texts: Sequence[str]) -> Sequence[Any]:
        return [text.removesuffix("+00:00") for text in texts]
