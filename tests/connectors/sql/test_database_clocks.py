"""Wall clocks and instants are two kinds, and a column that has no value today is not a column of text."""

from __future__ import annotations

import datetime as dt
from typing import Any

import polars as pl
import pytest
from databases import Step, execute, rows, run

from dataflare.errors import DataFlareError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema

pytestmark = pytest.mark.rotates(2)

NOON = dt.datetime(2024, 1, 1, 12)
INSTANT = NOON.replace(tzinfo=dt.UTC)


def write(kind: str, folder: Any, type_: str, *values: Any, validate: bool = True) -> None:
    schema = Schema.of({"v": type_})

    async def go() -> None:
        step = Step(kind, folder, schema)
        if validate:
            await step.destination.validate(schema)
        await step.start()
        try:
            frame = pl.DataFrame({"v": pl.Series(values, dtype=schema["v"].to_polars())})
            await step.epoch(1, SharedDataBatch(frame), final=True)
        finally:
            await step.close()

    run(go())


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize(
    ("column", "type_", "value", "words"),
    [
        ("timestamptz", "timestamp[us]", NOON, "to_utc"),
        ("timestamptz", "timestamp[ms]", NOON, "cast: {v: 'timestamp[us, UTC]'}"),
        ("timestamptz", "date", NOON.date(), "to_utc"),
        ("timestamp", "timestamp[us, UTC]", INSTANT, "cast: {v: timestamp}"),
        ("timestamp", "timestamp[us, Europe/Paris]", INSTANT, "timezone("),
    ],
)
def test_a_column_takes_only_its_own_kind(kind, tmp_path, column, type_, value, words, validate):  # type: ignore[no-untyped-def]
    execute(kind, tmp_path / "data.db", f"create table t (v {column})")
    with pytest.raises(DataFlareError) as caught:
        write(kind, tmp_path, type_, value, validate=validate)
    assert caught.value.code == "E0511"
    assert "column 'v'" in caught.value.message
    assert words in (caught.value.help or "")
    assert rows(kind, tmp_path / "data.db", "select * from t") == []


@pytest.mark.parametrize(
    ("column", "type_", "value"),
    [
        ("timestamptz", "timestamp[us, UTC]", INSTANT),
        ("timestamptz", "timestamp[ms, Europe/Paris]", INSTANT),
        ("timestamp", "timestamp[us]", NOON),
        ("timestamp", "date", NOON.date()),
    ],
)
def test_a_column_takes_its_own_kind(kind, tmp_path, column, type_, value):  # type: ignore[no-untyped-def]
    execute(kind, tmp_path / "data.db", f"create table t (v {column})")
    write(kind, tmp_path, type_, value)
    assert rows(kind, tmp_path / "data.db", "select count(*) from t") == [(1,)]


@pytest.mark.parametrize(
    ("column", "type_"),
    [
        ("timestamptz[]", "list<timestamp[us]>"),
        ("struct(a timestamp)", "struct<a: timestamp[us, UTC]>"),
    ],
)
def test_so_does_a_column_of_nested_times(tmp_path, column, type_):  # type: ignore[no-untyped-def]
    execute("duckdb", tmp_path / "data.db", f"create table t (v {column})")
    with pytest.raises(DataFlareError) as caught:
        write("duckdb", tmp_path, type_, None)
    assert caught.value.code == "E0511"


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("timestamp", "2024-01-01T00:00:00+02:00"),
        ("timestamp", "2024-01-01 00:00:00Z"),
        ("timestamp", "2024-01-01 00:00:00 Europe/Paris"),
        ("timestamp", "2024-01-01 00:00:00.1234567"),
        ("timestamp_ms", "2024-01-01 00:00:00.1234"),
        ("timestamptz", "2024-01-01 00:00:00.1234567+02"),
    ],
)
def test_text_that_duckdb_would_move_or_cut_is_refused(tmp_path, column, text):  # type: ignore[no-untyped-def]
    execute("duckdb", tmp_path / "data.db", f"create table t (v {column})")
    with pytest.raises(DataFlareError) as caught:
        write("duckdb", tmp_path, "string", text)
    assert caught.value.code == "E0511"
    write("duckdb", tmp_path, "string", "2024-01-01 00:00:00.120000000")


@pytest.mark.parametrize("column", ["integer", "real", "boolean", "date", "timestamp", "decimal(5, 2)"])  # fmt: skip
@pytest.mark.parametrize("values", [[], [None], [None, None]])
def test_text_without_a_value_goes_into_any_column(kind, tmp_path, column, values):  # type: ignore[no-untyped-def]
    execute(kind, tmp_path / "data.db", f"create table t (v {column})")
    write(kind, tmp_path, "string", *values)
    assert rows(kind, tmp_path / "data.db", "select * from t") == [(None,)] * len(values)


def test_text_with_a_value_does_not(tmp_path):  # type: ignore[no-untyped-def]
    execute("sqlite", tmp_path / "data.db", "create table t (v integer)")
    with pytest.raises(DataFlareError) as caught:
        write("sqlite", tmp_path, "string", None, "7")
    assert caught.value.code == "E0511"
    assert "column 'v' of table 't' is INTEGER" in caught.value.message
    assert rows("sqlite", tmp_path / "data.db", "select * from t") == []
