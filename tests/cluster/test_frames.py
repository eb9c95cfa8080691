"""What is encoded for another process comes out as it was."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from polars.testing.parametric import column, dataframes

from dataflare.cluster import frames
from dataflare.cluster.frames import (
    HEADER_BYTES,
    BadBody,
    Credit,
    credit_body,
    mark_body,
    read_credit,
    read_mark,
    read_rows,
    room_for,
    rows_body,
    set_age,
)
from dataflare.errors import InternalError
from dataflare.model.batch import KIND_COLUMN, SharedDataBatch
from dataflare.model.progress import END, IDLE, Barrier, Mark, Watermark
from dataflare.sdk.tracing import Traced

EVERYTHING = 1 << 62
WAYS = {
    "polars": (EVERYTHING, EVERYTHING),
    "pyarrow": (0, 0),
    "read by pyarrow": (0, EVERYTHING),
    "written by pyarrow": (EVERYTHING, 0),
}
"""By name, from how many bytes on pyarrow reads and writes."""


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    reads, writes = WAYS[request.param]
    monkeypatch.setattr(frames, "_ARROW_READS", reads)
    monkeypatch.setattr(frames, "_ARROW_WRITES", writes)
    return request.param


def sent(batch: SharedDataBatch, compression: Any = "none") -> SharedDataBatch:
    body = rows_body(batch, compression, room_for(batch))
    set_age(body, -1.0)
    return read_rows(bytes(body[HEADER_BYTES:]), 100.0)


def assert_same(frame: pl.DataFrame, compression: Any = "none") -> None:
    result = sent(SharedDataBatch(frame), compression).frame
    assert result.schema == frame.schema
    assert result.height == frame.height
    assert_frame_equal(result, frame, check_exact=True, categorical_as_str=False)


TYPES: list[Any] = [
    *(pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.Int128()),
    *(pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.UInt64()),
    *(pl.Float32(), pl.Float64(), pl.Boolean(), pl.String(), pl.Binary(), pl.Null()),
    *(
        pl.Date(),
        pl.Time(),
        pl.Datetime("ms"),
        pl.Datetime("us", "Europe/Berlin"),
        pl.Datetime("ns"),
    ),
    *(
        pl.Duration("ms"),
        pl.Duration("us"),
        pl.Duration("ns"),
        pl.Decimal(38, 10),
        pl.Decimal(5, 0),
    ),
    *(pl.Categorical(), pl.Enum(["", "x", "y"])),
    *(pl.List(pl.String()), pl.List(pl.List(pl.Int8())), pl.List(pl.Struct({"a": pl.Date()}))),
    pl.Struct(
        {"a": pl.String(), "b": pl.List(pl.Float64()), "c": pl.Struct({"d": pl.Decimal(9, 2)})}
    ),
]
FRAMES = st.lists(st.sampled_from(TYPES), max_size=5).flatmap(
    lambda types: dataframes(
        cols=[column(f"column {n}", dtype=dtype) for n, dtype in enumerate(types)], max_size=10
    )
)
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@SETTINGS
@given(frame=FRAMES)
def test_rows_of_all_types_come_out_as_they_were(way: str, frame: pl.DataFrame) -> None:
    assert_same(frame)


@SETTINGS
@given(frame=FRAMES, compression=st.sampled_from(["lz4", "zstd"]))
def test_compressed_rows_come_out_as_they_were(frame: pl.DataFrame, compression: str) -> None:
    assert_same(frame, compression)


HARD = {
    "no columns": pl.DataFrame(),
    "no rows": pl.DataFrame(schema={"a": pl.List(pl.Struct({"b": pl.Enum(["x"])}))}),
    "integers of 128 bits": pl.DataFrame(
        {"a": [2**100, None], "b": [2**127, 1]}, schema={"a": pl.Int128, "b": pl.UInt128}
    ),
    "widest decimals": pl.DataFrame(
        {"a": [Decimal("9" * 36 + ".99"), None]}, schema={"a": pl.Decimal(38, 2)}
    ),
    "times": pl.DataFrame(
        {
            "a": [dt.time(23, 59, 59, 999_999), None],
            "b": pl.Series([1, None], dtype=pl.Duration("ns")),
            "c": pl.Series([-1, None], dtype=pl.Datetime("ms", "Asia/Kathmandu")),
        }
    ),
    "floats": pl.DataFrame({"a": [float("nan"), -0.0, None, float("-inf")]}),
    "half floats": pl.DataFrame({"a": pl.Series([1.5, None], dtype=pl.Float16)}),
    "nulls inside": pl.DataFrame(
        {
            "a": [[None], None, []],
            "b": [{"c": None}, None, {"c": [1]}],
            "d": pl.Series([[1, 2], None, [None, 3]], dtype=pl.Array(pl.Int64, 2)),
        }
    ),
    "categories inside": pl.DataFrame(
        {
            "a": pl.Series([["x"], None, ["y", None]], dtype=pl.List(pl.Categorical)),
            "b": pl.Series([{"c": "x"}, None, {"c": None}], dtype=pl.Struct({"c": pl.Enum(["x"])})),
        }
    ),
    "text and bytes": pl.DataFrame({"a": ["", None, "é" * 50], "b": [b"\0\xff", b"", None]}),
    "a part of a frame": pl.DataFrame({"a": ["x" * 100] * 1_000, "b": [[1]] * 1_000}).slice(500, 3),
    "two chunks": pl.concat([pl.DataFrame({"a": ["x", None]}), pl.DataFrame({"a": ["y" * 50]})]),
    "odd names": pl.DataFrame({"": [1], "a\0b": [2], "\N{SNOWMAN}": [3]}),
}


@pytest.mark.parametrize("name", HARD)
def test_rows_that_are_hard_to_send_come_out_as_they_were(way: str, name: str) -> None:
    assert_same(HARD[name])


def test_of_shared_memory_only_what_a_batch_has_is_sent(way: str) -> None:
    whole = pl.DataFrame({"a": [f"{n:0100d}" for n in range(50_000)], "n": range(50_000)})
    parts = {
        "filtered": whole.filter(pl.col("n") % 10 == 0),
        "a slice": whole.slice(1_000, 5_000),
        "of an exchange": whole.with_columns(k=pl.col("n") % 16).partition_by("k")[3],
        "whole": whole,
    }
    for name, part in parts.items():
        batch = SharedDataBatch(part)
        assert len(rows_body(batch, "none", room_for(batch))) < 1.5 * batch.num_bytes, name
        assert_same(part)


def test_a_batch_keeps_what_it_has_besides_its_rows(way: str) -> None:
    kinds = pl.Series([0, 1, 2], dtype=pl.UInt8)
    text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    facts: Mapping[str, Any] = {"key": [1, {"a": None, "b": b"\0"}], "file": "x", "share": 0.5}
    batch = SharedDataBatch(
        pl.DataFrame({"a": [1, 2, 3]}),
        metadata=facts,
        watermark=Watermark(-5),
        traced=Traced((text,), "hash"),
    ).with_kinds(kinds)
    batch.traced = Traced((text,), "hash")
    result = sent(batch)
    assert result.kinds is not None
    assert result.kinds.to_list() == [0, 1, 2]
    assert result.frame.columns == ["a", KIND_COLUMN]
    assert (result.metadata, result.watermark) == (facts, Watermark(-5))
    assert result.traced == Traced((text,), "hash")


@pytest.mark.parametrize("value", [(1, 2), dt.date(2026, 1, 1), Decimal(1), 1 << 64, {1: 2}])
def test_a_fact_that_would_come_out_as_something_else_is_refused(value: Any) -> None:
    batch = SharedDataBatch(pl.DataFrame({"a": [1]}), metadata={"fact": [value]})
    with pytest.raises(InternalError, match="the fact 'fact'"):
        rows_body(batch, "none", room_for(batch))


def test_when_rows_were_read_is_told_by_their_age() -> None:
    batch = SharedDataBatch(pl.DataFrame({"a": [1]}), read_at_s=7.0)
    body = rows_body(batch, "none", room_for(batch))
    set_age(body, 5.0)
    assert read_rows(bytes(body[HEADER_BYTES:]), 100.0).read_at_s == 95.0
    set_age(body, -1.0)
    assert read_rows(bytes(body[HEADER_BYTES:]), 100.0).read_at_s == 0.0


INTEGERS = st.integers(-(1 << 63), (1 << 63) - 1)
MARKS: st.SearchStrategy[Mark] = st.one_of(
    st.builds(Watermark, INTEGERS),
    st.just(IDLE),
    st.just(END),
    st.builds(
        Barrier,
        st.integers(0, (1 << 63) - 1),
        st.booleans(),
        st.dictionaries(st.text(), INTEGERS),
        st.booleans(),
    ),
)


@given(mark=MARKS)
def test_marks_come_out_as_they_were(mark: Mark) -> None:
    result = read_mark(mark_body(mark))
    assert result == mark
    assert type(result) is type(mark)


COUNTS = st.integers(0, (1 << 63) - 1)


@given(credit=st.builds(Credit, COUNTS, COUNTS, st.none() | COUNTS))
def test_credit_comes_out_as_it_was(credit: Credit) -> None:
    assert read_credit(credit_body(credit)) == credit


@pytest.mark.parametrize("body", [b"", b"\0", bytes(12), b"x" * 100, bytes(200_000)])
def test_what_is_not_rows_is_refused(way: str, body: bytes) -> None:
    with pytest.raises(BadBody, match="it sent rows that cannot be read"):
        read_rows(body, 0.0)


@pytest.mark.parametrize("body", [b"", b"\x09", b"\0", b"\x02\xff", b"\0\x93"])
def test_what_is_not_a_mark_is_refused(body: bytes) -> None:
    with pytest.raises(BadBody, match="it sent a mark that cannot be read"):
        read_mark(body)
