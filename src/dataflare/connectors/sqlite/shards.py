"""Cut a full read of an SQLite table into parts by a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from sys import float_info
from typing import Any

from dataflare.connectors.sql.config import FileSharding
from dataflare.connectors.sql.names import quoted
from dataflare.connectors.sql.shards import (
    edged,
    hashed,
    moment_text,
    need_time,
    span_starts,
    uncuttable,
)
from dataflare.connectors.sqlite.connection import Connection
from dataflare.connectors.sqlite.relation import Column, Relation
from dataflare.connectors.sqlite.types import meant
from dataflare.errors import ConfigError
from dataflare.model.progress import Split

_ENDS = 12


def cut(db: Connection, relation: Relation, sharding: FileSharding) -> Sequence[Split]:
    """The parts. Raises E0413, E0606 and foreign errors."""
    if sharding.by == "hash":
        name = relation.column(sharding.column).name if sharding.column else None
        return hashed(name, sharding.splits or 1)
    assert sharding.column is not None
    column = relation.column(sharding.column)
    if sharding.by == "time":
        need_time(column.name, column.type)
    kind = meant(column.declared)
    if kind is None or kind.name not in ("int64", "float64", "string", "date", "timestamp"):
        raise uncuttable(column.name, column.type)
    if sharding.boundaries is not None:
        return edged(column.name, _given(db, column, sharding.boundaries))
    if sharding.by == "time":
        return edged(column.name, _spans(db, relation, column, sharding))
    return edged(column.name, _even(db, relation, column, sharding.splits or 1))


def condition(data: Mapping[str, Any], relation: Relation) -> tuple[list[str], list[Any]]:
    """The SQL that picks a part's rows, and its parameters."""
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
    """The column in the order of its bytes, whatever collation it was declared with."""
    return f"{quoted(column.name)} collate binary"


def _given(db: Connection, column: Column, boundaries: Sequence[Any]) -> list[Any]:
    number = column.type.is_numeric
    for value in boundaries:
        if value is None or (number and not _is_number(value)):
            raise ConfigError(
                f"boundary {value!r} is no value of column '{column.name}', which is {column.type}",
                code="E0413",
                help="give boundaries of the column's type, none of them null",
            )
    if number:
        return sorted(set(boundaries))
    marks = ", ".join(["(?)"] * len(boundaries))
    found = db.frame(
        f"with t(v) as (values {marks}) select distinct v from t order by v",
        [str(value) for value in boundaries],
    )
    return found["v"].to_list()


def _is_number(value: Any) -> bool:
    """Whether SQLite has the number, and JSON, by which a checkpoint keeps it."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, float) and isfinite(value)


def _even(db: Connection, relation: Relation, column: Column, count: int) -> list[Any]:
    """The values at equal steps of the rows in order; those of a column of numbers, or of text.
    Infinity is in the first part or the last: no part begins with it, for JSON has it not."""
    name = _ordered(column)
    kinds = "'integer', 'real'" if column.type.is_numeric else "'text'"
    most = repr(float_info.max)
    finite = f" and {name} between -{most} and {most}" if column.type.is_numeric else ""
    found = db.frame(
        f"select distinct v from (select v, row_number() over (order by v collate binary) - 1 as i, "
        f"count(*) over () as n from (select {name} as v from {relation.source} "
        f"where typeof({quoted(column.name)}) in ({kinds}){finite})) "
        f"where i > 0 and i * {count} / n > (i - 1) * {count} / n order by v collate binary"
    )
    return found["v"].to_list()


def _spans(db: Connection, relation: Relation, column: Column, sharding: FileSharding) -> list[str]:
    name = quoted(column.name)
    seconds = f"cast(strftime('%s', {name}) as integer)"
    low, high = db.frame(
        f"select min({seconds}), max({seconds}) from {relation.source} where typeof({name}) = 'text'"
    ).row(0)
    if low is None:
        return []
    starts = span_starts(int(low), int(high), sharding.every, sharding.splits or 1, relation.shown)
    return sorted({moment_text(moment, column.type) for moment in starts})
