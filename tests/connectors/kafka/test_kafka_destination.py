"""The kafka destination, on a real broker; read back with read_committed."""

from __future__ import annotations

import asyncio
import json
import zlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from conformance import gaps
from kafka_kit import Place, contents
from servers.kafka import GUEST, PASSWORD, KafkaCluster

from dataflare.connectors.kafka.errors import translated
from dataflare.errors import ConfigError, DataFlareError, Retry
from dataflare.model.types import Schema
from dataflare.testing import check_destination, destination_of

ROWS = pl.DataFrame({"n": range(40), "text": [f"row {n}" for n in range(40)]})
WRITE = """\
name: write
settings: {parallelism: 1}
sources:
  rows: {type: inline, config: {rows: GIVEN}}
destinations:
  out:
    type: kafka
    inputs: [rows]
    config: {bootstrap_servers: "SERVERS", topic: "TOPIC", MORE}
"""


def write(place: Place, rows: list[dict[str, Any]], more: str, handling: str = "") -> Any:
    text = WRITE.replace("GIVEN", json.dumps(rows)).replace(", MORE", f", {more}" if more else "")
    if handling:
        text += f"    error_handling: {{{handling}}}\n"
    return place.run(text)


@pytest.mark.rotates(2)
@pytest.mark.parametrize(
    ("mode", "only"),
    [("append", []), ("upsert", ["each_row_arrives_once", "a_commit_twice_is_a_commit"])],
)
def test_it_keeps_the_contract_of_destinations(
    kafka: KafkaCluster, tmp_path: Path, mode: str, only: list[str]
) -> None:
    def topic_of(folder: Path) -> str:
        return f"c{zlib.crc32(str(folder).encode())}"

    def make(folder: Path) -> Any:
        config = {"bootstrap_servers": kafka.bootstrap, "topic": topic_of(folder), "mode": mode}
        return destination_of("kafka", {**config, "key": "n"}, base=folder)

    def read(folder: Path) -> pl.DataFrame:
        found = contents(kafka.bootstrap, topic_of(folder), "read_committed")
        rows = [json.loads(value or b"{}") for _, _, _, value in found]
        return pl.DataFrame(rows, schema=ROWS.schema)

    marked = gaps("kafka", "destination") if not only else {}
    asyncio.run(check_destination(make, read, tmp_path, frame=ROWS, only=only, gaps=marked))


def test_keys_headers_times_and_partitions_are_those_of_columns(place: Place) -> None:
    rows = [
        {"k": "a", "trace": "t1", "at": "2026-03-01T00:00:00Z", "p": 2, "v": 1},
        {"k": None, "trace": None, "at": "2026-03-01T00:00:01Z", "p": 0, "v": 2},
    ]
    result = write(place, rows, "key: k, headers: {x-trace: trace}, timestamp: at, partition: p")
    assert result.error is None
    workflow = """\
name: back
sources:
  t:
    type: kafka
    config: {bootstrap_servers: "SERVERS", topic: TOPIC, stop: latest, metadata: [key, partition, timestamp, headers]}
destinations:
  out: {type: memory, inputs: [t], config: {name: back}}
"""
    from dataflare.connectors import memory

    memory.clear()
    assert place.run(workflow, name="home2").error is None
    frame = memory.committed("back").sort("v")
    assert frame["_key"].to_list() == [b"a", None]
    assert frame["_partition"].to_list() == [2, 0]
    assert [each.second for each in frame["_timestamp"]] == [0, 1]
    assert frame["_headers"].to_list() == [
        [{"key": "x-trace", "value": b"t1"}],
        [{"key": "x-trace", "value": None}],
    ]


def test_rows_of_one_key_are_in_one_partition_in_their_order(place: Place) -> None:
    rows = [{"k": n % 11, "n": n} for n in range(500)]
    assert write(place, rows, "key: k").error is None
    by_key: dict[bytes | None, list[tuple[int, int]]] = {}
    for partition, _, key, value in place.messages():
        by_key.setdefault(key, []).append((partition, json.loads(value or b"")["n"]))
    assert len(by_key) == 11
    for key, found in by_key.items():
        assert len({partition for partition, _ in found}) == 1
        assert [n for _, n in found] == list(range(int(key or b""), 500, 11))


def test_a_topic_for_each_value_of_a_column_is_made(place: Place) -> None:
    rows = [{"to": name, "n": n} for n, name in enumerate("aabbc")]
    place_topic = place.topic
    place.topic = f"{place_topic}-{{to}}"
    more = "create_topic: {partitions: 2, settings: {cleanup.policy: compact}}, key: n"
    assert write(place, rows, f"{more}, format: json").error is None
    found = {name: [row["n"] for row in place.values(f"{place_topic}-{name}")] for name in "abc"}
    assert {name: sorted(ns) for name, ns in found.items()} == {"a": [0, 1], "b": [2, 3], "c": [4]}


def test_what_a_topic_would_refuse_is_a_dead_letter(place: Place) -> None:
    limited = Place(place.cluster, place.folder, f"{place.topic}-small", max_message_bytes="2000")
    rows = [{"n": n, "text": "x" * (3_000 if n == 3 else 900)} for n in range(60)]
    result = write(limited, rows, "compression: none", "on_error: dead_letter")
    assert result.error is None
    assert result.steps["out"]["dead_letters"] == 1
    assert [row["n"] for row in limited.values()] == [n for n in range(60) if n != 3]
    compact = Place(place.cluster, place.folder / "2", f"{place.topic}-c", cleanup_policy="compact")
    compact.folder.mkdir()
    result = write(compact, [{"k": "a", "n": 1}, {"k": None, "n": 2}], "key: k")
    assert result.error is not None
    assert (result.error.code, "no key" in result.error.message) == ("E0510", True)
    assert compact.messages() == []


def test_a_changelog_is_upserts_and_tombstones(place: Place) -> None:
    place.put([{"value": None, "key": "gone"}, {"value": b'{"v": 1}', "key": "kept"}])
    workflow = """\
name: table
sources:
  changes:
    type: kafka
    config:
      {bootstrap_servers: "SERVERS", topic: TOPIC, stop: latest, tombstones: delete, metadata: [key], key_format: text}
destinations:
  out:
    type: kafka
    inputs: [changes]
    config: {bootstrap_servers: "SERVERS", topic: TOPIC-out, mode: MODE, key: _key}
"""
    assert place.run(workflow.replace("MODE", "mirror")).error is None
    found = {key: value for _, _, key, value in place.messages(f"{place.topic}-out")}
    assert found.keys() == {b"gone", b"kept"}
    assert found[b"gone"] is None
    assert json.loads(found[b"kept"] or b"")["v"] == 1
    refused = workflow.replace("mode: MODE, key: _key", "key: _key").replace(
        "name: table", "name: t2"
    )
    with pytest.raises(DataFlareError) as caught:
        place.run(refused, name="home2")
    assert "mode: upsert or mirror" in str(caught.value.help)


def test_at_least_once_needs_no_transaction(place: Place) -> None:
    rows = [{"n": n} for n in range(300)]
    assert write(place, rows, "guarantee: at_least_once").error is None
    assert sorted(row["n"] for row in place.values()) == list(range(300))
    limited = Place(place.cluster, place.folder / "2", f"{place.topic}-s", max_message_bytes="500")
    limited.folder.mkdir()
    result = write(limited, [{"n": 1, "text": "x" * 900}], "guarantee: at_least_once")
    assert result.error is not None
    assert result.error.code == "E0510"


@pytest.mark.parametrize(
    ("more", "code"),
    [({"key": "k"}, "E0411"), ({"timestamp": "n"}, "E0406"), ({"headers": {"h": "f"}}, "E0406")],
)
def test_columns_that_cannot_be_used_are_named(
    kafka: KafkaCluster, more: dict[str, Any], code: str
) -> None:
    made = destination_of("kafka", {"bootstrap_servers": kafka.bootstrap, "topic": "t", **more})
    schema = Schema.of({"n": "int64", "f": "float64"})
    with pytest.raises(ConfigError) as caught:
        asyncio.run(made.validate(schema))
    assert caught.value.code == code


def test_a_missing_topic_and_missing_rights_are_told(kafka: KafkaCluster) -> None:
    schema = Schema.of({"n": "int64"})

    def failure(**more: Any) -> DataFlareError:
        made = destination_of(
            "kafka", {"bootstrap_servers": kafka.bootstrap, "timeout": "3s", **more}
        )
        with pytest.raises(DataFlareError) as caught:
            asyncio.run(made.validate(schema))
        return caught.value

    assert failure(topic="not-there", create_topic=False).code == "E0604"
    assert failure(topic="x", bootstrap_servers="127.0.0.1:1").code == "E0607"
    sasl = {"mechanism": "PLAIN", "username": GUEST, "password": PASSWORD}
    where = {"bootstrap_servers": kafka.sasl, "sasl": sasl}
    assert failure(topic="x", create_topic=False, **where).code in ("E0602", "E0604")


def test_a_transaction_that_is_shorter_than_an_answer_is_refused_at_once() -> None:
    where = {"bootstrap_servers": "127.0.0.1:1", "topic": "t"}
    with pytest.raises(ConfigError) as caught:
        destination_of("kafka", {**where, "transaction_timeout": "20s"})
    assert "'transaction_timeout' (20 s) is shorter than 'timeout' (30 s)" in str(caught.value)
    # The client waits at most a minute for an answer.
    for more in ({"timeout": "5s", "transaction_timeout": "5s"}, {"timeout": "2m"}):
        assert destination_of("kafka", {**where, **more})


def test_partitions_that_a_client_has_forgotten_are_tried_again_and_missing_topics_are_not() -> (
    None
):
    forgotten = translated(KafkaError(KafkaError._UNKNOWN_PARTITION), "a:1")
    missing = translated(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), "a:1")
    assert (forgotten.code, forgotten.retry) == ("E0604", Retry.LATER)
    assert (missing.code, missing.retry) == ("E0604", Retry.NEVER)


def test_a_zombie_producer_cannot_commit(place: Place) -> None:
    """A run that hung while a newer attempt took over wakes up in the middle of its transaction."""
    name = f"dataflare.write.out.{place.topic}"
    servers = place.cluster.bootstrap
    zombie = Producer({"bootstrap.servers": servers, "transactional.id": name, "log_level": 0})
    zombie.init_transactions(30)
    zombie.begin_transaction()
    zombie.produce(place.topic, b'{"n": -1}')
    zombie.flush(30)
    assert write(place, [{"n": n} for n in range(10)], "").error is None
    with pytest.raises(KafkaException):
        zombie.commit_transaction(30)
    assert sorted(row["n"] for row in place.values()) == list(range(10))


def test_messages_have_the_id_of_the_run_where_settings_ask_for_it(place: Place) -> None:
    marked = WRITE.replace("parallelism: 1", "parallelism: 1, run_column: _run")
    result = place.run(marked.replace("GIVEN", '[{"n": 1}]').replace(", MORE", ", key: n"))
    assert result.status == "finished"
    ((_, _, key, value),) = place.messages()
    assert json.loads(value or b"{}") == {"n": 1, "_run": result.run_id}
    assert key == b"1"
