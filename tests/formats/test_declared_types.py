"""A type that the user declares reads text as CAST does, or the row is refused, in every way of
reading."""

from __future__ import annotations

import json
import math
import re
from datetime import date, datetime, time
from decimal import ROUND_HALF_UP, Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.formats.csv_read import CsvDialect, CsvPlan
from dataflare.formats.ndjson_read import NdjsonPlan
from dataflare.formats.text_types import TextColumn, infer, loose, with_contract
from dataflare.model.types import Schema, parse_type


def read(column: TextColumn, texts: list[str]) -> list[object]:
    """The values, "bad" if the row is refused. Also checks that the quick way agrees, if it does
    not raise."""
    plan = CsvPlan(CsvDialect(), (column,), (column.name,))
    data = "".join(f"{text}\n" for text in texts).encode()
    result = plan.salvage(data, str)
    values: list[object] = ["bad"] * len(texts)
    for row, value in zip(result.good_rows, result.good[column.name], strict=True):
        values[row] = value
    try:
        assert plan.scan(data).collect()[column.name].to_list() == values
    except pl.exceptions.PolarsError:
        pass
    else:
        assert "bad" not in values
    return values


def declared(type_: str, sample: list[str]) -> TextColumn:
    """The column that a source makes from a sample and the user's schema."""
    inferred = infer(pl.DataFrame({"a": sample}, schema={"a": pl.String}))
    return with_contract(inferred, Schema.of({"a": parse_type(type_)}))[0]


@given(st.lists(st.decimals(-99_999, 99_999, places=4).map(str), min_size=1, max_size=20))
def test_a_decimal_is_rounded_half_away_from_zero(texts):
    def model(text: str) -> object:
        value = Decimal(text).quantize(Decimal("0.01"), ROUND_HALF_UP)
        return value if abs(value) < 10_000 else "bad"

    assert read(declared("decimal(6, 2)", texts), texts) == [model(text) for text in texts]


@pytest.mark.parametrize(
    ("type_", "text", "expected"),
    [
        ("int64", "1.5", 2),
        ("int64", "-2.5", -3),
        ("int64", "1e3", 1000),
        ("int8", "300", "bad"),
        ("decimal(4, 2)", "99.995", "bad"),
        ("decimal(4, 2)", "1.005e0", Decimal("1.01")),
        (
            "decimal(38, 0)",
            "12345678901234567890123456789012345678",
            Decimal("1" + "2345678901" * 3 + "2345678"),
        ),
        ("bool", "yes", True),
        ("bool", "N", False),
        ("bool", "0", False),
        ("bool", "maybe", "bad"),
        ("date", "2024-02-30", "bad"),
        ("date", "2024/2/3", date(2024, 2, 3)),
        ("time", "10:30", time(10, 30)),
        ("float64", "1e400", "bad"),
        ("timestamp[us]", "2024-01-01T00:00:00.1234567", datetime(2024, 1, 1, 0, 0, 0, 123456)),
        ("timestamp[ms]", "2024-01-01T00:00:00.1235", datetime(2024, 1, 1, 0, 0, 0, 124000)),
        ("timestamp[ns]", "2924-01-01T00:00:00", "bad"),
        ("timestamp[us, Europe/Berlin]", "2024-03-31 02:30:00", "bad"),
        ("timestamp[us, America/Havana]", "2024-03-10", "bad"),
    ],
)
@pytest.mark.parametrize("sampled", [True, False])
def test_a_declared_type_is_a_cast(type_, text, expected, sampled):
    """With and without such a text in the sample."""
    assert read(declared(type_, [text] if sampled else []), [text]) == [expected]


def test_the_later_of_two_hours_is_meant():
    [value] = read(declared("timestamp[us, Europe/Berlin]", []), ["2024-10-27 02:30:00"])
    assert isinstance(value, datetime)
    assert value.utcoffset().total_seconds() == 3600


@pytest.mark.parametrize(
    "sample",
    [
        ["2024-01-01T00:00:00"],
        ["2024-01-01T00:00:00.5", "2024-01-01T00:00:00.25"],
        ["2024-01-01T00:00:00.123"],
        ["2024-01-01T00:00:00.123456"],
        ["2024-01-01T00:00:00.123456000"],
    ],
)
def test_nanoseconds_that_come_after_the_sample_are_refused(sample):
    [column] = infer(pl.DataFrame({"a": sample}))
    assert read(column, [sample[0], "2024-01-01T00:00:00.123456789"])[1] == "bad"


CASTS = st.one_of(
    st.integers(-300, 300).map(str),
    st.sampled_from(["yes", "no", "t", "0", "1", "2", "true", "x", " 7 ", "1.5", "-1.5", "2.5", "1e2", "inf"]),
    st.decimals(-300, 300, places=2).map(str),
)  # fmt: skip


@pytest.mark.parametrize("type_", ["int64", "int8", "uint8", "bool", "float64", "float32"])
@given(texts=st.lists(CASTS, min_size=1, max_size=5), quoted=st.lists(st.booleans(), min_size=5, max_size=5))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_declared_type_reads_json_as_it_reads_csv(type_, texts, quoted):
    """A value that both read is the same in both; a text in quotes is read like the cell of a CSV file."""
    column = TextColumn("v", parse_type(type_), declared=True)
    lines = []
    for text, in_quotes in zip(texts, quoted, strict=False):
        is_number = re.fullmatch(r"-?\d+(\.\d+)?", text) is not None
        lines.append(json.dumps({"v": text}) if in_quotes or not is_number else f'{{"v":{text}}}')
    plan = NdjsonPlan((column,), ("v",))
    data = "\n".join(lines).encode()
    found = plan.salvage(data, str)
    cells = pl.DataFrame({"v": texts}).select(loose(column))["v"].to_list()
    read = dict(zip(found.good_rows.to_list(), found.good["v"].to_list(), strict=True))
    bad = {each.row for each in found.bad}
    for row, (cell, line) in enumerate(zip(cells, lines, strict=True)):
        if row in bad:
            assert cell is None or not math.isfinite(cell) or type_ in ("float64", "float32"), line
        else:
            assert read[row] == cell, line
    try:
        assert plan.scan(data).collect()["v"].to_list() == list(read.values())
    except pl.exceptions.PolarsError:
        return
    assert not bad


@pytest.mark.parametrize(
    ("type_", "json_text", "value"),
    [("int64", '"7"', 7), ("int64", "1.7", 2), ("bool", '"yes"', True), ("bool", "0", False), ("float64", '"1.5"', 1.5)],
)  # fmt: skip
def test_json_values_of_another_kind_are_cast(type_, json_text, value):
    column = TextColumn("v", parse_type(type_), declared=True)
    found = NdjsonPlan((column,), ("v",)).salvage(f'{{"v":{json_text}}}'.encode(), str)
    assert (found.good["v"].to_list(), list(found.bad)) == ([value], [])


@pytest.mark.parametrize(
    ("type_", "json_text"),
    [("int64", '"x"'), ("int8", '"300"'), ("int64", "true"), ("bool", "2"), ("float64", "true"), ("int64", "[1]")],
)  # fmt: skip
def test_json_values_that_cannot_be_cast_are_bad(type_, json_text):
    column = TextColumn("v", parse_type(type_), declared=True)
    found = NdjsonPlan((column,), ("v",)).salvage(f'{{"v":{json_text}}}'.encode(), str)
    assert [bad.code for bad in found.bad] == ["E0501"]
