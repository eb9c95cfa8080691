"""DynamoDB as a source, on moto's server: tables, and their changes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conformance import keeps_source_laws
from dynamodb_kit import Place
from servers.s3 import KEYS

from dataflare.connectors.dynamodb.client import Shard, Table
from dataflare.connectors.dynamodb.source import DynamodbSource
from dataflare.errors import DataFlareError
from dataflare.testing import read_source, source_of


def read(place: Place, **more: Any) -> pl.DataFrame:
    return asyncio.run(read_source(source_of("dynamodb", place.config(**more))))


def test_it_keeps_the_contract_of_sources(place: Place) -> None:
    place.put(*({"id": n, "name": f"n{n}"} for n in range(60)))
    keeps_source_laws("dynamodb", lambda: source_of("dynamodb", place.config()))


def test_a_table_and_then_its_changes_are_mirrored(place: Place) -> None:
    place.put(*({"id": n, "name": f"n{n}"} for n in range(50)))
    place.delete(49)
    assert place.catch_up().steps["orders"]["rows_out"] >= 49
    assert place.rows() == [(n, f"n{n}") for n in range(49)]
    place.put({"id": 0, "name": "changed"}, {"id": 100, "name": "new"}, {"id": 101, "name": "gone"})
    place.delete(1, 101)
    place.catch_up()
    expected = [(0, "changed"), *((n, f"n{n}") for n in range(2, 49)), (100, "new")]
    assert place.rows() == expected
    assert place.catch_up().steps["orders"].get("rows_out", 0) == 0
    assert place.rows() == expected


ALL = {
    "id": 1,
    "text": "x",
    "whole": {"N": "12"},
    "fraction": {"N": "0.1"},
    "huge": {"N": "12345678901234567890123456789012345678"},
    "bytes": {"B": b"\x00\xff"},
    "flag": {"BOOL": True},
    "nothing": {"NULL": True},
    "map": {
        "M": {
            "a": {"N": "12345678901234567890.12345678901"},
            "b": {"L": [{"S": "y"}, {"NULL": True}]},
        }
    },
    "list": {"L": [{"N": "1"}]},
    "texts": {"SS": ["b", "a"]},
    "numbers": {"NS": ["10", "9"]},
    "many_bytes": {"BS": [b"\x01"]},
}
AS_ROW = {
    "id": 1,
    "text": "x",
    "whole": 12,
    "fraction": Decimal("0.1"),
    "huge": Decimal("12345678901234567890123456789012345678"),
    "bytes": b"\x00\xff",
    "flag": True,
    "nothing": None,
    "map": '{"a": 12345678901234567890.12345678901, "b": ["y", null]}',
    "list": "[1]",
    "texts": '["a", "b"]',
    "numbers": "[9, 10]",
    "many_bytes": '["AQ=="]',
}


def test_each_type_has_its_column(place: Place) -> None:
    place.put(ALL)
    assert read(place).row(0, named=True) == AS_ROW


def test_changes_have_the_same_values(place: Place) -> None:
    place.put({**ALL, "text": "before"})
    frame = asyncio.run(read_source(source_of("dynamodb", place.config(cdc={"stop": "latest"}))))
    expected = {name: value for name, value in AS_ROW.items() if name != "text"}
    assert frame.select([*expected]).row(0, named=True) == expected
    names = ", ".join(f'"{name}"' for name in AS_ROW)
    place.catch_up()
    place.put(ALL)
    place.catch_up()
    [row] = place.rows(f"select {names} from t")
    assert (row[1], row[4], row[5], row[8]) == (
        "x", "12345678901234567890123456789012345678", b"\x00\xff", '{"a": 12345678901234567890.12345678901, "b": ["y", null]}',
    )  # fmt: skip


def test_a_change_with_a_value_that_does_not_fit_takes_the_old_row_with_it(
    place: Place,
) -> None:
    place.put({"id": 1, "name": "a", "n": 1}, {"id": 2, "name": "b", "n": 1})
    text = place.text(schema="id: int64, name: string, n: int64")
    text = text.replace("restart:", "error_handling: {on_error: skip}, restart:")
    place.catch_up(text)
    place.put({"id": 1, "name": "a", "n": {"S": "no number"}})
    assert place.catch_up(text).steps["orders"]["errors"] == 1
    assert place.rows() == [(2, "b")]


def test_a_full_read_removes_what_is_gone(place: Place) -> None:
    text = place.text(more="segments: 3", into="mode: mirror, key: [id], delete_max: 100%")
    place.put(*({"id": n, "name": f"n{n}"} for n in range(20)))
    place.catch_up(text)
    place.delete(*range(10))
    place.catch_up(text)
    assert place.rows() == [(n, f"n{n}") for n in range(10, 20)]


def test_deleted_items_may_stay(place: Place) -> None:
    text = place.text(into="mode: mirror, key: [id], deleted_at: gone")
    place.put({"id": 1, "name": "a"}, {"id": 2, "name": "b"})
    place.catch_up(text)
    place.delete(1)
    place.catch_up(text)
    assert place.rows("select id, gone is null from t order by id") == [(1, 0), (2, 1)]


def test_only_changes_are_read_where_the_table_is_not_to_be(place: Place) -> None:
    text = place.text(more="cdc: {snapshot: never, stop: latest}")
    place.put({"id": 1, "name": "before"})
    place.catch_up(text)
    place.put({"id": 2, "name": "behind"})
    place.catch_up(text)
    assert (2, "behind") in place.rows()


@pytest.mark.parametrize("view", [None, "KEYS_ONLY", "OLD_IMAGE"])
def test_a_table_without_a_stream_of_new_items_is_refused(
    aws: Any, tmp_path: Any, view: str | None
) -> None:
    place = Place(aws, tmp_path, view)
    place.put({"id": 1, "name": "a"})
    with pytest.raises(DataFlareError) as caught:
        place.run()
    error = caught.value
    assert error.code == "E0605"
    assert f"update-table --table-name {place.table}" in str(error.help)


def test_a_table_that_was_made_again_is_refused(place: Place) -> None:
    place.put({"id": 1, "name": "a"})
    place.catch_up()
    place.dynamodb.delete_table(TableName=place.table)
    place.make()
    place.put({"id": 2, "name": "b"})
    error = place.run().error
    assert error is not None
    assert (error.code, "was deleted and made again" in error.message) == ("E0605", True)


def test_an_unknown_table_is_an_error(place: Place) -> None:
    place.table = "nothing"
    with pytest.raises(DataFlareError) as caught:
        place.run()
    assert caught.value.code == "E0604"


def test_what_the_stream_says_of_a_change_becomes_columns(place: Place) -> None:
    text = place.text(more="cdc: {stop: latest}, metadata: [sequence, shard, timestamp]")
    place.put({"id": 1, "name": "a"})
    place.catch_up(text)
    place.put({"id": 1, "name": "b"})
    place.catch_up(text)
    [(name, sequence, shard)] = place.rows("select name, _sequence, _shard from t")
    assert (name, shard[:8]) == ("b", "shardId-")
    assert int(sequence) > 0


def test_tables_are_found(place: Place) -> None:
    found = asyncio.run(source_of("dynamodb", place.config(table="---")).catalog())
    assert place.table in [each.name for each in found]


CRASHES = [
    "sqlite.commit.before_commit:2",
    "sqlite.commit.after_commit:2",
    "engine.after_manifest:3",
]


@pytest.mark.parametrize("crash_at", CRASHES)
def test_a_run_that_dies_goes_on_exactly(place: Place, crash_at: str) -> None:
    place.put(*({"id": n, "name": f"n{n}"} for n in range(40)))
    assert place.dies_at(crash_at)
    place.put({"id": 0, "name": "changed"}, {"id": 50, "name": "new"})
    place.delete(1)
    place.catch_up()  # to what was there when the run began that died
    place.catch_up()
    expected = [(0, "changed"), *((n, f"n{n}") for n in range(2, 40)), (50, "new")]
    assert place.rows() == expected


class Splitting:
    """A stream whose shards split, in place of the service: a shard is (parent, records, whether it is closed)."""

    def __init__(self, table: Any, shards: dict[str, tuple[str | None, list[str], bool]]) -> None:
        self._table, self.there = table, shards

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def shards(self, stream: str) -> list[Shard]:
        return [
            Shard(id_, parent if parent in self.there else None, not closed)
            for id_, (parent, _, closed) in self.there.items()
        ]

    def iterator(self, stream: str, shard: str, after: str | None) -> str:
        names = self.there[shard][1]
        return f"{shard} {0 if after is None else names.index(after) + 1}"

    def records(self, iterator: str, most: int) -> dict[str, Any]:
        shard, _, at = iterator.partition(" ")
        _, numbers, closed = self.there[shard]
        found = numbers[int(at) :][:most]
        following = None if closed else f"{shard} {int(at) + len(found)}"
        return {"Records": [record(number) for number in found], "NextShardIterator": following}


def record(number: str) -> dict[str, Any]:
    """The change that writes this number to the only item."""
    item = {"id": {"N": "1"}, "name": {"S": number}}
    told = {
        "Keys": {"id": item["id"]}, "NewImage": item, "SequenceNumber": number,
        "ApproximateCreationDateTime": datetime.now(UTC) - timedelta(seconds=5),
    }  # fmt: skip
    return {"eventName": "MODIFY", "dynamodb": told}


def test_a_shard_is_read_when_the_one_that_it_came_from_was_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put({"id": 1, "name": "0"})
    shards = {
        "c": ("b", ["5", "6"], False), "b": ("a", ["3", "4"], True), "a": ("gone", ["1", "2"], True),
    }  # fmt: skip
    monkeypatch.setattr(DynamodbSource, "_table", property(lambda self: fake(self, shards)))
    text = place.text(more="cdc: {stop: latest}, metadata: [sequence]", into="changelog: columns")
    given = "select name from t where _sequence is not null order by rowid"
    place.catch_up(text)
    assert place.rows(given) == [(str(n),) for n in range(1, 7)]
    shards |= {"c": ("b", ["5", "6", "7"], True), "d": ("c", ["8"], False)}
    del shards["a"], shards["b"]
    place.catch_up(text)
    assert place.rows(given) == [(str(n),) for n in range(1, 9)]
    del shards["d"]
    error = place.run(text).error
    assert error is not None
    assert (error.code, "24 hours" in error.message) == ("E0605", True)


def fake(source: DynamodbSource, shards: Any) -> Any:
    if source._table_ is None:
        source._table_ = Splitting(Table(source.config, "orders"), shards)  # type: ignore[assignment]
    return source._table_


def test_the_example_mirrors_a_table(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[3] / "examples/cdc/dynamodb.yaml").read_text()
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT", place.server.endpoint)
    place.put({"id": 1, "customer": "a", "amount": {"N": "1.50"}}, {"id": 2, "customer": "b"})
    text = text.replace("table: orders, cdc", f"table: {place.table}, cdc")
    text = text.replace("../out/dynamodb.sqlite", "copy.db")
    place.catch_up(text)
    place.delete(2)
    place.catch_up(text)
    assert place.rows("select id, customer, amount from orders") == [(1, "a", 1.5)]
