"""Dates and times beyond the formatters have their exact text, and break neither files nor dead letters."""

from __future__ import annotations

import json

import duckdb
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.formats.row_text import row_text
from dataflare.formats.text_write import CsvText, NdjsonText, for_python

DUCK = duckdb.connect()
TICKS = {"ms": 1_000, "us": 1_000_000}


def lines(frame: pl.DataFrame) -> list[dict[str, object]]:
    return [json.loads(line) for line in NdjsonText().encode(frame).splitlines()]


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (2**63 - 1, pl.Datetime("us"), "+294247-01-10T04:00:54.775807"),
        (2**63 - 775_807, pl.Datetime("us"), "+294247-01-10T04:00:54.000001"),
        (2**63 - 1, pl.Datetime("us", "UTC"), "+294247-01-10T04:00:54.775807Z"),
        (2**63 - 1, pl.Datetime("us", "Europe/Berlin"), "+294247-01-10T04:00:54.775807+00:00"),
        (-(2**63), pl.Datetime("us"), "-290308-12-21T19:59:05.224192"),
        (2**63 - 1, pl.Datetime("ms"), "+292278994-08-17T07:12:55.807"),
        (2**31 - 1, pl.Date(), "+5881580-07-11"),
        (-(2**31), pl.Date(), "-5877641-06-23"),
        (-(2**63), pl.Duration("us"), "-P106751991DT4H0M54.775808S"),
    ],
)
def test_the_limits_of_each_type(value, dtype, text):
    column = (
        pl.Series([value, 0, None]).cast(pl.Int32 if dtype == pl.Date else pl.Int64).cast(dtype)
    )
    frame = pl.DataFrame({"a": column, "b": [[each] for each in range(3)]})
    frame = frame.with_columns(l=pl.concat_list("a"), s=pl.struct("a"))
    first, second, third = lines(frame)
    assert (first["a"], first["l"], first["s"]) == (text, [text], {"a": text})
    assert str(second["a"]).startswith(("1970-01-01", "PT"))
    assert (third["a"], third["l"]) == (None, [None])
    assert CsvText().encode(frame.select("a")).decode().split("\n")[0] == text
    assert json.loads(row_text(for_python(frame).row(0, named=True)))["a"] == text


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(["ms", "us"]),
)
def test_far_and_near_days_are_those_of_duckdb(ticks, unit):
    # DuckDB's dates end in the year 5,881,580.
    days = ticks // (86_400 * TICKS[unit])
    if not -2_147_483_646 < days < 2_147_483_646:
        return
    frame = pl.DataFrame({"a": pl.Series([ticks]).cast(pl.Datetime(unit))})
    [row] = lines(frame)
    text = str(row["a"])
    year, month, day = (
        text[1:].split("T")[0].split("-") if text[0] in "+-" else text.split("T")[0].split("-")
    )
    [expected] = DUCK.execute(
        "SELECT year(d), month(d), day(d) FROM (SELECT DATE '1970-01-01' + ?::INT AS d)", [days]
    ).fetchall()
    sign = -1 if text[0] == "-" else 1
    assert (sign * int(year), int(month), int(day)) == expected


def test_near_values_are_left_alone():
    frame = pl.DataFrame({"a": [1, 2]}).cast(pl.Datetime("us"))
    assert for_python(frame) is not None
    assert for_python(frame).schema == frame.schema


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        (pl.Datetime("ns"), "1970-01-01T00:00:00.000000001"),
        (pl.Time(), "00:00:00.000000001"),
        (pl.Duration("ns"), "PT0.000000001S"),
        (pl.List(pl.Datetime("ns", "UTC")), ["1970-01-01T00:00:00.000000001Z"]),
    ],
)
def test_nanoseconds_stay_in_a_row_for_python(dtype: pl.DataType, text: object):
    frame = pl.DataFrame({"a": pl.Series([1]).cast(dtype.inner if dtype == pl.List else dtype)})
    if dtype == pl.List:
        frame = frame.select(pl.col("a").implode())
    assert for_python(frame).row(0) == (text,)
