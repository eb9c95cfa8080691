"""Values go both ways without loss, or are refused with their row."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from postgres_kit import Database, batch, chunks, run

from dataflare.errors import DataError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema, parse_type

pytestmark = pytest.mark.rotates(2)

_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12
) | st.sampled_from(
    ["", "\\.", '"', "NULL", "\\N", ",", "\r", "\n", "\r\n", " ", "{}", "'", "\t", "é"]
)
_DATE = st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31))
_TIMESTAMP = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31))
_VALUES = {
    "bool": st.booleans(),
    "int8": st.integers(-(2**7), 2**7 - 1),
    "int16": st.integers(-(2**15), 2**15 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint8": st.integers(0, 2**8 - 1),
    "uint16": st.integers(0, 2**16 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "float32": st.floats(width=32),
    "float64": st.floats(),
    "decimal(38, 9)": st.decimals(
        min_value=-(10**28), max_value=10**28, places=9, allow_nan=False, allow_infinity=False
    ),
    "decimal(5, 2)": st.decimals(Decimal("-999.99"), Decimal("999.99"), places=2),
    "string": _TEXT,
    "binary": st.binary(max_size=12),
    "date": _DATE,
    "time": st.times(),
    "timestamp[ms]": _TIMESTAMP.map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)),
    "timestamp[us]": _TIMESTAMP,
    "timestamp[us, UTC]": _TIMESTAMP.map(lambda t: t.replace(tzinfo=dt.UTC)),
    "duration[us]": st.timedeltas(dt.timedelta(days=-10_000), dt.timedelta(days=10_000)),
    "list<int64>": st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=3),
    "list<string>": st.lists(st.none() | _TEXT, max_size=3),
    "list<float64>": st.lists(st.none() | st.floats(allow_nan=False), max_size=3),
    "list<bool>": st.lists(st.none() | st.booleans(), max_size=3),
    "list<date>": st.lists(st.none() | _DATE, max_size=3),
    "list<timestamp[us]>": st.lists(st.none() | _TIMESTAMP, max_size=3),
    "list<decimal(10, 2)>": st.lists(st.none() | st.decimals(0, 10**7, places=2), max_size=3),
    "list<binary>": st.lists(st.none() | st.binary(max_size=4), max_size=3),
}
_READ_AS = {
    "int8": "int16", "uint8": "int16", "uint16": "int32", "uint32": "int64", "uint64": "decimal(20, 0)",
    "timestamp[ms]": "timestamp[us]",
}  # fmt: skip


@pytest.fixture(scope="module")
def lasting(server, tmp_path_factory) -> Database:
    name = "values"
    Database(server, "postgres", tmp_path_factory.mktemp("x")).execute(f"create database {name}")
    return Database(server, name, tmp_path_factory.mktemp("values"))


@pytest.mark.parametrize("keyed", [{}, {"mode": "upsert", "key": ["id"]}], ids=["append", "upsert"])
@pytest.mark.parametrize("type_", _VALUES)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_written_is_read(lasting, type_, keyed, data):
    """Rows with a key are a few, so they go with the statement that merges them."""
    values = data.draw(st.lists(st.none() | _VALUES[type_], min_size=1, max_size=20))
    frame = pl.DataFrame(
        {"v": pl.Series(values, dtype=parse_type(type_).to_polars(), strict=True)}
    ).with_row_index("id")
    frame = frame.with_columns(pl.col("id").cast(pl.Int64))
    lasting.execute("drop table if exists t", "drop table if exists _dataflare_epochs")

    async def go():
        schema = Schema.of({"id": "int64", "v": type_})
        step = await lasting.step(schema, **keyed).start()
        await step.epoch(1, SharedDataBatch(frame), final=True)
        await step.close()
        found, _ = await lasting.read(table="t")
        wanted = frame.select(
            pl.col("id").cast(pl.Int64),
            pl.col("v").cast(parse_type(_READ_AS.get(type_, type_)).to_polars()),
        )
        assert_frame_equal(found.sort("id"), wanted)

    run(go())


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=st.lists(st.none() | _TEXT, min_size=1, max_size=10))
def test_a_column_that_stands_alone(lasting, values):
    lasting.execute("drop table if exists t", "drop table if exists _dataflare_epochs")

    async def go():
        step = await lasting.step(Schema.of({"v": "string"})).start()
        frame = pl.DataFrame({"v": pl.Series(values, dtype=pl.String)})
        await step.epoch(1, SharedDataBatch(frame), final=True)
        await step.close()
        found, _ = await lasting.read(table="t")
        assert found["v"].to_list() == values

    run(go())


def test_json_structs_and_nested_lists_become_jsonb(database):
    schema = Schema.of({
        "j": "json", "s": "struct<a: int64, b: string>", "n": "list<list<int64>>",
        "o": "list<struct<x: int64>>",
    })  # fmt: skip
    frame = pl.DataFrame(
        {
            "j": ['{"k": [1, null, "x\\"y"]}', None],
            "s": [{"a": 1, "b": 'q"\\'}, None],
            "n": [[[1, 2], []], None],
            "o": [[{"x": 1}], []],
        },
        schema=schema.to_polars(),
    )

    async def go():
        step = await database.step(schema).start()
        await step.epoch(1, SharedDataBatch(frame), final=True)
        await step.close()
        assert database.rows("select j, s, n, o from t order by j nulls last") == [
            ({"k": [1, None, 'x"y']}, {"a": 1, "b": 'q"\\'}, [[1, 2], []], [{"x": 1}]),
            (None, None, None, []),
        ]
        found, _ = await database.read(table="t")
        assert found.schema == dict.fromkeys(schema.names, pl.String)

    run(go())


_OTHERS = [
    ("smallint", "'-3'", "int16", -3),
    ("oid", "4000000000", "int64", 4_000_000_000),
    ("numeric(10, 2)", "'12.5'", "decimal(10, 2)", Decimal("12.50")),
    ("numeric", "'0.000000001'", "decimal(38, 9)", Decimal("0.000000001")),
    ("char(5)", "'ab'", "string", "ab   "),
    ('"char"', "'x'", "string", "x"),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "string",
     "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("inet", "'10.0.0.1/8'", "string", "10.0.0.1/8"),
    ("money", "'12.34'", "string", "$12.34"),
    ("mood", "'happy'", "string", "happy"),
    ("mood[]", "'{happy,sad,NULL}'", "list<string>", ["happy", "sad", None]),
    ("posint", "7", "int32", 7),
    ("price", "'1.5'", "decimal(8, 3)", Decimal("1.500")),
    ("json", "'{\"a\" : 1}'", "json", '{"a" : 1}'),
    ("jsonb", "'{\"a\" : 1}'", "json", '{"a": 1}'),
    ("timetz", "'10:00:00+02'", "string", "10:00:00+02"),
    ("time", "'23:59:59.999999'", "time", dt.time(23, 59, 59, 999_999)),
    ("interval", "'1 day -02:00:00.5'", "duration[us]", dt.timedelta(hours=21, minutes=59, seconds=59.5)),
    ("interval", "'-3 days'", "duration[us]", dt.timedelta(days=-3)),
    ("uuid[]", "'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'", "list<string>",
     ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    ("int4range", "'[1,5)'", "string", "[1,5)"),
    ("point", "'(1,2)'", "string", "(1,2)"),
    ("bit(3)", "'101'", "string", "101"),
    ("tsvector", "'a b'", "string", "'a' 'b'"),
    ("timestamptz", "'2026-01-31 12:00:00+02'", "timestamp[us, UTC]",
     dt.datetime(2026, 1, 31, 10, tzinfo=dt.UTC)),
    ("timestamptz[]", "'{2026-01-31 12:00:00+02}'", "list<timestamp[us, UTC]>",
     [dt.datetime(2026, 1, 31, 10, tzinfo=dt.UTC)]),
    ("float8", "'NaN'", "float64", math.nan),
    ("real", "'-Infinity'", "float32", -math.inf),
]  # fmt: skip


@pytest.mark.parametrize(("pg", "value", "type_", "wanted"), _OTHERS)
def test_types_of_the_database_have_a_type_of_ours(lasting, pg, value, type_, wanted):
    made = [
        "create type mood as enum ('sad', 'happy')",
        "create domain posint as int check (value > 0)",
        "create domain price as numeric(8, 3)",
    ]
    known = {name for (name,) in lasting.rows("select typname from pg_type")}
    lasting.execute(*(s for s in made if s.split()[2] not in known))
    lasting.execute("drop table if exists u", f"create table u (v {pg})",
                    f"insert into u values ({value}), (null)")  # fmt: skip

    async def go():
        found, _ = await lasting.read(table="u")
        assert Schema.from_polars(found.schema)["v"] in (
            parse_type(type_), parse_type("string") if type_ == "json" else parse_type(type_))  # fmt: skip
        first, second = sorted(found["v"].to_list(), key=lambda v: v is None)
        assert first == wanted or (isinstance(wanted, float) and math.isnan(first))
        assert second is None

    run(go())


_MISFITS = [
    ("timestamp", "'infinity'", "timestamp[us]", "infinity"),
    ("timestamptz", "'-infinity'", "timestamp[us, UTC]", "-infinity"),
    ("date", "'infinity'", "date", "infinity"),
    ("time", "'24:00:00'", "time", "24:00:00"),
    ("numeric(5, 2)", "'NaN'", "decimal(5, 2)", "NaN"),
    ("numeric", "'0.12345678901'", "decimal(38, 9)", "0.12345678901"),
    ("numeric", "'1e30'", "decimal(38, 9)", "1000000000000000000000000000000"),
    ("interval", "'1 month'", "duration[us]", "1 mon"),
    ("int[]", "'{{1,2},{3,4}}'", "list<int32>", "{{1,2},{3,4}}"),
    ("int[]", "'[0:1]={7,8}'", "list<int32>", "[0:1]={7,8}"),
    ("text[]", "'[2:2]={a}'", "list<string>", "[2:2]={a}"),
    ("date[]", "'{2024-01-01,infinity}'", "list<date>", ""),
]


def test_days_of_intervals_are_counted(database):
    database.execute(
        "create table t (id int primary key, i interval)",
        "insert into t values (1, '1 day 02:03:04'), (2, '26:03:04'), (3, null), (4, '-2 days')",
    )

    async def go():
        source = database.source(table="t")
        [split] = await source.splits()
        reader = await source.open(split, None)
        chunk = await reader.read_chunk()
        span = dt.timedelta(hours=26, minutes=3, seconds=4)
        assert chunk.scan().collect()["i"].to_list() == [span, span, None, dt.timedelta(days=-2)]
        assert reader.warnings == {"a day of the interval 'i' is read as 24 hours": 2}
        await reader.aclose()

    run(go())


@pytest.mark.parametrize(("pg", "value", "type_", "shown"), _MISFITS)
def test_a_value_without_a_counterpart_is_a_row_error(database, pg, value, type_, shown):
    good = {"t": "'2024-01-01 10:00'", "d": "'2024-01-01'", "n": "'1.5'", "i": "'1 day'"}
    plain = "'{}'" if pg.endswith("[]") else ("'10:00'" if pg == "time" else good[pg[0]])
    database.execute(
        f"create table t (id int primary key, v {pg})",
        f"insert into t values (1, {plain}), (2, {value}), (3, null)",
    )

    async def go():
        [chunk] = await chunks(database.source(table="t"))
        assert chunk.scan().collect()["id"].to_list() == [1, 3]
        assert chunk.row_numbers.to_list() == [0, 2]
        [bad] = chunk.bad
        assert (bad.row, bad.code, bad.place) == (1, "E0501", "table 't' id 2")
        if shown:
            assert bad.message == f"column 'v' is {type_}, and '{shown}' does not fit"
        with pytest.raises(DataError):
            await database.read(table="t")

    run(go())


def test_a_contract_gives_other_types(database):
    database.execute(
        "create table t (id int primary key, a numeric, b text, c timestamptz, d int, e text)",
        "insert into t values (1, '3.3333333333333333', '7', '2026-01-31 12:00+00', 5, '2026-01-31')",
    )
    contract = Schema.of({
        "a": "float64", "b": "int64", "c": "string", "d": "string", "e": "date",
    })  # fmt: skip

    async def go():
        found, _ = await database.read(table="t", contract=contract)
        assert found.row(0) == (
            1, 3.3333333333333333, 7, "2026-01-31 12:00:00+00", "5", dt.date(2026, 1, 31))  # fmt: skip

    run(go())


def test_rows_go_into_columns_of_other_types_as_an_insert_has_it(database):
    database.execute(
        "create table t (u uuid, j jsonb, n numeric(10, 2), s smallint, i inet, a int[], v varchar(3), "
        "at timestamp, f real)"
    )
    schema = Schema.of({
        "u": "string", "j": "string", "n": "float64", "s": "int64", "i": "string", "a": "list<int64>",
        "v": "string", "at": "timestamp[us]", "f": "int64",
    })  # fmt: skip
    row = {
        "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "j": '{"a": 1}', "n": 1.25, "s": 3, "i": "10.0.0.1",
        "a": [1, None], "v": "abc", "at": dt.datetime(2026, 1, 31, 10), "f": 2,
    }  # fmt: skip

    async def go():
        step = await database.step(schema).start()
        first = await step.epoch(1, batch([row], **schema.to_polars()))
        assert database.rows("select u::text, j, n, s, host(i), a, v, at, f from t") == [
            (row["u"], {"a": 1}, Decimal("1.25"), 3, "10.0.0.1", [1, None], "abc", row["at"], 2.0)
        ]  # fmt: skip
        for name, value, said in [
            ("s", 70_000, 'value "70000" is out of range for type smallint'),
            ("v", "abcd", "value too long for type character varying(3)"),
            ("j", "{", "invalid input syntax for type json"),
            ("u", "x\x00y", "invalid byte sequence for encoding"),
        ]:  # fmt: skip
            rows = [row, row | {"v": "a\nb"}, row | {name: value}, row]
            with pytest.raises(DataError) as caught:
                await step.prepare(2, batch(rows, **schema.to_polars()))
            assert caught.value.code == "E0510"
            assert said in caught.value.message
            assert caught.value.notes[0].startswith("the row: ")
            if name != "v":
                assert repr((row | {name: value})["u"]) in caught.value.notes[0]
            step.die()
            step = await step.start(1, [first])
        step.die()

    run(go())


@pytest.mark.parametrize(
    ("pg", "type_"),
    [("date", "timestamp[us]"), ("int", "float64"), ("int", "bool"), ("boolean", "int64"),
     ("bytea", "int64"), ("text", "binary"), ("int[]", "list<string>"), ("time", "date"),
     ("timestamptz", "timestamp[us]"), ("timestamptz", "date"), ("timestamp", "timestamp[us, UTC]"),
     ("timestamptz[]", "list<timestamp[us]>")],
)  # fmt: skip
def test_what_would_be_cut_or_cannot_fit_is_refused_before_the_run(database, pg, type_):
    database.execute(f"create table t (v {pg})")
    if type_ == "list<string>":
        return  # text may stand for numbers: the server refuses single rows

    async def go():
        with pytest.raises(DataError) as caught:
            await database.destination().validate(Schema.of({"v": type_}))
        assert caught.value.code == "E0511"
        shown = {
            "int": "integer",
            "int[]": "integer[]",
            "time": "time without time zone",
            "timestamp": "timestamp without time zone",
            "timestamptz": "timestamp with time zone",
            "timestamptz[]": "timestamp with time zone[]",
        }.get(pg, pg)
        assert caught.value.message == (
            f"column 'v' of table 't' is {shown}, and {type_} values arrive"
        )

    run(go())


@pytest.mark.parametrize(
    ("pg", "good", "bad"),
    [
        ("varchar(3)", ["abc", "ab ", "", "äöü", None], ["abc  ", "ä    "]),
        ("varchar(3)[]", [["abc", None]], [["abc "]]),
        ("char(3)", ["ab "], []),
        (
            "jsonb",
            ['{"a":1,"b":{"a":2}}', '[{"a":1},{"a":2}]', '{"a":"x\\":1","b":"a"}', "1"],
            ['{"a":1,"a":2}', '{"o":[{"b":1, "b" :2}]}'],
        ),
        ("json", ['{"a":1,"a":2}'], []),
        ("name", ["a" * 63], ["a" * 64, "ä" * 32]),
        ('"char"', ["a"], ["ab"]),
        ("date", ["2024-01-01", "2024-01-01 00:00:00", "Jan 3 2024"], ["2024-01-01 10:00", "2024-01-01T00:00:01"]),
        (
            "timestamp",
            ["2024-01-01", "2024-01-01 10:00:00.123456000", "2024-01-01 10:00 PM", "0044-03-15 10:00:00 BC"],
            ["2024-01-01T00:00:00+02:00", "2024-01-01 10:00Z", "2024-01-01 10:00:00.5 CET",
             "2024-01-01 10:00:00 Europe/Paris", "2024-01-01 10:00:00.1234567"],
        ),
        ("timestamp(3)", ["2024-01-01 10:00:00.123"], ["2024-01-01 10:00:00.1234"]),
        ("timestamptz", ["2024-01-01 10:00:00+02:00"], ["2024-01-01 10:00:00.0000001+02:00"]),
        ("time", ["10:00:00.123456"], ["10:00:00.1234567"]),
    ],
)  # fmt: skip
def test_text_that_the_server_would_cut_is_refused(database, pg, good, bad):
    database.execute(f"create table t (v {pg})")
    type_ = "list<string>" if pg.endswith("[]") else "string"
    schema = Schema.of({"v": type_})

    async def go():
        step = await database.step(schema).start()
        await step.epoch(1, batch([{"v": value} for value in good], v=schema["v"].to_polars()))
        for number, value in enumerate(bad, 2):
            with pytest.raises(DataError) as caught:
                await step.prepare(number, batch([{"v": value}], v=schema["v"].to_polars()))
            assert caught.value.code == "E0511"
            assert "cut" in caught.value.message
        step.die()

    run(go())
    assert database.rows("select count(*) from t") == [(len(good),)]


def test_nanoseconds_are_kept_or_refused(database):
    schema = Schema.of({"at": "timestamp[ns]"})
    good = pl.DataFrame({"at": pl.Series([1_000, None], dtype=pl.Datetime("ns"))})
    bad = pl.DataFrame({"at": pl.Series([1_001], dtype=pl.Datetime("ns"))})

    async def go():
        step = await database.step(schema).start()
        await step.epoch(1, SharedDataBatch(good))
        with pytest.raises(DataError) as caught:
            await step.prepare(2, SharedDataBatch(bad))
        assert caught.value.code == "E0511"
        assert "nanoseconds" in caught.value.message
        step.die()

    run(go())


def test_years_that_have_a_sign_elsewhere(database):
    frame = pl.DataFrame(
        {"d": pl.Series([-800_000, 3_000_000, 0], dtype=pl.Int32).cast(pl.Date),
         "t": pl.Series([-70_000_000_000_000_000, 260_000_000_000_000_000, 0]).cast(pl.Datetime("us"))}
    )  # fmt: skip

    async def go():
        step = await database.step(Schema.from_polars(frame.schema)).start()
        await step.epoch(1, SharedDataBatch(frame), final=True)
        await step.close()
        found, _ = await database.read(table="t")
        assert found["d"].to_physical().sort().to_list() == [-800_000, 0, 3_000_000]
        assert found["t"].to_physical().sort().to_list() == [-70 * 10**15, 0, 260 * 10**15]

    run(go())
