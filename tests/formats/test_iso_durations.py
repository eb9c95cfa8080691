"""A duration is read from the text that it is written as."""

from __future__ import annotations

import datetime as dt
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.formats.iso_durations import ticks_of
from dataflare.formats.ndjson_read import NdjsonPlan
from dataflare.formats.text_types import TextColumn
from dataflare.model.types import parse_type

US = st.integers(-(2**62), 2**62)


def read(text: str, unit: str = "us") -> Any:
    return pl.select(ticks_of(pl.lit(text), unit)).item()


@given(US, st.sampled_from(["ms", "us", "ns"]))
def test_what_polars_writes_is_read_back(ticks: int, unit: Any) -> None:
    written = pl.Series([ticks]).cast(pl.Duration(unit)).dt.to_string("iso").item()
    assert read(written, unit) == ticks


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("PT1H", dt.timedelta(hours=1)),
        ("PT1M30.5S", dt.timedelta(seconds=90.5)),
        ("-P1DT2H", -dt.timedelta(days=1, hours=2)),
        ("+P2W", dt.timedelta(weeks=2)),
        ("PT0,25S", dt.timedelta(milliseconds=250)),
        ("PT36H", dt.timedelta(hours=36)),
    ],
)
def test_durations(text: str, span: dt.timedelta) -> None:
    assert read(text) == span // dt.timedelta(microseconds=1)


@pytest.mark.parametrize(
    "text",
    [
        "P",
        "PT",
        "P1DT",
        "1H",
        "P1Y",
        "P1M",
        "PT1.5H",
        "PT1S ",
        "1:30:00",
        "",
        "PT0.0000001S",
        "P999999999D",
        "PT999999999999999999S",
    ],
)
def test_texts_that_are_not_durations(text: str) -> None:
    assert read(text) is None


def test_ndjson_reads_them() -> None:
    column = TextColumn("d", parse_type("duration[us]"), declared=True)
    plan = NdjsonPlan((column,), ("d",))
    data = b'{"d":"PT1H"}\n{"d":5}\n{"d":null}'
    spans = [dt.timedelta(hours=1), dt.timedelta(microseconds=5), None]
    assert plan.scan(data).collect()["d"].to_list() == spans
    found = plan.salvage(data + b'\n{"d":"1:30:00"}', str)
    assert found.good["d"].to_list() == spans
    assert [bad.code for bad in found.bad] == ["E0501"]
