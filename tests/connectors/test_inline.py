"""Rows written into the workflow: their types, their errors, their changes."""

from __future__ import annotations

import asyncio
import pickle
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dataflare.connectors.inline import InlineSource
from dataflare.errors import ConfigError, Spot
from dataflare.model.batch import KIND_COLUMN, RowKind, SharedDataBatch
from dataflare.model.progress import Position
from dataflare.model.text import SourceText
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import EndOfSplit, Replay


def source(rows: list[dict[str, Any]], contract: dict[str, str] | None = None, **options: Any):
    config = InlineSource.Config.model_validate({"rows": rows, **options})
    made = InlineSource(config, ConnectorContext("countries"))
    made.contract = Schema.of(contract) if contract is not None else None
    return made


def batches(made: InlineSource, rows_max: int = 1000, row: int = 0) -> list[SharedDataBatch]:
    async def read() -> list[SharedDataBatch]:
        (split,) = await made.splits()
        reader = await made.open(split, Position({"row": row}) if row else None)
        found = []
        while True:
            try:
                found.append(await reader.read_batch(rows_max))
            except EndOfSplit:
                return found

    return asyncio.run(read())


def frame(made: InlineSource) -> pl.DataFrame:
    return SharedDataBatch.merge(batches(made)).frame


def types(made: InlineSource) -> dict[str, str]:
    return asyncio.run(made.schema()).to_json()


def test_rows_come_in_order_and_a_missing_key_is_null():
    made = source([{"code": "DE", "n": 1}, {"code": "FR"}, {"code": None, "n": 3, "more": True}])
    assert frame(made).rows() == [("DE", 1, None), ("FR", None, None), (None, 3, True)]
    assert types(made) == {"code": "string", "n": "int64", "more": "bool"}
    assert made.capabilities().replay is Replay.EXACT
    assert made.capabilities().bounded


@given(rows_max=st.integers(1, 12), row=st.integers(0, 9))
def test_any_batch_size_and_position_gives_the_rest(rows_max, row):
    found = batches(source([{"n": n} for n in range(10)]), rows_max, row)
    assert [n for batch in found for n in batch.frame["n"]] == list(range(row, 10))
    assert all(batch.num_rows <= rows_max for batch in found)


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([1, 2.5, None], "float64"),
        ([None, None], "null"),
        (["2024-01-31", "2024-02-01"], "date"),
        (["2024-01-31T12:00:00Z", None], "timestamp[us, UTC]"),
        (["2024-01-31 12:00:00"], "timestamp[us]"),
        (["2024-01-31", "soon"], "string"),
        (["2024-01-31", ""], "string"),
        (["1", "2"], "string"),
        ([[1], [2.5, None], []], "list<float64>"),
        ([{"a": 1}, {"b": "x"}], "struct<a: int64, b: string>"),
        ([datetime(2024, 1, 1, tzinfo=UTC)], "timestamp[us, UTC]"),
        ([date(2024, 1, 1)], "date"),
        ([time(12)], "time"),
        ([timedelta(seconds=5)], "duration[us]"),
        ([Decimal("1.5"), Decimal("2.25")], "decimal(38, 2)"),
        ([b"x"], "binary"),
    ],
)
def test_types_are_inferred_as_in_ndjson_files(values, type_):
    made = source([{"v": value} for value in values])
    assert types(made) == {"v": type_}
    assert frame(made).height == len(values)


@pytest.mark.parametrize("values", [["a", 1], [True, 1], [[1], 2], [{"a": 1}, "x"], [[1, "x"]]])
def test_values_without_a_common_type_are_refused(values):
    with pytest.raises(ConfigError, match="column 'v' have no type in common") as raised:
        frame(source([{"v": value} for value in values]))
    assert raised.value.code == "E0405"


@pytest.mark.parametrize(
    ("value", "type_", "expected"),
    [
        (1, "int8", 1),
        (1, "float32", 1.0),
        (5, "decimal(5, 2)", Decimal("5.00")),
        ("5.25", "decimal(5, 2)", Decimal("5.25")),
        ("2024-01-31T12:00:00Z", "timestamp[ms, UTC]", datetime(2024, 1, 31, 12, tzinfo=UTC)),
        ("2024-01-31T12:00:00+02:00", "timestamp[us, UTC]", datetime(2024, 1, 31, 10, tzinfo=UTC)),
        ("2024-01-31T12:00:00+02:00", "timestamp[us]", datetime(2024, 1, 31, 10)),
        ("2024-01-31", "timestamp[us]", datetime(2024, 1, 31)),
        ("2024-01-31", "date", date(2024, 1, 31)),
        ("12:30:00", "time", time(12, 30)),
        ("5m", "duration[us]", timedelta(minutes=5)),
        (timedelta(minutes=5), "duration[ns]", timedelta(minutes=5)),
        ("2024-01-31T12:00:00.120000", "timestamp[ms]", datetime(2024, 1, 31, 12, 0, 0, 120_000)),
        ("2024-01-31T12:00:00.1234560", "timestamp[us]", datetime(2024, 1, 31, 12, 0, 0, 123_456)),
        ("eA==", "binary", b"x"),
        ("text", "json", "text"),
        ({"a": [1]}, "json", '{"a": [1]}'),
        (["2024-01-31"], "list<date>", [date(2024, 1, 31)]),
        ({"at": "2024-01-31"}, "struct<at: date, n: int64>", {"at": date(2024, 1, 31), "n": None}),
    ],
)
def test_a_contract_makes_values_its_types(value, type_, expected):
    made = source([{"v": value}, {"v": None}], {"v": type_})
    assert types(made) == {"v": type_ if type_ != "json" else "string"}
    assert frame(made)["v"].to_list() == [expected, None]


@given(st.integers(-(2**63) + 1, 2**63 - 1), st.sampled_from([None, "UTC", "Asia/Kathmandu"]))
def test_nanoseconds_are_exact(ns: int, zone: str | None):
    moments = pl.Series([ns]).cast(pl.Datetime("ns"))
    text = moments.dt.strftime("%Y-%m-%dT%H:%M:%S%.9f")[0]
    type_ = "timestamp[ns]" if zone is None else f"timestamp[ns, {zone}]"
    rows = [{"v": f"{text}Z" if zone else text, "t": text[11:], "more": [{"v": f"{text}Z"}]}]
    made = source(rows, {"v": type_, "t": "time", "more": f"list<struct<v: {type_}>>"})
    given_back = frame(made)
    assert given_back["v"].to_physical().to_list() == [ns]
    assert given_back["t"].to_physical().to_list() == [ns % 86_400_000_000_000]
    assert given_back["more"].explode().struct.field("v").to_physical().to_list() == [ns]


def test_a_time_without_zone_is_in_the_zone_of_its_column():
    made = source([{"v": "2024-01-31T12:00:00"}], {"v": "timestamp[us, Europe/Berlin]"})
    assert frame(made)["v"].dt.convert_time_zone("UTC").to_list() == [
        datetime(2024, 1, 31, 11, tzinfo=UTC)
    ]


@pytest.mark.parametrize(
    ("value", "type_", "expected"),
    [
        (200, "int8", "a number that fits"),
        (-1, "uint64", "a number that fits"),
        (1.5, "int64", "a number that fits"),
        (True, "int64", "a number that fits"),
        ("x", "float64", "a number that fits"),
        (5, "string", "text"),
        (1, "bool", "true or false"),
        ("soon", "timestamp[us]", "a time such as"),
        ("2024-01-31T12:00:00.1234567", "timestamp[us]", "a time such as"),
        ("2024-01-31T12:00:00.0000000001", "timestamp[ns]", "a time such as"),
        ("2024-01-31T12:00:00.0001", "timestamp[ms]", "a time such as"),
        ("2300-01-31T12:00:00", "timestamp[ns]", "a time such as"),
        ("12:00:00.0000000001", "time", "a time such as"),
        (timedelta(microseconds=1), "duration[ms]", "a duration such as"),
        ("1.234", "decimal(5, 2)", "a number"),
        ("12345.00", "decimal(5, 2)", "a number"),
        ("x", "decimal(5, 2)", "a number"),
        ("!", "binary", "base64 text"),
        ({"b": 1}, "struct<a: int64>", "a mapping"),
        ("x", "list<string>", "a list"),
        (1, "null", "a number that fits"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_row_and_column(value, type_, expected):
    with pytest.raises(ConfigError, match=r"^row 2 has .* in column 'v', whose type is") as raised:
        frame(source([{"v": None}, {"v": value}], {"v": type_}))
    assert raised.value.code == "E0405"
    assert raised.value.notes[0].startswith(f"expected: {expected}")
    assert raised.value.step == "countries"


def test_a_contract_orders_its_columns_first_and_adds_what_is_missing():
    made = source([{"b": 1, "a": "x"}], {"a": "string", "c": "date"})
    assert types(made) == {"a": "string", "c": "date", "b": "int64"}
    assert frame(made).rows() == [("x", None, 1)]


def test_no_rows_need_a_contract():
    assert batches(source([], {"a": "int64"})) == []
    assert types(source([], {"a": "int64"})) == {"a": "int64"}
    for rows in ([], [{}]):
        with pytest.raises(ConfigError, match="no columns"):
            asyncio.run(source(rows).validate())


def test_a_reserved_column_is_refused():
    with pytest.raises(ValidationError, match="__"):
        source([{"__dataflare_kind": 1}])


def test_texts_forget_their_place_in_the_file():
    text = SourceText("DE", starts=((0, Spot("a.yaml", 1, 1)),))
    made = source([{"code": text, "more": [{"x": text}]}])
    assert type(made.config.rows[0]["code"]) is str
    assert type(made.config.rows[0]["more"][0]["x"]) is str
    again = pickle.loads(pickle.dumps(made))
    assert frame(again)["code"].to_list() == ["DE"]


def test_only_the_wanted_columns_are_given():
    made = source([{"a": 1, "b": 2, "c": 3}]).with_columns(["c", "a"])
    assert types(made) == {"c": "int64", "a": "int64"}
    assert frame(made).rows() == [(3, 1)]


# -- changelogs


CHANGES: list[dict[str, Any]] = [
    {"_op": "insert", "id": 1, "v": "a"},
    {"id": 2, "v": "b"},
    {"_op": "update_before", "id": 1, "v": "a"},
    {"_op": "update_after", "id": 1, "v": "c"},
    {"_op": "delete", "id": 2, "v": "b"},
]


def test_operations_become_row_kinds():
    made = source(CHANGES, changelog="columns")
    assert made.capabilities().changelog
    assert types(made) == {"id": "int64", "v": "string"}
    rows = frame(made)
    assert rows.columns == ["id", "v", KIND_COLUMN]
    assert rows[KIND_COLUMN].dtype == pl.UInt8
    assert [RowKind(kind).name for kind in rows[KIND_COLUMN]] == [
        "INSERT",
        "INSERT",
        "UPDATE_BEFORE",
        "UPDATE_AFTER",
        "DELETE",
    ]
    narrow = frame(source(CHANGES, changelog="columns").with_columns(["v"]))
    assert narrow.columns == ["v", KIND_COLUMN]


def test_without_the_option_an_operation_is_a_column_like_others():
    made = source(CHANGES)
    assert not made.capabilities().changelog
    assert types(made)["_op"] == "string"


@given(rows_max=st.integers(1, 6))
def test_the_halves_of_an_update_are_never_parted(rows_max):
    found = batches(source(CHANGES * 3, changelog="columns"), rows_max)
    assert sum(batch.num_rows for batch in found) == 15
    for batch in found:
        kinds = batch.frame[KIND_COLUMN].to_list()
        assert kinds[0] != RowKind.UPDATE_AFTER
        assert kinds[-1] != RowKind.UPDATE_BEFORE
        assert batch.num_rows <= max(rows_max, 2)


@pytest.mark.parametrize(
    ("operations", "said"),
    [
        (["insert", "update_after"], "row 2 is update_after after insert"),
        (["update_after"], "row 1 is update_after after nothing"),
        (["update_before", "delete"], "row 2 is delete after update_before"),
        (["update_before"], "the last row is update_before"),
        (["upsert"], "row 1 has no operation 'upsert'"),
        ([["x"]], "row 1 has no operation"),
    ],
)
def test_operations_that_make_no_sense_are_refused(operations, said):
    with pytest.raises(ConfigError, match=said):
        asyncio.run(
            source([{"_op": o, "id": 1} for o in operations], changelog="columns").validate()
        )
