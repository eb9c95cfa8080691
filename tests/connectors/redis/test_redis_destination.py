"""The redis destination, on a real server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from broker_moving import ROWS, Moving, name_of
from conformance import keeps_destination_laws
from redis_kit import Place
from servers.redis import RedisServer

from dataflare.errors import ConfigError
from dataflare.testing import destination_of


def write(place: Place, rows: list[dict[str, Any]], more: str, handling: str = "") -> Any:
    return place.write("redis", f'connection: "SERVER", {more}', rows, handling)


def read_back(place: Place, name: str, what: str) -> list[dict[str, Any]]:
    """The rows that are in Redis."""
    if what == "stream":
        return [{"n": int(row["n"]), "text": row["text"]} for row in place.entries(name)]
    if what == "list":
        return [json.loads(each) for each in place.redis.lrange(name, 0, -1)]
    rows = []
    for key in place.redis.scan_iter(f"{name}:*"):
        if what == "json":
            rows.append(json.loads(place.redis.get(key)))
        else:
            fields = place.redis.hgetall(key)
            rows.append({"n": int(fields[b"n"]), "text": fields[b"text"].decode()})
    return rows


SOME = ["each_row_arrives_once", "a_commit_twice_is_a_commit", "an_older_attempt_is_fenced"]


@pytest.mark.parametrize(
    ("what", "only"), [("stream", []), ("hash", SOME), ("list", SOME), ("json", SOME)]
)
def test_it_keeps_the_contract_of_destinations(
    place: Place, running_server: RedisServer, tmp_path: Path, what: str, only: list[str]
) -> None:
    def make(folder: Path) -> Any:
        name = f"{what}{name_of(folder)}"
        where = {what: name} if what in ("stream", "list") else {
            "key": "n", "key_prefix": f"{name}:", "structure": what
        }  # fmt: skip
        return destination_of("redis", {"connection": running_server.url, **where}, base=folder)

    def read(folder: Path) -> pl.DataFrame:
        return pl.DataFrame(read_back(place, f"{what}{name_of(folder)}", what), schema=ROWS.schema)

    keeps_destination_laws("redis", make, read, tmp_path, frame=ROWS, only=only)


def test_columns_are_fields_in_their_text_and_null_is_left_out(place: Place) -> None:
    rows = [
        {"n": 1, "x": 0.5, "ok": True, "tags": ["a", "b"], "at": "2026-03-01T00:00:00Z", "t": "ß"},
        {"n": 9_007_199_254_740_993, "x": None, "ok": None, "tags": None, "at": None, "t": None},
    ]
    assert write(place, rows, f"stream: {place.key}").error is None
    assert place.entries() == [
        {"n": "1", "x": "0.5", "ok": "true", "tags": '["a","b"]', "at": "2026-03-01T00:00:00Z",
         "t": "ß"},
        {"n": "9007199254740993"},
    ]  # fmt: skip


def test_an_entry_can_have_one_field_with_a_message(place: Place) -> None:
    more = f"stream: '{place.key}-{{to}}', field: body, maxlen: 100"
    assert write(place, [{"n": 1, "to": "a"}, {"n": 2, "to": "b"}], more).error is None
    assert place.entries(f"{place.key}-b") == [{"body": '{"n":2,"to":"b"}'}]
    again = {"connection": place.server.url, "stream": f"{place.key}-a", "stop": "latest"}
    from dataflare.testing import read_source, source_of

    source = source_of("redis", {**again, "field": "body"})
    assert asyncio.run(read_source(source)).rows() == [(1, "a")]


def test_what_cannot_be_written_is_a_dead_letter(place: Place) -> None:
    rows = [{"to": "x", "n": 1}, {"to": None, "n": 2}]
    more = f"stream: '{place.key}-{{to}}'"
    result = write(place, rows, more, "on_error: dead_letter")
    assert (result.error, result.steps["out"]["dead_letters"]) == (None, 1)
    assert place.entries(f"{place.key}-x") == [{"to": "x", "n": "1"}]
    assert write(place, rows, f"{more}, maxlen: 7").error.code == "E0510"


def test_a_key_with_another_structure_is_refused_before_anything_is_written(place: Place) -> None:
    place.redis.set(place.key, "text")
    result = write(place, [{"n": 1}], f"stream: {place.key}")
    assert result.error is not None
    assert (result.error.code, "is a string" in result.error.message) == ("E0604", True)
    place.redis.delete(place.key)
    assert write(place, [{"n": 1}], f"stream: {place.key}").error is None
    assert place.entries() == [{"n": "1"}]


def test_a_changelog_is_mirrored(place: Place) -> None:
    place.redis.hset(f"{place.key}:2", "old", "1")
    rows = [{"k": 1, "v": "a"}, {"k": 2, "v": "b"}, {"k": 1, "v": "c"}]
    workflow = """\
name: table
settings: {parallelism: 1}
sources:
  rows: {type: inline, config: {rows: GIVEN}}
transformations:
  last:
    type: aggregate
    inputs: [rows]
    config: {group_by: [k], measures: {v: "max(v)"}, emit: updates}
  few: {type: filter, inputs: [last], config: {condition: "v <> 'b'"}}
destinations:
  out:
    type: redis
    inputs: [few]
    config: {connection: "SERVER", key: k, key_prefix: "KEY:", mode: mirror, ttl: 1h}
""".replace("GIVEN", json.dumps(rows))
    assert place.run(workflow).error is None
    assert place.redis.hgetall(f"{place.key}:1") == {b"k": b"1", b"v": b"c"}
    assert 3500 < place.redis.ttl(f"{place.key}:1") <= 3600


def test_options_that_do_not_fit_are_refused() -> None:
    def refused(**config: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            destination_of("redis", {"connection": "redis://localhost:6379", **config})
        return str(caught.value)

    assert "needs one of" in refused()
    assert "needs one of" in refused(stream="a", key="n")
    assert "needs 'key'" in refused(stream="a", mode="upsert")
    assert "has no effect" in refused(list="a", maxlen=3)
    assert "needs 'field'" in refused(stream="a", format="raw")


MOVE = """\
name: moving
settings:
  parallelism: 2
  checkpoint: {interval: 10ms}
  restart: {attempts: 1000, delay: 50ms, max_delay: 300ms}
sources:
  given:
    type: redis
    config: {connection: "SERVER", stream: KEY, stop: latest, MORE}
    schema: {n: int64}
transformations:
  odd: {type: filter, inputs: [given], config: {condition: "n % 2 = 1"}}
destinations:
  out:
    type: redis
    inputs: [odd]
    config: {connection: "SERVER", stream: KEY-out}
"""
POINTS = (
    "broker.prepare.after_fsync",
    "engine.before_manifest",
    "engine.after_manifest",
    "redis.commit.after_part",
    "engine.after_commit",
)


@pytest.mark.parametrize("group", ["", "group: g, consumer: one"], ids=["alone", "group"])
def test_each_entry_is_moved_once_over_kills_between_any_two_steps(
    place: Place, group: str
) -> None:
    place.numbers(0, 10_000)
    points = POINTS if not group else POINTS[1:3]
    moving = Moving(place, MOVE.replace(", MORE", f", {group}" if group else ""))
    died = sum(moving.die(point) for point in points)
    assert died == len(points)
    moving.finish()
    assert [int(row["n"]) for row in place.entries(f"{place.key}-out")] == list(range(1, 10_000, 2))
    if group:
        assert place.redis.xpending(place.key, "g")["pending"] == 0


def test_a_server_that_lost_its_data_is_noticed(place: Place, server: RedisServer) -> None:
    place.numbers(0, 30)
    workflow = MOVE.replace(", MORE", "").replace(
        "stop: latest", "stop: latest, lost_entries: skip"
    )
    assert place.run(workflow).error is None
    server.kill()
    server.start()
    place.redis.xadd(place.key, {"n": 1})
    result = place.run(workflow)
    assert result.error is not None
    assert result.error.code in ("E0605", "E0705")
