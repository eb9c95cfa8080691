"""PostgreSQL's values that have no place here, and ours that its columns would change: refused by name."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from postgres_kit import Database, Step, batch, chunks, run

from dataflare.errors import DataFlareError
from dataflare.model.types import Schema, parse_type


def schema(**types: str) -> Schema:
    return Schema.of({name: parse_type(text) for name, text in types.items()})


def refused(database: Database, **config: Any) -> DataFlareError:
    with pytest.raises(DataFlareError) as caught:
        run(database.read(**config))
    return caught.value


def write(database: Database, given: Schema, *values: dict[str, Any], **more: Any) -> None:
    async def written() -> None:
        step = await Step(database, given, **more).start()
        try:
            await step.epoch(1, batch(values, **given.to_polars()), final=True)
        finally:
            await step.close()

    run(written())


def test_a_dead_letter_holds_the_text_that_the_server_writes(database):
    database.execute(
        "create table t (id int primary key, ts timestamp, tz timestamptz, d date, a numeric(10, 2)[], "
        "ta timestamp[], tx text[], b bytea, f float8, ti time)",
        "insert into t values (1, 'infinity', '-infinity', '5874897-12-31', '{NaN,2.5,NULL}', "
        "'{infinity,294276-12-31 23:59:59.999999}', array['a b', '', 'q\"\\', 'null'], '\\xff00', 'NaN', '24:00')",
        "insert into t values (2, '4713-01-01 10:00:00.5 BC', '294276-12-31', '0044-03-15 BC', '{}', "
        "'{2024-01-01}', null, null, '-Infinity', '12:00:00.25')",
        "insert into t values (3, '2024-01-01', '2024-01-01', '2024-01-01', '{NaN}', null, null, null, 1.5, null)",
    )  # fmt: skip
    [chunk] = run(chunks(database.source(table="t")))
    letters = {row["id"]: row for row in (json.loads(bad.raw) for bad in chunk.bad)}
    names = ["ts", "tz", "d", "a", "ta", "tx", "b", "ti"]
    texts = ", ".join(f"{name}::text" for name in names)
    database.execute(f"alter database {database.name} set timezone = 'UTC'")
    for number, *told in database.rows(f"select id, {texts} from t"):
        assert {name: letters[number][name] for name in names} == dict(
            zip(names, told, strict=True)
        )
    assert [letters[n]["f"] for n in (1, 2, 3)] == ["NaN", "-Infinity", 1.5]


def test_dates_that_cannot_be_written_are_row_errors(database):
    database.execute("create table t (d date)", "insert into t values ('262143-01-01')")
    error = refused(database, table="t")
    assert error.code == "E0501"
    assert "262143-01-01" in error.message
    database.execute("update t set d = '262142-12-31'")
    frame, _ = run(database.read(table="t"))
    assert frame["d"].dt.to_string("%Y-%m-%d").to_list() == ["+262142-12-31"]


def test_operators_with_question_marks_and_casts_are_left_to_the_server(database):
    frame, _ = run(database.read(query=(
        "select '{\"a\": 1}'::jsonb ? 'a' as one, '{\"a\": 1}'::jsonb ?| array['b'] as any_of, "
        "(array[1, 2, 3])[1:2] as part, $x$a ? ; b$x$ as quoted"
    )))  # fmt: skip
    assert frame.row(0) == (True, False, [1, 2], "a ? ; b")


@pytest.mark.parametrize(
    ("type_", "first", "later"),
    [
        ("numeric(20, 5)", ["1.00001", "99999999999999.5"], ["2", "100000000000000.00001"]),
        ("numeric", ["1.5", "10"], ["9", "10.000000001"]),
        ("uuid", ["00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-00000000000a"],
         ["00000000-0000-0000-0000-000000000009", "00000000-0000-0000-0000-00000000000b"]),
        ("varchar(9)", ["a", "b"], ["B", "c"]),
    ],
)  # fmt: skip
def test_numeric_uuid_and_text_tell_what_is_new(database, type_, first, later):
    config = {"table": "t", "incremental": {"column": "v"}}
    database.execute(f"create table t (id int, v {type_})",
                     f"insert into t values (1, '{first[0]}'), (2, '{first[1]}')")  # fmt: skip
    frame, carried = run(database.read(**config))
    assert sorted(frame["id"].to_list()) == [1, 2]
    database.execute(f"insert into t values (3, '{later[0]}'), (4, '{later[1]}')")
    frame, carried = run(database.read(carried=json.loads(json.dumps(carried)), **config))
    assert frame["id"].to_list() == [4]
    assert run(database.read(carried=carried, **config))[0].height == 0


@pytest.mark.parametrize("type_", ["mood", "inet", "citext", "money"])
def test_a_cursor_whose_order_is_not_that_of_its_text_is_refused_by_name(database, type_):
    database.execute("create type mood as enum ('sad', 'glad')", "create extension citext",
                     f"create table t (v {type_})")  # fmt: skip
    error = refused(database, table="t", incremental={"column": "v"})
    assert error.code == "E0413"
    assert type_ in error.message


def test_times_written_in_two_ways_are_refused_also_when_the_other_comes_later(database):
    config = {"table": "t", "incremental": {"column": "v"}}
    database.execute("create table t (v text)", "insert into t values ('2024-01-01T11:00:00')")
    _, carried = run(database.read(**config))
    database.execute("insert into t values ('2024-01-01 12:00:00')")
    assert refused(database, carried=carried, **config).code == "E0508"


@pytest.mark.parametrize(
    ("column", "type_", "bad", "good"),
    [
        ("numeric(10, 2)", "decimal(10, 3)", Decimal("1.005"), Decimal("1.500")),
        ("numeric(10, 2)", "float64", 1.005, 1.15),
        ("numeric(10, 2)", "string", "1.005", "1.50"),
        ("numeric(5, -2)", "int64", 150, 200),
        ("numeric(10, 2)[]", "list<decimal(10, 3)>", [Decimal("1.005")], [Decimal("1.500")]),
        ("timestamp(0)", "timestamp[ms]", 1_500, 1_000),
        ("real", "float64", 0.1, 0.5),
        ("real", "int64", 2**24 + 1, 2**24),
        ("double precision", "int64", 2**53 + 1, 2**53),
    ],
)
def test_what_a_column_would_round_is_refused(database, column, type_, bad, good):
    import polars as pl

    database.execute(f"create table t (v {column})")
    given = schema(v=type_)

    def rows(value: Any) -> Any:
        dtype = given.to_polars()["v"]
        if dtype.is_temporal():
            return batch([{"v": pl.Series([value]).cast(dtype)[0]}], v=dtype)
        return batch([{"v": value}], v=dtype)

    async def written(value: Any, sift: bool) -> list[str]:
        step = await Step(database, given, sift=sift, step=f"out{value}{sift}"[:9]).start()
        try:
            refused_rows = await step.settle(rows(value)) if sift else []
            await step.epoch(1, *([] if sift else [rows(value)]), final=True)
            return [each.code for each in refused_rows]
        finally:
            await step.close()

    with pytest.raises(DataFlareError) as caught:
        run(written(bad, False))
    assert caught.value.code == "E0511"
    assert run(written(bad, True)) == ["E0511"]
    run(written(good, False))
    assert database.rows("select count(*) from t") == [(1,)]


def test_names_that_postgresql_would_cut_or_take_for_two_are_refused_before_the_run(database):
    database.execute("create table t (id int, name text)")
    long = "ä" * 32
    for given, words in (
        (schema(**{long: "int64"}), "64 bytes"),
        (schema(ID="int64", Name="string"), "'id'"),
    ):  # fmt: skip
        with pytest.raises(DataFlareError) as caught:
            run(database.destination().validate(given))
        assert caught.value.code == "E0411"
        assert words in caught.value.message
    with pytest.raises(DataFlareError, match="table name"):
        run(database.destination(table="x" * 64).validate(schema(id="int64")))


def test_a_schema_that_the_user_may_not_use_is_named(database):
    database.execute("create role outsider login password 'outsider-Pass1'", "create schema hidden",
                     "create table hidden.t (a int)", "grant select on hidden.t to outsider",
                     "create table sec (a int)", "revoke usage on schema public from public")  # fmt: skip
    try:
        dsn = f"host=127.0.0.1 port={database.server.port} user=outsider password=outsider-Pass1"
        for table, name in (("sec", "public"), ("hidden.t", "hidden")):
            error = refused(
                database, table=table, connection_string=f"{dsn} dbname={database.name}"
            )
            assert error.code == "E0602"
            assert f"schema '{name}'" in error.message
            assert "grant usage" in (error.help or "")
    finally:
        database.execute("drop owned by outsider", "drop role outsider")
