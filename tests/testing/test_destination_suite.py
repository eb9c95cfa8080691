"""Every built-in destination keeps what `check_destination` asks, as far as it promises it."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from dataflare.connectors import memory
from dataflare.sdk.destination import DestinationConnector
from dataflare.testing import (
    DESTINATION_LAWS,
    check_destination,
    destination_of,
)
from dataflare.testing.destinations import ROWS, DestinationUnderTest

pytestmark = pytest.mark.rotates(2)

Read = Callable[[Path], pl.DataFrame]


@dataclass(frozen=True)
class Kind:
    """A destination with its config, and how its rows are read."""

    name: str
    type: str
    config: Mapping[str, Any]
    read: Read | None

    def make(self, folder: Path) -> DestinationConnector:
        config = {**self.config}
        if self.type == "memory":
            config["name"] = str(folder)
        return destination_of(self.type, config, base=folder)


def parts(pattern: str, read: Callable[..., pl.DataFrame]) -> Read:
    """The published parts of a folder."""

    def read_parts(folder: Path) -> pl.DataFrame:
        found = [read(path) for path in sorted((folder / "out").glob(pattern))]
        return pl.concat([ROWS.clear(), *found])

    return read_parts


def read_csv(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, schema=ROWS.schema)


def read_ndjson(path: Path) -> pl.DataFrame:
    return pl.read_ndjson(path, schema=ROWS.schema)


def read_json(path: Path) -> pl.DataFrame:
    text = path.read_bytes()
    text = gzip.decompress(text) if path.suffix == ".gz" else text
    return pl.DataFrame(json.loads(text), schema=ROWS.schema)


def read_sqlite(folder: Path) -> pl.DataFrame:
    base = sqlite3.connect(folder / "out.db")
    try:
        rows = base.execute("SELECT id, name, amount FROM t").fetchall()
    finally:
        base.close()
    return pl.DataFrame(rows, schema=ROWS.schema, orient="row")


def read_duckdb(folder: Path) -> pl.DataFrame:
    with duckdb.connect(str(folder / "out.duckdb")) as base:
        rows = base.execute("SELECT id, name, amount FROM t").fetchall()
    return pl.DataFrame(rows, schema=ROWS.schema, orient="row")


def read_memory(folder: Path) -> pl.DataFrame:
    return memory.committed(str(folder))


UPSERT = {"table": "t", "mode": "upsert", "key": ["id"]}
KINDS = (
    Kind("csv", "file", {"path": "out.csv"}, lambda f: read_csv(f / "out.csv")),
    Kind("parquet", "file", {"path": "out.parquet"}, lambda f: pl.read_parquet(f / "out.parquet")),
    Kind("ndjson", "file", {"path": "out.ndjson"}, lambda f: read_ndjson(f / "out.ndjson")),
    Kind("json", "file", {"path": "out.json"}, lambda f: read_json(f / "out.json")),
    Kind("json_gzip", "file", {"path": "out.json.gz"}, lambda f: read_json(f / "out.json.gz")),
    Kind("arrow", "file", {"path": "out.arrow"}, lambda f: pl.read_ipc(f / "out.arrow")),
    Kind("json_parts", "file", {"path": "out", "format": "json"}, parts("*.json", read_json)),
    Kind(
        "arrow_overwrite",
        "file",
        {"path": "out", "format": "arrow", "compression": "zstd", "mode": "overwrite"},
        parts("*.arrow", pl.read_ipc),
    ),
    Kind(
        "csv_append",
        "file",
        {"path": "out.csv", "mode": "append"},
        lambda f: read_csv(f / "out.csv"),
    ),
    Kind("csv_gzip", "file", {"path": "out.csv.gz"}, lambda f: read_csv(f / "out.csv.gz")),
    Kind(
        "parquet_parts",
        "file",
        {"path": "out", "format": "parquet"},
        parts("*.parquet", pl.read_parquet),
    ),
    Kind("csv_parts", "file", {"path": "out", "format": "csv"}, parts("*.csv", read_csv)),
    Kind(
        "ndjson_overwrite",
        "file",
        {"path": "out", "format": "ndjson", "mode": "overwrite"},
        parts("*.ndjson", read_ndjson),
    ),
    Kind("sqlite", "sqlite", {"path": "out.db", "table": "t"}, read_sqlite),
    Kind("sqlite_upsert", "sqlite", {"path": "out.db", **UPSERT}, read_sqlite),
    Kind(
        "sqlite_overwrite",
        "sqlite",
        {"path": "out.db", "table": "t", "mode": "overwrite"},
        read_sqlite,
    ),
    Kind("duckdb", "duckdb", {"path": "out.duckdb", "table": "t"}, read_duckdb),
    Kind(
        "duckdb_overwrite",
        "duckdb",
        {"path": "out.duckdb", "table": "t", "mode": "overwrite"},
        read_duckdb,
    ),
    Kind("memory", "memory", {}, read_memory),
    Kind("blackhole", "blackhole", {}, None),
    Kind("stdout", "stdout", {"format": "ndjson"}, None),
)


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    yield
    memory.clear()


def cases() -> Iterator[Any]:
    for kind in KINDS:
        for law in DESTINATION_LAWS:
            yield pytest.param(kind, law, id=f"{kind.name}-{law}")


@pytest.mark.parametrize(("kind", "law"), list(cases()))
def test_a_built_in_destination_keeps_the_contract(kind: Kind, law: str, tmp_path: Path):
    asyncio.run(DESTINATION_LAWS[law](DestinationUnderTest(kind.make, kind.read, tmp_path, ROWS)))


def test_the_whole_suite_in_a_line(tmp_path: Path):
    [kind] = [kind for kind in KINDS if kind.name == "parquet_parts"]
    asyncio.run(check_destination(kind.make, kind.read, tmp_path))
