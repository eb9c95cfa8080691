"""Kinesis as a source and a destination, on moto's server."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from broker_moving import (
    GOOD,
    ORDERS,
    ROWS,
    Endless,
    comes_once,
    copying,
    endless,
    example,
    in_order,
    moved_once,
    moving,
    rows_of,
)
from conformance import keeps_destination_laws, keeps_source_laws
from kinesis_kit import Place
from msgspec.structs import replace
from optional_packages import package
from servers.aws import AwsServer
from servers.s3 import KEYS

from dataflare.errors import ConfigError, DataFlareError
from dataflare.model.types import Schema
from dataflare.testing import destination_of, read_source, source_of

ClientError = package("botocore.exceptions").ClientError

from dataflare.connectors.kinesis.client import Stream, StreamState  # noqa: E402

THERE = "SERVER, stream: STREAM"


def copy(more: str = "metadata: [partition_key]", handling: str = "") -> str:
    return copying("kinesis", f"{THERE}, stop: latest, {more}", handling)


def read(place: Place, **more: Any) -> pl.DataFrame:
    config = place.config(**{"stop": "latest", "format": "text", **more})
    return asyncio.run(read_source(source_of("kinesis", config)))


def test_it_keeps_the_contract_of_sources(place: Place) -> None:
    place.numbers(0, 60)
    names = ["partition_key", "sequence", "shard", "timestamp"]
    config = place.config(stop="latest", metadata=names)
    keeps_source_laws("kinesis", lambda: source_of("kinesis", config))


def test_each_run_goes_on_where_the_last_one_ended(place: Place) -> None:
    for first, after in ((0, 200), (200, 230), (230, 230)):
        place.numbers(first, after)
        result = place.run(copy())
        assert (result.error, result.steps["given"]["rows_out"]) == (None, after - first)
    assert place.copied() == list(range(230))


def test_shards_that_were_split_and_merged_are_not_read_twice(place: Place) -> None:
    place.numbers(0, 40)
    first, second = place.shards()
    place.split(first)
    place.numbers(40, 80)
    assert place.run(copy()).steps["given"]["rows_out"] == 80
    place.split(second)
    place.numbers(80, 120)
    left = place.shards()
    place.merge(left[0], left[1])
    place.numbers(120, 160)
    for expected in (80, 0):
        result = place.run(copy())
        assert (result.error, result.steps["given"]["rows_out"]) == (None, expected)
    found = place.written()
    assert sorted(found["n"]) == list(range(160))


def test_a_shard_that_comes_while_it_is_read_is_found(place: Place) -> None:
    with Endless(place, ENDLESS) as running:
        for step in range(3):
            place.numbers(step * 30, step * 30 + 30)
            place.split(place.shards()[0])
        running.wait_rows(90)
    assert running.numbers() == list(range(90))
    with sqlite3.connect(place.folder / "out.db") as connection:
        found = [n for (n,) in connection.execute("select n from t order by rowid")]
    for key in range(5):
        of_key = [n for n in found if n % 5 == key]
        assert of_key == sorted(of_key)


def test_what_kinesis_says_of_a_record_becomes_columns(place: Place) -> None:
    before = datetime.now(UTC)
    (number,) = place.put(("key", b"x"))
    names = ["partition_key", "sequence", "shard", "timestamp"]
    row = read(place, metadata=names).row(0, named=True)
    assert abs((row.pop("_timestamp") - before).total_seconds()) < 30
    assert row.pop("_shard").startswith("shardId-00000000000")
    assert row == {"value": "x", "_partition_key": "key", "_sequence": number}


def test_columns_are_found_in_the_records(place: Place) -> None:
    place.put(("a", b'{"id": 1}'), ("b", b'{"id": 2, "t": "x"}'))
    assert set(read(place, format="json").columns) == {"id", "t"}


def test_reading_begins_where_start_says(place: Place) -> None:
    place.put(("a", b"1"), ("b", b"2"))
    end = time.time() + 0.05
    while time.time() < end:
        middle = datetime.now(UTC)
    place.put(("a", b"3"))
    assert read(place, start={"time": middle})["value"].to_list() == ["3"]
    assert read(place, start="latest").height == 0
    assert sorted(read(place)["value"]) == ["1", "2", "3"]


def test_a_poison_record_is_a_dead_letter_with_its_bytes(place: Place) -> None:
    place.put(("a", b'{"n": "x'), ("a", b"\xff\xfe"), ("a", b'{"n": 3}'))
    result, text = place.dead_letters(copy(handling="DEAD"))
    assert (result.error, result.steps["given"]["dead_letters"]) == (None, 2)
    assert place.copied() == [3]
    assert "base64://4=" in text
    assert " sequence 495903382714902566085" in text


def test_errors_name_what_is_wrong(place: Place, aws: AwsServer) -> None:
    def failure(**more: Any) -> DataFlareError:
        source = source_of("kinesis", place.config(format="text", timeout="3s", **more))
        with pytest.raises(DataFlareError) as caught:
            asyncio.run(source.validate())
        return caught.value

    assert failure(stream="nothing").code == "E0604"
    assert failure(endpoint="http://127.0.0.1:1").code == "E0607"
    with aws.checks_logins():
        assert failure().code == "E0606"
    place.numbers(0, 10)
    assert place.run(copy()).error is None
    place.kinesis.delete_stream(StreamName=place.stream)
    place.make()
    result = place.run(copy())
    assert result.error is not None
    assert (result.error.code, "made again" in str(result.error)) == ("E0605", True)


def test_an_iterator_that_expired_and_a_busy_shard_are_met_by_another_request(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(*[("a", str(n).encode()) for n in range(6)])
    codes = ["", "ExpiredIteratorException", "ProvisionedThroughputExceededException"]
    records = Stream.records

    def fails_twice(stream: Stream, iterator: str, most: int) -> Any:
        code = codes.pop(0) if codes else ""
        if code:
            raise ClientError({"Error": {"Code": code, "Message": "why"}}, "GetRecords")
        return records(stream, iterator, min(most, 4))

    monkeypatch.setattr(Stream, "records", fails_twice)
    source = source_of("kinesis", place.config(stop="latest", format="text"))
    source.contract = Schema.of({"value": "string"})
    found = asyncio.run(read_source(source))
    assert (sorted(found["value"]), codes) == ([str(n) for n in range(6)], [])


def test_records_that_may_be_lost_are_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream keeps records for 24 hours, and the shards were read 25 hours ago."""
    place.numbers(0, 10)
    assert place.run(copy()).error is None
    state = Stream.state

    def later(stream: Stream) -> StreamState:
        found = state(stream)
        return replace(found, now=found.now + 25 * 3600)

    monkeypatch.setattr(Stream, "state", later)
    result = place.run(copy())
    assert result.error is not None
    assert (result.error.code, "24 hours" in str(result.error)) == ("E0605", True)
    result = place.run(copy("lost_records: skip"), accept_changes=True)
    assert result.error is None
    assert any("may have been removed" in text for text in result.warnings)


ENDLESS = endless("kinesis", f"{THERE}, timeout: 1s, poll: 200ms, discovery: 100ms")


def test_each_record_comes_once_over_a_network_that_breaks_and_a_run_that_dies(
    place: Place,
) -> None:
    comes_once(place, ENDLESS, port=place.server.port)


def test_each_record_is_moved_once_over_kills(place: Place) -> None:
    moved_once(place, moving("kinesis", f"{THERE}, stop: latest"), 300)


def write(place: Place, given: list[dict[str, Any]], more: str, handling: str = "") -> Any:
    return place.write("kinesis", f"{THERE}, {more}", given, handling)


def test_it_keeps_the_contract_of_destinations(aws: AwsServer, tmp_path: Path) -> None:
    places: dict[Path, Place] = {}

    def make(folder: Path) -> Any:
        if folder not in places:
            places[folder] = Place(aws, folder)
        return destination_of("kinesis", places[folder].config(), base=folder)

    def read(folder: Path) -> pl.DataFrame:
        return rows_of(each["Data"] for each in places[folder].records())

    keeps_destination_laws("kinesis", make, read, tmp_path, frame=ROWS)


def test_rows_become_records_in_the_order_of_their_keys(place: Place) -> None:
    given = [{"n": n, "g": n % 7} for n in range(1_200)]
    assert write(place, given, 'partition_key: "g{g}"').error is None
    found = place.records()
    assert len(found) == 1_200
    for group in range(7):
        of_group = [json.loads(r["Data"])["n"] for r in found if r["PartitionKey"] == f"g{group}"]
        assert of_group == list(range(group, 1_200, 7))


def test_rows_without_a_key_are_spread_and_what_does_not_fit_is_a_dead_letter(
    place: Place,
) -> None:
    given = [{"value": f"row {n}"} for n in range(50)] + [{"value": "x" * ((1 << 20) + 1)}]
    result = write(place, given, "format: text", "on_error: dead_letter")
    assert (result.error, result.steps["out"]["dead_letters"]) == (None, 1)
    found = place.records()
    assert sorted(r["Data"] for r in found) == sorted(f"row {n}".encode() for n in range(50))
    assert len({r["PartitionKey"] for r in found}) == 50


def test_a_record_that_was_not_taken_is_sent_again_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[list[bytes]] = []
    code = "ProvisionedThroughputExceededException"
    ask = Stream.ask

    def refuses_some(stream: Stream, call: str, **arguments: Any) -> Any:
        if call != "put_records":
            return ask(stream, call, **arguments)
        records = arguments["Records"]
        sent.append([each["Data"] for each in records])
        if len(sent) > 1:
            return ask(stream, call, Records=records)
        ask(stream, call, Records=[records[0], records[3]])
        outcomes: list[dict[str, Any]] = [{}, {"ErrorCode": code}, {"ErrorCode": code}, {}]
        return {"FailedRecordCount": 2, "Records": outcomes}

    monkeypatch.setattr(Stream, "ask", refuses_some)
    given = [{"value": f"r{n}"} for n in range(4)]
    assert write(place, given, "format: text, partition_key: one").error is None
    assert sent == [[b"r0", b"r1", b"r2", b"r3"], [b"r1", b"r2"]]
    assert sorted(r["Data"] for r in place.records()) == [b"r0", b"r1", b"r2", b"r3"]
    code, sent[:] = "ValidationException", []
    result = write(place, given, "format: text, partition_key: one")
    assert result.error is not None
    assert (result.error.code, "ValidationException" in str(result.error)) == ("E0510", True)
    sent[:] = []
    result = write(place, given, "format: text, partition_key: one", "on_error: skip")
    assert (result.error, result.steps["out"]["errors"], len(sent)) == (None, 2, 1)


def test_a_plan_says_what_is_guaranteed_and_wrong_options_are_refused() -> None:
    there = {"stream": "s", "region": "eu-west-1"}
    assert source_of("kinesis", there).capabilities().replay.value == "exact"
    made = destination_of("kinesis", there)
    assert made.capabilities().delivery.value == "at least once"
    for wrong in ({"stream": "a/b"}, {"start": "group"}, {"profile": "a", "access_key_id": "b"}):
        with pytest.raises(ConfigError):
            source_of("kinesis", {**there, **wrong})


def test_the_example_runs_as_it_stands(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", place.server.endpoint)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    orders, clean = (Place(place.server, place.folder, name=name) for name in ("orders", "clean"))
    orders.put(*((each["customer"], json.dumps(each).encode()) for each in ORDERS))
    assert orders.run(example("kinesis")).error is None
    assert in_order(each["Data"] for each in clean.records()) == GOOD
