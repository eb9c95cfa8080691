"""NATS JetStream as a source and a destination, on a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from broker_moving import Endless, Moving
from nats_kit import Place
from servers import services
from servers.nats import NatsServer

from dataflare.errors import ConfigError, DataFlareError
from dataflare.testing import FaultProxy, check_source, destination_of, read_source, source_of

COPY = """\
name: copy
settings: {parallelism: 2, checkpoint: {interval: 20ms}}
sources:
  given:
    type: nats
    config: {connection: "SERVER", stream: STREAM, MORE}
    schema: {n: int64}
DEADdestinations:
  out: {type: file, inputs: [given], config: {path: out, format: parquet}}
"""
DURABLE = ", durable: d, ack_wait: 2s"
KINDS = pytest.mark.parametrize("durable", ["", DURABLE], ids=["sequence", "durable"])


def copy(more: str = "stop: latest", handling: str = "") -> str:
    dead = f"    error_handling: {{{handling}}}\n" if handling else ""
    return COPY.replace("MORE", more).replace("DEAD", dead)


def numbers(place: Place) -> list[int]:
    return sorted(pl.read_parquet(place.folder / "out" / "*.parquet")["n"].to_list())


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
    asyncio.run(check_source(lambda: source_of("nats", config(place, **more))))


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
    assert place.run(copy("stop: latest" + durable)).steps["given"]["rows_out"] == 0
    assert numbers(place) == list(range(150))
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
    assert numbers(place) == list(range(10_000))
    assert place.call(lambda js: js.stream_info(place.stream)).state.messages == 0


@KINDS
def test_a_poison_message_is_a_dead_letter_with_its_bytes(place: Place, durable: str) -> None:
    place.numbers(0, 3)
    place.put([b'{"n": "x', b"\xff\xfe", b'{"n": 3}'])
    dead = place.folder / "dead"
    more = "stop: latest" + durable
    result = place.run(copy(more, f"on_error: dead_letter, dead_letter: {{path: {dead}}}"))
    assert (result.error, result.steps["given"]["dead_letters"]) == (None, 2)
    assert numbers(place) == [0, 1, 2, 3]
    text = "".join(path.read_text() for path in dead.rglob("*") if path.is_file())
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


ENDLESS = """\
name: endless
settings:
  parallelism: 1
  checkpoint: {interval: 20ms}
  restart: {attempts: 100, delay: 20ms, max_delay: 100ms}
sources:
  given:
    type: nats
    config: {connection: "URL", stream: STREAM, timeout: 1s, MORE}
    schema: {n: int64, text: string}
    error_handling: {retry_policy: {max_attempts: 100, initial_backoff: 20ms, max_backoff: 100ms}}
destinations:
  out: {type: sqlite, inputs: [given], config: {path: out.db, table: t}}
"""


@KINDS
def test_each_message_comes_once_over_a_network_that_breaks_and_a_server_that_dies(
    place: Place, durable: str
) -> None:
    with FaultProxy("127.0.0.1", place.server.port, seed=5) as proxy:
        url = place.server.url.replace(f":{place.server.port}", f":{proxy.port}")
        text = ENDLESS.replace("URL", url).replace(", MORE", durable)
        with Endless(place, text) as running:
            for part, break_it in enumerate((proxy.reset, proxy.half_open, None)):
                place.numbers(part * 50, part * 50 + 50)
                running.wait_rows(part * 50 + 50)
                if break_it is not None:
                    break_it()
            place.server.kill()
            place.server.start()
            place.numbers(150, 200)
            running.wait_rows(200)
            running.kill()
            place.numbers(200, 220)
            running.start()
            running.wait_rows(220)
    assert running.numbers() == list(range(220))
    if durable:
        assert place.unacknowledged("d") == 0


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


@KINDS
def test_each_message_is_moved_once_over_kills(place: Place, durable: str) -> None:
    """At the destination by Nats-Msg-Id."""
    rows = 10_000 if not durable else 3_000
    place.numbers(0, rows)
    moving = Moving(place, MOVE.replace(", MORE", durable))
    assert moving.die("engine.after_manifest")
    moving.finish()
    found = [json.loads(m.data)["n"] for m in place.messages() if m.subject.endswith(".out")]
    assert sorted(found) == list(range(rows))


def write(place: Place, rows: list[dict[str, Any]], more: str, handling: str = "") -> Any:
    text = f"""\
name: write
sources:
  rows: {{type: inline, config: {{rows: {json.dumps(rows)}}}}}
destinations:
  out:
    type: nats
    inputs: [rows]
    config: {{connection: "SERVER", {more}}}
"""
    if handling:
        text += f"    error_handling: {{{handling}}}\n"
    return place.run(text)


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
