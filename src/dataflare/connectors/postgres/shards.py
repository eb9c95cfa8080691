"""Divide a full read into parts that are read and resumed separately.

Always true: each row is in exactly one part, also rows without a value: the first part has no lower bound
and the last no upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataflare.connectors.postgres.catalog import Connection
from dataflare.connectors.postgres.config import Sharding
from dataflare.connectors.postgres.relation import Column, Relation, sql_text
from dataflare.errors import ConfigError
from dataflare.model.progress import Split
from dataflare.sdk.sql.names import quoted
from dataflare.sdk.sql.shards import need_time, range_condition, span_starts

_ROWS_PER_SPLIT = 250_000
_SPLITS_MAX = 16
_SAMPLE_ROWS = 20_000
ONE = "rows-0"
_BLOCKS = ("r", "m")


def make_splits(db: Connection, relation: Relation, sharding: Sharding | None) -> Sequence[Split]:
    """The parts of a full read. Raises psycopg's errors."""
    if sharding is None:
        count = min(_SPLITS_MAX, relation.rows // _ROWS_PER_SPLIT)
        if count < 2 or relation.table is None:
            return [Split(ONE, {})]
        if relation.key:
            column = relation.column(relation.key[0])
            return _ranges(column, _sampled(db, relation, column, count))
        return _blocks(relation, count) if relation.table.kind in _BLOCKS else [Split(ONE, {})]
    if sharding.by == "ctid":
        return _blocks(relation, sharding.splits or _count(relation))
    if sharding.by == "hash":
        return _hashed(relation, sharding)
    column = _column(relation, sharding)
    for settings in relation.values.items():
        db.execute("select set_config(%s, %s, true)", settings)
    if sharding.boundaries is not None:
        boundaries = [sql_text(value) for value in sharding.boundaries]
        return _ranges(column, _sorted(db, relation, column, boundaries))
    if sharding.by == "time":
        return _ranges(column, _spans(db, relation, column, sharding))
    return _ranges(column, _sampled(db, relation, column, sharding.splits or _count(relation)))


def condition(data: Mapping[str, Any], relation: Relation, values: dict[str, str]) -> str:
    """The SQL condition for a part's rows; adds to `values` the settings it reads."""
    if "hash" in data:
        place, count = data["hash"]
        parts = [f"coalesce({quoted(name)}::text, '')" for name in data["columns"]]
        hashed = f"hashtextextended({' || chr(31) || '.join(parts)}, 0)"
        return f"(({hashed} % {int(count)}) + {int(count)}) % {int(count)} = {int(place)}"
    if "block" in data:
        low, high = data["block"]
        upper = "" if high is None else f" and ctid < '({int(high)},0)'::tid"
        return f"ctid >= '({int(low)},0)'::tid{upper}"
    if "column" not in data:
        return ""
    column = relation.column(data["column"])
    values |= {f"dataflare.{end}": data[end] for end in ("from", "to") if data[end] is not None}
    low, high = (end if data[end] is not None else None for end in ("from", "to"))

    def setting(end: str) -> str:
        return f"cast(current_setting('dataflare.{end}') as {column.pg})"

    return range_condition(quoted(column.name), low, high, setting)


def _count(relation: Relation) -> int:
    return max(2, min(_SPLITS_MAX, relation.rows // _ROWS_PER_SPLIT))


def _column(relation: Relation, sharding: Sharding) -> Column:
    if sharding.column is not None:
        return relation.column(sharding.column)
    if not relation.key:
        raise ConfigError(
            f"{relation.label} has no key, so 'sharding' needs 'column'",
            code="E0413",
            help="name a column in 'sharding'",
        )
    return relation.column(relation.key[0])


def _ranges(column: Column, boundaries: Sequence[str]) -> Sequence[Split]:
    if not boundaries:
        return [Split(ONE, {})]
    edges: list[str | None] = [None, *boundaries, None]
    return [
        Split(f"rows-{i}", {"column": column.name, "from": edges[i], "to": edges[i + 1]})
        for i in range(len(edges) - 1)
    ]


def _blocks(relation: Relation, count: int) -> Sequence[Split]:
    if relation.table is None or relation.table.kind not in _BLOCKS:
        raise ConfigError(
            f"{relation.label} has no blocks to divide by: it is not a plain table",
            code="E0413",
            help="use by: range or by: hash, with a column",
        )
    pages = max(relation.table.pages, count)
    edges = [pages * i // count for i in range(count)]
    ends: list[int | None] = [*edges[1:], None]
    return [Split(f"rows-{i}", {"block": [edges[i], ends[i]]}) for i in range(count)]


def _hashed(relation: Relation, sharding: Sharding) -> Sequence[Split]:
    if sharding.column is not None:
        names = [relation.column(sharding.column).name]
    else:
        names = list(relation.key or relation.names)
    count = sharding.splits or _count(relation)
    return [Split(f"rows-{i}", {"hash": [i, count], "columns": names}) for i in range(count)]


def _sorted(db: Connection, relation: Relation, column: Column, values: Sequence[str]) -> list[str]:
    """The values in the column's order, without duplicates; the server refuses a text that is not a
    value of the column.

    The empty half gives the whole the column's collation, by which its rows are compared with these
    values: in another order parts would overlap."""
    rows = db.execute(
        f"select d.v::text from (select {quoted(column.name)} as v from {relation.source} where false "
        f"union select cast(t as {column.pg}) from unnest(%s::text[]) t) d order by d.v",
        (list(values),),
    ).fetchall()
    return [str(value) for (value,) in rows if value is not None]


def _sampled(db: Connection, relation: Relation, column: Column, count: int) -> list[str]:
    """Values that divide the rows into parts of about the same size, from a sample of the table."""
    if count < 2:
        return []
    name, sample = quoted(column.name), ""
    if relation.table is not None and relation.table.kind in ("r", "p", "m"):
        percent = min(100.0, 100.0 * _SAMPLE_ROWS / max(relation.rows, 1))
        # A sample of blocks is quick; for a small table it may be empty.
        way = "system" if relation.rows > 50 * _SAMPLE_ROWS else "bernoulli"
        sample = f" tablesample {way} ({percent:.6f}) repeatable (0)"
    fractions = [i / count for i in range(1, count)]
    row = db.execute(
        f"select (percentile_disc(%s::float8[]) within group (order by {name}))::text[] "
        f"from (select {name} from {relation.source}{sample} where {name} is not null) s",
        (fractions,),
    ).fetchone()
    return _sorted(db, relation, column, row[0]) if row and row[0] else []


def _spans(db: Connection, relation: Relation, column: Column, sharding: Sharding) -> list[str]:
    """Boundaries from the first time to the last: at spans of `every`, or a number of equal
    spans."""
    need_time(column.name, column.type)
    name = quoted(column.name)
    row = db.execute(
        f"select extract(epoch from min({name}))::float8, extract(epoch from max({name}))::float8 "
        f"from {relation.source} where isfinite({name})"
    ).fetchone()
    if row is None or row[0] is None:
        return []
    low, high = row
    count = sharding.splits or _count(relation)
    moments = span_starts(low, high, sharding.every, count, relation.label)
    texts = db.execute(
        "select array_agg(to_timestamp(t)::text) from unnest(%s::float8[]) t", (moments,)
    ).fetchone()
    return _sorted(db, relation, column, texts[0]) if texts and texts[0] else []
