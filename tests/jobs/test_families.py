"""Sources of many tables: each table goes its own way through the steps, as in a workflow of its own."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.jobs.preview import preview
from dataflare.jobs.workflow_test import run_test
from dataflare.planner import check, plan
from dataflare.testing import Lab
from dataflare.workflow import load_text
from dataflare.workflow.model import Workflow

TABLES = """\
create table orders(id integer primary key, email text, total real, secret_a text);
create table items(id integer, line integer, name text, work_email text, primary key (id, line));
create table audit_log(at text, what text);
create table "Order Details"(id integer primary key, note text);
create view totals as select total from orders;
insert into orders values (1, 'a@b.c', 2.5, 's'), (2, 'd@e.f', 3.5, 't');
insert into items values (1, 1, 'x', 'g@h.i'), (1, 2, 'y', null), (2, 1, 'z', 'j@k.l');
insert into audit_log values ('now', 'x');
insert into "Order Details" values (1, 'q');
"""
CHOSEN = '["*", "!audit_*"]'


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.executescript(TABLES)
    return tmp_path


def workflow(
    folder: Path,
    steps: str = "",
    read: str = "shop",
    *,
    tables: str = CHOSEN,
    to: str = 'type: sqlite, config: {path: copy.db, table: "{table}", mode: upsert}',
    more: str = "",
    source: str = "",
) -> Workflow:
    return load_text(
        f"""\
name: families
sources: {{shop: {{type: sqlite, config: {{path: shop.db, tables: {tables}{source}}}}}}}
transformations: {{{steps}}}
destinations:
  copy: {{inputs: [{read}], {to}}}
{more}
""",
        base=folder,
    )


def go(folder: Path, model: Workflow, **options: Any) -> RunResult:
    result = run(model, RunOptions(home=folder / "home", **options))
    assert result.status == "finished", result.error
    return result


def rows(path: Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


def tables_in(path: Path) -> list[str]:
    names = rows(path, "select name from sqlite_master where type = 'table' order by name")
    return [name for (name,) in names if not name.startswith("_dataflare")]


def refusal(model: Workflow) -> DataFlareError:
    with pytest.raises(DataFlareError) as refused:
        plan(model)
    return refused.value


def test_each_table_is_copied_with_its_own_columns_and_key(shop: Path) -> None:
    result = go(shop, workflow(shop))
    assert tables_in(shop / "copy.db") == ["Order Details", "items", "orders"], (
        "no view, no audit_log"
    )
    for name in ("orders", "items", "Order Details"):
        query = f'select * from "{name}" order by 1, 2'
        assert rows(shop / "copy.db", query) == rows(shop / "shop.db", query)
    assert rows(shop / "copy.db", "select name from pragma_table_info('items') where pk > 0") == [
        ("id",),
        ("line",),
    ]
    assert result.steps["shop.items"]["rows_out"] == 3
    assert result.steps["copy.Order Details"]["rows_in"] == 1


def test_a_step_is_applied_to_each_table_where_its_columns_match(shop: Path) -> None:
    steps = 'masked: {type: mask, inputs: [shop], config: {columns: {"*email*": redact}}}, '
    steps += 'plain: {type: map, inputs: [masked], config: {drop: ["secret_*"]}}'
    result = go(shop, workflow(shop, steps, "plain"))
    assert rows(shop / "copy.db", "select * from orders") == [(1, "***", 2.5), (2, "***", 3.5)]
    assert rows(shop / "copy.db", "select work_email from items") == [("***",), (None,), ("***",)]
    assert result.warnings == []


def test_one_table_of_many_and_one_output_of_a_step_over_many(shop: Path) -> None:
    steps = 'late: {type: filter, inputs: [shop], config: {condition: "id > 1"}}, '
    steps += 'n: {type: aggregate, inputs: [late.orders], config: {measures: {n: "count(*)"}}}'
    more = """\
  m: {type: sqlite, inputs: [n], config: {path: copy.db, table: n}}
  rejected: {type: file, inputs: [late.rejected], config: {path: "out/{table}.csv"}}
  one: {type: file, inputs: [late.items.rejected], config: {path: one.csv}}
"""
    go(shop, workflow(shop, steps, "late.items, late.orders", more=more))
    assert tables_in(shop / "copy.db") == ["items", "n", "orders"]
    assert rows(shop / "copy.db", "select * from n") == [(1,)]
    assert sorted(path.name for path in (shop / "out").iterdir()) == [
        "Order Details.csv",
        "items.csv",
        "orders.csv",
    ]
    assert (shop / "one.csv").read_text() == (shop / "out" / "items.csv").read_text()


def test_single_tables_have_options_of_their_own(shop: Path) -> None:
    to = (
        'type: sqlite, config: {path: copy.db, table: "{table}", mode: upsert, per_table: '
        "{audit_log: {mode: append, table: log}, orders: {key: [email]}}}"
    )
    source = ", per_table: {orders: {columns: [email, total]}}"
    model = workflow(shop, tables='["*"]', to=to, source=source)
    for _ in range(2):
        go(shop, model)
    assert rows(shop / "copy.db", "select count(*) from log") == [(2,)], "it is appended"
    assert rows(shop / "copy.db", "select * from orders") == [("a@b.c", 2.5), ("d@e.f", 3.5)]


def test_tables_go_to_duckdb_and_come_back_with_their_schemas(shop: Path) -> None:
    to = 'type: duckdb, config: {path: lake.duckdb, table: "shop.{table}", mode: upsert}'
    with duckdb.connect(str(shop / "lake.duckdb")) as lake:
        lake.execute("create schema shop; create schema old; create table old.orders(n int)")
        lake.execute("insert into old.orders values (7)")
    go(shop, workflow(shop, to=to))
    back = """\
name: back
sources: {lake: {type: duckdb, config: {path: lake.duckdb, tables: ["*.orders", shop.items]}}}
destinations: {out: {type: file, inputs: [lake], config: {path: "out/{schema}/{table}.csv"}}}
"""
    result = go(shop, load_text(back, base=shop))
    assert {"lake.old.orders", "lake.shop.orders", "lake.items"} <= result.steps.keys()
    assert (shop / "out/old/orders.csv").read_text().split() == ["n", "7"]
    assert len((shop / "out/shop/items.csv").read_text().splitlines()) == 4


def test_a_pattern_is_of_tables_in_all_schemas_and_a_name_of_the_default_one(
    tmp_path: Path,
) -> None:
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as db:
        db.execute("create schema crm; create table crm.u1(n int); create table crm.secret(n int)")
        db.execute("create table u1(n int); create table u2(n int)")

    def chosen(*patterns: str) -> list[str]:
        text = f"""\
name: chosen
sources: {{s: {{type: duckdb, config: {{path: shop.duckdb, tables: {json.dumps(patterns)}}}}}}}
destinations: {{out: {{type: file, inputs: [s], config: {{path: "out/{{schema}}/{{table}}.csv"}}}}}}
"""
        nodes = plan(load_text(text, base=tmp_path)).view()["nodes"]
        return [node["id"].removeprefix("s.") for node in nodes if node["id"].startswith("s.")]

    assert chosen("u?") == ["crm.u1", "main.u1", "u2"]
    assert chosen("main.u?") == ["u1", "u2"]
    assert chosen("u1") == ["u1"]
    assert chosen("u1", "crm.u1") == ["crm.u1", "main.u1"]
    assert chosen("*", "!sec*") == ["crm.u1", "main.u1", "u2"]
    assert chosen("*", "!u1") == ["secret", "u1", "u2"], "that of the default schema is left out"
    assert chosen("*", "!*.u1") == ["secret", "u2"]
    assert chosen("u?", "!crm.*", "!secret") == ["u1", "u2"], "no table is left to keep away"
    for patterns, sign in ((["secret"], ""), (["*", "!secret"], "!")):
        with pytest.raises(DataFlareError) as refused:
            chosen(*patterns)
        assert refused.value.code == "E0341"
        assert f"'{sign}secret' of source 's' is not a table of the default schema" in str(
            refused.value
        )
        assert refused.value.notes == ["tables of this name are in other schemas: crm.secret"]
        assert f"'{sign}crm.secret', or '{sign}*.secret'" in str(refused.value.help)


def test_changes_as_debezium_has_them_name_each_table_and_its_schema(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as db:
        db.execute("create schema crm; create table crm.u1 as select 1 as n")
        db.execute("create table u1 as select 2 as n")
    text = """\
name: changes
sources: {s: {type: duckdb, config: {path: shop.duckdb, tables: ["*"]}}}
destinations:
  out: {type: file, inputs: [s], config: {path: "out/{schema}-{table}.ndjson", changelog: debezium}}
"""
    go(tmp_path, load_text(text, base=tmp_path))
    for schema, n in (("crm", 1), ("main", 2)):
        [line] = (tmp_path / "out" / f"{schema}-u1.ndjson").read_text().splitlines()
        change = json.loads(line)
        assert (change["source"]["db"], change["source"]["table"]) == (schema, "u1")
        assert change["after"] == {"n": n}


# -- incremental -----------------------------------------------------------------------------------


def test_incremental_is_a_rule_over_tables(shop: Path) -> None:
    source = ", incremental: {column: id}, per_table: {items: {incremental: null}}"
    to = 'type: sqlite, config: {path: copy.db, table: "{table}"}'
    model = workflow(shop, tables='["*"]', to=to, source=source)
    notes = {node["id"]: node["notes"] for node in plan(model).view()["nodes"]}
    assert "read in full by each run: it has no column 'id'" in notes["shop.audit_log"]
    for n in range(2):
        go(shop, model)
        with contextlib.closing(sqlite3.connect(shop / "shop.db")) as db:
            db.execute("insert into orders values (?, 'x', 0, null)", (10 + n,))
            db.commit()
    counts = [
        rows(shop / "copy.db", f"select count(*) from {name}")[0][0]
        for name in ("orders", "items", "audit_log")
    ]
    assert counts == [3, 6, 2], "new rows of orders only, all rows of the others twice"


def test_a_cursor_that_no_table_has_is_refused(shop: Path) -> None:
    error = refusal(workflow(shop, source=", incremental: {column: updated_at}"))
    assert (error.code, "'updated_at'" in error.message) == ("E0341", True)


def test_a_table_that_is_away_for_a_run_keeps_its_cursor(shop: Path) -> None:
    to = 'type: sqlite, config: {path: copy.db, table: "{table}"}'
    model = workflow(shop, to=to, source=", incremental: {column: id}", tables='["*", "!a*"]')
    go(shop, model)
    with contextlib.closing(sqlite3.connect(shop / "shop.db")) as db:
        db.execute("alter table orders rename to away")
        db.commit()
        go(shop, model)
        db.execute("alter table away rename to orders")
        db.execute("insert into orders values (3, 'n', 1, null)")
        db.commit()
    go(shop, model)
    assert rows(shop / "copy.db", "select id from orders") == [(1,), (2,), (3,)]


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "read", "words"),
    [
        (
            'n: {type: aggregate, inputs: [shop], config: {measures: {n: "count(*)"}}}',
            "n",
            "'n' (aggregate) takes one table",
        ),
        (
            "u: {type: union, inputs: [shop.orders, shop]}",
            "u",
            "'u' (union) takes one table",
        ),
    ],
)
def test_a_step_that_takes_one_table_is_refused_with_the_tables(
    shop: Path, steps: str, read: str, words: str
) -> None:
    error = refusal(workflow(shop, steps, read, to="type: blackhole"))
    assert (error.code, words in error.message) == ("E0340", True)
    assert "shop.Order Details, shop.items, shop.orders" in str(error.notes)
    assert "inputs: [shop." in str(error.help)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"to": "type: sqlite, config: {path: copy.db, table: t}"}, "E0340", "takes one table"),
        ({"read": "shop.order"}, "E0108", "'shop.order', which is not a table of 'shop'"),
        (
            {"tables": '["*", nope]'},
            "E0341",
            "the pattern 'nope' of source 'shop' matches no table",
        ),
        ({"tables": '[orders, "!*"]'}, "E0341", "what is left of 'tables'"),
        ({"tables": '["*"]'}, "E0404", "'copy.audit_log' have no key"),
        ({"source": ", table: orders"}, "E0405", "set one of 'table', 'tables' and 'query'"),
        ({"source": ", per_table: {order: {columns: [id]}}"}, "E0405", "'order', which is not one"),
        ({"source": "}, schema: {id: int64"}, "E0405", "which is of one table"),
        (
            {"to": 'type: sqlite, config: {path: c.db, table: "{table}", per_table: {x: {}}}'},
            "E0405",
            "'per_table' of step 'copy' names 'x'",
        ),
        (
            {"to": 'type: file, config: {path: "{schema}/{table}"}'},
            "E0341",
            "the table 'Order Details' is in no schema",
        ),
        (
            {
                "to": 'type: sqlite, config: {path: c.db, table: "{table}"}',
                "steps": "n: {type: limit, inputs: [shop.orders], config: {rows: 1}}",
                "read": "shop, n",
            },
            "E0340",
            "its input 'n' is not a table of a source",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(
    shop: Path, options: dict[str, str], code: str, words: str
) -> None:
    errors = refusal(workflow(shop, **options)).each
    assert (errors[0].code, words in errors[0].message) == (code, True), errors[0].message


def test_columns_that_some_tables_lack_are_one_error_that_lists_the_tables(shop: Path) -> None:
    steps = "m: {type: map, inputs: [shop], config: {drop: [name]}}"
    error = refusal(workflow(shop, steps, "m"))
    assert error.message == "unknown column 'name' in step 'm'"
    assert "the tables Order Details, orders" in str(error.notes)


def test_a_name_that_would_leave_its_folder_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.execute('create table "../up"(id integer primary key)')
    error = refusal(workflow(tmp_path, to='type: file, config: {path: "out/{table}.csv"}'))
    assert (error.code, "cannot be part of a path" in error.message) == ("E0341", True)


# -- commands --------------------------------------------------------------------------------------


def test_a_preview_shows_one_table_also_where_no_step_reads_it(shop: Path) -> None:
    steps = "m: {type: map, inputs: [shop], config: {derive: {twice: id * 2}}}"
    model = workflow(shop, steps, "m.orders")
    assert preview(model, "shop.items")["name"].to_list() == ["x", "y", "z"]
    assert preview(model, "m.items")["twice"].to_list() == [2, 2, 4]
    assert preview(model, "copy.orders").height == 2
    with pytest.raises(DataFlareError, match="'m' stands for many tables"):
        preview(model, "m")
    with pytest.raises(DataFlareError, match="there is no step"):
        preview(model, "shop.order")


def test_a_test_gives_the_rows_of_tables_and_asks_no_system(tmp_path: Path) -> None:
    text = """\
name: tested
sources:
  shop: {type: postgres, config: {connection_string: "postgresql://nowhere/x", tables: ["public.*"]}}
transformations:
  kept: {type: filter, inputs: [shop], config: {condition: "id > 0"}}
  n: {type: aggregate, inputs: [kept.orders], config: {measures: {n: "count(*)"}}}
destinations:
  copy: {type: sqlite, inputs: [kept], config: {path: copy.db, table: "{schema}_{table}", mode: upsert}}
  m: {type: blackhole, inputs: [n]}
tests:
  - name: kept
    given: {shop.orders: [{id: 0}, {id: 2}], shop.a.items: [{id: 5, x: a}]}
    expect:
      kept.orders: [{id: 2}]
      kept.orders.rejected: [{id: 0}]
      copy.a.items: [{id: 5, x: a}]
      m: [{n: 1}]
"""
    model = load_text(text, base=tmp_path)
    result = run_test(model, model.tests[0])
    assert result.passed, (result.differences, result.error)
    found = check(model)
    assert "the tables of 'shop' (postgres), and the steps that read them" in [
        each.what for each in found.unchecked
    ]


def test_a_workflow_in_python_reads_many_tables(shop: Path) -> None:
    from dataflare import Workflow as Flow

    flow = Flow("families", base=shop)
    tables = flow.source("shop", "sqlite", path="shop.db", tables=["orders", "items"])
    tables.map("m", drop=["secret_*"]).to("copy", "memory", name="{table}")
    tables["orders"].to("one", "memory", name="one")
    lab = Lab(shop / "home")
    result = lab.run(flow)
    assert result.status == "finished", result.error
    assert lab.frame("orders").columns == ["id", "email", "total"]
    assert lab.frame("one").columns == ["id", "email", "total", "secret_a"]
    assert lab.frame("items").height == 3


# -- tables that come and go -----------------------------------------------------------------------


def test_a_new_table_is_taken_by_the_next_run_and_by_no_run_that_goes_on(shop: Path) -> None:
    steps = "m: {type: map, inputs: [shop], config: {derive: {x: CAST(y AS int64)}}}"
    with contextlib.closing(sqlite3.connect(shop / "shop.db")) as db:
        db.execute("create table t1(id integer primary key, y text)")
        db.execute("insert into t1 values (1, '1'), (2, 'wrong')")
        db.commit()
        model = workflow(shop, steps, "m", tables='["t?"]')
        options = RunOptions(home=shop / "home")
        assert run(model, options).status == "failed"
        db.execute("create table t2(id integer primary key, y text)")
        db.execute("update t1 set y = '2' where id = 2")
        db.commit()
    result = go(shop, model)
    resumed = result.resumed_from is not None
    assert tables_in(shop / "copy.db") == (["t1"] if resumed else ["t1", "t2"])
    result = go(shop, model)
    assert tables_in(shop / "copy.db") == ["t1", "t2"]


# -- the law ---------------------------------------------------------------------------------------

STEPS = [
    'f: {type: filter, inputs: [IN], config: {condition: "a % 2 = 0"}}',
    'd: {type: map, inputs: [IN], config: {derive: {d: "a * 2"}, drop: ["s*"]}}',
    "k: {type: mask, inputs: [IN], config: {columns: {'*t': redact}}}",
    "u: {type: deduplicate, inputs: [IN], config: {key: a}}",
    "l: {type: limit, inputs: [IN], config: {rows: 1000}}",
    'v: {type: validate, inputs: [IN], config: {rules: [{name: r, expect: "a < 5", on_fail: drop}]}}',
]


@pytest.mark.parametrize("seed", range(8))
def test_a_family_gives_what_a_workflow_for_each_table_gives(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    names = chance.sample(["t1", "t2", "Odd Name", "x.y", "t-3", "ä"], chance.randint(1, 5))
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        for name in names:
            extra = chance.sample(["s1 text", "st text", "r real", "t text"], chance.randint(0, 3))
            db.execute(f'create table "{name}"(id integer primary key, a integer, {", ".join(extra)})'
                       if extra else f'create table "{name}"(id integer primary key, a integer)')  # fmt: skip
            for n in range(chance.choice([0, 1, 30])):
                values = [n, chance.randint(0, 9), *(str(n) for _ in extra)]
                db.execute(f'insert into "{name}" values ({", ".join("?" * len(values))})', values)
        db.commit()
    chain = chance.sample(STEPS, chance.randint(0, 3))

    def steps(source: str) -> tuple[str, str]:
        read, made = source, []
        for text in chain:
            made.append(text.replace("IN", read))
            read = text.partition(":")[0]
        return ", ".join(made), read

    inner, read = steps("shop")
    family = workflow(tmp_path, inner, read, tables=json.dumps(["*"]))
    result = go(tmp_path, family)
    for number, name in enumerate(names):
        text = f"""\
name: alone{number}
sources: {{shop: {{type: sqlite, config: {{path: shop.db, table: {json.dumps(name)}}}}}}}
transformations: {{{steps("shop")[0]}}}
destinations: {{out: {{type: sqlite, inputs: [{read}], config: {{path: alone.db, table: {json.dumps(name)}, mode: upsert, key: id}}}}}}
"""
        alone = go(tmp_path, load_text(text, base=tmp_path))
        query = f'select * from "{name}" order by id'
        assert rows(tmp_path / "copy.db", query) == rows(tmp_path / "alone.db", query)
        assert result.steps[f"copy.{name}"]["rows_in"] == alone.steps["out"]["rows_in"]
