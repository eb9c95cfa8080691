"""Every storage class in a column of every affinity: each stored value is read exactly, or refused.

The judge is SQLite itself, as Python's own driver has it: what it stored is what must come out.
"""

from __future__ import annotations

import datetime as dt
import math
import sqlite3
import sys
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "sql"))

from databases import Step, read, run

from dataflare.errors import DataError, DataFlareError
from dataflare.model.batch import SharedDataBatch

DECLARED = [
    "INTEGER", "TEXT", "BLOB", "", "REAL", "NUMERIC", "DECIMAL(10, 2)", "DECIMAL_TEXT(30, 5)", "UNSIGNED_BLOB",
    "BOOLEAN", "DATE", "DATETIME", "TIME", "INTERVAL", "JSON", "ANY",
]  # fmt: skip
VALUES: list[Any] = [
    0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63), 1706702400, -0.0, 1.5, 3.0, 0.1 + 0.2, 9007199254740993.0, 1e300,
    5e-324, 12.345, math.inf, "", "abc", "007", " 5 ", "1.50", "1e5", "9007199254740993", "18446744073709551615",
    "inf", "nan", "0x1F", "true", "2024-01-31", "2024-01-31 12:00:00", "12:00:00", "24:00:00", '{"a": 1}', "é",
    b"", b"abc", b"\xff\x00", b"12",
]  # fmt: skip


def stored(folder: Path, declaration: str, value: Any) -> Any:
    """Put the value into a new table, and return what SQLite made of it."""
    path = folder / "data.db"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as db:
        db.execute(f"create table t (id integer primary key, x {declaration})")
        db.execute("insert into t (x) values (?)", (value,))
        (found,) = db.execute("select x from t").fetchone()
    db.close()
    return found


def same(had: Any, got: Any, declaration: str) -> bool:
    """Whether what came out says exactly what was stored."""
    match got:
        case None:
            return had is None
        case bool():
            return str(had).strip().lower() in (("true", "t", "1") if got else ("false", "f", "0"))
        case bytes():
            if isinstance(had, float):
                return float(got) == had
            return got == (had if isinstance(had, bytes) else str(had).encode())
        case str():
            if isinstance(had, float):
                return float(got) == had or "JSON" in declaration
            return got == (had.decode() if isinstance(had, bytes) else str(had))
        case int() | float() | Decimal():
            return same_number(had, got)
        case dt.datetime():
            text = str(had).strip().replace("T", " ").removesuffix("Z").removesuffix("+00:00")
            naive = got.replace(tzinfo=None)
            return (
                dt.datetime.fromisoformat(text) == naive
                and len(text.partition(".")[2].rstrip("0")) <= 6
            )
        case dt.date() | dt.time():
            return str(had) == str(got)
        case dt.timedelta():
            return had == got // dt.timedelta(microseconds=1)
    raise AssertionError(got)


def same_number(had: Any, got: float | Decimal) -> bool:
    had = had.decode() if isinstance(had, bytes) else had
    if isinstance(got, float) and not math.isfinite(got):
        text = str(had).strip().lower().replace("infinity", "inf").removeprefix("+")
        return text == str(got)
    try:
        given = Decimal(had.strip() if isinstance(had, str) else had)
    except InvalidOperation:
        return False
    if isinstance(got, float) and isinstance(had, str):
        return float(had) == got
    # A real under DECIMAL stands for the shortest number that it prints as.
    return given == Decimal(got) or (isinstance(had, float) and Decimal(repr(had)) == Decimal(got))


@pytest.mark.parametrize("declaration", DECLARED)
def test_each_stored_value_is_read_exactly_or_refused(tmp_path: Path, declaration: str):
    wrong = []
    for value in VALUES:
        had = stored(tmp_path, declaration, value)
        try:
            found, _ = run(read("sqlite", tmp_path, table="t", columns=["x"]))
        except DataError as error:
            if error.code != "E0501":
                raise
            continue
        got = found["x"].to_list()[0]
        if not same(had, got, declaration):
            wrong.append((value, had, got, found["x"].dtype))
    assert wrong == []


ONE = st.sampled_from(VALUES) | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)


@pytest.mark.parametrize("declaration", DECLARED)
def test_a_page_of_mixed_classes_is_read_exactly_or_refused(tmp_path: Path, declaration: str):
    """Polars gives a page one type: values of other classes must not bend those beside them."""

    @settings(
        max_examples=10, deadline=None, derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )  # fmt: skip
    @given(st.lists(st.none() | ONE, min_size=2, max_size=6))
    def law(values: list[Any]) -> None:
        path = tmp_path / "data.db"
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as db:
            db.execute(f"create table t (id integer primary key, x {declaration})")
            db.executemany("insert into t (x) values (?)", [(value,) for value in values])
            had = [row[0] for row in db.execute("select x from t order by id")]
        db.close()
        try:
            found, _ = run(read("sqlite", tmp_path, table="t", columns=["x"]))
        except DataError as error:
            if error.code != "E0501":
                raise
            return
        got = found["x"].to_list()
        assert len(got) == len(had)
        wrong = [(a, b) for a, b in zip(had, got, strict=True) if not same(a, b, declaration)]
        assert wrong == []

    law()


@pytest.mark.parametrize("declaration", DECLARED)
def test_what_is_written_into_a_column_of_any_affinity_is_there_or_refused(
    tmp_path: Path, declaration: str
):
    import polars as pl

    columns = {
        "int64": [2**53 + 1, -(2**63), 0, None],
        "uint64": [2**64 - 1, 2**63, 1],
        "float64": [0.1 + 0.2, 1e300, math.inf, 3.0, 9007199254740992.0],
        "string": ["007", "1e5", "inf", "12", "", "é", "2024-01-31", "9007199254740993"],
        "binary": [b"abc", b"\xff"],
        "bool": [True, False],
        "decimal(38, 10)": [Decimal("12345678901234567890.0123456789"), Decimal("0.1000000000")],
        "date": [dt.date(2024, 1, 31)],
        "timestamp[us]": [dt.datetime(2024, 1, 31, 12, 0, 0, 1)],
        "time": [dt.time(12, 0, 0, 1)],
    }
    from dataflare.model.types import Schema, parse_type

    wrong = []
    for type_, values in columns.items():
        for value in values:
            path = tmp_path / "data.db"
            path.unlink(missing_ok=True)
            with sqlite3.connect(path) as db:
                db.execute(f"create table t (x {declaration})")
            db.close()
            frame = pl.DataFrame({"x": [value]}, schema={"x": parse_type(type_).to_polars()})
            schema = Schema.of({"x": type_})

            async def go(frame: Any = frame, schema: Any = schema) -> None:
                step = Step("sqlite", tmp_path, schema)
                await step.destination.validate(schema)
                await step.start()
                try:
                    await step.epoch(1, SharedDataBatch(frame), final=True)
                finally:
                    await step.close()

            try:
                run(go())
            except DataFlareError as error:
                if error.code not in ("E0510", "E0511"):
                    raise
                continue
            with sqlite3.connect(path) as db:
                (found,) = db.execute("select x from t").fetchone()
            db.close()
            if not as_written(value, found):
                wrong.append((type_, value, found))
    assert wrong == []


def as_written(value: Any, found: Any) -> bool:
    """Whether what stands in SQLite says exactly the value."""
    match value:
        case None | bytes():
            return bool(found == value)
        case bool() | int():
            return Decimal(found) == value
        case float():
            return float(found) == value
        case Decimal():
            return Decimal(found if not isinstance(found, float) else repr(found)) == value
        case dt.datetime() | dt.time():
            return str(found).rstrip("0") == str(value).rstrip("0")
    return str(found) == str(value)
