"""NATS JetStream as a source and a destination, on a real server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from broker_moving import (
    GOOD,
    ORDERS,
    ROWS,
    Endless,
    Moving,
    certain_acknowledgements,
    comes_once,
    copying,
    endless,
    example,
    in_order,
    name_of,
    rows_of,
)
from conformance import keeps_destination_laws, keeps_source_laws
from nats_kit import Place
from servers import services
from servers.nats import NatsServer

from dataflare.errors import ConfigError, DataFlareError
from dataflare.testing import (
    FaultProxy,
    check_destination,
    destination_of,
    read_source,
    source_of,
)

THERE = 'connection: "SERVER", stream: STREAM'
DURABLE = ", durable: d, ack_wait: 2s"
KINDS = pytest.mark.parametrize("durable", ["", DURABLE], ids=["sequence", "durable"])


def copy(more: str = "stop: latest", handling: str = "") -> str:
    return copying("nats", f"{THERE}, {more}", handling)


def config(place: Place, **more: Any) -> dict[str, Any]:
    return {"connection": place.server.url, "stream": place.stream, "stop": "latest", **more}


def read(place: Place, **more: Any) -> pl.DataFrame:
    return asyncio.run(read_source(source_of("nats", config(place, **more))))


def failure(place: Place, **more: Any) -> DataFlareError:
    source = source_of("nats", config(place, timeout="2s", **more))

    async def try_it() -> None:
        await source.validate()
        await read_source(source)

    with pytest.raises(DataFlareError) as caught:
        asyncio.run(try_it())
    return caught.value


def test_it_keeps_the_contract_of_sources(place: Place) -> None:
    place.numbers(0, 300)
    more = {"metadata": ["subject", "sequence", "timestamp", "id", "headers"]}
    keeps_source_laws("nats", lambda: source_of("nats", config(place, **more)))


def test_what_nats_says_of_a_message_becomes_columns(place: Place) -> None:
    place.put([b'{"n": 1}'], "eu", **{"Nats-Msg-Id": "m1", "trace": "t"})
    place.put([b'{"n": 2}'], "us")
    frame = read(place, metadata=["subject", "sequence", "id", "headers"])
    assert frame.rows(named=True) == [
        {"n": 1, "_subject": f"{place.stream}.eu", "_sequence": 1, "_id": "m1",
         "_headers": [{"key": "Nats-Msg-Id", "value": b"m1"}, {"key": "trace", "value": b"t"}]},
        {"n": 2, "_subject": f"{place.stream}.us", "_sequence": 2, "_id": None, "_headers": None},
    ]  # fmt: skip
    assert read(place, subject=f"{place.stream}.us")["n"].to_list() == [2]


def test_reading_begins_where_start_says(place: Place) -> None:
    place.numbers(0, 10)
    found = read(place, metadata=["timestamp"])
    assert read(place, start={"sequence": 8})["n"].to_list() == [7, 8, 9]
    assert read(place, start="latest")["n"].to_list() == []
    later = found["_timestamp"][4]
    wanted = found.filter(pl.col("_timestamp") >= later)["n"].to_list()
    assert read(place, start={"time": later.isoformat()})["n"].to_list() == wanted


@KINDS
def test_the_next_run_goes_on_where_the_last_one_ended(place: Place, durable: str) -> None:
    place.numbers(0, 100)
    assert place.run(copy("stop: latest" + durable)).error is None
    place.numbers(100, 150)
    result = place.run(copy("stop: latest" + durable))
    assert (result.error, result.steps["given"]["rows_out"]) == (None, 50)
    for _ in range(3):
        assert place.run(copy("stop: latest" + durable)).steps["given"]["rows_out"] == 0
    assert place.copied() == list(range(150))
    if durable:
        assert place.unacknowledged("d") == 0


def test_a_work_queue_is_empty_when_a_checkpoint_has_its_messages(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    place = Place(nats_server, tmp_path, retention="workqueue")
    place.numbers(0, 10_000)
    assert failure(place).code == "E0405"
    # No more than 500 are without an acknowledgement, so checkpoints come before their time.
    text = copy("stop: latest, durable: d, prefetch: 500").replace("20ms", "60s")
    result = place.run(text)
    assert (result.error, result.checkpoints > 10) == (None, True)
    assert place.copied() == list(range(10_000))
    assert place.call(lambda js: js.stream_info(place.stream)).state.messages == 0


@KINDS
def test_a_poison_message_is_a_dead_letter_with_its_bytes(place: Place, durable: str) -> None:
    place.numbers(0, 3)
    place.put([b'{"n": "x', b"\xff\xfe", b'{"n": 3}'])
    result, text = place.dead_letters(copy("stop: latest" + durable, "DEAD"))
    assert (result.error, result.steps["given"]["dead_letters"]) == (None, 2)
    assert place.copied() == [0, 1, 2, 3]
    assert "base64://4=" in text
    assert f"{place.stream} sequence 5" in text


def test_messages_that_were_removed_before_they_were_read_are_told(place: Place) -> None:
    place.numbers(0, 10)
    assert place.run(copy()).error is None
    place.numbers(10, 40)
    place.call(lambda js: js.purge_stream(place.stream, keep=10))
    result = place.run(copy())
    assert result.error is not None
    assert (result.error.code, "20 messages" in result.error.message) == ("E0605", True)
    result = place.run(copy("stop: latest, lost_messages: skip"), accept_changes=True)
    assert (result.error, result.steps["given"]["rows_out"]) == (None, 10)


@KINDS
def test_a_stream_that_was_made_again_is_noticed(place: Place, durable: str) -> None:
    place.numbers(0, 10)
    assert place.run(copy("stop: latest" + durable)).error is None
    place.call(lambda js: js.delete_stream(place.stream))
    with pytest.raises(DataFlareError, match="there is no stream"):
        place.run(copy("stop: latest" + durable))
    place.make(place.stream)
    place.numbers(0, 20)
    result = place.run(copy("stop: latest" + durable))
    assert result.error is not None
    assert "deleted and made again" in result.error.message


def test_errors_name_what_is_wrong(place: Place, nats_server: NatsServer) -> None:
    assert failure(place, stream="nothing").code == "E0604"
    found = failure(place, connection=nats_server.url.replace("s3cret", "wrong"))
    assert (found.code, "wrong" in str(found)) == ("E0606", False)
    assert failure(place, connection="nats://127.0.0.1:1").code == "E0607"
    assert failure(place, connection=nats_server.guest).code == "E0602"


@pytest.fixture(scope="session")
def tls_server() -> Iterator[NatsServer]:
    yield from services.running("nats", tls=True)


def test_tls_is_spoken_and_a_certificate_is_checked(place: Place, tls_server: NatsServer) -> None:
    there = {"connection": tls_server.url, "tls": {"ca": str(tls_server.certificate)}}
    assert failure(place, **there).code == "E0604"
    assert failure(place, connection=tls_server.url, tls=True).code == "E0609"


@KINDS
def test_each_message_comes_once_over_a_network_that_breaks_and_a_server_that_dies(
    place: Place, durable: str
) -> None:
    text = endless("nats", f"{THERE}, timeout: 1s{durable}")
    left = partial(place.unacknowledged, "d") if durable else lambda: 0
    comes_once(place, text, port=place.server.port, server=place.server, unacknowledged=left)


MOVE = """\
name: moving
settings:
  parallelism: 2
  checkpoint: {interval: 10ms}
sources:
  given:
    type: nats
    config: {connection: "SERVER", stream: STREAM, subject: STREAM.a, stop: latest, MORE}
    schema: {n: int64}
destinations:
  out:
    type: nats
    inputs: [given]
    config: {connection: "SERVER", subject: STREAM.out, id: n}
"""


def test_an_acknowledgement_that_the_network_lost_is_not_certain(place: Place) -> None:
    place.numbers(0, 20)
    with FaultProxy("127.0.0.1", place.server.port) as proxy:
        there = place.server.url.replace(f":{place.server.port}", f":{proxy.port}")
        source = source_of("nats", config(place, connection=there, durable="d", timeout="1s"))
        assert certain_acknowledgements(source, proxy) == [10, 10]


def test_what_comes_again_behind_more_messages_than_the_window_comes_once(place: Place) -> None:
    """The server delivers again only after `ack_wait`, and new messages before."""
    text = endless("nats", f"{THERE}, window: 10, durable: d, ack_wait: 5s")
    place.numbers(0, 300)
    assert Moving(place, text).die("broker.before_acknowledge")
    place.numbers(300, 700)
    with Endless(place, text) as running:
        running.wait_rows(700)
        while place.unacknowledged("d"):
            time.sleep(0.1)
    assert running.numbers() == list(range(700))


@KINDS
def test_each_message_is_moved_once_over_kills(place: Place, durable: str) -> None:
    """At the destination by Nats-Msg-Id."""
    rows = 10_000 if not durable else 3_000
    place.numbers(0, rows)
    moves = Moving(place, MOVE.replace(", MORE", durable))
    assert moves.die("engine.after_manifest")
    moves.finish()
    found = [json.loads(m.data)["n"] for m in place.messages() if m.subject.endswith(".out")]
    assert sorted(found) == list(range(rows))


def write(place: Place, rows: list[dict[str, Any]], more: str, handling: str = "") -> Any:
    return place.write("nats", f'connection: "SERVER", {more}', rows, handling)


@pytest.mark.parametrize("more", [{"id": "n"}, {}], ids=["id", "none"])
def test_it_keeps_the_contract_of_destinations(
    place: Place, tmp_path: Path, more: dict[str, Any]
) -> None:
    made: set[str] = set()

    def make(folder: Path) -> Any:
        name = name_of(folder)
        if name not in made:
            made.add(name)
            place.make(name)
        there = {"connection": place.server.url, "subject": f"{name}.a"}
        return destination_of("nats", {**there, **more}, base=folder)

    def read(folder: Path) -> pl.DataFrame:
        return rows_of(each.data for each in place.messages(name_of(folder)))

    if more:
        keeps_destination_laws("nats", make, read, tmp_path, frame=ROWS)
    else:
        asyncio.run(check_destination(make, read, tmp_path, frame=ROWS))


def test_rows_become_messages_of_the_subjects_of_their_columns(place: Place) -> None:
    rows = [{"n": 1, "to": "eu", "t": "x"}, {"n": 2, "to": "us", "t": None}]
    more = "subject: 'STREAM.{to}', id: n, headers: {trace: t}"
    assert write(place, rows, more).error is None
    found = [(m.subject, json.loads(m.data)["n"], m.headers) for m in place.messages()]
    assert found == [
        (f"{place.stream}.eu", 1, {"Nats-Msg-Id": "1", "trace": "x"}),
        (f"{place.stream}.us", 2, {"Nats-Msg-Id": "2"}),
    ]
    assert write(place, rows, more).error is None
    assert len(place.messages()) == 2  # the ids were there


def test_what_cannot_be_a_message_is_a_dead_letter(place: Place) -> None:
    rows = [{"n": n, "to": to, "pad": pad} for n, (to, pad) in enumerate(
        [("ok", ""), ("a b", ""), (None, ""), ("*", ""), ("ok", "x" * 1_100_000)]
    )]  # fmt: skip
    result = write(place, rows, "subject: 'STREAM.{to}'", "on_error: dead_letter")
    assert (result.error, result.steps["out"]["dead_letters"]) == (None, 4)
    assert [row["n"] for row in place.rows()] == [0]


def test_a_subject_that_no_stream_has_is_an_error(place: Place) -> None:
    with pytest.raises(DataFlareError, match="has the subject"):
        write(place, [{"n": 1}], "subject: nowhere.a")


def test_a_destination_says_what_it_guarantees() -> None:
    def made(**more: Any) -> str:
        there = {"connection": "nats://localhost", "subject": "a", **more}
        return destination_of("nats", there).capabilities().delivery.value

    assert (made(), made(id="n")) == ("at least once", "effectively once")
    with pytest.raises(ConfigError):
        made(subject="a.*")
    with pytest.raises(ConfigError):
        made(headers={"Nats-Msg-Id": "n"})


def test_the_example_runs_as_it_stands(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS", place.server.url)
    for name in ("orders", "clean"):
        place.make(name)
    place.stream = "orders"
    place.put((json.dumps(each).encode() for each in ORDERS), "new")
    assert place.run(example("nats")).error is None
    assert in_order(each.data for each in place.messages("clean")) == GOOD
