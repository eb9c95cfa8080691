"""Apache Pulsar as a source and a destination, on a real broker."""

from __future__ import annotations

import asyncio
import gc
import json
import os
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
    name_of,
    rows_of,
)
from conformance import keeps_destination_laws, keeps_source_laws
from pulsar_kit import Place
from servers.pulsar import PulsarServer

from dataflare.errors import DataFlareError
from dataflare.sdk.source import SourceConnector
from dataflare.testing import destination_of, read_source, source_of

THERE = 'connection: "SERVER", token: JWT, topic: TOPIC, subscription: s'


def copy(more: str = "", handling: str = "") -> str:
    return copying("pulsar", f"{THERE}, stop: latest{more}", handling)


def config(place: Place, **more: Any) -> dict[str, Any]:
    server = place.server
    there = {"connection": server.url, "token": server.token, "topic": place.topic}
    return {**there, "subscription": "s", "stop": "latest", **more}


def read(place: Place, **more: Any) -> pl.DataFrame:
    return asyncio.run(closing(source_of("pulsar", config(place, format="text", **more))))


async def closing(source: SourceConnector) -> pl.DataFrame:
    """What a source gives, and its subscription is free for another one then."""
    try:
        await source.validate()
        return await read_source(source)
    finally:
        await source.aclose()


def failure(place: Place, **more: Any) -> DataFlareError:
    source = source_of("pulsar", config(place, **{"timeout": "3s", "format": "text", **more}))

    with pytest.raises(DataFlareError) as caught:
        asyncio.run(closing(source))
    return caught.value


@pytest.mark.parametrize("partitions", [0, 2])
def test_it_keeps_the_contract_of_sources(
    pulsar_server: PulsarServer, tmp_path: Path, partitions: int
) -> None:
    place = Place(pulsar_server, tmp_path, partitions)
    place.numbers(0, 60)
    more = {"metadata": ["id", "key", "timestamp"], "format": "text"}
    keeps_source_laws("pulsar", lambda: source_of("pulsar", config(place, **more)))


def test_ten_thousand_messages_come_once_and_are_acknowledged_then(
    pulsar_server: PulsarServer, tmp_path: Path
) -> None:
    place = Place(pulsar_server, tmp_path, 3)
    place.numbers(0, 10_000)
    assert place.run(copy()).error is None
    assert place.copied() == list(range(10_000))
    place.numbers(10_000, 10_050)
    result = place.run(copy())
    assert (result.error, result.steps["given"]["rows_out"]) == (None, 50)
    for _ in range(3):
        assert place.run(copy()).steps["given"]["rows_out"] == 0
    assert place.copied() == list(range(10_050))


def test_a_source_that_was_closed_leaves_no_file_open(place: Place) -> None:
    place.put([b"x"], False)
    open_files = []
    for _ in range(8):
        read(place)
        gc.collect()
        open_files.append(len(os.listdir("/proc/self/fd")))
    # A client has at least three files, and its threads may end a moment later.
    assert open_files[-1] < open_files[0] + 3 * 6, open_files


def test_what_a_checkpoint_has_is_acknowledged_and_nothing_else(place: Place) -> None:
    place.numbers(0, 100)
    place.put([b"{"], batching=False)
    result = place.run(copy())
    assert result.error is not None
    assert result.error.code == "E0503"
    assert place.backlog() > 0
    assert place.run(copy(handling="on_error: skip"), accept_changes=True).error is None
    assert (place.copied(), place.backlog()) == (list(range(100)), 0)


def test_what_pulsar_says_of_a_message_becomes_columns(place: Place) -> None:
    place.put([b"x"], False, partition_key="k", properties={"t": "u"}, event_timestamp=1_000)
    place.put([b"y"], False)
    frame = read(place, metadata=["topic", "key", "event_time", "headers", "redelivered"])
    topic = f"persistent://public/default/{place.topic}"
    assert frame.with_columns(pl.col("_event_time").dt.epoch("ms")).rows(named=True) == [
        {"value": "x", "_topic": topic, "_key": b"k", "_event_time": 1_000,
         "_headers": [{"key": "t", "value": b"u"}], "_redelivered": 0},
        {"value": "y", "_topic": topic, "_key": None, "_event_time": None, "_headers": None,
         "_redelivered": 0},
    ]  # fmt: skip


def test_keys_are_read_as_their_format_says(place: Place) -> None:
    place.put([b"x"], False, partition_key="k\u00e9y")
    place.put([b"y"], False)
    assert read(place, metadata=["key"], key_format="text").rows() == [
        ("x", "k\u00e9y"),
        ("y", None),
    ]
    assert read(place, metadata=["key"], subscription="t")["_key"].dtype == pl.Binary
    with pytest.raises(DataFlareError, match="'key_format' cannot be json"):
        source_of("pulsar", config(place, metadata=["key"], key_format="json"))


def test_a_poison_message_is_a_dead_letter_with_its_bytes(place: Place) -> None:
    place.numbers(0, 3)
    place.put([b'{"n": "x', b"\xff\xfe", b'{"n": 3}'], False)
    result, text = place.dead_letters(copy(handling="DEAD"))
    assert (result.error, result.steps["given"]["dead_letters"]) == (None, 2)
    assert place.copied() == [0, 1, 2, 3]
    assert "base64://4=" in text
    assert f"{place.topic} message" in text


def test_a_topic_without_the_place_up_to_which_it_was_read_is_noticed(place: Place) -> None:
    place.numbers(0, 10)
    source = source_of("pulsar", config(place, format="text"))
    name = f"persistent://public/default/{place.topic}"

    async def carried() -> None:
        try:
            (split,) = await source.splits({name: {"after": [1 << 40, 0, -1]}})
            await source.feed(split, None)
        finally:
            await source.aclose()

    with pytest.raises(DataFlareError, match="deleted and made again"):
        asyncio.run(carried())


def test_errors_name_what_is_wrong(place: Place, pulsar_server: PulsarServer) -> None:
    server = pulsar_server
    found = failure(place, token="not.a.token")
    assert (found.code, "not.a.token" in str(found)) == ("E0606", False)
    assert failure(place, token=None).code == "E0606"
    assert failure(place, token=server.guest).code == "E0602"
    assert failure(place, connection="pulsar://127.0.0.1:1").code == "E0607"
    tls = {"connection": server.tls_url}
    assert failure(place, **tls).code == "E0609"
    place.put([b"x"])
    assert read(place, **tls, tls={"ca": str(server.certificate)})["value"].to_list() == ["x"]
    with place.client() as client:
        client.subscribe(place.topic, "s")
        assert failure(place).code == "E0605"


@pytest.mark.rotates(2)
def test_each_message_comes_once_over_a_network_that_breaks_and_a_server_that_dies(
    place: Place,
) -> None:
    text = endless("pulsar", f"{THERE}, timeout: 2s")
    comes_once(place, text, port=place.server.port, server=place.server)
    assert place.backlog() == 0


@pytest.mark.rotates(2)
def test_a_shared_subscription_gives_each_message_once_also_over_kills(
    place: Place, tmp_path: Path
) -> None:
    text = endless("pulsar", f"{THERE}, shared: true, timeout: 2s, prefetch: 200")
    place.numbers(0, 500)
    with Endless(place, text) as one:
        one.wait_rows(100)
        one.kill()
        place.numbers(500, 1_000)
        one.start()
        one.wait_rows(1_000)
    other = Place.__new__(Place)
    other.server, other.topic, other.folder = place.server, place.topic, tmp_path / "other"
    other.folder.mkdir()
    place.numbers(1_000, 1_100)
    with Endless(other, text) as two:
        two.wait_rows(100)
    assert [*one.numbers(), *two.numbers()] == list(range(1_100))
    assert place.backlog() == 0


def test_each_message_is_moved_once_over_kills_between_commit_and_acknowledgement(
    place: Place,
) -> None:
    moved_once(place, moving("pulsar", f"{THERE}, stop: latest"), 1_000)
    assert place.backlog() == 0


def write(place: Place, rows: list[dict[str, Any]], more: str, handling: str = "") -> Any:
    return place.write("pulsar", f'connection: "SERVER", token: JWT, {more}', rows, handling)


def test_it_keeps_the_contract_of_destinations(place: Place, tmp_path: Path) -> None:
    def make(folder: Path) -> Any:
        there = {"connection": place.server.url, "token": place.server.token}
        return destination_of("pulsar", {**there, "topic": name_of(folder)}, base=folder)

    def read(folder: Path) -> pl.DataFrame:
        return rows_of(each.data() for each in place.messages(name_of(folder)))

    keeps_destination_laws("pulsar", make, read, tmp_path, frame=ROWS)


def test_rows_become_messages_of_the_topics_of_their_columns(place: Place) -> None:
    rows = [{"n": n, "to": "a" if n % 2 else "b", "t": "x"} for n in range(2_000)]
    more = "topic: 'TOPIC-{to}', key: n, headers: {trace: t}"
    assert write(place, rows, more).error is None
    # A message of which the broker's answer comes too late is sent again: at least once.
    found = {json.loads(m.data())["n"]: m for m in place.messages(f"{place.topic}-a")}
    assert sorted(found) == list(range(1, 2_000, 2))
    assert (found[7].partition_key(), found[7].properties()) == ("7", {"trace": "x"})
    others = {json.loads(m.data())["n"] for m in place.messages(f"{place.topic}-b")}
    assert others == set(range(0, 2_000, 2))


def test_what_cannot_be_a_message_is_a_dead_letter(place: Place) -> None:
    rows = [{"n": n, "to": to, "pad": pad} for n, (to, pad) in enumerate(
        [("ok", ""), ("a b", ""), (None, ""), ("a/b", ""), ("ok", "x" * 5_300_000)]
    )]  # fmt: skip
    result = write(place, rows, "topic: 'TOPIC-{to}'", "on_error: dead_letter")
    assert (result.error, result.steps["out"]["dead_letters"]) == (None, 4)
    found = place.messages(f"{place.topic}-ok")
    assert [json.loads(each.data())["n"] for each in found] == [0]


def test_options_that_cannot_work_are_refused() -> None:
    there = {"connection": "pulsar://localhost", "topic": "t", "subscription": "s"}
    assert not source_of("pulsar", there).capabilities().repeats
    for wrong in (
        {"shared": True, "stop": "latest"},
        {"window": 5},
        {"topic": "non-persistent://a/b/c"},
        {"topic": ["a", "a"]},
        {"topic": "a b"},
        {"connection": "pulsar://user:password@localhost"},
        {"tls": {}},
    ):
        with pytest.raises(DataFlareError):
            source_of("pulsar", {**there, **wrong})
    made = destination_of("pulsar", {"connection": "pulsar://localhost", "topic": "t"})
    assert made.capabilities().delivery.value == "at least once"


def test_the_example_runs_as_it_stands(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSAR", place.server.url)
    monkeypatch.setenv("PULSAR_TOKEN", place.server.token)
    place.topic = "orders"
    place.put(json.dumps(each).encode() for each in ORDERS)
    assert place.run(example("pulsar")).error is None
    assert in_order(each.data() for each in place.messages("clean")) == GOOD
