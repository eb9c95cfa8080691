"""CAST from text: DuckDB's answer for each spelling, exact digits, and the differences that the docs list."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import connection, same

from dataflare.errors import ExpressionError
from dataflare.expr import check
from dataflare.model.types import Schema

NUMBERS = [
    "0x1F", "0X1f", "0b101", "0B11", "0x1_F", "0o17", "-0x1F", "0x", "0x7FFFFFFFFFFFFFFF", "0x8000000000000000",
    "0xFFFFFFFFFFFFFFFF", "1.005", "1.015", "1.025", "2.675", "-1.005", "1.004999", "0.995", "9999.995", "9999.994",
    "1e2", "1e-2", "1.5e1", "-1.5E-1", "1e", "e5", "1.", ".", " .5", "+.5", "- 1", "1_000", "1__0", "_1", "1_0.5_0",
    "1e1_0", "1e+2", "1,000", "12.345e1", "1e-20", "1e40", "-0", "-0.0", "0.005", "0.0049999999999999999999",
    "1.0050000000000000000000000000000000000000000000000001", "123456789012345678901234567890123456789",
    "0.12345678901234567890123456789012345678901", "2.5", "-2.5", "0.5", "1.4999999999999999999999999",
    "9223372036854775807.4", "9223372036854775807.5", "-9223372036854775808.5", "18446744073709551615.5", "127.5",
    "127.4", "-128.5", "255.5", "1e19", "1e400", "-1e400", "1e-400", "nan", "-inf", "Infinity", "infin", "true", "T",
    "yes", "on", "0", "no", "F", " true", "01", "", " ", "\t1", "1\n", "+5", "1 2", "1\u00a0", "25e-1", "0e0", "--1",
    "$1", "1%", "abc", "1f", "5e-1",
]  # fmt: skip
TIMES = [
    "2024-02-29", "2024-2-9", "2024/02/29", "2024-02-30", "  2024-02-29", "20240229", "0024-02-29", "0001-01-01",
    "9999-12-31", "2024-02-29T10:00:00", "2024-02-29 10:00", "2024-02-29 10", "2024-02-29 10:00:00.5",
    "2024-02-29 10:00:00.123456789", "2024-02-29 10:00:00.1234567", "2024-02-29 23:59:60", "2024-02-29 25:00:00",
    "2024-02-29 10:60:00", "2024-02-29 10:00:00Z", "2024-02-29 10:00:00+02", "2024-02-29 10:00:00-03:30",
    "2024-02-29 10:00:00 UTC", "2024-02-29T10:00:00.5+02:00", "2024-02-29 1:2:3", "today", "", "10:00:00", "1:2:3",
    "10:00", "10:00:00.1234567", "1e3", "2024", "29.02.2024", "2024-02-29x", "1677-09-21 00:12:44",
    "2262-04-11 23:47:16.8", "2262-04-12", "1500-01-01 00:00:00.5", "2024-12-31T23:59:59.9999999Z",
]  # fmt: skip
TYPES = {
    "int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT", "uint8": "UTINYINT",
    "uint16": "USMALLINT", "uint32": "UINTEGER", "uint64": "UBIGINT", "decimal(6, 2)": "DECIMAL(6,2)",
    "decimal(18, 3)": "DECIMAL(18,3)", "decimal(38, 10)": "DECIMAL(38,10)", "decimal(38, 0)": "DECIMAL(38,0)",
    "decimal(9, 0)": "DECIMAL(9,0)", "float64": "DOUBLE", "float32": "FLOAT", "bool": "BOOLEAN",
}  # fmt: skip
MOMENTS = {
    "date": "DATE", "timestamp[us]": "TIMESTAMP", "timestamp[s]": "TIMESTAMP_S", "timestamp[ms]": "TIMESTAMP_MS",
    "timestamp[ns]": "TIMESTAMP_NS", "timestamp[us, UTC]": "TIMESTAMPTZ",
}  # fmt: skip


def cast(texts: list[Any], to: str, given: str = "string") -> list[Any]:
    """The values, "ERROR" where the row is one."""
    lowered = check(f"CAST(s AS {to})", Schema.of({"s": given})).lower()
    error = pl.lit(None, pl.UInt8) if lowered.error is None else lowered.error
    data = pl.DataFrame({"s": texts}, schema=Schema.of({"s": given}).to_polars())
    out = data.select(lowered.value.alias("x"), error.alias("e"))
    return ["ERROR" if e is not None else x for x, e in out.iter_rows()]


def theirs(text: str, to: str) -> Any:
    connection().register("one", pl.DataFrame({"s": [text]}).to_arrow())
    try:
        table = connection().sql(f"SELECT CAST(s AS {to}) AS x FROM one").to_arrow_table()
    except duckdb.Error:
        return "ERROR"
    made = pl.from_arrow(table)
    assert isinstance(made, pl.DataFrame)
    return made["x"].to_list()[0]


@pytest.mark.parametrize("to", TYPES)
def test_numbers_are_read_as_duckdb_reads_them(to: str) -> None:
    ours = cast(NUMBERS, to)
    apart = [
        (text, a, b)
        for text, a in zip(NUMBERS, ours, strict=True)
        if not same(a, b := theirs(text, TYPES[to]))
    ]
    assert apart == []


@pytest.mark.parametrize("to", MOMENTS)
def test_times_are_read_as_duckdb_reads_them(to: str) -> None:
    ours = cast(TIMES, to)
    apart = [
        (text, a, b)
        for text, a in zip(TIMES, ours, strict=True)
        if not same(a, b := theirs(text, MOMENTS[to]))
    ]
    assert apart == []


@settings(settings.get_profile("expr"), max_examples=300)
@example("0.5", 0)
@example("1.00499999999999999999999", 2)
@example("-0.5e0", 0)
@example("12345678901234567890123456789012345.675", 2)
@example("1675e-3", 2)
@given(st.from_regex(r"\A[+-]?[0-9]{1,20}(\.[0-9]{0,25})?([eE][+-]?[0-9])?\Z"), st.integers(0, 12))
def test_decimals_round_half_away_from_zero(text: str, scale: int) -> None:
    exact = Decimal(text).quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, Context(prec=200))
    assert cast([text], f"decimal(38, {scale})") in (
        [exact],
        ["ERROR"] if abs(exact) >= Decimal(10) ** (38 - scale) else [exact],
    )


def test_a_time_that_its_zone_skipped_is_an_error_of_the_row() -> None:
    skipped, twice, plain = "2024-03-31 02:30:00", "2024-10-27 02:30:00", "2024-07-01 12:00:00"
    made = cast([skipped, twice, plain, None], "timestamp[us, Europe/Berlin]")
    assert made[0] == "ERROR"
    assert [str(each) for each in made[1:]] == [
        "2024-10-27 02:30:00+01:00", "2024-07-01 12:00:00+02:00", "None",
    ]  # fmt: skip
    naive = cast([skipped, twice], "timestamp[us]")
    assert cast(naive, "timestamp[us, Europe/Berlin]", "timestamp[us]") == made[:2]
    moved = check("s AT TIME ZONE 'Europe/Berlin'", Schema.of({"s": "timestamp[us]"})).lower()
    assert moved.error is not None
    data = pl.DataFrame({"s": naive}).with_columns(pl.col("s").cast(pl.Datetime("us")))
    assert data.select(moved.error.is_not_null().alias("e"))["e"].to_list() == [True, False]


def test_a_literal_that_its_zone_skipped_is_refused() -> None:
    schema = Schema.of({"t": "timestamp[us, Europe/Berlin]"})
    with pytest.raises(ExpressionError) as caught:
        check("t > '2024-03-31 02:30:00'", schema)
    assert caught.value.code == "E0208"
    assert check("t > '2024-03-31 03:30:00'", schema)


@pytest.mark.parametrize(
    ("texts", "to", "values"),
    [
        # an element that does not fit fails the row
        ([[1.5, 2.5, None], [], None, [1e300]], "list<int64>", [[2, 2, None], [], None, "ERROR"]),
    ],
)
def test_each_element_is_cast_by_its_own_rule(texts: list[Any], to: str, values: list[Any]) -> None:
    assert cast(texts, to, "list<float64>") == values


def test_each_field_is_cast_by_its_own_rule() -> None:
    rows = [{"a": "0x1F", "b": 2.5}, {"a": None, "b": None}, None, {"a": "x", "b": 1.0}]
    made = cast(rows, "struct<a: int64, b: int32>", "struct<a: string, b: float64>")
    assert made == [{"a": 31, "b": 2}, {"a": None, "b": None}, None, "ERROR"]


@pytest.mark.parametrize("to", ["list<int64>", "struct<a: int64>", "duration[us]"])
def test_text_has_no_form_of_nested_types_and_durations(to: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        check(f"CAST(s AS {to})", Schema.of({"s": "string"}))
    assert caught.value.code == "E0204"


def test_a_cast_to_json_gives_json() -> None:
    assert cast(['{"a": 1}', "abc", "null", None], "json") == ['{"a": 1}', "ERROR", "null", None]
    assert cast([1.5, float("nan")], "json", "float64") == ["1.5", "ERROR"]
    day = cast(["2024-01-01"], "date")
    assert cast(day, "json", "date") == ['"2024-01-01"']


def test_a_cast_from_json_takes_the_value_out() -> None:
    assert cast(["12", '"12"', "null", "1.5", "{}"], "int64", "json") == [12, 12, None, 2, "ERROR"]
    assert [str(each) for each in cast(['"2024-01-01"'], "date", "json")] == ["2024-01-01"]


# What docs/reference/functions.md lists as different from DuckDB.
DIFFERENCES = [
    ("5e-1", "decimal(4, 4)", Decimal("0.5000")),  # DuckDB refuses an exponent without whole digits
    ("+-1", "float64", "ERROR"),
    ("infinity", "timestamp", "ERROR"),
    ("epoch", "timestamp", "ERROR"),
    ("12024-01-01", "date", "ERROR"),
    ("2024-02-29 24:00:00", "timestamp", "ERROR"),
    ("2024-02-29 10:00:00 Europe/Berlin", "timestamp", "ERROR"),
    ("2024-02-29 10:00:00", "time", "ERROR"),
]


@pytest.mark.parametrize(("text", "to", "value"), DIFFERENCES)
def test_the_documented_differences_are_still_there(text: str, to: str, value: Any) -> None:
    assert cast([text], to) == [value]
    target = to.replace("float64", "double")
    (refused,) = connection().execute(f"SELECT TRY_CAST(? AS {target}) IS NULL", [text]).fetchone()
    assert refused is (value != "ERROR")
