"""RabbitMQ as a source and a destination, on a real server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from broker_moving import (
    GOOD,
    ORDERS,
    ROWS,
    certain_acknowledgements,
    comes_once,
    copying,
    endless,
    example,
    in_order,
    moved_once,
    moving,
    name_of,
    rows_of,
)
from conformance import keeps_destination_laws, keeps_source_laws
from rabbitmq_kit import Place
from servers.rabbitmq import RabbitmqServer

from dataflare.errors import ConfigError, DataFlareError
from dataflare.testing import FaultProxy, destination_of, read_source, source_of

THERE = 'connection: "SERVER", queue: QUEUE'


def copy(more: str = "id: message_id", handling: str = "") -> str:
    return copying("rabbitmq", f"{THERE}, stop: latest, {more}", handling)


def config(place: Place, **more: Any) -> dict[str, Any]:
    there = {"connection": place.server.url, "queue": place.queue, "stop": "latest", **more}
    return {"format": "text", **there}


def read(place: Place, **more: Any) -> pl.DataFrame:
    return asyncio.run(read_source(source_of("rabbitmq", config(place, **more))))


def failure(place: Place, **more: Any) -> DataFlareError:
    source = source_of("rabbitmq", config(place, timeout="3s", **more))

    async def try_it() -> None:
        await source.validate()
        await read_source(source)

    with pytest.raises(DataFlareError) as caught:
        asyncio.run(try_it())
    return caught.value


def test_it_keeps_the_contract_of_sources(place: Place) -> None:
    place.numbers(0, 60)
    more = {"metadata": ["id", "routing_key", "timestamp"]}
    keeps_source_laws("rabbitmq", lambda: source_of("rabbitmq", config(place, **more)))


def test_ten_thousand_messages_come_once_and_the_queue_is_empty_then(place: Place) -> None:
    """No more than 1,000 are without an acknowledgement, so checkpoints come before their time."""
    place.numbers(0, 10_000)
    result = place.run(copy("id: message_id, prefetch: 1000").replace("20ms", "60s"))
    assert (result.error, result.checkpoints > 10) == (None, True)
    assert place.copied() == list(range(10_000))
    assert place.waiting() == 0
    place.numbers(10_000, 10_050)
    result = place.run(copy("id: message_id, prefetch: 1000"), accept_changes=True)
    assert (result.error, result.steps["given"]["rows_out"]) == (None, 50)
    assert place.run(copy("id: message_id, prefetch: 1000")).steps["given"]["rows_out"] == 0


def test_what_rabbitmq_says_of_a_message_becomes_columns(place: Place) -> None:
    place.put([(b"x", "m1")], {"trace": "t", "n": 7})
    frame = read(place, metadata=["id", "exchange", "routing_key", "headers", "redelivered"])
    assert frame.rows(named=True) == [
        {"value": "x", "_id": "m1", "_exchange": "", "_routing_key": place.queue,
         "_headers": [{"key": "n", "value": b"7"}, {"key": "trace", "value": b"t"}],
         "_redelivered": False}
    ]  # fmt: skip


def test_a_message_that_was_sent_twice_comes_once_within_the_window(place: Place) -> None:
    place.numbers(0, 20)
    place.numbers(5, 10)
    result = place.run(copy())
    assert result.error is None
    assert place.copied() == list(range(20))
    assert any("delivered again" in text for text in result.warnings)
    place.put([(b'{"n": 20, "text": "a"}', None)])
    result = place.run(copy())
    assert result.error is None
    assert len(place.copied()) == 21


def test_a_poison_message_is_a_dead_letter_with_its_bytes(place: Place) -> None:
    place.numbers(0, 3)
    place.put([(b'{"n": "x', "bad1"), (b"\xff\xfe", "bad2"), (b'{"n": 3}', "m3")])
    result, text = place.dead_letters(copy(handling="DEAD"))
    assert (result.error, result.steps["given"]["dead_letters"]) == (None, 2)
    assert place.copied() == [0, 1, 2, 3]
    assert "base64://4=" in text
    assert f"{place.queue} message bad2" in text
    assert place.waiting() == 0


def test_without_a_checkpoint_a_message_stays_in_the_queue(place: Place) -> None:
    place.put([(b"{", "bad")])
    result = place.run(copy())
    assert result.error is not None
    assert result.error.code == "E0503"
    assert place.waiting() == 1


def test_errors_name_what_is_wrong(place: Place, rabbitmq: RabbitmqServer) -> None:
    assert failure(place, queue="nothing").code == "E0604"
    found = failure(place, connection=rabbitmq.url.replace("s3cret", "wrong"))
    assert (found.code, "wrong" in str(found)) == ("E0606", False)
    assert failure(place, connection=rabbitmq.guest).code == "E0602"
    assert failure(place, connection="amqp://127.0.0.1:1").code == "E0607"
    tls = {"connection": rabbitmq.tls_url, "queue": "nothing"}
    assert failure(place, **tls, tls={"ca": str(rabbitmq.certificate)}).code == "E0604"
    assert failure(place, **tls).code == "E0609"


@pytest.mark.parametrize("kind", ["quorum", "stream"])
def test_each_message_comes_once_over_a_network_that_breaks_and_a_server_that_dies(
    rabbitmq: RabbitmqServer, tmp_path: Path, kind: str
) -> None:
    place = Place(rabbitmq, tmp_path, kind)
    more = "id: message_id" if kind == "quorum" else "kind: stream"
    text = endless("rabbitmq", f"{THERE}, timeout: 2s, {more}")
    comes_once(place, text, port=rabbitmq.port, server=rabbitmq if kind == "quorum" else None)
    if kind == "quorum":
        assert place.waiting() == 0


def test_an_acknowledgement_that_the_network_lost_is_not_certain(place: Place) -> None:
    place.numbers(0, 20)
    with FaultProxy("127.0.0.1", place.server.port) as proxy:
        there = place.server.url.replace(f":{place.server.port}", f":{proxy.port}")
        source = source_of("rabbitmq", config(place, connection=there, timeout="1s"))
        assert certain_acknowledgements(source, proxy) == [10, 10]


def test_each_message_is_moved_once_over_kills_between_commit_and_acknowledgement(
    place: Place,
) -> None:
    more = "stop: latest, id: message_id, prefetch: 300"
    moved_once(place, moving("rabbitmq", f"{THERE}, {more}"), 1_000)
    assert place.waiting() == 0


def write(place: Place, rows: list[dict[str, Any]], more: str, handling: str = "") -> Any:
    return place.write("rabbitmq", f'connection: "SERVER", {more}', rows, handling)


def test_it_keeps_the_contract_of_destinations(place: Place, tmp_path: Path) -> None:
    def make(folder: Path) -> Any:
        place.make(name_of(folder))
        there = {"connection": place.server.url, "routing_key": name_of(folder)}
        return destination_of("rabbitmq", there, base=folder)

    def read(folder: Path) -> pl.DataFrame:
        return rows_of(each.body for each in place.taken(name_of(folder)))

    keeps_destination_laws("rabbitmq", make, read, tmp_path, frame=ROWS)


def test_rows_become_messages(place: Place) -> None:
    rows = [{"n": n, "t": "x"} for n in range(2_000)]
    assert write(place, rows, "routing_key: QUEUE, id: n, headers: {trace: t}").error is None
    found = place.taken()
    assert [json.loads(each.body)["n"] for each in found] == list(range(2_000))
    about = found[7].header.properties
    assert (about.message_id, about.headers["trace"], about.delivery_mode) == ("7", "x", 2)


def test_what_no_queue_gets_is_an_error(place: Place) -> None:
    rows = [{"n": 1, "to": "nowhere"}]
    result = write(place, rows, "routing_key: '{to}'")
    assert result.error is not None
    assert result.error.code == "E0604"
    rows = [{"n": 1, "to": place.queue}, {"n": 2, "to": "x" * 300}]
    result = write(place, rows, "routing_key: '{to}'", "on_error: dead_letter")
    assert (result.error, result.steps["out"]["dead_letters"]) == (None, 1)
    with pytest.raises(DataFlareError, match="NOT_FOUND"):
        write(place, rows, "exchange: nothing")


def test_a_plan_says_what_is_guaranteed() -> None:
    there = {"connection": "amqp://localhost", "queue": "q"}
    assert source_of("rabbitmq", there).capabilities().repeats
    assert not source_of("rabbitmq", {**there, "id": "message_id"}).capabilities().repeats
    made = destination_of("rabbitmq", {"connection": "amqp://localhost", "routing_key": "q"})
    assert made.capabilities().delivery.value == "at least once"
    for wrong in ({"start": "latest"}, {"kind": "stream", "stop": "latest"}, {"tls": {}}):
        with pytest.raises(ConfigError):
            source_of("rabbitmq", {**there, **wrong})


def test_the_example_runs_as_it_stands(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ", place.server.url)
    for name in ("clean", "orders"):
        place.make(name)
    place.queue = "orders"
    place.put((json.dumps(each).encode(), str(each["id"])) for each in ORDERS)
    assert place.run(example("rabbitmq")).error is None
    assert in_order(each.body for each in place.taken("clean")) == GOOD
