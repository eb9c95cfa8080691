"""The destinations of database files keep what `check_table` asks, and the suite finds what does not."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from dataflare.connectors.sqlite.destination import SqliteDestination
from dataflare.connectors.sqlite.store import SqliteStore
from dataflare.sdk.sql import Refusal
from dataflare.testing import TABLE_LAWS, ContractBroken, check_table, description, destination_of
from dataflare.testing.tables import SCHEMA

TYPES = {**SCHEMA, "lang": pl.String()}


def making(type_: str) -> Callable[..., Any]:
    def make(folder: Path, **options: Any) -> Any:
        config = {"path": "out.db", "table": "orders", **options}
        return destination_of(type_, config, base=folder)

    return make


def read_sqlite(folder: Path, table: str) -> pl.DataFrame:
    db = sqlite3.connect(folder / "out.db")
    try:
        cursor = db.execute(f"select * from {table}")
        names = [column[0] for column in cursor.description]
        return pl.DataFrame(cursor.fetchall(), {name: TYPES[name] for name in names}, orient="row")
    finally:
        db.close()


def read_duckdb(folder: Path, table: str) -> pl.DataFrame:
    with duckdb.connect(str(folder / "out.db")) as db:
        return pl.DataFrame(db.execute(f"select * from {table}").to_arrow_table())


READ = {"sqlite": read_sqlite, "duckdb": read_duckdb}


@pytest.mark.parametrize("law", TABLE_LAWS)
@pytest.mark.parametrize("type_", READ)
def test_a_database_file_keeps_the_contract(type_: str, law: str, tmp_path: Path):
    asyncio.run(check_table(making(type_), READ[type_], tmp_path, only=[law]))


class Forgets(SqliteStore):
    """Writes no marker."""

    def write_marker(self, target: Any, row: Any) -> None:
        return


class Keeps(SqliteStore):
    """Says that it refuses rows, and writes them."""

    def sift(self, ready: Any, frame: pl.DataFrame) -> list[Refusal]:
        refused = super().sift(ready, frame)
        return refused[1:]


class Leaves(SqliteStore):
    """Leaves rows that did not come in a mirror."""

    def settle(self, target: Any, *, final: bool, left_out: int = 0) -> None:
        return None


FAULTS = {
    "another_lineage_takes_over": Forgets,
    "a_refused_row_is_left_out": Keeps,
    "what_did_not_come_is_deleted": Leaves,
}


@pytest.mark.parametrize("law", FAULTS)
def test_the_suite_finds_a_fault(law: str, tmp_path: Path):
    class Faulty(SqliteDestination):
        def make_store(self) -> SqliteStore:
            return FAULTS[law](self.path, 1.0)

    def make(folder: Path, **options: Any) -> Faulty:
        config = {"path": "out.db", "table": "orders", **options}
        return description(Faulty, config, base=folder)

    with pytest.raises(ContractBroken) as caught:
        asyncio.run(check_table(make, read_sqlite, tmp_path, only=[law]))
    assert caught.value.law == law
