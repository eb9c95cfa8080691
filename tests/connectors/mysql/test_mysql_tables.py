"""The destination keeps what `check_table` asks."""

from __future__ import annotations

import zlib
from pathlib import Path

import polars as pl
import pytest
from mysql_kit import Database, run

from dataflare.testing import TABLE_LAWS, check_table
from dataflare.testing.tables import SCHEMA


@pytest.mark.parametrize("law", TABLE_LAWS)
def test_it_keeps_the_contract(law: str, database: Database, tmp_path: Path):
    made: set[str] = set()

    def make(folder: Path, *, table: str = "orders", **options: object):
        schema = f"{database.name}_{zlib.crc32(str(folder).encode())}"
        if schema not in made:
            database.execute(f"create database {schema}")
            made.add(schema)
        return database.destination(table=f"{schema}.{table}", **options)

    def read(folder: Path, table: str) -> pl.DataFrame:
        schema, name = table.split(".")
        columns = database.rows(
            "select column_name from information_schema.columns where table_schema = "
            f"'{schema}' and table_name = '{name}' order by ordinal_position"
        )
        types = {column: SCHEMA.get(column, pl.String()) for (column,) in columns}
        return pl.DataFrame(database.rows(f"select * from {table}"), types, orient="row")

    try:
        run(check_table(make, read, tmp_path, only=[law]))
    finally:
        for schema in made:
            database.execute(f"drop database {schema}")
