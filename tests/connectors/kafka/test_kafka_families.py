"""Many tables into topics of their own, and many topics as streams."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from kafka_kit import Place

WRITE = """\
name: write
sources:
  shop: {type: sqlite, config: {path: shop.db, tables: ["*"]}}
destinations:
  topics:
    type: kafka
    inputs: [shop]
    config: {bootstrap_servers: "SERVERS", topic: "TOPIC-{table}", mode: mirror, per_table: {visits: {mode: append}}}
"""
READ = """\
name: read
sources:
  topics:
    type: kafka
    config:
      {bootstrap_servers: "SERVERS", tables: ["TOPIC-*"], stop: latest, per_table: {TOPIC-orders: {metadata: [key]}}}
destinations:
  copy: {type: sqlite, inputs: [topics], config: {path: copy.db, table: "{table}"}}
"""


def test_tables_become_topics_and_topics_tables(place: Place) -> None:
    with closing(sqlite3.connect(place.folder / "shop.db")) as db:
        db.executescript(
            "create table orders (id integer primary key, total real);"
            "create table items (id integer, line integer, primary key (id, line));"
            "create table visits (at text);"
            "insert into orders values (1, 2.5), (2, 3.5); insert into items values (1, 1);"
            "insert into visits values ('a'), ('a');"
        )
    result = place.run(WRITE)
    assert result.error is None, result.error
    assert {key for _, _, key, _ in place.messages(f"{place.topic}-orders")} == {b"1", b"2"}
    assert [key for _, _, key, _ in place.messages(f"{place.topic}-items")] == [
        b'{"id":1,"line":1}'
    ]
    for more in range(2):
        result = place.run(READ)
        assert result.error is None, result.error
        with closing(sqlite3.connect(place.folder / "copy.db")) as db:
            orders = db.execute(f'select id, total, _key from "{place.topic}-orders" order by id')
            expected = [(1, 2.5, b"1"), (2, 3.5, b"2"), (3, 1.5, b"3")]
            assert orders.fetchall() == expected[: 2 + more]
            assert db.execute(f'select at from "{place.topic}-visits"').fetchall() == [("a",)] * 2
        place.put([{"key": "3", "value": '{"id": 3, "total": 1.5}'}], f"{place.topic}-orders")
