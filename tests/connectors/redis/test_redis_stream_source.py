"""The redis source, on a real server."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import polars as pl
import pytest
from broker_moving import GOOD, ORDERS, comes_once, copying, endless, example
from conformance import keeps_source_laws
from redis_kit import Place

from dataflare.errors import DataFlareError
from dataflare.testing import check_source, read_source, source_of

THERE = 'connection: "SERVER", stream: KEY'


def copy(more: str = "stop: latest", handling: str = "") -> str:
    return copying("redis", f"{THERE}, {more}", handling)


def config(place: Place, **more: Any) -> dict[str, Any]:
    return {"connection": place.server.url, "stream": place.key, "stop": "latest", **more}


def read(place: Place, **more: Any) -> pl.DataFrame:
    return asyncio.run(read_source(source_of("redis", config(place, **more))))


def failure(place: Place, **more: Any) -> DataFlareError:
    """The error of reading with this config."""
    source = source_of("redis", config(place, timeout="2s", **more))

    async def try_it() -> None:
        await source.validate()
        await read_source(source)

    with pytest.raises(DataFlareError) as caught:
        asyncio.run(try_it())
    return caught.value


@pytest.mark.parametrize(
    "more",
    [
        {"metadata": ["id", "timestamp", "stream"]},
        {"field": "text", "format": "raw", "metadata": ["id"]},
        {"start": {"time": "2020-01-01T00:00:00Z"}},
    ],
    ids=["fields", "raw", "from-time"],
)
def test_it_keeps_the_contract_of_sources(place: Place, more: dict[str, Any]) -> None:
    place.numbers(0, 500)
    keeps_source_laws("redis", lambda: source_of("redis", config(place, **more)))


def test_a_member_of_a_group_keeps_the_contract_of_sources(place: Place) -> None:
    place.numbers(0, 200)
    more = {"group": "g", "consumer": "one"}
    asyncio.run(check_source(lambda: source_of("redis", config(place, **more))))


def test_fields_are_columns_of_text_unless_the_schema_says_more(place: Place) -> None:
    place.put([{"n": 1, "at": "2026-03-01T00:00:00Z"}, {"n": "", "note": "ß"}])
    source = source_of("redis", config(place))
    rows = asyncio.run(read_source(source)).rows(named=True)
    assert rows == [
        {"n": "1", "at": "2026-03-01T00:00:00Z", "note": None},
        {"n": "", "at": None, "note": "ß"},
    ]
    result = place.run(copy())
    assert result.error is None
    assert place.written()["n"].to_list() == [1, None]


def test_what_redis_says_of_an_entry_becomes_columns(place: Place) -> None:
    (id_,) = place.put([{"body": b'{"n": 1}'}])
    frame = read(place, field="body", metadata=["id", "stream", "timestamp"])
    at = dt.datetime.fromtimestamp(int(id_.split("-")[0]) / 1000, dt.UTC)
    assert frame.rows(named=True) == [{"n": 1, "_id": id_, "_stream": place.key, "_timestamp": at}]


def test_reading_begins_where_start_says(place: Place) -> None:
    ids = place.numbers(0, 6)

    def first(**start: Any) -> list[str]:
        return read(place, **start)["n"].to_list()

    assert first(start={"id": ids[4]}) == ["4", "5"]
    assert first(start="earliest") == [str(n) for n in range(6)]
    assert first(start="latest") == []
    later = dt.datetime.fromtimestamp(int(ids[0].split("-")[0]) / 1000 + 3600, dt.UTC)
    assert first(start={"time": later.isoformat()}) == []
    assert failure(place, start="latest", stop=None, stream=f"{place.key}-empty").code == "E0405"


@pytest.mark.parametrize("group", ["", ", group: g, consumer: one"], ids=["alone", "group"])
def test_the_next_run_goes_on_where_the_last_one_ended(place: Place, group: str) -> None:
    place.numbers(0, 100)
    assert place.run(copy("stop: latest" + group)).error is None
    place.numbers(100, 150)
    result = place.run(copy("stop: latest" + group))
    assert (result.error, result.steps["given"]["rows_out"]) == (None, 50)
    assert place.run(copy("stop: latest" + group)).steps["given"]["rows_out"] == 0
    assert place.copied() == list(range(150))
    if group:
        assert place.redis.xpending(place.key, "g")["pending"] == 0


def test_a_poison_entry_is_a_dead_letter_with_its_fields(place: Place) -> None:
    place.numbers(0, 5)
    place.put([{"n": "five", "text": b"\xff\x00"}, {"n": 6}])
    result, text = place.dead_letters(copy(handling="DEAD"))
    assert result.error is None
    assert result.steps["given"]["dead_letters"] == 1
    assert place.copied() == [0, 1, 2, 3, 4, 6]
    assert "five" in text
    assert "base64:/wA=" in text  # also shown as a field, beside the bytes of the whole entry
    assert f"{place.key} entry" in text
    failed = place.run(copy(), name="second", fresh=True)
    assert failed.error is not None
    assert failed.error.code in ("E0501", "E0504")
    assert place.key in failed.error.message


def test_entries_that_were_trimmed_before_they_were_read_are_told(place: Place) -> None:
    place.numbers(0, 10)
    assert place.run(copy()).error is None
    place.numbers(10, 40)
    place.redis.xtrim(place.key, maxlen=10, approximate=False)
    result = place.run(copy())
    assert result.error is not None
    assert (result.error.code, "20 entries" in result.error.message) == ("E0605", True)
    result = place.run(copy("stop: latest, lost_entries: skip"), accept_changes=True)
    assert result.error is None
    assert result.steps["given"]["rows_out"] == 10


def test_a_stream_that_was_made_again_is_noticed(place: Place) -> None:
    place.numbers(0, 10)
    assert place.run(copy()).error is None
    place.redis.delete(place.key)
    with pytest.raises(DataFlareError, match="there is no stream"):
        place.run(copy())
    place.redis.xadd(place.key, {"n": 1}, id="1-1")
    result = place.run(copy())
    assert result.error is not None
    assert "deleted and made again" in result.error.message


def test_errors_name_what_is_wrong(place: Place) -> None:
    assert failure(place, stream="nothing").code == "E0604"
    place.redis.set(f"{place.key}-text", "x")
    assert failure(place, stream=f"{place.key}-text").code == "E0508"
    wrong = place.server.url.replace("s3cret", "wrong")
    found = failure(place, connection=wrong)
    assert found.code == "E0606"
    assert "wrong" not in str(found)
    refused = failure(place, connection="redis://127.0.0.1:1/0")
    assert refused.code == "E0607"


@pytest.mark.parametrize("group", ["", ", group: g, consumer: one"], ids=["alone", "group"])
def test_each_entry_comes_once_over_a_network_that_breaks_and_a_run_that_dies(
    place: Place, group: str
) -> None:
    text = endless("redis", f"{THERE}, timeout: 500ms{group}")
    comes_once(place, text, port=place.server.port)
    if group:
        assert place.redis.xpending(place.key, "g")["pending"] == 0


def test_the_example_runs_as_it_stands(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS", place.server.url)
    place.put(ORDERS, "orders")
    assert place.run(example("redis")).error is None
    assert [int(each["id"]) for each in place.entries("clean")] == [each["id"] for each in GOOD]


def test_ids_may_be_beyond_the_years_of_python(place: Place) -> None:
    add = place.redis.execute_command
    for id_ in ("1-1", "1700000000000000-0", f"{2**63}-0"):
        add("XADD", place.key, id_, "a", "1")
    rows = read(place, metadata=["id"])
    assert rows["_id"].to_list() == ["1-1", "1700000000000000-0", f"{2**63}-0"]


def test_a_time_that_does_not_fit_is_a_row_error(place: Place) -> None:
    add = place.redis.execute_command
    for id_ in ("1-1", "1700000000000000-0", f"{2**63}-0"):
        add("XADD", place.key, id_, "a", "1")
    result = place.run(copy("stop: latest, metadata: [timestamp]", "on_error: dead_letter"))
    assert result.error is None
    assert result.steps["given"]["dead_letters"] == 1
