"""Every built-in source keeps what `check_source` asks; and the suite finds those that do not."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import sqlite3
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pytest

from dataflare.connectors import memory
from dataflare.sdk.source import SourceConnector
from dataflare.testing import SOURCE_LAWS, ScriptedSource, rows, source_of
from dataflare.testing.sources import SourceUnderTest

pytestmark = pytest.mark.rotates(2)

FRAME = pl.DataFrame(
    {
        "id": range(50),
        "name": [None if n % 9 == 0 else f"name {n % 5}" for n in range(50)],
        "price": [n / 8 for n in range(50)],
        "paid": [n % 3 == 0 for n in range(50)],
    }
)
Make = Callable[[Path], SourceConnector]


def once(path: Path, write: Callable[[Path], object]) -> None:
    """Make the data of a source, which must not change afterwards."""
    if not path.exists():
        write(path)


def _fill_sqlite(path: Path) -> None:
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, price REAL)")
    base.executemany("INSERT INTO t VALUES (?, ?, ?)", FRAME.select("id", "name", "price").rows())
    base.commit()
    base.close()


def _fill_duckdb(path: Path) -> None:
    with duckdb.connect(str(path)) as base:
        base.execute(
            "CREATE TABLE t (id BIGINT PRIMARY KEY, name VARCHAR, price DOUBLE, paid BOOLEAN)"
        )
        base.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", FRAME.rows())


def csv(folder: Path) -> SourceConnector:
    once(folder / "a.csv", lambda path: FRAME.write_csv(path))
    once(folder / "b.csv", FRAME.head(3).write_csv)
    return source_of("file", {"path": "*.csv"}, base=folder)


def ndjson(folder: Path) -> SourceConnector:
    once(folder / "a.ndjson", lambda path: FRAME.write_ndjson(path))
    return source_of("file", {"path": "a.ndjson"}, base=folder)


def json(folder: Path) -> SourceConnector:
    once(folder / "a.json", lambda path: FRAME.write_json(path))
    return source_of("file", {"path": "a.json"}, base=folder)


def parquet(folder: Path) -> SourceConnector:
    once(folder / "a.parquet", lambda path: FRAME.write_parquet(path, row_group_size=20))
    return source_of("file", {"path": "a.parquet"}, base=folder)


def arrow(folder: Path) -> SourceConnector:
    once(folder / "a.arrow", lambda path: FRAME.write_ipc(path))
    return source_of("file", {"path": "a.arrow"}, base=folder)


def excel(folder: Path) -> SourceConnector:
    if not (folder / "a.xlsx").exists():
        once(folder / "a.xlsx", lambda path: FRAME.write_excel(path))
    return source_of("file", {"path": "a.xlsx"}, base=folder)


def gzipped(folder: Path) -> SourceConnector:
    data = gzip.compress(FRAME.write_csv().encode())
    once(folder / "a.csv.gz", lambda path: path.write_bytes(data))
    return source_of("file", {"path": "a.csv.gz"}, base=folder)


def sqlite(folder: Path) -> SourceConnector:
    once(folder / "a.db", _fill_sqlite)
    return source_of("sqlite", {"path": "a.db", "table": "t"}, base=folder)


def sqlite_query(folder: Path) -> SourceConnector:
    sqlite(folder)
    return source_of("sqlite", {"path": "a.db", "query": "SELECT id, name FROM t"}, base=folder)


def sqlite_incremental(folder: Path) -> SourceConnector:
    sqlite(folder)
    config = {"path": "a.db", "table": "t", "incremental": {"column": "id"}}
    return source_of("sqlite", config, base=folder)


def duck(folder: Path) -> SourceConnector:
    once(folder / "a.duckdb", _fill_duckdb)
    return source_of("duckdb", {"path": "a.duckdb", "table": "t"}, base=folder)


def duck_incremental(folder: Path) -> SourceConnector:
    duck(folder)
    config = {"path": "a.duckdb", "table": "t", "incremental": {"column": "id"}}
    return source_of("duckdb", config, base=folder)


def cut(fill: Make, type_: str, **sharding: object) -> Make:
    """A table cut into splits."""

    def make(folder: Path) -> SourceConnector:
        path = fill(folder).config.path
        return source_of(type_, {"path": path, "table": "t", "sharding": sharding}, base=folder)

    make.__name__ = f"{type_}_cut_{'_'.join(map(str, sharding.values()))}"
    return make


CUTS: tuple[Make, ...] = (
    cut(sqlite, "sqlite", by="range", column="id", splits=4),
    cut(sqlite, "sqlite", by="hash", column="name", splits=3),
    cut(sqlite, "sqlite", by="range", column="name", boundaries=["name 2"]),
    cut(duck, "duckdb", by="range", column="price", splits=4),
    cut(duck, "duckdb", by="hash", column="name", splits=3),
    cut(duck, "duckdb", by="range", column="name", boundaries=["name 2"]),
)


def generated(folder: Path) -> SourceConnector:
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC).isoformat()
    columns = {
        "id": {"sequence": 0},
        "user": {"int": [1, 5]},
        "status": {"choice": ["a", "b"]},
        "at": {"time": {"start": start, "step": "1s", "jitter": "5s"}},
    }
    return source_of("generate", {"rows": 50, "seed": 3, "columns": columns})


def inline(folder: Path) -> SourceConnector:
    return source_of("inline", {"rows": FRAME.to_dicts()})


def in_memory(folder: Path) -> SourceConnector:
    memory.put("suite", [FRAME, FRAME.head(0), FRAME.tail(4)])
    return source_of("memory", {"name": "suite"})


def scripted(folder: Path) -> SourceConnector:
    script = ScriptedSource(rows(0, 20), rows(20, 25), name="suite")
    return source_of("scripted", {"script": script.name})


MAKES: tuple[Make, ...] = (
    *(csv, ndjson, json, parquet, arrow, excel, gzipped),
    *(sqlite, sqlite_query, sqlite_incremental, duck, duck_incremental),
    *(generated, inline, in_memory, scripted),
    *CUTS,
)


@pytest.mark.parametrize("law", SOURCE_LAWS)
@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
def test_a_built_in_source_keeps_the_contract(make: Make, law: str, tmp_path: Path):
    make(tmp_path)
    asyncio.run(SOURCE_LAWS[law](SourceUnderTest(lambda: make(tmp_path))))
