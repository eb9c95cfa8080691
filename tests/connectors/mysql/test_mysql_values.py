"""Values go in and come out as they are, or their row is refused or named; nothing in between."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mysql_kit import Database, batch, chunks, run

from dataflare.connectors.mysql.types import Declared, fits
from dataflare.errors import DataError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema, parse_type

PACE = settings(
    max_examples=25, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
TEXT = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["NULL", "\\N", '"', '""', ",", "\n", "\r\n", "a ", " a", "\\", "\0", "", "'", "😀", "0x41"]
)
STAMP = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999))
HOURS = timedelta(hours=838, minutes=59, seconds=59)
TYPES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    **{f"int{n}": st.integers(-(2 ** (n - 1)), 2 ** (n - 1) - 1) for n in (8, 16, 32, 64)},
    **{f"uint{n}": st.integers(0, 2**n - 1) for n in (8, 16, 32, 64)},
    "float32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "float64": st.floats(allow_nan=False, allow_infinity=False),
    "decimal(38,10)": st.decimals(-(10**27), 10**27, places=10),
    "decimal(5,0)": st.decimals(-99999, 99999, places=0),
    "string": TEXT,
    "binary": st.binary(max_size=8),
    "date": st.dates(date(1, 1, 1)),
    "time": st.times(),
    "timestamp[us]": STAMP,
    "timestamp[ms]": STAMP.map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)),
    "timestamp[us, UTC]": st.datetimes(datetime(1970, 1, 1, 0, 0, 1), datetime(2038, 1, 19)).map(
        lambda t: t.replace(tzinfo=UTC)
    ),
    "duration[us]": st.timedeltas(-HOURS, HOURS),
    "json": st.sampled_from(['{"a": [1, null]}', "[]", '"x"', "1"]),
}


@PACE
@given(data=st.data())
def test_what_is_written_is_read_again(database: Database, data: st.DataObject):
    names = {f"c{at}": parse_type(name) for at, name in enumerate(TYPES)}
    columns = {
        f"c{at}": data.draw(st.lists(st.none() | each, min_size=3, max_size=3))
        for at, each in enumerate(TYPES.values())
    }
    frame = pl.DataFrame(columns, {n: t.to_polars() for n, t in names.items()}, strict=False)
    frame = frame.with_columns(
        pl.lit("x" * data.draw(st.sampled_from([1, 250, 251, 70_000]))).alias("long")
    )
    schema = Schema.of({**names, "long": parse_type("string")})
    database.execute("drop table if exists t, _dataflare_epochs")

    async def go() -> pl.DataFrame:
        step = await database.step(schema).start()
        await step.epoch(1, SharedDataBatch(frame), final=True)
        await step.close()
        contract = Schema.of({n: t for n, t in names.items() if t.name == "duration"})
        found, _ = await database.read(table="t", contract=contract)
        return found

    found = run(go())
    for name, type_ in names.items():
        kept = found[name].cast(frame[name].dtype) if type_.unit == "ms" else found[name]
        assert kept.dtype == frame[name].dtype, name
        assert kept.equals(frame[name], null_equal=True), (name, kept, frame[name])
    assert found["long"].to_list() == frame["long"].to_list()


DECLARED = [
    "tinyint", "smallint unsigned", "bigint", "bigint unsigned", "decimal(6,2)", "decimal(4,0)", "float",
    "double", "float(7,3)", "double(8,2)", "bit(5)", "year", "date", "datetime", "datetime(3)",
    "timestamp(6) null", "time", "time(2)", "char(4)", "varchar(4)", "varchar(4) character set latin1",
    "tinytext", "binary(4)", "varbinary(4)", "tinyblob", "enum('a','B','c d')", "set('a','b','c')", "json",
    "uuid", "inet6",
]  # fmt: skip
VALUES: dict[str, list[Any]] = {
    "int64": [0, 1, -1, 5, 31, 32, 70, 127, 128, 1901, 2155, 2**24 + 1, 2**53 + 1, 65_536, 9_999_999],
    "float64": [0.5, 0.1, 1.25, 1e10, 123.456, 1e-9, math.nan, math.inf, 16_777_217.0, 99_999.99],
    "decimal(20,6)": [Decimal("1.5"), Decimal("1.234567"), Decimal("99999"), Decimal("-3"), Decimal("0.01")],
    "string": ["a", "A", "B", "b", "a ", "abcde", "abcd ", "é", "漢", "", "a,b", "b,a", "c d", "{}", "[1", "::1",
               "5", "12:00", "NULL", "\0", "123e4567-e89b-12d3-a456-426614174000"],
    "binary": [b"", b"a", b"abcd", b"abcde", b"\0\xff", b"abc\0"],
    "bool": [True, False],
    "date": [date(1, 1, 1), date(1969, 12, 31), date(2024, 2, 29), date(9999, 12, 31)],
    "timestamp[us]": [datetime(2024, 1, 2, 3, 4, 5), datetime(2024, 1, 2, 3, 4, 5, 678_901),
                      datetime(1, 1, 1), datetime(2024, 1, 2, 3, 4, 5, 678_000)],
    "timestamp[us, UTC]": [datetime(2024, 1, 2, 3, 4, 5, 6, UTC), datetime(1969, 1, 1, tzinfo=UTC),
                           datetime(2040, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)],
    "time": [time(0), time(23, 59, 59, 999_999), time(1, 2, 3, 40_000)],
    "duration[us]": [timedelta(hours=30), timedelta(hours=-838), timedelta(hours=900), timedelta(microseconds=1)],
}  # fmt: skip


@pytest.mark.rotates(2)
@pytest.mark.parametrize("type_name", VALUES)
def test_a_column_keeps_a_value_or_refuses_its_row(database: Database, type_name: str):
    """For each type of a column: the rows that were not refused are in the table as they were."""
    type_, values = parse_type(type_name), VALUES[type_name]
    schema = Schema.of({"id": parse_type("int64"), "v": type_})
    rows = pl.DataFrame(
        {"id": range(len(values)), "v": values},
        {n.name: n.type.to_polars() for n in schema}, strict=False,
    )  # fmt: skip
    kept = 0

    async def go(table: str) -> set[int]:
        step = database.step(schema, table=table, sift=True, step=table)
        await step.destination.validate(schema)
        await step.start()
        refused = await step.settle(SharedDataBatch(rows))
        await step.epoch(1, final=True)
        await step.close()
        return {each.row["id"] for each in refused}

    for at, declared in enumerate(DECLARED):
        table = f"t{at}"
        database.execute(
            f"create table {table} (id int primary key, v {declared}) character set utf8mb4"
        )
        if not fits(type_, Declared.of(declared)) or _has_other_clock(type_name, declared):
            with pytest.raises(DataError) as caught:
                run(go(table))
            assert caught.value.code == "E0511"
            continue
        refused = run(go(table))
        found = dict(database.rows(f"select id, {_shown(declared)} from {table}"))
        assert refused | found.keys() == set(range(len(values))), declared
        assert not refused & found.keys(), declared
        for row, stored in found.items():
            assert _same(values[row], stored, declared), (declared, values[row], stored)
            kept += 1
    assert kept > 0


def _has_other_clock(type_name: str, declared: str) -> bool:
    if declared.startswith("timestamp"):
        return type_name in ("date", "timestamp[us]")
    return declared.startswith("datetime") and type_name.endswith("UTC]")


def _shown(declared: str) -> str:
    if declared.startswith("float"):
        return "v * 1e0"
    return "v + 0" if declared.startswith("bit") else "v"


def _same(value: Any, stored: Any, declared: str) -> bool:
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.replace(tzinfo=None)
    if isinstance(value, time):
        value = timedelta(hours=value.hour, minutes=value.minute, seconds=value.second,
                          microseconds=value.microsecond)  # fmt: skip
    if isinstance(value, date) and not isinstance(value, datetime) and isinstance(stored, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(stored, str) and not isinstance(value, str):
        return True  # a number or a time as text: the server has taken the text without a warning
    if isinstance(value, float) and isinstance(stored, Decimal):
        return float(stored) == value
    if isinstance(value, Decimal) and isinstance(stored, float):
        digits = 6 if declared.startswith("float") else 15  # what a number of that size has
        return f"{stored:.{digits}g}" == f"{value:.{digits}g}"
    if isinstance(value, bytes) and isinstance(stored, str):
        stored = stored.encode()
    if declared == "uuid" or declared == "inet6":
        return str(stored).lower() == str(value).lower()
    return bool(stored == value)


def test_the_limits_of_each_type_are_read(database: Database):
    database.execute(
        "create table t (id int primary key, a tinyint unsigned, b bigint unsigned, c decimal(65,30), "
        "d bit(64), e year, f time(6), g datetime(6), h timestamp(6) null, i enum('x','ÿ') character set latin1, "
        "j set('p','q'), k json, l varbinary(9), m float, n double, o mediumint, p tinyint(1), q bit(1), "
        "r char(3) character set utf16, s uuid, u decimal(38,38))",
        "insert into t values (1, 255, 18446744073709551615, 12345678901234567890123456789012345.123456789012345678901234567890, "
        "b'1111111111111111111111111111111111111111111111111111111111111111', 2155, '23:59:59.999999', "
        "'9999-12-31 23:59:59.999999', '2038-01-19 03:14:07', 'ÿ', 'p,q', '{\"a\": 1}', x'00ff', 0.1, 1e-300, "
        "-8388608, 1, 1, '漢', '123e4567-e89b-12d3-a456-426614174000', 0.99999999999999999999999999999999999999)",
        "insert into t (id) values (2)",
    )
    frame, _ = run(database.read(table="t"))
    assert {n: str(t) for n, t in Schema.from_polars(frame.schema).to_json().items()} == {
        "id": "int32", "a": "uint8", "b": "uint64", "c": "string", "d": "uint64", "e": "int16", "f": "time",
        "g": "timestamp[us]", "h": "timestamp[us, UTC]", "i": "string", "j": "string", "k": "string",
        "l": "binary", "m": "float32", "n": "float64", "o": "int32", "p": "bool", "q": "bool", "r": "string",
        "s": "string", "u": "decimal(38, 38)",
    } | {"k": str(Schema.from_polars(frame.schema)["k"])}  # fmt: skip
    first = frame.row(0, named=True)
    assert first | {"h": first["h"].replace(tzinfo=None)} == {
        "id": 1, "a": 255, "b": 2**64 - 1,
        "c": "12345678901234567890123456789012345.123456789012345678901234567890",
        "d": 2**64 - 1, "e": 2155, "f": time(23, 59, 59, 999_999),
        "g": datetime(9999, 12, 31, 23, 59, 59, 999_999), "h": datetime(2038, 1, 19, 3, 14, 7), "i": "ÿ",
        "j": "p,q", "k": '{"a": 1}', "l": b"\0\xff", "m": pl.Series([0.1], dtype=pl.Float32)[0], "n": 1e-300,
        "o": -8_388_608, "p": True, "q": True, "r": "漢", "s": "123e4567-e89b-12d3-a456-426614174000",
        "u": Decimal("0.99999999999999999999999999999999999999"),
    }  # fmt: skip
    assert all(value is None for name, value in frame.row(1, named=True).items() if name != "id")


@pytest.mark.parametrize(
    ("declared", "bad", "contract", "read"),
    [
        ("date", "'0000-00-00'", "string", "0000-00-00"),
        ("date", "'2024-02-00'", "string", "2024-02-00"),
        ("datetime", "'0000-00-00 00:00:00'", "string", "0000-00-00 00:00:00"),
        ("time", "'25:00:00'", "duration[us]", timedelta(hours=25)),
        ("time(6)", "'-838:59:59'", "duration[us]", -HOURS),
        ("tinyint(1)", "2", "int8", 2),
    ],
)
def test_a_value_that_fits_no_type_is_a_row_error(database, declared, bad, contract, read):
    good = {"date": "'2024-02-29'", "datetime": "'2024-02-29 01:02:03'", "tinyint(1)": "1"}
    database.execute(
        f"create table t (id int primary key, v {declared})",
        f"insert into t values (1, {good.get(declared, repr('01:02:03'))})",
    )
    with database.server.client(database.name, sql_mode="") as db, db.cursor() as cursor:
        cursor.execute(f"insert into t values (2, {bad})")
    [chunk] = run(chunks(database.source(table="t")))
    assert chunk.scan().collect(engine="in-memory")["id"].to_list() == [1]
    [refused] = chunk.bad
    assert "id 2: column 'v' is" in f"{refused.place}: {refused.message}"
    assert "schema: {v:" in refused.message
    frame, _ = run(database.read(table="t", contract=Schema.of({"v": parse_type(contract)})))
    assert frame["v"][1] == read


def test_spatial_columns_are_refused_by_name(database):
    database.execute("create table t (id int primary key, place point)",
                     "insert into t values (1, point(1, 2))")  # fmt: skip
    with pytest.raises(DataError, match="column 'place'") as caught:
        run(database.read(table="t"))
    assert caught.value.code == "E0509"
    assert run(database.source(table="t", columns=["id"]).schema()).names == ("id",)
    frame, _ = run(database.read(query="select id, st_astext(place) as place from t"))
    assert frame.rows() == [(1, "POINT(1 2)")]


def test_null_for_a_number_that_the_server_would_make_is_refused(database):
    database.execute("create table t (id int auto_increment primary key, v int)")
    schema = Schema.of({"id": "int64", "v": "int64"})

    async def go() -> Any:
        step = await database.step(schema, sift=True).start()
        refused = await step.settle(
            batch([{"id": None, "v": 1}, {"id": 0, "v": 2}], **schema.to_polars())
        )
        await step.epoch(1, final=True)
        await step.close()
        return refused

    assert [each.row["v"] for each in run(go())] == [1]
    assert database.rows("select * from t") == [(0, 2)]
