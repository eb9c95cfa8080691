"""What a database of MySQL has, as `connectors discover` asks for it."""

from __future__ import annotations

import asyncio

from mysql_kit import Database

from dataflare.jobs.catalog import discover
from dataflare.testing import check_catalog


def test_tables_and_views_with_their_columns(database: Database) -> None:
    database.execute(
        "create table orders (id bigint unsigned primary key, price decimal(9, 2))",
        "create table `odd.na``me` (a int)",
        "create view dear as select id from orders",
        "create table _dataflare_marker (id int)",
        "create table places (at point)",
    )
    config = {"connection_string": database.dsn}
    catalog = discover("mysql", [*config.items()], ["!places"])
    assert [(each.entry.name, each.entry.kind) for each in catalog.found] == [
        ("dear", "view"), ("`odd.na``me`", "table"), ("orders", "table"),
    ]  # fmt: skip
    assert [each.error for each in catalog.found] == [None] * 3
    schema = catalog.found[2].schema
    assert schema is not None
    assert {f.name: str(f.type) for f in schema} == {"id": "uint64", "price": "decimal(9, 2)"}
    # What cannot be read does not hide the rest.
    (places,) = discover("mysql", [*config.items()], ["places"]).found
    assert places.error is not None
    assert places.error.code == "E0509"
    database.execute("drop table places")
    assert [*asyncio.run(check_catalog("mysql", config))] == ["dear", "`odd.na``me`", "orders"]
