"""A table that is copied from PostgreSQL to PostgreSQL keeps types, NOT NULL and the key that rows do not
carry; what is not kept is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from postgres_kit import Database

KEPT = {
    "u": ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"),
    "us": ("uuid[]", "array['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', null]::uuid[]"),
    "ip": ("inet", "'10.0.0.1/8'"),
    "net": ("cidr", "'10.0.0.0/8'"),
    "mac": ("macaddr", "'08:00:2b:01:02:03'"),
    "mac8": ("macaddr8", "'08:00:2b:01:02:03:04:05'"),
    "v": ("character varying(5)", "'é€ ab'"),
    "vs": ("character varying(3)[]", "array['abc', '']"),
    "c": ("character(4)", "'ab'"),
    "j": ("json", '\'{"a": 1.50,  "a": 2}\''),
    "jb": ("jsonb", "'{\"a\": 12345678901234567890.10}'"),
    "x": ("xml", "'<a>1</a>'"),
    "bits": ("bit(3)", "B'101'"),
    "vb": ("bit varying(5)", "B'01'"),
    "n": ("numeric", "-1.123456789"),
    "n2": ("numeric(9,2)", "1.50"),
    "r": ("int4range", "'[1,5)'"),
    "tz": ("time with time zone", "'10:00:00+02'"),
    "t": ("text", "''"),
    "i": ("integer", "1"),
}
FLOW = """\
name: copy
sources:
  rows:
    type: postgres
    config: {{connection_string: "${{secret:PG}}", {source}}}
{steps}
destinations:
  out:
    type: postgres
    inputs: [{last}]
    config: {{connection_string: "${{secret:PG}}", table: t, {mode}}}
"""
SHAPE = (
    "select a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull from pg_attribute a "
    "where a.attrelid = '{}'::regclass and a.attnum > 0 order by a.attnum"
)
KEY = (
    "select array_agg(a.attname::text order by k.o) from pg_index i, "
    "unnest(i.indkey) with ordinality k(n, o), pg_attribute a where i.indrelid = 't'::regclass "
    "and i.indisprimary and a.attrelid = i.indrelid and a.attnum = k.n"
)


def command(database: Database, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", *words],
        cwd=database.folder, env={**os.environ, "PG": database.dsn}, text=True,
        capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def copy(
    database: Database,
    *words: str,
    source: str = "table: given",
    steps: str = "",
    last: str = "rows",
    mode: str = "mode: append",
) -> str:
    text = FLOW.format(source=source, steps=steps, last=last, mode=mode)
    (database.folder / "copy.yaml").write_text(text)
    return command(database, *(words or ("run",)), "copy.yaml", *(() if words else ("--quiet",)))


def key(database: Database) -> list[str] | None:
    ((found,),) = database.rows(KEY)
    return found


@pytest.mark.parametrize(
    "mode",
    ["mode: append", "mode: overwrite", "mode: upsert, key: [id]", "mode: mirror, key: [id, i]"],
)
def test_a_new_table_has_the_types_the_key_and_not_null_of_the_source(database: Database, mode):
    columns = ", ".join(f"{name} {type_} not null" for name, (type_, _) in KEPT.items())
    spare = ", ".join(f"{name}0 {type_}" for name, (type_, _) in KEPT.items())
    values = ", ".join(value for _, value in KEPT.values())
    nulls = ", ".join("null" for _ in KEPT)
    database.execute(
        f"create table given (id uuid default gen_random_uuid(), {columns}, {spare}, primary key (id, i))",
        f"insert into given values (default, {values}, {values}), (default, {values}, {nulls})",
    )
    copy(database, mode=mode)
    assert database.rows(SHAPE.format("t")) == database.rows(SHAPE.format("given"))
    assert key(database) == (["id"] if "[id]" in mode else ["id", "i"])
    text = "select g::text from {} g order by id"
    assert database.rows(text.format("t")) == database.rows(text.format("given"))


def test_what_a_step_changes_is_not_declared_and_a_new_name_is(database: Database):
    database.execute(
        "create table given (id int primary key, u uuid not null, w uuid not null, v varchar(3) not null)",
        "insert into given values (1, gen_random_uuid(), gen_random_uuid(), 'abc')",
    )
    steps = """\
transformations:
  some: {type: filter, inputs: [rows], config: {condition: "id > 0"}}
  made:
    type: map
    inputs: [some]
    config: {derive: {v: "v || 'def'", w: "upper(w)"}, rename: {u: ref}}
"""
    copy(database, steps=steps, last="made")
    assert sorted(database.rows(SHAPE.format("t"))) == [
        ("id", "integer", True),
        ("ref", "uuid", True),
        ("v", "text", False),
        ("w", "text", False),
    ]
    assert key(database) == ["id"]
    ((text,),) = database.rows("select v from t")
    assert text == "abcdef"


@pytest.mark.parametrize(
    ("source", "steps"),
    [
        ("table: given, columns: [u]", ""),
        ("table: given, incremental: {column: id, initial_value: 0}", ""),
        ("query: select * from given", ""),
        (
            "table: given",
            "transformations:\n  two: {type: union, inputs: [rows, rows]}\n",
        ),
    ],
)
def test_a_key_that_rows_may_break_is_not_made(database: Database, source, steps):
    database.execute(
        "create table given (id int primary key, u uuid)",
        "insert into given values (1, gen_random_uuid())",
    )
    copy(database, source=source, steps=steps, last="two" if steps else "rows")
    assert key(database) is None


def test_a_plan_says_what_is_kept_and_what_is_not(database: Database):
    database.execute(
        "create type mood as enum ('good', 'bad')",
        "create domain code as varchar(4)",
        "create table given (id int primary key, u uuid, m mood, d code, p money)",
        "insert into given values (1, gen_random_uuid(), 'good', 'x', 1.5)",
    )
    found = json.loads(copy(database, "plan", "--format", "json"))
    (out,) = [node for node in found["nodes"] if node["id"] == "out"]
    told = " / ".join(out["effects"])
    assert "u uuid" in told
    assert "NOT NULL of id" in told
    assert "the primary key id" in told
    assert "m mood becomes text" in told
    assert "p money becomes text" in told
    copy(database)
    types = {name: type_ for name, type_, _ in database.rows(SHAPE.format("t"))}
    assert types == {"id": "integer", "u": "uuid", "m": "text", "d": "text", "p": "text"}
    assert database.rows("select m, d from t") == [("good", "x")]


def test_a_second_run_that_appends_the_same_rows_is_refused_by_the_key(database: Database):
    database.execute("create table given (id int primary key)", "insert into given values (1)")
    copy(database)
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", "run", "copy.yaml", "--quiet", "--fresh"],
        cwd=database.folder, env={**os.environ, "PG": database.dsn}, text=True,
        capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "error[E0510]" in done.stderr
    assert database.rows("select id from t") == [(1,)]
