"""The laws of all sources and destinations, against the server."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conformance import gaps
from mysql_kit import Database, run

from dataflare.testing import check_destination, check_source
from dataflare.testing.destinations import ROWS


def test_a_source_keeps_the_contract(database: Database) -> None:
    database.execute("create table orders (id int primary key, name varchar(20), amount float)")
    rows = ", ".join(
        f"({n}, {'null' if n % 7 == 0 else repr(f'n{n}')}, {n / 4})" for n in range(12)
    )
    database.execute(f"insert into orders values {rows}")
    run(check_source(lambda: database.source(table="orders"), gaps=gaps("mysql", "source")))


@pytest.mark.rotates(2)
def test_a_destination_keeps_the_contract(database: Database, tmp_path: Path) -> None:
    def table(folder: Path) -> str:
        return f"t{zlib.crc32(str(folder).encode())}"

    def make(folder: Path) -> Any:
        return database.destination(table=table(folder))

    def read(folder: Path) -> pl.DataFrame:
        found = database.rows(
            f"select table_name from information_schema.tables where table_name = '{table(folder)}'"
        )
        if not found:
            return ROWS.clear()
        rows = database.rows(f"select id, name, amount from {table(folder)}")
        return pl.DataFrame(rows, schema=ROWS.schema, orient="row")

    run(check_destination(make, read, tmp_path, gaps=gaps("mysql", "destination")))
