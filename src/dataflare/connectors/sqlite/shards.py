"""Divide a full read of an SQLite table into parts by a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from sys import float_info
from typing import Any

from dataflare.connectors.sqlite.connection import Connection
from dataflare.connectors.sqlite.relation import Column, Relation
from dataflare.connectors.sqlite.types import type_of_declaration
from dataflare.model.progress import Split
from dataflare.model.types import DataType
from dataflare.sdk.sql.config import FileSharding
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.shards import ColumnCut, bad_boundary, hash_splits, range_condition

_ENDS = 12


def cut(db: Connection, relation: Relation, sharding: FileSharding) -> Sequence[Split]:
    """The parts. Raises E0413, E0606 and errors of the library."""
    if sharding.by == "hash":
        name = relation.column(sharding.column).name if sharding.column else None
        return hash_splits(name, sharding.splits or 1)
    assert sharding.column is not None
    column = relation.column(sharding.column)
    return _Cut(db, relation, column, column.type).splits(sharding, sharding.splits or 1)


def condition(data: Mapping[str, Any], relation: Relation) -> tuple[list[str], list[Any]]:
    """The SQL condition for a part's rows, and its parameters."""
    if "hash" in data:
        place, count = data["hash"]
        name = quoted(data["column"] or relation.key[0])
        # SQLite has no hash function: the first and last hex digits of the value are mixed.
        ends = [*range(1, _ENDS + 1), *range(-_ENDS, 0)]
        digits = " + ".join(
            f"coalesce(unicode(substr(hex({name}), {end}, 1)), 0) * {31 ** (i % 9) + 2 * i}"
            for i, end in enumerate(ends)
        )
        return [f"({digits}) % {int(count)} = {int(place)}"], []
    if "low" not in data:
        return [], []
    params = [data[end] for end in ("low", "high") if data[end] is not None]
    name = _ordered(relation.column(data["column"]))
    return [range_condition(name, data["low"], data["high"], lambda _: "?")], params


def _ordered(column: Column) -> str:
    """The column in the order of its bytes, for any declared collation."""
    return f"{quoted(column.name)} collate binary"


def _is_number(value: Any) -> bool:
    """Whether SQLite and JSON (for checkpoints) can represent the number."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, float) and isfinite(value)


class _Cut(ColumnCut):
    column: Column

    def __init__(self, db: Connection, relation: Relation, column: Column, type_: DataType) -> None:
        super().__init__(relation, column, type_)
        self._db, self._source = db, relation.source

    def has_order(self) -> bool:
        kind = type_of_declaration(self.column.declared)
        kinds = ("int64", "float64", "string", "date", "timestamp")
        return kind is not None and kind.name in kinds

    def sorted_boundaries(self, values: Sequence[Any]) -> Sequence[Any]:
        is_numeric = self.type.is_numeric
        for value in values:
            if value is None or (is_numeric and not _is_number(value)):
                raise bad_boundary(value, self.column.name, self.type)
        if is_numeric:
            return sorted(set(values))
        marks = ", ".join(["(?)"] * len(values))
        rows = self._db.frame(
            f"with t(v) as (values {marks}) select distinct v from t order by v",
            [str(value) for value in values],
        )
        return rows["v"].to_list()

    def even_edges(self, count: int) -> Sequence[Any]:
        """The values at equal steps of the ordered rows, of a column of numbers or of text. Infinity is in the first
        part or the last: no part begins with it, because JSON cannot express it."""
        name, is_numeric = _ordered(self.column), self.type.is_numeric
        kinds = "'integer', 'real'" if is_numeric else "'text'"
        limit = repr(float_info.max)
        finite = f" and {name} between -{limit} and {limit}" if is_numeric else ""
        rows = self._db.frame(
            f"select distinct v from (select v, row_number() over (order by v collate binary) - 1 as i, "
            f"count(*) over () as n from (select {name} as v from {self._source} "
            f"where typeof({quoted(self.column.name)}) in ({kinds}){finite})) "
            f"where i > 0 and i * {count} / n > (i - 1) * {count} / n order by v collate binary"
        )
        return rows["v"].to_list()

    def times(self) -> tuple[float, float] | None:
        name = quoted(self.column.name)
        seconds = f"cast(strftime('%s', {name}) as integer)"
        low, high = self._db.frame(
            f"select min({seconds}), max({seconds}) from {self._source} where typeof({name}) = 'text'"
        ).row(0)
        return None if low is None else (int(low), int(high))
