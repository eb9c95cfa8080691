"""A table of every common type, copied into another of the same types: nothing is lost on the way."""

from __future__ import annotations

import pytest
from postgres_kit import run

from dataflare.model.batch import SharedDataBatch

TYPES = {
    "b": ("boolean", "true"),
    "i2": ("smallint", "-32768"),
    "i4": ("integer", "2147483647"),
    "i8": ("bigint", "-9223372036854775808"),
    "f4": ("real", "'-Infinity'"),
    "f8": ("double precision", "0.1"),
    "money_like": ("numeric(20, 5)", "123456789012345.00001"),
    "any_numeric": ("numeric", "-0.000000001"),
    "text": ("text", "'a\"b,\\\\c' || chr(10) || 'é'"),
    "varchar": ("varchar(5)", "''"),
    "char": ("char(3)", "'ab'"),
    "bytea": ("bytea", "'\\x00ff0a5c'::bytea"),
    "date": ("date", "'0044-03-15 BC'"),
    "time": ("time", "'23:59:59.999999'"),
    "ts": ("timestamp", "'1969-12-31 23:59:59.999999'"),
    "tz": ("timestamptz", "'2026-03-29 01:30:00.5+02'"),
    "span": ("interval", "'3 days 04:05:06.789'"),
    "uuid": ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"),
    "json": ("json", '\'{"a": [1.50, null, "\\\\u00e9"]}\''),
    "jsonb": ("jsonb", '\'{"b": 12345678901234567890.12, "a": {}}\''),
    "mood": ("mood", "'not so good'"),
    "moods": ("mood[]", "array['good', null, 'not so good']::mood[]"),
    "texts": ("text[]", "array['', null, 'NULL', 'a\"b', 'c,d', '{}']"),
    "ints": ("bigint[]", "array[1, null, 9223372036854775807]"),
    "empty": ("int[]", "'{}'"),
    "nums": ("numeric(9, 2)[]", "array[1.10, null, -0.01]"),
    "uuids": ("uuid[]", "array['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']::uuid[]"),
    "stamps": ("timestamptz[]", "array['2026-01-01 00:00+00', null]::timestamptz[]"),
    "bytes": ("bytea[]", "array['\\x00'::bytea, null]"),
    "positive": ("positive", "7"),
    "inet": ("inet", "'10.0.0.1/8'"),
}


@pytest.mark.parametrize("sift", [False, True], ids=["fail", "sift"])
@pytest.mark.parametrize("mode", ["append", "upsert", "mirror", "overwrite"])
def test_a_table_of_every_type_is_copied(database, mode, sift):
    columns = ", ".join(f'"{name}" {type_}' for name, (type_, _) in TYPES.items())
    values = ", ".join(value for _, value in TYPES.values())
    nulls = ", ".join("null" for _ in TYPES)
    database.execute(
        "create type mood as enum ('good', 'not so good')",
        "create domain positive as int check (value > 0)",
        f"create table given (id int primary key, {columns})",
        f"insert into given values (1, {values}), (2, {nulls})",
        "create table t (like given including all)",
    )

    async def go() -> None:
        source = database.source(table="given")
        schema = await source.schema()
        await source.aclose()
        frame, _ = await database.read(table="given")
        key = {"key": ["id"]} if mode in ("upsert", "mirror") else {}
        step = await database.step(schema, mode=mode, sift=sift, **key).start()
        assert await step.settle(SharedDataBatch(frame)) == []
        await step.commit(1, [await step.prepare(1, final=True)], final=True)
        await step.close()

    run(go())
    assert database.rows("select id from t order by 1") == [(1,), (2,)]
    # A day of an interval comes back as 24 hours, which PostgreSQL has as equal; json has no equality.
    cast = {name: "" if name == "span" else "::text" for name in TYPES}
    different = [
        name
        for name in TYPES
        if database.rows(
            f'select 1 from given g join t using (id) where g."{name}"{cast[name]} '
            f'is distinct from t."{name}"{cast[name]}'
        )
    ]
    assert different == []
