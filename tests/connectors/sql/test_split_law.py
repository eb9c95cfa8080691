"""The law of cut reads: whatever a table holds and however it is cut, its parts together are the table,
each row once; and a part is the same after it went through JSON, as it does in a checkpoint."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import event, given, reject, settings
from hypothesis import strategies as st

from dataflare.errors import ConfigError, DataFlareError
from dataflare.model.progress import Split
from dataflare.sdk import registry
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import EndOfSplit
from dataflare.sdk.sql.shards import SPANS_MAX, span_starts

pytestmark = pytest.mark.rotates(2)

INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 2**63 - 1, 0, -1])
FLOATS = st.floats() | st.sampled_from([float("inf"), float("-inf"), -0.0, 5e-324])
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)
TIMES = st.datetimes(datetime(1999, 12, 1), datetime(2001, 12, 31))
ZONES = st.sampled_from(["+00:00", "+05:30", "-11:00", "+14:00"])


def texts_of_times(zone: bool) -> st.SearchStrategy[str]:
    made = TIMES.map(lambda when: when.isoformat(" "))
    return st.builds(str.__add__, made, ZONES) if zone else made


DATES = TIMES.map(lambda when: str(when.date()))
ODD_SQLITE = st.sampled_from(["9999-12-31", "0000-01-01", "", "gone", 17, -1.5, b"\xff"])
ODD_TIMES = ["infinity", "-infinity", "0044-03-15 (BC)", "12001-02-03"]

# Each column's name and declaration in each database, and the values a test puts there.
SQLITE: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "n": ("INTEGER", INT64 | st.sampled_from([1, 1.5, "x", b"1"])),
    "f": ("REAL", st.floats(allow_nan=False) | FLOATS.filter(lambda v: v == v) | INT64),
    "s": ("TEXT", TEXTS),
    "c": ("TEXT COLLATE NOCASE", TEXTS | st.sampled_from(["a", "A", "b", "B"])),
    "d": ("DATE", DATES | ODD_SQLITE),
    "t": ("TIMESTAMP", texts_of_times(zone=False) | ODD_SQLITE),
    "z": ("TIMESTAMPTZ", texts_of_times(zone=True) | ODD_SQLITE),
}
DUCKDB: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "n": ("BIGINT", INT64),
    "f": ("DOUBLE", FLOATS),
    "s": ("VARCHAR", TEXTS),
    "c": ("VARCHAR COLLATE NOCASE", TEXTS | st.sampled_from(["a", "A", "b", "B"])),
    "d": ("DATE", DATES | st.sampled_from(ODD_TIMES)),
    "t": ("TIMESTAMP", texts_of_times(zone=False) | st.sampled_from(ODD_TIMES)),
    "z": ("TIMESTAMPTZ", texts_of_times(zone=True) | st.sampled_from(["infinity", "-infinity"])),
    "h": ("HUGEINT", st.integers(-(2**127) + 1, 2**127 - 1)),
    "m": ("DECIMAL(38, 9)", st.decimals(-(10**20), 10**20, places=9)),
}
COLUMNS = {"sqlite": SQLITE, "duckdb": DUCKDB}


@st.composite
def tables(draw: st.DrawFn, kind: str) -> tuple[str, list[Any], list[int]]:
    """A column, its values, nulls and doubles among them, and which rows are deleted again."""
    name = draw(st.sampled_from(sorted(COLUMNS[kind])))
    value = st.none() | COLUMNS[kind][name][1]
    few = draw(st.lists(value, min_size=1, max_size=4))
    values = draw(st.lists(value | st.sampled_from(few), max_size=12))
    gone = draw(st.lists(st.integers(1, 12), max_size=3))
    return name, values, gone


@st.composite
def shardings(draw: st.DrawFn, name: str, values: Sequence[Any]) -> dict[str, Any]:
    by = draw(st.sampled_from(["range", "hash", "time"] if name in "dtz" else ["range", "hash"]))
    made: dict[str, Any] = {"by": by}
    splits = st.sampled_from([1, 2, 3, 7])
    if by == "time":
        every = draw(st.sampled_from([None, "year", "month", "365d", "3650d"]))
        given = {"splits": draw(splits)} if every is None else {"every": every}
        return made | {"column": name} | given
    if draw(st.booleans()):
        made["column"] = name
    known = [v for v in values if v is not None and not isinstance(v, bytes)]
    if by == "range" and "column" in made and known and draw(st.booleans()):
        return made | {"boundaries": draw(st.lists(st.sampled_from(known), min_size=1, max_size=4))}
    return made | {"splits": draw(splits)}


def fill(
    kind: str, folder: Path, name: str, values: Sequence[Any], gone: Sequence[int]
) -> set[int]:
    """A table of numbered rows, some of them deleted; the numbers that are left."""
    declared = COLUMNS[kind][name][0]
    db: Any = (sqlite3 if kind == "sqlite" else duckdb).connect(folder / "data.db")
    key = "integer primary key" if kind == "sqlite" and len(values) % 2 else "integer"
    db.execute(f"create table t (id {key}, {name} {declared})")
    if values:
        db.executemany("insert into t values (?, ?)", list(enumerate(values, 1)))
    for number in gone:
        db.execute("delete from t where id = ?", [number])
    db.commit()
    db.close()
    return set(range(1, len(values) + 1)) - set(gone)


class TooMany(Exception):
    """Parts to be read in the time of a test."""


async def read_parts(
    kind: str, folder: Path, sharding: dict[str, Any], parts_max: int = 40
) -> list[list[int]]:
    """The numbers of each part's rows, every part once by its first listing and through JSON."""
    class_ = registry.source(kind)
    config = {"path": "data.db", "table": "t", "columns": ["id"], "sharding": sharding}
    made = class_(class_.Config(**config), ConnectorContext("in", folder))
    parts = await made.splits()
    assert [p.to_json() for p in await made.splits()] == [p.to_json() for p in parts]
    assert len({part.id for part in parts}) == len(parts)
    if len(parts) > parts_max:
        raise TooMany
    found = []
    for part in parts:
        kept = Split.from_json(json.loads(json.dumps(part.to_json(), allow_nan=False)))
        reader, ids = await made.open(kept, None), []
        try:
            while True:
                ids += (await reader.read_batch(1_000)).frame["id"].to_list()
        except EndOfSplit:
            await reader.aclose()
        found.append(ids)
    return found


def check(kind: str, data: st.DataObject) -> None:
    name, values, gone = data.draw(tables(kind))
    sharding = data.draw(shardings(name, values))
    with tempfile.TemporaryDirectory() as folder:
        left = fill(kind, Path(folder), name, values, gone)
        try:
            found = asyncio.run(read_parts(kind, Path(folder), sharding))
        except TooMany:
            reject()
        except DataFlareError as error:
            event(f"refused: {error.message[:20]}")
            if error.code != "E0413":
                raise
            return
    event(f"{sharding['by']} of {name}: {min(len(found), 5)} parts")
    assert sorted(number for part in found for number in part) == sorted(left)


@settings(max_examples=70)
@given(data=st.data())
def test_the_parts_of_an_sqlite_table_are_its_rows_each_once(data: st.DataObject):
    check("sqlite", data)


@settings(max_examples=30)  # a DuckDB file takes long to open
@given(data=st.data())
def test_the_parts_of_a_duckdb_table_are_its_rows_each_once(data: st.DataObject):
    check("duckdb", data)


@pytest.mark.parametrize("every", [None, "year", "month", "1000d"])
@pytest.mark.parametrize("ends", [(-1e12, 1e13), (0, 86_400 * 500), (-7e10, -6.5e10), (5, 5)])
def test_parts_by_time_begin_in_order_and_within_the_calendar(every, ends):
    span = 86_400_000.0 if every == "1000d" else every
    if (every, ends[1]) == ("month", 1e13):
        with pytest.raises(ConfigError, match="would make 119,988 parts") as caught:
            span_starts(*ends, span, 4, "table 't'")
        assert caught.value.code == "E0413"
        return
    starts = span_starts(*ends, span, 4, "table 't'")
    assert starts == sorted(starts)
    assert len(starts) < SPANS_MAX
    assert all(1 <= datetime.fromtimestamp(start, UTC).year <= 9999 for start in starts)
    assert all(ends[0] <= start <= ends[1] for start in starts)
    if ends == (0, 86_400 * 500):
        assert len(starts) == {None: 3, "year": 1, "month": 16, "1000d": 0}[every]


def test_an_edge_that_a_checkpoint_could_not_keep_is_none(tmp_path):
    """Infinity is not valid JSON, and as null it would leave a part without its end."""
    values = [-9e999, 1.5, 9e999, 9e999, 9e999]
    fill("sqlite", tmp_path, "f", values, [])
    cut = {"by": "range", "column": "f", "splits": 3}
    found = asyncio.run(read_parts("sqlite", tmp_path, cut))
    assert [n for part in found for n in part] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("boundary", [float("inf"), float("nan"), 2**63, True, None, "1"])
def test_a_boundary_that_the_database_has_not_is_refused(tmp_path, boundary):
    fill("sqlite", tmp_path, "f", [1.0], [])
    cut = {"by": "range", "column": "f", "boundaries": [0, boundary]}
    with pytest.raises(ConfigError, match="is not a value of column 'f'") as caught:
        asyncio.run(read_parts("sqlite", tmp_path, cut))
    assert caught.value.code == "E0413"
