"""Changes written to a real topic as Debezium does, in JSON and in Avro, are read back as the table that they lead to."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka_kit import Place
from servers.registry import schema_registry

from dataflare.jobs import RunOptions, run
from dataflare.workflow.load import load_text

WRITE = """\
name: write
settings: {parallelism: 2, checkpoint: {interval: 20ms}}
sources:
  orders: {type: inline, config: {changelog: columns, rows: ROWS}, schema: {id: int64, shop: string, amount: "decimal(9, 2)", day: date}}
destinations:
  topic:
    type: kafka
    inputs: [orders]
    config: {bootstrap_servers: "SERVERS", topic: TOPIC, mode: mirror, key: [id], format: debezium, OPTIONS}
"""
READ = """\
name: read
settings: {parallelism: 2}
sources:
  orders:
    type: kafka
    config: {bootstrap_servers: "SERVERS", topic: TOPIC, stop: latest, format: debezium, debezium: {key: [id]}REGISTRY}
destinations:
  copy: {type: sqlite, inputs: [orders], config: {path: t.db, table: copy, mode: mirror, key: [id]}}
"""
Row = dict[str, Any]


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    with schema_registry() as (_, server):
        yield server.url


def history(rng: random.Random, count: int) -> tuple[list[Row], dict[int, Row]]:
    """Changes of a table, and what they lead to."""
    table: dict[int, Row] = {}
    changes: list[Row] = []
    for _ in range(count):
        id_ = rng.randrange(30)
        row = {"id": id_, "shop": rng.choice("abc"), "amount": f"{rng.randrange(10_000) / 100:.2f}", "day": f"2026-01-{rng.randrange(1, 29):02}"}  # fmt: skip
        before = table.get(id_)
        if before is None:
            changes.append({**row, "_op": "insert"})
        elif rng.random() < 0.3:
            changes.append({**before, "_op": "delete"})
            del table[id_]
            continue
        else:
            changes += [{**before, "_op": "update_before"}, {**row, "_op": "update_after"}]
        table[id_] = row
    return changes, table


def ran(place: Place, text: str) -> None:
    result = run(
        load_text(place.filled(text), base=place.folder), RunOptions(place.folder / "home")
    )
    assert result.status == "finished", result.error


@pytest.mark.parametrize("form", ["json", "json with schemas", "avro"])
def test_what_is_written_is_read_as_the_table(place: Place, registry: str, form: str) -> None:
    changes, table = history(random.Random(11), 400)
    options = {
        "json": "debezium: {tombstones: false}", "json with schemas": "debezium: {schemas: true}",
        "avro": f'registry: {{url: "{registry}"}}',
    }[form]  # fmt: skip
    ran(place, WRITE.replace("ROWS", json.dumps(changes)).replace("OPTIONS", options))
    messages = place.messages()
    deletes = sum(change["_op"] == "delete" for change in changes)
    assert deletes > 20
    empty = sum(value is None for *_, value in messages)
    assert empty == (0 if form == "json" else deletes)
    whole = [change for change in changes if change["_op"] != "update_before"]
    assert len(messages) == len(whole) + empty
    if form != "avro":
        updates = [v.get("payload", v) for v in place.values()]
        assert all(
            (v["before"] is None, v["after"] is None) == (v["op"] == "c", v["op"] == "d")
            for v in updates
        )
    ran(place, READ.replace("REGISTRY", f", {options}" if form == "avro" else ""))
    with closing(sqlite3.connect(place.folder / "t.db")) as db:
        # Decimals and days without a schema in the message are as they stand there.
        columns = "id, shop" if form == "json" else "id, shop, printf('%.2f', amount), day"
        found = db.execute(f"select {columns} from copy order by id").fetchall()
    names = ["id", "shop"] if form == "json" else ["id", "shop", "amount", "day"]
    assert found == [tuple(row[name] for name in names) for _, row in sorted(table.items())]


def test_files_take_changes_in_the_same_form(tmp_path: Path) -> None:
    changes, _ = history(random.Random(3), 50)
    text = WRITE.replace("ROWS", json.dumps(changes))
    head = text[: text.index("  topic:")]
    out = "  out: {type: file, inputs: [orders], config: {path: out.ndjson, changelog: debezium}}\n"
    result = run(load_text(head + out, base=tmp_path), RunOptions(tmp_path / "home"))
    assert result.status == "finished", result.error
    written = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()]
    expected = {"insert": "c", "update_after": "u", "delete": "d"}
    assert [each["op"] for each in written] == [
        expected[c["_op"]] for c in changes if c["_op"] != "update_before"
    ]
    assert {each["after"]["id"] for each in written if each["after"]} <= set(range(30))
    assert written[0]["source"]["table"] == "out"
