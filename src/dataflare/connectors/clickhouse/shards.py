"""Divide a full read into parts that are read and resumed separately.

Always true: each row is in exactly one part, also rows without a value: the first part has no lower bound
and the last no upper bound. A part of a NaN is the first one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dataflare.connectors.clickhouse.connection import Client, literal
from dataflare.connectors.clickhouse.types import Kind, escaped
from dataflare.errors import ConfigError
from dataflare.model.progress import Split
from dataflare.sdk.sql.config import Sharding
from dataflare.sdk.sql.shards import (
    hash_splits,
    moment_text,
    need_time,
    range_condition,
    span_starts,
    uncuttable,
    utc_seconds,
)
from dataflare.sdk.sql.source import ONE, no_parts

if TYPE_CHECKING:
    from dataflare.connectors.clickhouse.relation import Column, Relation

_ROWS_PER_SPLIT = 1_000_000
_SPLITS_MAX = 16
_SAMPLE = 10_000
_WHOLE = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Date", "Date32",
          "DateTime")  # fmt: skip
_CUTTABLE = (*_WHOLE, "DateTime64", "Decimal", "String")


def make_splits(client: Client, relation: Relation, sharding: Sharding | None) -> Sequence[Split]:
    """The parts of a full read. Raises the client's errors."""
    count = min(_SPLITS_MAX, relation.rows // _ROWS_PER_SPLIT)
    if sharding is None:
        if count < 2 or not relation.parts or relation.parts[0].kind.name not in _WHOLE:
            return [Split(ONE, {})]
        first = relation.parts[0]
        return _edges(first.sql, first.kind, _quantiles(client, relation, first.sql, count))
    count = sharding.splits or max(2, count)
    if sharding.column is None:
        if not relation.parts:
            raise no_parts(relation.label, "sorting key", "name a 'column' in 'sharding'")
        sql, kind = relation.parts[0].sql, relation.parts[0].kind
        column = None
    else:
        column = relation.column(sharding.column)
        sql, kind = escaped(column.name), column.kind.bare
    if sharding.by == "hash":
        return hash_splits(sql, count)
    if sharding.by == "time":
        assert column is not None  # the config asks for it
        need_time(column.name, column.type)
    if kind.name not in _CUTTABLE:
        raise uncuttable(sharding.column or sql, _type_of(relation, column))
    if sharding.boundaries is not None:
        values = [literal(_checked(value, sql)) for value in sharding.boundaries]
        return _edges(sql, kind, _sorted(client, kind, values))
    if sharding.by == "time":
        assert column is not None
        return _edges(sql, kind, _spans(client, relation, column, sharding, count))
    return _edges(sql, kind, _quantiles(client, relation, sql, count))


def _type_of(relation: Relation, column: Column | None) -> Any:
    return column.type if column is not None else relation.parts[0].kind.name


def _edges(sql: str, kind: Kind, edges: Sequence[str]) -> Sequence[Split]:
    """edges: texts of values, ascending."""
    if not edges:
        return [Split(ONE, {})]
    ends: list[Any] = [None, *edges, None]
    to = kind.name
    if kind.numbers:
        to += f"({', '.join(map(str, kind.numbers))}{', ' + repr('UTC') if kind.name == 'DateTime64' else ''})"
    elif kind.name == "DateTime":
        to = "DateTime('UTC')"
    return [
        Split(f"rows-{i}", {"sql": sql, "kind": to, "low": ends[i], "high": ends[i + 1]})
        for i in range(len(ends) - 1)
    ]


def condition(data: Mapping[str, Any], relation: Relation) -> str:
    """The SQL condition for a part's rows."""
    if "hash" in data:
        place, count = data["hash"]
        return f"cityHash64({data['column']}) % {int(count)} = {int(place)}"
    if "low" not in data:
        return ""
    kind = escaped(data["kind"], chr(39))
    return range_condition(
        data["sql"], data["low"], data["high"], lambda edge: f"CAST({literal(edge)}, {kind})"
    )


def _quantiles(client: Client, relation: Relation, sql: str, count: int) -> list[str]:
    """The values at about equal steps of the ordered rows, from a sample of them."""
    [(named,)] = client.rows(f"select toTypeName(any({sql})) from {relation.source}")
    shown = "toTimeZone(x, 'UTC')" if "DateTime" in named else "x"
    [(sample,)] = client.rows(
        f"select arrayMap(x -> toString({shown}), arraySort(groupArraySample({_SAMPLE}, 1)({sql}))) "
        f"from {relation.source} where isNotNull({sql})"
    )
    edges: list[str] = []
    for i in range(1, count):
        edge = str(sample[len(sample) * i // count]) if sample else ""
        if sample and edge not in edges and edge != str(sample[0]):
            edges.append(edge)
    return edges


def _sorted(client: Client, kind: Kind, values: Sequence[str]) -> list[str]:
    to = kind.name + (f"({', '.join(map(str, kind.numbers))})" if kind.numbers else "")
    asked = ", ".join(f"CAST({value}, {escaped(to, chr(39))})" for value in values)
    [(found,)] = client.rows(
        f"select arrayMap(x -> toString(x), arraySort(arrayDistinct([{asked}])))"
    )
    return [str(each) for each in found]


def _checked(value: Any, sql: str) -> Any:
    if value is None or isinstance(value, bool | float):
        raise ConfigError(
            f"boundary {value!r} is not a value of column {sql}",
            code="E0413",
            help="set boundaries of the column's type, and not null",
        )
    return value if isinstance(value, int) else str(value)


def _spans(
    client: Client, relation: Relation, column: Column, sharding: Sharding, count: int
) -> list[str]:
    name = escaped(column.name)
    moment = f"toTimeZone({name}, 'UTC')" if column.type.name == "timestamp" else name
    [(low, high, rows)] = client.rows(
        f"select toString(min({moment})), toString(max({moment})), count({name}) from {relation.source}"
    )
    if not rows:
        return []
    first, last = (utc_seconds(text[:26]) for text in (low, high))
    starts = span_starts(first, last, sharding.every, count, relation.label)
    texts = {moment_text(each, column.type).removesuffix("+00:00") for each in starts}
    if column.kind.bare.name == "DateTime":
        texts = {text[:19] for text in texts}
    return sorted(texts)
