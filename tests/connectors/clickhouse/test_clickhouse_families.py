"""Many tables of ClickHouse, and what it says that it has."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

from clickhouse_kit import Database

from dataflare.jobs import RunOptions, run
from dataflare.testing.catalogs import check_catalog
from dataflare.workflow import load_text


def test_all_tables_of_a_database_are_read(database: Database, tmp_path: Path) -> None:
    database.execute(
        "create table orders (id Int64, name String) engine MergeTree order by id",
        "insert into orders values (1, 'a'), (2, 'b')",
        "create table items (n Int32) engine MergeTree order by n",
        "insert into items values (7)",
        "create view seen as select id from orders",
    )
    schemas = asyncio.run(check_catalog("clickhouse", {"connection_string": database.dsn}))
    assert {"orders", "items", "seen"} == set(schemas)
    text = f"""\
name: families
sources: {{shop: {{type: clickhouse, config: {{connection_string: "{database.dsn}", tables: ["*"]}}}}}}
destinations: {{out: {{type: sqlite, inputs: [shop], config: {{path: out.db, table: "{{table}}"}}}}}}
"""
    result = run(load_text(text, base=tmp_path), RunOptions(home=tmp_path / "home"))
    assert result.status == "finished", result.error
    with contextlib.closing(sqlite3.connect(tmp_path / "out.db")) as db:
        assert db.execute("select * from orders order by id").fetchall() == [(1, "a"), (2, "b")]
        assert db.execute("select * from items").fetchall() == [(7,)]
    assert "shop.seen" not in result.steps
