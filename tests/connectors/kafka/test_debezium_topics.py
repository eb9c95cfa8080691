"""A topic with the changes of a table: a mirror of it has the table's rows, also behind steps that need the row which goes."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka_kit import Place
from servers.kafka import KafkaCluster

from dataflare.errors import ConfigError

WORKFLOW = """\
name: shop
settings: {parallelism: 2}
sources:
  orders:
    type: kafka
    config:
      {bootstrap_servers: "SERVERS", topic: TOPIC, stop: latest, format: debezium, debezium: {key: [id]}}
transformations:
  large: {type: filter, inputs: [orders], config: {condition: amount > 50}}
  totals:
    type: aggregate
    inputs: [orders]
    config: {group_by: [shop], emit: updates, measures: {n: count(*), total: sum(amount)}}
destinations:
  copy: {type: sqlite, inputs: [orders], config: {path: t.db, table: copy, mode: mirror, key: [id]}}
  large_orders: {type: sqlite, inputs: [large], config: {path: t.db, table: large_orders, mode: mirror, key: [id]}}
  by_shop: {type: sqlite, inputs: [totals], config: {path: t.db, table: by_shop, mode: mirror, key: [shop]}}
"""
FIELDS = [
    {"type": "int64", "field": "id"},
    {"type": "string", "field": "shop", "optional": True},
    {"type": "int64", "field": "amount", "optional": True},
]

Row = dict[str, Any]


def sent(op: str, before: Row | None, after: Row | None) -> dict[str, Any]:
    row = {"type": "struct", "fields": FIELDS, "optional": True}
    schema = {"fields": [{**row, "field": "before"}, {**row, "field": "after"}]}
    change = {"before": before, "after": after, "op": op}
    row_key = after or before
    key = None if row_key is None else json.dumps({"id": row_key["id"]})
    return {"key": key, "value": json.dumps({"schema": schema, "payload": change})}


def changed(rng: random.Random, table: dict[int, Row], count: int) -> list[dict[str, Any]]:
    """Changes of a table, with no more of the row before than its key, and tombstones behind deletes."""
    messages: list[dict[str, Any]] = []
    for _ in range(count):
        id_ = rng.randrange(40)
        if id_ in table and rng.random() < 0.3:
            del table[id_]
            messages.append(sent("d", {"id": id_, "shop": None, "amount": None}, None))
            messages.append({"key": messages[-1]["key"], "value": None})
            continue
        op = "u" if id_ in table else "c"
        table[id_] = {"id": id_, "shop": rng.choice("abc"), "amount": rng.randrange(100)}
        messages.append(sent(op, None, table[id_]))
    return messages


def test_a_mirror_of_changes_has_the_rows_of_the_table(place: Place) -> None:
    rng, table = random.Random(7), dict[int, Row]()
    for _ in range(3):
        place.put(changed(rng, table, 300))
        result = place.run(WORKFLOW)
        assert result.error is None, result.error
        assert not result.warnings
        rows = [tuple(row.values()) for row in table.values()]
        totals: dict[str, list[int]] = {}
        for _, shop, amount in rows:
            totals.setdefault(shop, []).append(amount)
        with closing(sqlite3.connect(place.folder / "t.db")) as db:
            assert sorted(db.execute("select id, shop, amount from copy")) == sorted(rows)
            large = db.execute("select id, shop, amount from large_orders")
            assert sorted(large) == sorted(row for row in rows if row[2] > 50)
            by_shop = db.execute("select shop, n, total from by_shop")
            assert sorted(by_shop) == sorted((s, len(v), sum(v)) for s, v in totals.items())


def test_a_key_that_is_no_column_is_refused(place: Place) -> None:
    place.put([sent("c", None, {"id": 1, "shop": "a", "amount": 1})])
    with pytest.raises(ConfigError, match="needs column 'ident'"):
        place.run(WORKFLOW.replace("key: [id]}}", "key: [ident]}}", 1))


def check(place: Place, table: dict[int, Row]) -> None:
    rows = sorted(tuple(row.values()) for row in table.values())
    totals = Counter(row[1] for row in rows)
    with closing(sqlite3.connect(place.folder / "t.db")) as db:
        assert sorted(db.execute("select id, shop, amount from copy")) == rows
        large = sorted(db.execute("select id, shop, amount from large_orders"))
        assert large == [row for row in rows if row[2] > 50]
        assert dict(db.execute("select shop, n from by_shop")) == totals


def test_a_truncate_removes_what_came_before_it(kafka: KafkaCluster, tmp_path: Path) -> None:
    """In the middle of what is read together, first and last, and twice at once."""
    place, rng, table = Place(kafka, tmp_path, "truncated"), random.Random(3), dict[int, Row]()
    truncate = sent("t", None, None)
    for parts in (["rows", "t", "rows"], ["t", "rows", "t", "t"], ["rows"], ["t"], ["t", "rows"]):
        messages = []
        for part in parts:
            if part == "rows":
                messages += changed(rng, table, 100)
            else:
                table.clear()
                messages.append(truncate)
        place.put(messages)
        result = place.run(WORKFLOW)
        assert result.error is None, result.error
        check(place, table)


@pytest.mark.parametrize(
    ("workflow", "partitions", "says"),
    [
        (WORKFLOW, 2, "which rows in 2 partitions came before it"),
        (WORKFLOW.replace("mode: mirror, key: [id]", "changelog: columns", 1).replace("type: sqlite, inputs: [orders]", "type: stdout, inputs: [orders]").replace("path: t.db, table: copy, changelog: columns", "format: ndjson"), 1, "step 'copy' cannot take them back"),
    ],
)  # fmt: skip
def test_a_truncate_that_cannot_be_exact_is_bad(
    kafka: KafkaCluster, tmp_path: Path, workflow: str, partitions: int, says: str
) -> None:
    place = Place(kafka, tmp_path, f"refused-{partitions}", partitions=partitions)
    place.put([sent("c", None, {"id": 1, "shop": "a", "amount": 1}), sent("t", None, None)])
    result = place.run(workflow)
    assert result.error is not None
    assert result.error.code == "E0577"
    assert says in str(result.error)
