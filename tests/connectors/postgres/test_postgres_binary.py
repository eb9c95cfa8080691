"""The binary form of rows says what their CSV says: both go into one server, and come out alike."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dataflare.connectors.postgres.binary import binary
from dataflare.connectors.postgres.encode import csv_bytes, encoded
from dataflare.connectors.postgres.types import PgType
from dataflare.model.types import Schema

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda v: st.lists(v) | st.dictionaries(_TEXT, v),
    max_leaves=4,
).map(json.dumps)
_MOMENTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999))
_DIGITS = [(1, 0), (4, 4), (5, 1), (9, 9), (10, 2), (12, 6), (16, 0), (16, 8), (15, 1), (18, 0), (18, 4), (18, 8)]  # fmt: skip


def _whole(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    most = 10**precision - 1
    return st.integers(-most, most).map(lambda n: Decimal(n).scaleb(-scale))


COLUMNS = {
    "b": (pl.Boolean(), "bool", "boolean", st.booleans()),
    "i8": (pl.Int8(), "int2", "smallint", _whole(8)),
    "i2": (pl.Int16(), "int2", "smallint", _whole(16)),
    "i4": (pl.Int32(), "int4", "integer", _whole(32)),
    "i48": (pl.Int32(), "int8", "bigint", _whole(32)),
    "u4": (pl.UInt32(), "int8", "bigint", st.integers(0, 2**32 - 1)),
    "big": (pl.Int64(), "int8", "bigint", _whole(64)),
    "f4": (pl.Float32(), "float4", "real", st.floats(width=32)),
    "f8": (pl.Float64(), "float8", "double precision", st.floats()),
    "s": (pl.String(), "text", "text", _TEXT),
    "vc": (pl.String(), "varchar", "varchar(40)", _TEXT),
    "js": (pl.String(), "json", "json", _JSON),
    "jb": (pl.String(), "jsonb", "jsonb", _JSON),
    "id": (pl.String(), "uuid", "uuid", st.uuids().map(str) | st.uuids().map(lambda v: str(v).upper())),
    "at": (pl.Time(), "time", "time", st.times()),
    "y": (pl.Binary(), "bytea", "bytea", st.binary(max_size=40)),
    "d": (pl.Date(), "date", "date", st.dates(date(1, 1, 1), date(9999, 12, 31))),
    "ts": (pl.Datetime("us"), "timestamp", "timestamp", _MOMENTS),
    "ms": (pl.Datetime("ms"), "timestamp", "timestamp", _MOMENTS),
    "tz": (pl.Datetime("us", "UTC"), "timestamptz", "timestamptz",
           _MOMENTS.map(lambda at: at.replace(tzinfo=UTC))),
    **{
        f"n{p}_{s}": (pl.Decimal(p, s), "numeric", declared, _decimals(p, s))
        for p, s in _DIGITS
        for declared in ("numeric",)
    },
    "rounded": (pl.Decimal(9, 5), "numeric", "numeric(9, 2)", _decimals(9, 5).filter(lambda n: abs(n) < 9000)),
}  # fmt: skip
ROWS = st.lists(st.tuples(*(st.none() | each for *_, each in COLUMNS.values())), min_size=1, max_size=8)  # fmt: skip
TARGETS = {name: PgType(0, pg, "b", pg) for name, (_, pg, _, _) in COLUMNS.items()}
SCHEMA = {name: dtype for name, (dtype, *_) in COLUMNS.items()}


def _types(frame):
    return {field.name: field.type for field in Schema.from_polars(frame.schema)}


@pytest.fixture
def db(database):
    with psycopg.connect(database.dsn) as made:
        made.execute("set timezone to 'UTC'")
        declared = ", ".join(f"{name} {type_}" for name, (_, _, type_, _) in COLUMNS.items())
        made.execute(f"create table as_csv ({declared})")
        made.execute("create table as_binary (like as_csv)")
        yield made


def _stored(db, table, form, data):
    db.execute(f"truncate {table}")
    with db.cursor() as cursor, cursor.copy(f"copy {table} from stdin (format {form})") as copy:
        copy.write(data)
    return [row for (row,) in db.execute(f"select t::text from {table} t order by ctid")]


@settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate],
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip
@given(rows=ROWS, cut=st.booleans())
def test_binary_and_csv_store_the_same(db, rows, cut):
    frame = pl.DataFrame(rows, SCHEMA, orient="row")
    if cut:  # pieces of other frames, several of them
        frame = pl.concat([frame.head(1), frame.slice(1)], rechunk=False)
    data = binary(frame, _types(frame), TARGETS)
    assert data is not None
    cells = csv_bytes(encoded(frame, _types(frame), TARGETS))
    assert _stored(db, "as_binary", "binary", data) == _stored(db, "as_csv", "csv", cells)


@pytest.mark.parametrize(
    ("value", "pg"),
    [
        (pl.Series([-(2**31)], dtype=pl.Int32).cast(pl.Date), "date"),
        (pl.Series([2**62], dtype=pl.Int64).cast(pl.Datetime("us")), "timestamp"),
        (pl.Series([1], dtype=pl.Int64).cast(pl.Datetime("ns")), "timestamp"),
        (pl.Series([datetime(2026, 1, 1)]), "timestamptz"),
        (pl.Series([Decimal(1)], dtype=pl.Decimal(38, 9)), "numeric"),
        (pl.Series([1], dtype=pl.Int64), "int4"),
        (pl.Series([1], dtype=pl.UInt64), "numeric"),
        (pl.Series(["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"]), "uuid"),
        (pl.Series(["a0eebc999c0b4ef8bb6d6bb9bd380a11"]), "uuid"),
        (pl.Series(["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\n"]), "uuid"),
        (pl.Series([""]), "uuid"),
        (pl.Series([2**61], dtype=pl.Int64).cast(pl.Datetime("ms")), "timestamp"),
        (pl.Series([1], dtype=pl.Int64).cast(pl.Time), "time"),
        (pl.Series([1.5], dtype=pl.Float32), "float8"),
        (pl.Series([1], dtype=pl.Int64), "int2"),
        (pl.Series([[1]]), "_int8"),
        (pl.Series([None]), "text"),
    ],
)
def test_what_has_no_sure_binary_form_is_left_to_csv(value, pg):
    frame = pl.DataFrame({"v": value})
    assert binary(frame, _types(frame), {"v": PgType(0, pg, "b", pg)}) is None


def test_every_decimal_of_up_to_18_digits_comes_back(db):
    for precision in range(1, 19):
        for scale in range(precision + 1):
            most = 10**precision - 1
            numbers = [
                0,
                1,
                -1,
                9_999,
                -10_000,
                10 ** (precision - 1),
                most,
                -most,
                most // 7,
                None,
            ]
            given = [
                None if n is None or abs(n) > most else Decimal(n).scaleb(-scale) for n in numbers
            ]
            frame = pl.DataFrame({"v": given}, {"v": pl.Decimal(precision, scale)})
            db.execute(f"create temporary table wide (v numeric({precision}, {scale}))")
            data = binary(frame, _types(frame), {"v": PgType(0, "numeric", "b", "numeric")})
            if data is not None:
                with (
                    db.cursor() as cursor,
                    cursor.copy("copy wide from stdin (format binary)") as c,
                ):
                    c.write(data)
                assert [
                    v for (v,) in db.execute("select v from wide order by ctid", prepare=False)
                ] == given
            elif precision <= 15:
                pytest.fail(f"decimal({precision}, {scale}) goes as text")
            db.execute("drop table wide")


def test_a_type_of_somebody_s_own_is_left_to_csv():
    frame = pl.DataFrame({"v": ["sad"]})
    assert binary(frame, _types(frame), {"v": PgType(20_000, "text", "e", "own.text")}) is None


def test_more_digits_than_the_type_says_are_left_to_csv():
    number = pa.py_buffer((123_456).to_bytes(16, "little"))
    unsure = pa.Array.from_buffers(pa.decimal128(4, 1), 1, [None, number])
    frame = pl.DataFrame({"v": pl.Series(unsure)})
    assert binary(frame, _types(frame), {"v": PgType(0, "numeric", "b", "numeric")}) is None


def test_domains_padding_and_single_columns(db):
    db.execute("create domain short as varchar(3) check (value <> 'no')")
    db.execute("create temporary table odd (c char(4), s short, e text)")
    frame = pl.DataFrame(
        {"c": ["a", "", None], "s": ["abc", "ab   ", None], "e": ["", None, "\\."]}
    )
    varchar = PgType(0, "varchar", "b", "varchar")
    targets = {
        "c": PgType(0, "bpchar", "b", "bpchar"),
        "s": PgType(20_000, "short", "d", "short", base=varchar, modifier=7),
        "e": PgType(0, "text", "b", "text"),
    }
    data = binary(frame, _types(frame), targets)
    assert data is not None
    with db.cursor() as cursor, cursor.copy("copy odd from stdin (format binary)") as copy:
        copy.write(data)
    assert db.execute("select * from odd").fetchall() == [
        ("a   ", "abc", ""), ("    ", "ab ", None), (None, None, "\\."),
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["a\0b", "no"])
def test_the_server_refuses_what_the_table_forbids(db, value):
    db.execute("create temporary table strict (v text check (v <> 'no'))")
    frame = pl.DataFrame({"v": ["good", value]})
    data = binary(frame, _types(frame), {"v": PgType(0, "text", "b", "text")})
    assert data is not None
    with (
        pytest.raises(
            (psycopg.errors.CharacterNotInRepertoire, psycopg.errors.CheckViolation)
        ) as caught,
        db.cursor() as cursor,
        cursor.copy("copy strict from stdin (format binary)") as copy,
    ):
        copy.write(data)
    assert "line 2" in (caught.value.diag.context or "")


def test_the_server_tells_the_row_of_a_binary_error(db):
    frame = pl.DataFrame({"vc": ["good", "x" * 41, "good"]})
    data = binary(frame, _types(frame), TARGETS)
    assert data is not None
    with (
        pytest.raises(psycopg.errors.StringDataRightTruncation) as caught,
        db.cursor() as cursor,
        cursor.copy("copy as_binary (vc) from stdin (format binary)") as c,
    ):
        c.write(data)
    assert "line 2" in (caught.value.diag.context or "")
