"""Divide a full read of an SQLite table into parts by a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from sys import float_info
from typing import Any

from dataflare.connectors.sqlite.connection import Connection
from dataflare.connectors.sqlite.relation import Column, Relation
from dataflare.connectors.sqlite.types import type_of_declaration
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

_ENDS = 12


def cut(db: Connection, relation: Relation, sharding: FileSharding) -> Sequence[Split]:
    """The parts. Raises E0413, E0606 and errors of the library."""
    if sharding.by == "hash":
        name = relation.column(sharding.column).name if sharding.column else None
        return hash_splits(name, sharding.splits or 1)
    assert sharding.column is not None
    column = relation.column(sharding.column)
    if sharding.by == "time":
        need_time(column.name, column.type)
    kind = type_of_declaration(column.declared)
    if kind is None or kind.name not in ("int64", "float64", "string", "date", "timestamp"):
        raise uncuttable(column.name, column.type)
    if sharding.boundaries is not None:
        return edge_splits(column.name, _boundaries(db, column, sharding.boundaries))
    if sharding.by == "time":
        return edge_splits(column.name, _spans(db, relation, column, sharding))
    return edge_splits(column.name, _even(db, relation, column, sharding.splits or 1))


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
    name, parts, params = _ordered(relation.column(data["column"])), [], []
    for end, sign in (("low", ">="), ("high", "<")):
        if data[end] is not None:
            parts.append(f"{name} {sign} ?")
            params.append(data[end])
    if data["low"] is None:
        parts = [f"({' and '.join([*parts]) or 'true'} or {name} is null)"]
    return parts, params


def _ordered(column: Column) -> str:
    """The column in the order of its bytes, for any declared collation."""
    return f"{quoted(column.name)} collate binary"


def _boundaries(db: Connection, column: Column, boundaries: Sequence[Any]) -> list[Any]:
    number = column.type.is_numeric
    for value in boundaries:
        if value is None or (number and not _is_number(value)):
            raise ConfigError(
                f"boundary {value!r} is not a value of column '{column.name}', which is {column.type}",
                code="E0413",
                help="set boundaries of the column's type, and not null",
            )
    if number:
        return sorted(set(boundaries))
    marks = ", ".join(["(?)"] * len(boundaries))
    rows = db.frame(
        f"with t(v) as (values {marks}) select distinct v from t order by v",
        [str(value) for value in boundaries],
    )
    return rows["v"].to_list()


def _is_number(value: Any) -> bool:
    """Whether SQLite and JSON (for checkpoints) can represent the number."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, float) and isfinite(value)


def _even(db: Connection, relation: Relation, column: Column, count: int) -> list[Any]:
    """The values at equal steps of the ordered rows, of a column of numbers or of text. Infinity is
    in the first part or the last: no part begins with it, because JSON cannot express it."""
    name = _ordered(column)
    kinds = "'integer', 'real'" if column.type.is_numeric else "'text'"
    limit = repr(float_info.max)
    finite = f" and {name} between -{limit} and {limit}" if column.type.is_numeric else ""
    rows = db.frame(
        f"select distinct v from (select v, row_number() over (order by v collate binary) - 1 as i, "
        f"count(*) over () as n from (select {name} as v from {relation.source} "
        f"where typeof({quoted(column.name)}) in ({kinds}){finite})) "
        f"where i > 0 and i * {count} / n > (i - 1) * {count} / n order by v collate binary"
    )
    return rows["v"].to_list()


def _spans(db: Connection, relation: Relation, column: Column, sharding: FileSharding) -> list[str]:
    name = quoted(column.name)
    seconds = f"cast(strftime('%s', {name}) as integer)"
    low, high = db.frame(
        f"select min({seconds}), max({seconds}) from {relation.source} where typeof({name}) = 'text'"
    ).row(0)
    if low is None:
        return []
    starts = span_starts(int(low), int(high), sharding.every, sharding.splits or 1, relation.label)
    return sorted({moment_text(moment, column.type) for moment in starts})
