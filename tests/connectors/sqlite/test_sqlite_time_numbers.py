"""Numbers in columns of times: one unit for a column, in every row. SQLite's own functions are the oracle."""

from __future__ import annotations

import asyncio
import datetime as dt
import sqlite3
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from connectors.sql.databases import read
from hypothesis import given
from hypothesis import strategies as st

from dataflare.errors import ConfigError, DataError
from dataflare.model.types import Schema, parse_type
from dataflare.sdk.sql.text_values import decoded

EPOCH = dt.datetime(1970, 1, 1)
SMALL = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
US = parse_type("timestamp[us]")


def table(folder: Path, declaration: str, *values: Any) -> None:
    connection = sqlite3.connect(folder / "data.db")
    connection.execute(f"create table t (id integer primary key, x {declaration})")
    connection.executemany("insert into t (x) values (?)", [(value,) for value in values])
    connection.commit()
    connection.close()


def times(folder: Path, **config: Any) -> list[Any]:
    found, _ = asyncio.run(read("sqlite", folder, table="t", **config))
    return list(found["x"].to_list())


@pytest.mark.parametrize("unit", SMALL)
def test_small_and_large_numbers_have_the_same_unit(unit: str, tmp_path: Path) -> None:
    days = [0, 10, 151, 18_499, -1, 100_000]
    table(tmp_path, "timestamp", *(day * 86_400 * SMALL[unit] for day in days), "1970-01-11 00:00")
    expected = [EPOCH + dt.timedelta(days=day) for day in [*days, 10]]
    assert times(tmp_path, time_numbers=unit) == expected
    assert times(tmp_path, time_numbers={"x": unit}) == expected


@pytest.mark.parametrize("value", [777600000, 1706702400, 2460310.5, 0])
def test_a_number_without_a_unit_is_a_row_error_that_names_the_option(
    value: float, tmp_path: Path
) -> None:
    table(tmp_path, "datetime", "2024-01-01", value)
    with pytest.raises(DataError) as caught:
        times(tmp_path)
    assert caught.value.code == "E0501"
    assert "rowid 2" in caught.value.message
    assert "time_numbers" in caught.value.message


@given(st.floats(0, 5373484.4))
def test_julian_days_are_those_of_sqlite(day: float) -> None:
    with sqlite3.connect(":memory:") as database:
        [[text]] = database.execute("select strftime('%Y-%m-%d %H:%M:%f', ?)", [day]).fetchall()
    column = decoded(pl.Series([repr(day)]), None, US, "julian_day")
    expected = None if text.startswith("-") else text[:23]
    if expected is not None:
        assert column.dt.to_string("%Y-%m-%d %H:%M:%S%.3f").to_list() == [expected]


def test_julian_days_in_a_table(tmp_path: Path) -> None:
    table(tmp_path, "datetime", 2460310.5, 2440587.5, 2440588)
    assert times(tmp_path, time_numbers="julian_day") == [
        dt.datetime(2024, 1, 1),
        EPOCH,
        EPOCH + dt.timedelta(hours=12),
    ]


@given(st.integers(-(10**15), 10**15))
def test_seconds_as_reals_are_read_to_the_microsecond(us: int) -> None:
    number = us / 1_000_000
    column = decoded(pl.Series([f"{number!r}"]), None, US, "s")
    assert column.to_physical().to_list() == [us]


@pytest.mark.parametrize(
    ("text", "type_", "unit"),
    [
        ("1706702400123", "timestamp[ms]", "us"),
        ("1706702400.1234567", "timestamp[us]", "s"),
        ("9223372036854775807", "timestamp[us]", "s"),
        ("99999999999999999999", "timestamp[us]", "us"),
        ("43200", "date", "s"),
        ("-1.0", "timestamp[us]", "julian_day"),
        ("5373484.6", "timestamp[us]", "julian_day"),
    ],
)
def test_a_number_that_the_type_would_cut_does_not_fit(text: str, type_: str, unit: Any) -> None:
    assert decoded(pl.Series([text]), None, parse_type(type_), unit).to_list() == [None]


def test_dates_and_columns_of_integers_under_a_schema(tmp_path: Path) -> None:
    table(tmp_path, "integer", 1706659200000)
    contract = Schema.of({"x": "date"})
    assert times(tmp_path, time_numbers="ms", contract=contract) == [dt.date(2024, 1, 31)]


def test_the_option_names_columns_of_times(tmp_path: Path) -> None:
    table(tmp_path, "text", "a")
    with pytest.raises(ConfigError) as caught:
        times(tmp_path, time_numbers={"x": "s"})
    assert caught.value.code == "E0413"
    assert times(tmp_path, time_numbers="s") == ["a"]
