"""Whatever a table holds and however it is cut: its parts together are its rows, each once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import polars as pl
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_kit import Database, drain, run

from dataflare.model.progress import Split

TIMES = ["infinity", "-infinity", "4713-01-01 BC", "0001-01-01", "12001-02-03", "1969-12-31 23:59:59.5",
         "2000-02-29", "2000-03-01 00:00:00", "2001-12-31 23:59:59.999999"]  # fmt: skip
FEW = st.sampled_from(["a", "A", "b", "B", "\u00e9", "e", "", " "])
# Each column's name and declaration, and the values a test puts there, as text.
COLUMNS: dict[str, tuple[str, st.SearchStrategy[str]]] = {
    "n": ("bigint", st.integers(-(2**63), 2**63 - 1).map(str)),
    "m": ("numeric", st.sampled_from(["NaN", "-1e40", "0.00", "0", "Infinity", "1e-30"])),
    "f": ("double precision", st.floats().map(str)),
    "s": ("text", FEW | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)),
    "c": ('text collate "en-x-icu"', FEW),
    "d": ("date", st.sampled_from([t.partition(":")[0][:-2] if ":" in t else t for t in TIMES])),
    "t": ("timestamp", st.sampled_from(TIMES)),
    "z": ("timestamptz", st.sampled_from([*TIMES, "2000-02-29 23:00-11", "2000-03-01 00:00+14"])),
    "u": ("uuid", st.uuids().map(str)),
}


@st.composite
def cut_tables(draw: st.DrawFn) -> tuple[str, list[str | None], dict[str, Any]]:
    name = draw(st.sampled_from(sorted(COLUMNS)))
    value = COLUMNS[name][1]
    values = draw(st.lists(st.none() | value, max_size=12).map(lambda made: made + made[:2]))
    ways = ["range", "hash", "ctid", "keyed", *(["time"] if name in "dtz" else [])]
    by = draw(st.sampled_from(ways))
    if by in ("ctid", "keyed"):
        return name, values, {"by": "ctid" if by == "ctid" else "range", "splits": 3}
    sharding: dict[str, Any] = {"by": by, "column": name}
    known = [v for v in values if v is not None]
    if by == "range" and known and draw(st.booleans()):
        sharding["boundaries"] = draw(st.lists(st.sampled_from(known), min_size=1, max_size=4))
    elif by == "time" and draw(st.booleans()):
        sharding["every"] = "36500d"
    else:
        sharding["splits"] = draw(st.sampled_from([1, 2, 5]))
    return name, values, sharding


def fill(database: Database, name: str, values: Sequence[str | None]) -> None:
    declared = COLUMNS[name][0]
    with psycopg.connect(database.dsn, autocommit=True) as db:
        db.execute("drop table if exists t")
        db.execute(f"create table t (id int primary key, {name} {declared})")
        with db.cursor() as cursor:
            cursor.executemany("insert into t values (%s, %s)", list(enumerate(values, 1)))


async def read_parts(database: Database, sharding: dict[str, Any], **config: Any) -> list[int]:
    """The numbers of all rows; each part went through JSON, as in a checkpoint."""
    made = database.source(**{"table": "t", "columns": ["id"]} | config, sharding=sharding)
    try:
        found: list[pl.DataFrame] = []
        for part in await made.splits():
            kept = Split.from_json(json.loads(json.dumps(part.to_json(), allow_nan=False)))
            found += (await drain(made, kept, None))[0]
    finally:
        await made.aclose()
    return sorted(number for frame in found for number in frame["id"].to_list())


@pytest.mark.rotates(3)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=cut_tables())
def test_the_parts_of_a_table_are_its_rows_each_once(database: Database, drawn):
    name, values, sharding = drawn
    fill(database, name, values)
    assert run(read_parts(database, sharding)) == list(range(1, len(values) + 1))


@pytest.mark.parametrize("from_query", [False, True])
def test_parts_go_by_the_order_of_the_column_not_of_the_database(database: Database, from_query):
    """In the order of bytes, which is the database's, B is before a; in the column's after it."""
    fill(database, "c", ["a", "A", "b", "B", "c", "C", None])
    what = {"query": "select * from t where c <> '' or c is null"} if from_query else {"table": "t"}
    for more in ({"boundaries": ["a", "B"]}, {"splits": 3}):
        sharding = {"by": "range", "column": "c"} | more
        config = {"table": None} | what if from_query else what
        assert run(read_parts(database, sharding, **config)) == [1, 2, 3, 4, 5, 6, 7]
