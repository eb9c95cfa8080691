"""MQTT 5 as a source and a destination, on a real broker."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from broker_moving import GOOD, ORDERS, ROWS, Endless, endless, example, in_order, name_of, rows_of
from conformance import keeps_destination_laws
from mqtt_kit import Place
from servers.mosquitto import MosquittoServer

from dataflare.errors import ConfigError, DataFlareError
from dataflare.testing import FaultProxy, destination_of, source_of


def reading(
    place: Place, url: str = "SERVER", handling: str = "", interval: str = "30s"
) -> Endless:
    config = f'connection: "{url}", topic: TOPIC/in, client_id: SESSION, id: id, timeout: 2s'
    return Endless(place, endless("mqtt", config, handling, interval))


def test_messages_that_the_broker_kept_come_once_over_kills_of_the_run(place: Place) -> None:
    """The broker sends 20 at a time, so checkpoints come before their time; they are acknowledged then."""
    place.session()
    place.numbers(0, 120)
    with reading(place) as running:
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
        with reading(place, url, interval="500ms") as running:
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
    handling = f"on_error: dead_letter, dead_letter: {{path: {dead}}}"
    with reading(place, handling=handling) as running:
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
    return place.write("mqtt", f'connection: "SERVER", {more}', rows, handling)


def test_it_keeps_the_contract_of_destinations(place: Place, tmp_path: Path) -> None:
    listening = place.listening()

    def topic(folder: Path) -> str:
        return f"{place.topic}/out/{name_of(folder)}"

    def make(folder: Path) -> Any:
        there = {"connection": place.server.url, "topic": topic(folder)}
        return destination_of("mqtt", there, base=folder)

    def read(folder: Path) -> pl.DataFrame:
        found = listening.so_far()
        return rows_of(each.payload for each in found if each.topic == topic(folder))

    keeps_destination_laws("mqtt", make, read, tmp_path, frame=ROWS)
    listening.close()


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


def test_the_example_runs_as_it_stands(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT", place.server.url)
    listening = place.listening("clean/#")
    with Endless(place, example("mqtt")):
        # Without a session the broker keeps nothing, so one order is sent until the run is there.
        while not listening.so_far():
            place.put([(b'{"id": -1, "customer": "x", "amount": 11}', "-1")], "orders/x/new")
        place.put([(json.dumps(each).encode(), str(each["id"])) for each in ORDERS], "orders/x/new")
        while len(listening.so_far()) < len(GOOD) + 1:
            continue
    found = [each for each in listening.close() if each.topic != "clean/x"]
    assert in_order(each.payload for each in found) == GOOD
    assert {each.topic for each in found} == {"clean/c0", "clean/c1", "clean/c2"}
