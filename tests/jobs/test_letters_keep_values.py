"""The row of a dead letter has each value of the row that failed, of every type: `dlq replay` gives it back exactly."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.connectors.inline.values import frame_of
from dataflare.formats.row_text import row_text
from dataflare.formats.text_write import python_rows
from dataflare.jobs.replay import row_of
from dataflare.model.types import Schema

NANOSECONDS = st.integers(-(2**62), 2**62)
MICROSECONDS = st.timedeltas(timedelta(days=-100_000_000), timedelta(days=100_000_000))
DIGITS = st.integers(1 - 10**38, 10**38 - 1)
TYPES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "float64": st.floats(),
    "float32": st.floats(width=32),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    "binary": st.binary(max_size=8),
    "date": st.dates(),
    "time": st.times(),
    "timestamp[us]": st.datetimes(),
    "timestamp[ns, UTC]": NANOSECONDS,
    "duration[us]": MICROSECONDS,
    "duration[ms]": st.timedeltas().map(lambda t: t - t % timedelta(milliseconds=1)),
    "duration[ns]": NANOSECONDS,
    "decimal(38, 0)": DIGITS.map(Decimal),
    "decimal(38, 9)": DIGITS.map(lambda n: Decimal((int(n < 0), tuple(map(int, str(abs(n)))), -9))),
    "list<float64>": st.lists(st.one_of(st.none(), st.floats()), max_size=3),
    "list<duration[us]>": st.lists(MICROSECONDS, max_size=3),
    "struct<a: float64, b: list<decimal(30, 2)>>": st.fixed_dictionaries(
        {"a": st.floats(), "b": st.lists(st.decimals(-(10**20), 10**20, places=2), max_size=2)}
    ),
}


@st.composite
def rows(draw: st.DrawFn) -> pl.DataFrame:
    """One row of some types."""
    kinds = draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=4))
    schema = {f"c{n}": kind for n, kind in enumerate(kinds)}
    columns = {name: [draw(st.one_of(st.none(), TYPES[kind]))] for name, kind in schema.items()}
    return pl.DataFrame(columns, schema=Schema.of(schema).to_polars(), strict=False)


@settings(max_examples=300)
@given(frame=rows())
def test_each_value_comes_back(frame: pl.DataFrame) -> None:
    schema = Schema.from_polars(frame.schema)
    [row] = python_rows(frame)
    letter = json.loads(row_text(row))
    assert frame_of([row_of(letter, schema)], schema, "s").equals(frame)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("decimal(38, 9)", "12345678901234567890.123456789"),
        ("duration[us]", "PT0.000006S"),
        ("duration[us]", "-PT5S"),
        ("duration[us]", "1.5s"),  # as letters had it before
    ],
)
def test_texts_that_were_refused(kind: str, text: str) -> None:
    schema = Schema.of({"x": kind})
    assert frame_of([row_of({"x": text}, schema)], schema, "s")["x"].null_count() == 0
