"""SQLite is dynamically typed: what a declared type makes of the values that stand there."""

from __future__ import annotations

import datetime as dt
import sqlite3
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "sql"))

from databases import read, run

from dataflare.connectors.sqlite.types import declared, type_of_declaration
from dataflare.errors import DataError, DataFlareError
from dataflare.model.types import Schema, parse_type
from dataflare.sdk.sql.text_values import decoded


def table(folder: Path, declaration: str, *values: Any) -> None:
    connection = sqlite3.connect(folder / "data.db")
    connection.execute(f"create table t (x {declaration})")
    connection.executemany("insert into t values (?)", [(value,) for value in values])
    connection.commit()
    connection.close()


NOON = dt.datetime(2024, 1, 31, 12, 0)
GOOD = {
    "TIMESTAMP": {
        "2024-01-31 12:00:00": NOON,
        "2024-01-31T12:00": NOON,
        "2024-01-31T12:00:00Z": NOON,
        "2024-01-31 14:00:00+02:00": NOON,
        "2024-01-31 06:30:00-0530": NOON,
        "2024-01-31": dt.datetime(2024, 1, 31),
        "2024-01-31 12:00:00.123456000+00:00": NOON.replace(microsecond=123456),
        None: None,
    },
    "DATE": {"2024-01-31": NOON.date(), "2024-01-31T00:00:00": NOON.date(), "2024-01-31 00:00:00.0000000": NOON.date()},
    "TIME": {"12:00:00.5": dt.time(12, 0, 0, 500_000), "12:00": dt.time(12)},
    "BOOLEAN": {1: True, 0: False, "true": True, "F": False, None: None},
    "DECIMAL(10, 2)": {12.34: Decimal("12.34"), 5: Decimal(5), "7.100": Decimal("7.10"), 0.1 + 0.2 - 0.3 + 1: Decimal(1)},
    "DECIMAL(12, 6)": {0.00001: Decimal("0.00001")},
    "INTEGER": {7: 7, " 8 ": 8, 2**63 - 1: 2**63 - 1},
    "REAL": {1: 1.0, 2.5: 2.5, 1.7976931348623157e308: 1.7976931348623157e308},
    "VARCHAR(10)": {"a": "a", 5: "5", 1.5: "1.5", "": ""},
    "BLOB": {b"\x00\xff": b"\x00\xff", "text": b"text"},
    "NUMERIC": {1: 1.0, 2.5: 2.5},
    "": {"a": "a", 5: "5"},
    "JSON": {'{"a": [1]}': '{"a": [1]}', 5: "5"},
    "VARINT": {5: 5},
}  # fmt: skip
BAD = {
    "TIMESTAMP": [
        "yesterday",
        "2024-02-30 00:00:00",
        b"\x01",
        "2024-01-31 25:00:00",
        "2024-01-31 12:00:00.123456789",
        "2024-01-31T12:00:00.0000001Z",
        1706702400,
        2460341.0,
        "1706702400",
    ],
    "TIMESTAMP(3)": ["2024-01-31 12:00:00.1239"],
    "TIMESTAMP(9)": ["1000-01-01 00:00:00", "2300-01-01", "2024-01-31 12:00:00.0000000001"],
    "DATE": ["2024-01-31 12:00:00", "31.1.2024", "2024-01-31 00:00:00.0000001", 1706659200],
    "TIME": ["25:00", "noon", "12:00:00.0000000001"],
    "BOOLEAN": [2, "maybe", 0.5],
    "DECIMAL(10, 2)": [12.345, "x", "1e30"],
    "INTEGER": ["seven", 1.5, b"\x07"],
    "REAL": ["much", b"1"],
    "TEXT": [b"\xff\xfe"],
    "JSON": [b"\xff"],
}


@pytest.mark.parametrize("declaration", GOOD)
def test_values_that_fit(tmp_path, declaration):
    values = GOOD[declaration]
    table(tmp_path, declaration, *values)
    found, _ = run(read("sqlite", tmp_path, table="t"))
    assert found["x"].to_list() == list(values.values())


@pytest.mark.parametrize("declaration", BAD)
def test_values_that_do_not_fit_are_named_and_the_others_kept_exactly(tmp_path, declaration):
    good = {"INTEGER": 2**60 + 1, "REAL": 0.1 + 0.2, "BOOLEAN": 1, "TEXT": "ok", "JSON": "{}"}.get(
        declaration
    )
    for value in BAD[declaration]:
        (tmp_path / "data.db").unlink(missing_ok=True)
        table(tmp_path, declaration, good, value, good)
        with pytest.raises(DataError) as caught:
            run(read("sqlite", tmp_path, table="t"))
        assert caught.value.code == "E0501"
        assert caught.value.message.count("rowid 2") == 1
        assert "'x'" in caught.value.message

        async def salvaged() -> list[Any]:
            from dataflare.connectors.sqlite.source import SqliteSource
            from dataflare.sdk.context import ConnectorContext

            one = SqliteSource(
                SqliteSource.Config(path="data.db", table="t"), ConnectorContext("in", tmp_path)
            )
            (split,) = await one.splits()
            reader = await one.open(split, None)
            chunk = await reader.read_chunk()
            await reader.aclose()
            [bad] = chunk.bad
            assert (bad.place, "rowid" in bad.message) == ("table 't' rowid 2", False)
            return list(chunk.scan().collect()["x"].to_list())

        assert run(salvaged()) == [good, good]


def test_a_contract_reads_text_as_what_it_says(tmp_path):
    table(tmp_path, "TEXT", "2024-01-31T12:00:00+01:00", "1706702400")
    contract = Schema.of({"x": "timestamp[us, UTC]"})
    found, _ = run(read("sqlite", tmp_path, table="t", contract=contract, time_numbers="s"))
    eleven = NOON.replace(hour=11, tzinfo=dt.UTC)
    assert found["x"].to_list() == [eleven, NOON.replace(tzinfo=dt.UTC)]


def test_nanoseconds_are_kept_under_a_type_that_has_them(tmp_path):
    table(tmp_path, "DATETIME", "2024-01-31 12:00:00.123456789")
    contract = Schema.of({"x": "timestamp[ns]"})
    found, _ = run(read("sqlite", tmp_path, table="t", contract=contract))
    assert found["x"].dt.nanosecond().to_list() == [123456789]


@pytest.mark.parametrize(
    "type_", ["bool", "int64", "uint64", "float64", "decimal(9, 2)", "decimal(30, 5)", "string", "binary",
              "date", "time", "timestamp[us]", "timestamp[ms]", "timestamp[ns, UTC]", "duration[ms]", "json"],
)  # fmt: skip
def test_a_declaration_of_ours_means_the_type_it_was_made_from(type_):
    assert type_of_declaration(declared(parse_type(type_))) == parse_type(type_)


def test_a_blob_among_text_does_not_hide_the_text():
    raw = pl.Series([b"ok", b"\xff", None])
    assert decoded(raw, None, parse_type("string")).to_list() == ["ok", None, None]


def test_the_names_of_a_without_rowid_table_and_of_a_taken_rowid(tmp_path):
    connection = sqlite3.connect(tmp_path / "data.db")
    connection.executescript(
        "create table t (rowid text, _rowid_ text, oid text); insert into t values ('a', 'b', 'c');"
        "create table w (a text, b integer, primary key (b, a)) without rowid;"
        "insert into w values ('x', 1), ('y', 1), ('a', 2);"
    )
    connection.close()
    found, _ = run(read("sqlite", tmp_path, table="t"))
    assert found.rows() == [("a", "b", "c")]
    found, _ = run(read("sqlite", tmp_path, table="w", rows_max=1))
    assert found.rows() == [("x", 1), ("y", 1), ("a", 2)]


@pytest.mark.parametrize("declaration", ["INTEGER", "REAL", "BOOLEAN", "DATE", "DECIMAL(9, 2)"])
def test_text_in_a_cursor_column_is_refused_with_its_value(
    tmp_path: Path, declaration: str
) -> None:
    table(tmp_path, declaration, 1, "abc")
    with pytest.raises(DataFlareError) as caught:
        run(read("sqlite", tmp_path, table="t", incremental={"column": "x"}))
    assert caught.value.code in ("E0501", "E0413")
