"""MQTT 5 as a source and a destination, on a real broker."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from broker_moving import Endless
from mqtt_kit import Place
from servers.mosquitto import MosquittoServer

from dataflare.errors import ConfigError, DataFlareError
from dataflare.testing import FaultProxy, destination_of, source_of

ENDLESS = """\
name: endless
settings:
  parallelism: 1
  checkpoint: {interval: 30s}
  restart: {attempts: 1000, delay: 50ms, max_delay: 300ms}
sources:
  given:
    type: mqtt
    config: {connection: "URL", topic: TOPIC/in, client_id: SESSION, id: id, timeout: 2s}
    schema: {n: int64, text: string}
    error_handling: {retry_policy: {max_attempts: 1000, initial_backoff: 50ms, max_backoff: 300ms}MORE}
destinations:
  out: {type: sqlite, inputs: [given], config: {path: out.db, table: t}}
"""


def endless(place: Place, url: str = "SERVER", more: str = "", interval: str = "30s") -> Endless:
    workflow = ENDLESS.replace("URL", url).replace("MORE", more)
    return Endless(place, workflow.replace("interval: 30s", f"interval: {interval}"))


def test_messages_that_the_broker_kept_come_once_over_kills_of_the_run(place: Place) -> None:
    """The broker sends 20 at a time, so checkpoints come before their time; they are acknowledged then."""
    place.session()
    place.numbers(0, 120)
    with endless(place) as running:
        running.wait_rows(40)
        running.kill()
        place.numbers(120, 150)
        running.start()
        # The last few, less than half of what the broker sends, come with the checkpoint of the end.
        running.wait_rows(141)
    assert running.numbers() == list(range(150))


def test_each_message_comes_once_over_a_network_that_breaks(
    place: Place,
) -> None:
    place.session()
    with FaultProxy("127.0.0.1", place.server.port, seed=5) as proxy:
        url = place.server.url.replace(f":{place.server.port}", f":{proxy.port}")
        with endless(place, url, interval="500ms") as running:
            for part, break_it in enumerate((proxy.reset, proxy.half_open, proxy.cut)):
                place.numbers(part * 60, part * 60 + 60)
                running.wait_rows(part * 60 + 51)
                break_it()
            place.numbers(180, 200)
            running.wait_rows(200)
    assert running.numbers() == list(range(200))


def test_a_poison_message_is_a_dead_letter_with_its_bytes(place: Place) -> None:
    place.session()
    place.put([(b'{"n": "x', "bad1"), (b"\xff\xfe", "bad2")])
    place.numbers(0, 30)
    dead = place.folder / "dead"
    more = f", on_error: dead_letter, dead_letter: {{path: {dead}}}"
    with endless(place, more=more) as running:
        running.wait_rows(20)
    assert running.numbers() == list(range(30))
    text = "".join(path.read_text() for path in dead.rglob("*") if path.is_file())
    assert "base64://4=" in text
    assert f"{place.topic}/in message bad2" in text


def failure(place: Place, **more: Any) -> DataFlareError:
    there = {"connection": place.server.url, "topic": "x", "client_id": "c", "format": "text"}
    source = source_of("mqtt", {**there, "timeout": "3s", **more})

    async def try_it() -> None:
        await source.validate()
        (split,) = await source.splits()
        try:
            await source.open(split, None)
        finally:
            await source.aclose()

    with pytest.raises(DataFlareError) as caught:
        asyncio.run(try_it())
    return caught.value


def test_errors_name_what_is_wrong(place: Place, mosquitto: MosquittoServer) -> None:
    found = failure(place, connection=mosquitto.url.replace("s3cret", "wrong"))
    assert (found.code, "wrong" in str(found)) == ("E0606", False)
    assert failure(place, connection="mqtt://127.0.0.1:1").code == "E0607"
    assert failure(place, connection=mosquitto.tls_url).code == "E0609"


def write(place: Place, rows: list[dict[str, Any]], more: str, handling: str = "") -> Any:
    text = f"""\
name: write
sources:
  rows: {{type: inline, config: {{rows: {json.dumps(rows)}}}}}
destinations:
  out:
    type: mqtt
    inputs: [rows]
    config: {{connection: "SERVER", {more}}}
"""
    if handling:
        text += f"    error_handling: {{{handling}}}\n"
    return place.run(text)


def test_rows_become_messages_in_their_order(place: Place) -> None:
    listening = place.listening()
    rows = [{"n": n, "to": "a", "t": "x"} for n in range(700)]
    more = "topic: 'TOPIC/out/{to}', id: n, headers: {trace: t}"
    assert write(place, rows, more).error is None
    end = {"n": -1, "to": "z", "t": None}
    assert write(place, [end], more).error is None
    found = listening.close()
    assert [json.loads(each.payload)["n"] for each in found] == [*range(700), -1]
    assert found[7].topic == f"{place.topic}/out/a"
    assert found[7].properties.UserProperty == [("trace", "x"), ("id", "7")]


def test_what_cannot_be_a_message_is_a_dead_letter(place: Place) -> None:
    rows = [{"n": n, "to": to} for n, to in enumerate(["ok", "a#", None])]
    result = write(place, rows, "topic: 'TOPIC/{to}'", "on_error: dead_letter")
    assert (result.error, result.steps["out"]["dead_letters"]) == (None, 2)


def test_a_topic_without_the_right_to_write_is_an_error(
    place: Place, mosquitto: MosquittoServer
) -> None:
    result = place.run(
        f"""\
name: write
sources:
  rows: {{type: inline, config: {{rows: [{{n: 1}}]}}}}
destinations:
  out: {{type: mqtt, inputs: [rows], config: {{connection: "{mosquitto.guest}", topic: TOPIC/x}}}}
"""
    )
    assert result.error is not None
    assert result.error.code == "E0602"


def test_a_plan_says_what_is_guaranteed(tmp_path: Path) -> None:
    there = {"connection": "mqtt://localhost", "topic": "a/+/b", "client_id": "c"}
    assert source_of("mqtt", there).capabilities().repeats
    assert not source_of("mqtt", {**there, "id": "id"}).capabilities().repeats
    made = destination_of("mqtt", {"connection": "mqtt://localhost", "topic": "a"})
    assert made.capabilities().delivery.value == "at least once"
    for wrong in ({"topic": "a/#/b"}, {"topic": "a+"}, {"tls": {}}, {"qos": 0}):
        with pytest.raises(ConfigError):
            source_of("mqtt", {**there, **wrong})
