"""What a database of PostgreSQL has, as `connectors discover` asks for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from postgres_kit import Database

from dataflare.jobs import RunOptions, run
from dataflare.jobs.catalog import discover, starter
from dataflare.testing import check_catalog
from dataflare.workflow.load import load_text


def test_tables_and_views_with_their_columns(database: Database) -> None:
    database.execute(
        "create table orders (id bigint primary key, price numeric(9, 2), tags text[])",
        "create schema far",
        'create table far."Odd.Name" (a int)',
        "create view dear as select id from orders",
        "create materialized view kept as select 1 as one",
        "create table parted (id int, at date) partition by range (at)",
        "create table parted_1 partition of parted for values from ('2024-01-01') to ('2025-01-01')",
        "create table _dataflare_marker (id int)",
        "insert into orders select n, 1.5, '{}' from generate_series(1, 100) n",
        "analyze orders",
    )
    found = asyncio.run(check_catalog("postgres", {"connection_string": database.dsn}))
    assert [*found] == ["dear", "far.Odd.Name", "kept", "orders", "parted"]
    assert [str(field.type) for field in found["orders"]] == [
        "int64", "decimal(9, 2)", "list<string>",
    ]  # fmt: skip


def test_the_workflow_that_it_writes_runs(database: Database, tmp_path: Path) -> None:
    database.execute(
        "create table orders (id bigint primary key)",
        "create table people (name text)",
        "insert into orders values (1), (2)",
        "analyze orders",
    )
    catalog = discover("postgres", [("connection", database.dsn)], ["o*"], base=tmp_path)
    (orders,) = catalog.found
    assert (orders.entry.rows, orders.entry.kind) == (2, "table")
    text = starter(catalog)
    if "POSTGRES_CONNECTION_STRING" in text:
        assert database.dsn not in text
        text = text.replace("${POSTGRES_CONNECTION_STRING}", database.dsn)
    result = run(load_text(text, base=tmp_path), RunOptions(tmp_path / "home"))
    assert result.error is None, result.error
    assert (tmp_path / "out" / "orders.parquet").exists()
