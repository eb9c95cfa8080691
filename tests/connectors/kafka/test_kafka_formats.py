"""Each format of messages through a real broker and a registry: written by one run, read by the next."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from kafka_kit import Place, send
from servers.registry import SchemaRegistry, schema_registry

from dataflare.connectors import memory
from dataflare.jobs import RunResult

PROTO = """\
syntax = "proto3";
message Order {
  int64 id = 1;
  optional string note = 2;
  repeated double prices = 3;
}
"""
ROWS = [
    {"id": 1, "note": "é, \"quoted\"\nand broken", "prices": [1.5, -2.0]},
    {"id": 2**53 + 1, "note": None, "prices": []},
    {"id": -7, "note": "", "prices": [0.1]},
]  # fmt: skip
FORMATS = {
    "avro": "format: avro, registry: {url: REGISTRY}",
    "protobuf": "format: protobuf, schema: order.proto, registry: {url: REGISTRY}",
    "events": "format: cloudevents",
    "binary events": "format: cloudevents",
    "events with avro": "format: cloudevents, registry: {url: REGISTRY}",
    "csv": "format: csv",
}
OPTIONS = {
    "events": ("cloudevents: {source: /shop, type: order}", ""),
    "binary events": ("cloudevents: {mode: binary, source: /shop, type: order}", ""),
    "events with avro": (
        "cloudevents: {data: avro, source: /shop, type: order}",
        "cloudevents: {data: avro}",
    ),
    "csv": ("csv: {delimiter: ;}", "csv: {delimiter: ;, columns: [id, note, prices]}"),
}
"""What only a destination or only a source has."""
TYPES = "schema: {id: int64, note: string, prices: list<float64>}"
WRITE = """\
name: write
settings: {parallelism: 1}
sources:
  rows:
    type: inline
    config: {rows: GIVEN}
    schema: {id: int64, note: string, prices: list<float64>}
transformations:
  events: {type: map, inputs: [rows], config: {MAP}}
destinations:
  out:
    type: kafka
    inputs: [events]
    config: {bootstrap_servers: "SERVERS", topic: "TOPIC", FORMAT}
"""
READ = """\
name: read
sources:
  t:
    type: kafka
    config: {bootstrap_servers: "SERVERS", topic: TOPIC, stop: latest, FORMAT}
    SCHEMA
    error_handling: {on_error: dead_letter}
destinations:
  out: {type: memory, inputs: [t], config: {name: formats}}
"""


@pytest.fixture(scope="module")
def registry() -> Iterator[tuple[SchemaRegistry, str]]:
    with schema_registry() as (made, server):
        yield made, server.url


def options_of(name: str, url: str, *, writes: bool) -> str:
    writing, reading = OPTIONS.get(name, ("", ""))
    more = writing if writes else reading
    return FORMATS[name].replace("REGISTRY", f'"{url}"') + (f", {more}" if more else "")


def write(place: Place, name: str, url: str) -> RunResult:
    derive = "derive: {ce_id: 'cast(id AS string)'}" if "events" in name else ""
    text = WRITE.replace("GIVEN", json.dumps(ROWS)).replace("MAP", derive)
    return place.run(text.replace("FORMAT", options_of(name, url, writes=True)))


def read(place: Place, name: str, url: str, home: str) -> tuple[RunResult, list[dict[str, Any]]]:
    memory.clear()
    types = TYPES if name not in ("avro", "protobuf", "events with avro") else ""
    text = READ.replace("FORMAT", options_of(name, url, writes=False)).replace("SCHEMA", types)
    result = place.run(text, name=home)
    return result, memory.committed("formats").to_dicts()


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_comes_back_through_a_broker(
    place: Place, registry: tuple[SchemaRegistry, str], name: str
) -> None:
    (place.folder / "order.proto").write_text(PROTO)
    written = write(place, name, registry[1])
    assert written.error is None, written.error
    poison = {"value": b"\x00\x00\x00\x00\x63poison", "partition": 0}
    with place.producer() as producer:
        send(producer, place.topic, [poison])
    result, rows = read(place, name, registry[1], "read")
    assert result.error is None, result.error
    by_id = {row["id"]: row for row in rows}
    for row in ROWS:
        found = by_id[row["id"]]
        assert {column: found[column] for column in row} == row
        if "events" in name:
            assert (found["ce_id"], found["ce_type"]) == (str(row["id"]), "order")
    assert len(rows) == len(ROWS)
    assert result.steps["t"]["dead_letters"] == 1


def test_a_schema_that_changes_is_read_with_the_one_that_wrote_it(
    place: Place, registry: tuple[SchemaRegistry, str]
) -> None:
    known, url = registry
    assert write(place, "avro", url).error is None
    subject = f"{place.topic}-value"
    first = known.subjects[subject][0]
    schema = json.loads(known.schemas[first - 1]["schema"])
    schema["fields"].append({"name": "added", "type": "string", "default": "none"})
    known.add(subject, json.dumps(schema))
    result, rows = read(place, "avro", url, "read")
    assert result.error is None, result.error
    assert {row["added"] for row in rows} == {"none"}
    assert sorted(row["id"] for row in rows) == sorted(row["id"] for row in ROWS)
