"""Every type, in both directions, at its limits and NULL; and the values that a column would change."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address

import polars as pl
import pytest
from clickhouse_kit import Database, batch, run
from hypothesis import given
from hypothesis import strategies as st

from dataflare.connectors.clickhouse.addresses import IPV4, IPV6
from dataflare.connectors.clickhouse.encode import refused
from dataflare.connectors.clickhouse.types import parse
from dataflare.errors import ConfigError, DataError
from dataflare.model.types import Schema, parse_type

pytestmark = pytest.mark.rotates(2)

# type in ClickHouse, value in SQL, type, value
READ = [
    ("Bool", "true", "bool", True),
    ("Int8", "-128", "int8", -128),
    ("Int64", "-9223372036854775808", "int64", -(2**63)),
    ("UInt64", "18446744073709551615", "uint64", 2**64 - 1),
    ("Int128", "'-170141183460469231731687303715884105728'", "string", str(-(2**127))),
    ("UInt256", f"'{2**256 - 1}'", "string", str(2**256 - 1)),
    ("Float32", "1.5", "float32", 1.5),
    ("Float64", "-inf", "float64", float("-inf")),
    ("BFloat16", "1.5", "float32", 1.5),
    ("Decimal(9, 2)", "'1234567.89'", "decimal(9, 2)", Decimal("1234567.89")),
    ("Decimal(38, 10)", f"'{'9' * 28}.0123456789'", "decimal(38, 10)", Decimal("9" * 28 + ".0123456789")),
    ("Decimal(76, 2)", "'12345678901234567890123456789012345678901.25'", "string",
     "12345678901234567890123456789012345678901.25"),
    ("String", "'é\\n\\'x'", "string", "é\n'x"),
    ("LowCardinality(String)", "'low'", "string", "low"),
    ("LowCardinality(Nullable(String))", "NULL", "string", None),
    ("FixedString(4)", "'ab'", "binary", b"ab\0\0"),
    ("UUID", "'61f0c404-5cb3-11e7-907b-a6006ad3dba0'", "string", "61f0c404-5cb3-11e7-907b-a6006ad3dba0"),
    ("IPv4", "'1.2.3.4'", "string", "1.2.3.4"),
    ("IPv6", "'2001:db8::1'", "string", "2001:db8::1"),
    ("Enum8('a' = 1, 'it\\'s, b' = 2)", "2", "string", "it's, b"),
    ("Date", "'2149-06-06'", "date", date(2149, 6, 6)),
    ("Date32", "'1900-01-01'", "date", date(1900, 1, 1)),
    ("DateTime", "4294967295", "timestamp[us, UTC]", datetime(2106, 2, 7, 6, 28, 15, tzinfo=UTC)),
    ("DateTime('Europe/Berlin')", "'2024-07-01 12:00:00'", "timestamp[us, UTC]",
     datetime(2024, 7, 1, 10, tzinfo=UTC)),
    ("DateTime64(3, 'Europe/Berlin')", "'2024-01-01 00:00:00.123'", "timestamp[us, UTC]",
     datetime(2023, 12, 31, 23, 0, 0, 123_000, tzinfo=UTC)),
    ("DateTime64(6)", "'1900-01-01 00:00:00.000001'", "timestamp[us, UTC]",
     datetime(1900, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
    ("Time64(6)", "'23:59:59.000001'", "time", time(23, 59, 59, 1)),
    ("Array(Nullable(String))", "['a', NULL]", "list<string>", ["a", None]),
    ("Array(DateTime)", "[0]", "list<timestamp[us, UTC]>", [datetime(1970, 1, 1, tzinfo=UTC)]),
    ("Array(Array(UUID))", "[['61f0c404-5cb3-11e7-907b-a6006ad3dba0']]", "list<list<string>>",
     [["61f0c404-5cb3-11e7-907b-a6006ad3dba0"]]),
    ("Tuple(x Int8, `y z` Enum8('a' = 1))", "(1, 'a')", 'struct<x: int8, "y z": string>',
     {"x": 1, "y z": "a"}),
    ("Tuple(Int8, String)", "(2, 'w')", 'struct<"1": int8, "2": string>', {"1": 2, "2": "w"}),
    ("Map(String, UInt8)", "{'k': 1, 'a': 2}", "list<struct<key: string, value: uint8>>",
     [{"key": "k", "value": 1}, {"key": "a", "value": 2}]),
    ("Point", "(1, 2)", 'struct<"1": float64, "2": float64>', {"1": 1.0, "2": 2.0}),
    ("JSON", "'{\"a\": {\"b\": 1}}'", "json", '{"a":{"b":1}}'),
    ("SimpleAggregateFunction(sum, UInt64)", "7", "uint64", 7),
    ("Nullable(Int32)", "NULL", "int32", None),
    ("Nullable(DateTime64(3))", "NULL", "timestamp[us, UTC]", None),
]  # fmt: skip


def test_every_type_is_read(database):
    names = [f"c{at}" for at in range(len(READ))]
    columns = ", ".join(f"{n} {row[0]}" for n, row in zip(names, READ, strict=True))
    values = ", ".join(row[1] for row in READ)
    database.execute(
        f"create table every ({columns}) engine = MergeTree order by tuple()",
        f"insert into every values ({values})",
    )
    found = run(database.read(table="every"))
    assert not found.bad
    schema = Schema.from_polars(found.frame.schema)
    source = database.source(table="every")
    declared = run(source.schema())
    wrong = {}
    for name, (theirs, _, type_, value) in zip(names, READ, strict=True):
        got = str(declared[name]), found.frame[name].to_list()[0]
        if got != (str(parse_type(type_)), value):
            wrong[theirs] = got
    assert not wrong
    assert schema.to_polars() == declared.to_polars()


def test_values_that_do_not_fit_are_row_errors_and_schema_reads_them(database):
    database.execute(
        "create table odd (id Int8, s String, t Time, f FixedString(3), n Nullable(String)) "
        "engine = MergeTree order by id",
        "insert into odd select 1, unhex('ff'), '12:00:00', 'ab', NULL",
        "insert into odd select 2, 'x', '25:00:00', 'abc', '7'",
        "insert into odd select 3, 'y', '12:00:00', 'abc', '8'",
    )
    found = run(database.read(table="odd"))
    assert found.frame["id"].to_list() == [3]
    assert [bad.code for bad in found.bad] == ["E0501", "E0501"]
    assert "X'FF'" in found.bad[0].raw
    assert "column 't' is time, and '25:00:00' does not fit" in found.bad[1].message
    contract = Schema.of({"s": "binary", "t": "string", "f": "string", "n": "int64"})
    read = run(database.read(table="odd", contract=contract))
    assert not read.bad
    assert read.frame.rows() == [
        (1, b"\xff", "12:00:00", "ab", None), (2, b"x", "25:00:00", "abc", 7), (3, b"y", "12:00:00", "abc", 8),
    ]  # fmt: skip


def test_a_type_that_cannot_be_held_is_refused_by_name(database):
    database.execute(
        "create table agg (id Int8, a AggregateFunction(sum, UInt64), v Variant(String, Int8)) "
        "engine = Memory"
    )
    with pytest.raises(DataError, match=r"column 'a' of .* is AggregateFunction") as caught:
        run(database.read(table="agg"))
    assert caught.value.code == "E0509"
    assert run(database.read(table="agg", columns=["id"])).frame.columns == ["id"]


WRITTEN = {
    "b": ("bool", [True, None]),
    "i8": ("int8", [-128, None]),
    "u64": ("uint64", [2**64 - 1, None]),
    "f": ("float32", [float("inf"), None]),
    "g": ("float64", [1e308, None]),
    "d": ("decimal(38, 6)", [Decimal("-99999999999999999999999999999999.999999"), None]),
    "s": ("string", ["é'\\\n", None]),
    "j": ("json", ['{"a":null}', None]),
    "day": ("date", [date(1900, 1, 1), None]),
    "at": ("timestamp[us, UTC]", [datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), None]),
    "ms": ("timestamp[ms, Europe/Berlin]", [datetime(2024, 1, 1, tzinfo=UTC), None]),
    "ns": ("timestamp[ns, UTC]", [datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=UTC), None]),
    "t": ("time", [time(23, 59, 59, 999_999), None]),
    "l": ("list<int64>", [[1, None], []]),
    "st": ("struct<x: int64, y: string>", [{"x": 1, "y": None}, {"x": None, "y": "b"}]),
    "ll": ("list<struct<k: string, v: list<float64>>>", [[{"k": "a", "v": [1.0]}], []]),
}


def test_every_type_is_written_and_read_again(database):
    schema = Schema.of({name: type_ for name, (type_, _) in WRITTEN.items()})
    frame = pl.DataFrame(
        {name: values for name, (_, values) in WRITTEN.items()}, schema=schema.to_polars()
    )

    async def go():
        step = await database.step(schema).start()
        await step.epoch(1, batch([]).__class__(frame), final=True)
        await step.close()

    run(go())
    found = run(database.read(table="t"))
    expected = frame.with_columns(
        pl.col("ms").cast(pl.Datetime("us", "UTC")), pl.col("ns").cast(pl.Datetime("ns", "UTC"))
    )
    assert not found.bad
    assert found.frame.rows() == expected.rows()


ADDRESSES_4 = ["1.2.3.4", "0.0.0.0", "255.255.255.255"]
NOT_ADDRESSES_4 = ["999.1.1.1", "", "1.2.3", "1.2.3.4.5", "::1", "1.2.3.4/24", " 1.2.3.4", "1.2.3.4\n", "010.1.1.1",
                   "0x1.2.3.4", "256.1.1.1"]  # fmt: skip
ADDRESSES_6 = ["::", "::1", "1:2:3:4:5:6:7:8", "2001:db8::1", "::ffff:1.2.3.4", "fe80::abcd:0:0:1"]
NOT_ADDRESSES_6 = [
    "zz",
    "",
    "fe80::1%eth0",
    "1:2:3",
    "1::2::3",
    "[::1]",
    ":::",
    "::1/64",
    "1:2:3:4:5:6:7::8",
    "12345::",
]

# the column, the type of the values, those that fit, those that it would change
EXACT = [
    ("Int8", "int64", [127, -128], [128, -129, 2**40]),
    ("UInt64", "int64", [0, 2**63 - 1], [-1]),
    ("Int128", "uint64", [2**64 - 1], []),
    ("Int32", "decimal(20, 0)", [Decimal(5)], [Decimal(2**31)]),
    ("Float32", "float64", [0.5, float("inf")], [0.1]),
    ("Float64", "int64", [2**53], [2**53 + 1]),
    ("Decimal(5, 2)", "decimal(20, 3)", [Decimal("999.990")], [Decimal("1000.000"), Decimal("0.001")]),
    ("Decimal(5, 2)", "int64", [999], [1000]),
    ("Date", "date", [date(1970, 1, 1)], [date(1969, 12, 31), date(2149, 6, 7)]),
    ("DateTime", "timestamp[us, UTC]", [datetime(2024, 1, 1, tzinfo=UTC)],
     [datetime(1969, 12, 31, tzinfo=UTC), datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=UTC)]),
    ("DateTime64(3)", "timestamp[us, UTC]", [datetime(2024, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)],
     [datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=UTC), datetime(1899, 1, 1, tzinfo=UTC)]),
    ("FixedString(2)", "string", ["ab", "é"], ["a", "abc"]),
    ("Enum8('a' = 1, 'b' = 2)", "string", ["a"], ["c", ""]),
    ("UUID", "string", ["61f0c404-5cb3-11e7-907b-a6006ad3dba0"], ["61f0c404"]),
    ("IPv4", "string", ADDRESSES_4, NOT_ADDRESSES_4),
    ("Nullable(IPv4)", "string", [*ADDRESSES_4, None], NOT_ADDRESSES_4),
    ("Array(Nullable(IPv4))", "list<string>", [["1.2.3.4", None], []], [[text] for text in NOT_ADDRESSES_4]),
    ("IPv6", "string", ADDRESSES_6, NOT_ADDRESSES_6),
    ("Nullable(IPv6)", "string", [*ADDRESSES_6, None], NOT_ADDRESSES_6),
    ("Map(String, IPv6)", "list<struct<key: string, value: string>>", [[{"key": "a", "value": "::1"}]],
     [[{"key": "a", "value": "zz"}]]),
    ("Time", "time", [time(1, 2, 3)], [time(1, 2, 3, 4)]),
    ("Array(Int8)", "list<int64>", [[1], []], [[1, 128], [None]]),
    ("Array(Nullable(Int8))", "list<int64>", [[None]], [[128]]),
    ("Tuple(y Int8, x String)", "struct<x: string, y: int64>", [{"x": "a", "y": 1}],
     [{"x": "a", "y": 200}]),
    ("Map(String, Int8)", "list<struct<key: string, value: int64>>",
     [[{"key": "a", "value": 1}], []], [[{"key": "a", "value": 300}], [{"key": "a", "value": 1}, {"key": "a", "value": 2}]]),
    ("String", "string", ["x"], [None]),
    ("LowCardinality(Nullable(String))", "string", ["x", None], []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("column", "type_", "good", "bad"), EXACT, ids=[f"{row[0]} from {row[1]}" for row in EXACT]
)
def test_what_a_column_would_change_is_refused(database, column, type_, good, bad):
    database.execute(
        f"create table t (id Int64, v {column}) engine = MergeTree order by id "
        "settings non_replicated_deduplication_window = 100"
    )
    schema = Schema.of({"id": "int64", "v": type_})
    values = [*good, *bad]
    frame = pl.DataFrame({"id": range(len(values)), "v": values}, schema=schema.to_polars())

    async def go():
        step = await database.step(schema, sift=True).start()
        made = await step.prepare(1, batch([]).__class__(frame))
        refused = await step.writer.settle()
        await step.commit(1, [made], final=True)
        await step.close()
        return refused

    refused = run(go())
    assert [row.row["id"] for row in refused] == list(range(len(good), len(values)))
    assert {row.code for row in refused} <= {"E0511"}
    found = run(database.read(table="t")).frame.sort("id")
    assert found["id"].to_list() == list(range(len(good)))
    again = found["v"].to_list()
    if isinstance(again[0] if again else None, bytes):
        again = [value.decode() for value in again]
    assert list(map(str, again)) == list(map(str, good)) or again == good


def _is_address(text: str, *versions: type) -> bool:
    for version in versions:
        try:
            version(text)
        except ValueError:
            continue
        return True
    return False


@given(
    st.lists(
        st.sampled_from(
            ["1", "ab", "0", "FFFF", ":", "::", "1.2.3.4", "256", ".", "12345", "g", "01"]
        )
    ).map("".join)
    | st.ip_addresses().map(str)
    | st.lists(st.sampled_from(["1", "abcd", "", "0"]), min_size=2, max_size=9).map(":".join)
)
def test_an_address_is_what_python_takes_for_one(text):
    row = pl.Series([text]).str
    assert row.contains(IPV4)[0] == _is_address(text, IPv4Address)
    assert row.contains(IPV6)[0] == _is_address(text, IPv6Address, IPv4Address)


def test_an_address_is_read_as_python_reads_it(database):
    """Spellings that ClickHouse writes differently have the same value."""
    texts = [
        "2001:DB8:0:0::1",
        "1.2.3.4",
        "::1.2.3.4",
        "64:ff9b::1.2.3.4",
        "1:2:3:4:5:6:7::",
        "0001:0:0:0:0:0:0:0",
    ]
    database.execute("create table t (id Int64, v IPv6) engine = MergeTree order by id "
                     "settings non_replicated_deduplication_window = 100")  # fmt: skip
    schema = Schema.of({"id": "int64", "v": "string"})
    frame = pl.DataFrame({"id": range(len(texts)), "v": texts}, schema=schema.to_polars())

    async def go():
        step = await database.step(schema).start()
        await step.epoch(1, batch([]).__class__(frame), final=True)
        await step.close()

    run(go())
    found = [IPv6Address(value) for value in run(database.read(table="t")).frame.sort("id")["v"]]
    assert found == [IPv6Address(f"::ffff:{text}" if ":" not in text else text) for text in texts]


@pytest.mark.parametrize(
    ("type_", "said"),
    [("timestamp[us]", "not an instant"), ("duration[us]", "has no type for it")],
)
def test_a_type_without_a_column_is_refused_before_the_run(database, type_, said):
    with pytest.raises((DataError, ConfigError)) as caught:
        run(database.step(Schema.of({"v": type_})).start())
    assert said in str(caught.value) + " ".join(caught.value.notes)


@pytest.mark.parametrize("column", ["Int64", "Date", "JSON", "Array(Int8)", "Decimal(5, 2)"])
def test_text_is_not_interpreted(database: Database, column):
    database.execute(f"create table t (v {column}) engine = MergeTree order by tuple() "
                     "settings non_replicated_deduplication_window = 100")  # fmt: skip
    with pytest.raises(DataError, match="and string values arrive") as caught:
        run(database.step(Schema.of({"v": "string"})).start())
    assert caught.value.code == "E0511"


def test_a_missing_list_is_told_what_to_do() -> None:
    frame = pl.DataFrame({"tags": [["a"], None]})
    (lost,) = refused(
        frame, {"tags": parse_type("list<string>")}, {"tags": parse("Array(String)")}, "t"
    )
    assert (lost.row, "coalesce(tags, [])" in str(lost.error.help)) == (1, True)
