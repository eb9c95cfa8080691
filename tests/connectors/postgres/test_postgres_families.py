"""Many tables of PostgreSQL: by patterns over schemas, in one snapshot, with few connections, each by its own key."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest
from postgres_kit import Database

from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, run
from dataflare.planner import plan
from dataflare.workflow import load_text

TABLES = """
create table orders(id bigint primary key, email text, updated_at timestamptz);
insert into orders select n, n || '@x.org', '2024-01-01Z'::timestamptz + n * interval '1 day' from generate_series(1, 30) n;
create table items(order_id bigint, line int, name text, primary key (order_id, line));
insert into items values (1, 1, 'a'), (1, 2, 'b');
create table audit_log(at timestamptz, what text);
create view totals as select count(*) from orders;
create schema web;
create table web.orders(id bigint primary key, updated_at timestamptz);
insert into web.orders values (7, '2024-01-01Z');
"""
WORKFLOW = """\
name: families
settings: {parallelism: 2}
sources:
  shop:
    type: postgres
    config: {connection_string: "DSN", tables: PATTERNS, incremental: {column: updated_at}}
destinations:
  copy: {type: postgres, inputs: [shop], config: {connection_string: "DSN", table: "copy.{schema}_{table}", mode: upsert}}
"""


def test_tables_of_two_schemas_are_copied_by_their_keys(database, tmp_path: Path) -> None:
    database.execute(TABLES)
    database.execute("create schema copy")
    patterns = ["public.*", "!public.audit_*", "web.orders"]
    text = WORKFLOW.replace("DSN", database.dsn).replace("PATTERNS", json.dumps(patterns))
    model = load_text(text, base=tmp_path)
    nodes = {node["id"]: node["notes"] for node in plan(model).view()["nodes"]}
    assert [name for name in nodes if name.startswith("shop.")] == [
        "shop.items",
        "shop.public.orders",
        "shop.web.orders",
    ]
    assert "read in full by each run: it has no column 'updated_at'" in nodes["shop.items"]
    for rows in (30, 31):
        result = run(model, RunOptions(home=tmp_path / "home"))
        assert result.status == "finished", result.error
        assert database.rows("select count(*) from copy.public_orders") == [(rows,)]
        if rows == 30:
            database.execute("insert into orders values (99, null, '2025-01-01Z')")
    assert result.steps["shop.public.orders"]["rows_out"] == 1
    assert database.rows("select * from copy.public_items order by 1, 2") == [
        (1, 1, "a"),
        (1, 2, "b"),
    ]
    assert database.rows("select id from copy.web_orders") == [(7,)]


@pytest.mark.parametrize("cdc", ["false", "true"])
def test_a_pattern_is_of_the_tables_of_all_schemas(
    logical: Database, tmp_path: Path, cdc: str
) -> None:
    logical.execute("create schema crm; create table crm.u1(id int primary key)")
    logical.execute(
        "create table u1(id int primary key); create table crm.secret(id int primary key)"
    )

    def chosen(*patterns: str) -> list[str]:
        text = f"""\
name: chosen
sources: {{s: {{type: postgres, config: {{connection_string: "{logical.dsn}", tables: {json.dumps(patterns)}, cdc: {cdc}}}}}}}
destinations: {{out: {{type: sqlite, inputs: [s], config: {{path: out.db, table: "{{schema}}_{{table}}", mode: mirror}}}}}}
"""
        nodes = plan(load_text(text, base=tmp_path)).view()["nodes"]
        return [node["id"].removeprefix("s.") for node in nodes if node["id"].startswith("s.")]

    assert chosen("u?") == ["crm.u1", "public.u1"]
    assert chosen("u1") == ["u1"]
    assert chosen("*", "!sec*", "!public.*") == ["u1"]
    with pytest.raises(
        DataFlareError, match="'!secret' of source 's' is not a table of the default"
    ):
        chosen("*", "!secret")


def test_many_tables_are_read_in_turns_from_one_snapshot(database, tmp_path: Path) -> None:
    count = 60
    for n in range(count):
        database.execute(f"create table t{n}(id int primary key); insert into t{n} values ({n})")
    text = f"""\
name: wide
settings: {{parallelism: 2}}
sources: {{shop: {{type: postgres, config: {{connection_string: "{database.dsn}", tables: ["t*"]}}}}}}
destinations: {{out: {{type: sqlite, inputs: [shop], config: {{path: out.db, table: "{{table}}"}}}}}}
"""
    model = load_text(text, base=tmp_path)
    result = run(model, RunOptions(home=tmp_path / "home"))
    assert result.status == "finished", result.error
    assert sum(result.steps[f"out.t{n}"]["rows_in"] for n in range(count)) == count


NUMBERS = """\
name: numbers
sources: {s: {type: postgres, config: {connection_string: "DSN", tables: [n, m], cdc: CDC PER_TABLE}}}
destinations: {out: {type: sqlite, inputs: [s], config: {path: out.db, table: "{table}", mode: mirror}}}
"""


@pytest.mark.parametrize("cdc", ["false", "true"])
def test_a_table_of_many_has_a_schema_of_its_own(
    logical: Database, tmp_path: Path, cdc: str
) -> None:
    logical.execute(
        "create table n(id int primary key, x numeric, y numeric)",
        "insert into n values (1, 1.5, 2), (2, 'NaN', 3)",
        "create table m(id int primary key)",
        "insert into m values (1)",
    )
    text = NUMBERS.replace("DSN", logical.dsn).replace("CDC", cdc)
    if cdc == "true":
        text = text.replace("name: numbers", "name: numbers\nsettings: {mode: batch}")
    options = RunOptions(home=tmp_path / "home")
    result = run(load_text(text.replace(" PER_TABLE", ""), base=tmp_path), options)
    assert result.error is not None
    assert result.error.code == "E0501"
    assert "per_table: {n: {schema: ...}}" in str(result.error.help)
    own = ", per_table: {n: {schema: {x: string}}}"
    model = load_text(text.replace(" PER_TABLE", own), base=tmp_path)
    options = RunOptions(home=tmp_path / "home", fresh=True)
    result = run(model, options)
    assert result.status == "finished", result.error
    logical.execute("insert into n values (3, 'NaN', 4)", "insert into m values (2)")
    result = run(model, RunOptions(home=tmp_path / "home"))
    assert result.status == "finished", result.error
    with contextlib.closing(sqlite3.connect(tmp_path / "out.db")) as db:
        rows = db.execute("select id, x, cast(y as int) from n order by id").fetchall()
        assert rows == [(1, "1.5", 2), (2, "NaN", 3), (3, "NaN", 4)]
        assert db.execute("select id from m order by id").fetchall() == [(1,), (2,)]
    for wrong, words in (
        ("{n: {schema: {x: strin}}}", "'schema' of 'n' in 'per_table' of step 's': the type of"),
        ("{n: {schema: [x]}}", "'schema' of 'n' in 'per_table' of step 's' must be a mapping"),
        ("{n: {schema: {z: string}}}", "z"),
    ):
        with pytest.raises(DataFlareError, match=words) as refused:
            plan(load_text(text.replace(" PER_TABLE", f", per_table: {wrong}"), base=tmp_path))
        assert refused.value.step in ("s", "s.n")
