"""Many tables followed by one reader: one slot and one publication, a stream for each table."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import duckdb
import pytest
from postgres_kit import Database
from streams_shop import WORKFLOW, Shop

from dataflare.errors import DataFlareError
from dataflare.jobs import Progress, RunOptions, run
from dataflare.planner import plan
from dataflare.sdk.crashpoints import observed
from dataflare.workflow.load import load_text


@pytest.fixture
def shop(logical: Database, tmp_path: Path) -> Shop:
    logical.execute(
        "create table orders (id int primary key, name text)",
        "create table items (id int, line int, name text, primary key (id, line))",
        "create table audit_log (what text)",
        "insert into orders select n, 'n' || n from generate_series(1, 50) n",
        "insert into items select n, l, 'i' || n from generate_series(1, 30) n, generate_series(1, 2) l",
    )  # fmt: skip
    return Shop(logical, tmp_path, "postgres")


def test_each_table_is_mirrored_by_one_slot(shop: Shop) -> None:
    nodes = {node["id"]: node for node in plan(shop.workflow()).view()["nodes"]}
    assert {"shop.items", "shop.orders", "copy.items", "copy.orders"} <= nodes.keys()
    assert nodes["shop.items"]["stage"] == nodes["shop.orders"]["stage"]
    result = shop.catch_up()
    assert result.steps["shop.orders"]["rows_out"] == 50
    assert result.steps["shop.items"]["rows_out"] == 60
    shop.check("orders", "items")
    shop.database.execute(
        "begin; update orders set name = 'new' where id < 5; delete from items where line = 2 and id > 20; "
        "insert into orders values (100, 'both'); insert into items values (100, 1, 'both'); commit",
        "update items set id = id + 1000 where id < 3",
        "insert into audit_log values ('not followed')",
    )  # fmt: skip
    shop.catch_up()
    shop.check("orders", "items")
    assert shop.database.rows("select count(*) from pg_replication_slots") == [(1,)]
    assert shop.database.rows("select tablename::text from pg_publication_tables order by 1") == [
        ("items",),
        ("orders",),
    ]


def test_a_copy_never_shows_half_of_a_transaction_over_two_tables(shop: Shop) -> None:
    """All tables of one place have what is theirs of an epoch in one transaction."""
    shop.catch_up()
    shop.database.execute(
        *(
            f"begin; insert into orders values ({n}, 'o'); insert into items values ({n}, 1, 'i'); "
            f"delete from orders where id = {n - 7}; delete from items where id = {n - 7}; commit"
            for n in range(200, 600)
        )
    )
    seen = []

    def look(point: str) -> None:
        if point.startswith("sqlite.commit"):
            with sqlite3.connect(shop.folder / "copy.db") as db:
                pairs = [
                    db.execute(
                        f"select distinct id from {table} where id >= 200 order by id"
                    ).fetchall()
                    for table in ("orders", "items")
                ]
            assert pairs[0] == pairs[1]
            seen.append(len(pairs[0]))

    with observed(look):
        shop.catch_up()
    shop.check("orders", "items")
    assert seen[0] == 0
    assert seen[-1] > 0


def test_a_table_comes_and_another_goes(shop: Shop) -> None:
    shop.catch_up()
    shop.database.execute(
        "create table people (id int primary key, name text)",
        "insert into people select n, 'p' || n from generate_series(1, 40) n",
        "update orders set name = 'x' where id < 9", "drop table items",
    )  # fmt: skip
    result = shop.catch_up()
    shop.check("orders", "people")
    assert any("'public.items' is not followed any more" in each for each in result.warnings)
    shop.database.execute("delete from people where id < 10", "update orders set name = 'y'")
    shop.catch_up()
    shop.check("orders", "people")


@pytest.mark.parametrize("between", [True, False])
def test_a_table_that_is_dropped_and_made_again_leaves_none_of_its_old_rows(
    shop: Shop, between: bool
) -> None:
    """Also where a run has seen that it was gone, and its step was taken out."""
    shop.catch_up()
    shop.database.execute("drop table items", "update orders set name = 'x' where id = 1")
    if between:
        shop.catch_up()
        shop.catch_up()
    shop.database.execute(
        "create table items (id int, line int, name text, primary key (id, line))",
        "insert into items values (3, 1, 'new'), (900, 1, 'newer')",
    )
    result = shop.catch_up()
    shop.check("orders", "items")
    assert [w for w in result.warnings if "'public.items' is read again" in w], result.warnings
    shop.database.execute("delete from items where id = 3")
    assert not shop.catch_up().warnings
    shop.check("orders", "items")


def test_a_table_that_comes_back_into_the_pattern_is_read_again(shop: Shop) -> None:
    shop.catch_up()
    shop.patterns = ["orders"]
    assert any("'public.items' is not followed" in w for w in shop.catch_up().warnings)
    shop.database.execute("delete from items where id < 10")
    shop.patterns = ["orders", "items"]
    assert any("'public.items' is read again" in w for w in shop.catch_up().warnings)
    shop.check("orders", "items")


def test_tables_that_are_renamed_are_told(shop: Shop) -> None:
    shop.catch_up()
    shop.database.execute(
        "alter table items rename to lines", "update lines set name = 'y' where id = 1",
        "alter table orders rename to orders_old",
        "create table orders (like orders_old including all)", "insert into orders values (7, 'seven')",
    )  # fmt: skip
    result = shop.catch_up()
    shop.check("lines", "orders", "orders_old")
    assert [w for w in result.warnings if "'public.items' is called 'public.lines' now" in w]
    assert [w for w in result.warnings if "'public.orders' is read again" in w]
    shop.database.execute("delete from orders_old where id = 1", "delete from lines where id = 2")
    assert not shop.catch_up().warnings
    shop.check("lines", "orders", "orders_old")


def test_two_tables_that_change_their_names(shop: Shop) -> None:
    shop.database.execute("create table twin (like orders including all)")
    shop.catch_up()
    shop.database.execute(
        "insert into twin values (1, 'one')", "begin; alter table orders rename to x; alter table twin rename to orders; "
        "alter table x rename to twin; commit", "insert into orders values (2, 'two')", "delete from twin where id = 2",
    )  # fmt: skip
    shop.catch_up()
    shop.check("orders", "twin", "items")


def test_an_unfinished_run_goes_on_with_a_new_table(shop: Shop) -> None:
    """A run that follows changes never finishes, so the next one must take new tables in."""
    shop.mode = "auto"
    shop.run(for_s=2.0)
    shop.check("orders", "items")
    shop.database.execute(
        "create table people (id int primary key, name text)",
        "insert into people select n, 'p' || n from generate_series(1, 40) n",
        "insert into orders values (99, 'new')", "drop table items",
    )  # fmt: skip
    shop.mode = "batch"
    shop.catch_up()
    shop.check("orders", "people")


def test_tables_without_a_key_are_refused_together(shop: Shop) -> None:
    shop.patterns = ["*"]
    shop.database.execute("create table audit_more (what text)")
    with pytest.raises(DataFlareError) as refused:
        shop.workflow() and plan(shop.workflow())
    assert [each.step for each in refused.value.each] == ["shop.audit_log", "shop.audit_more"]
    assert {each.code for each in refused.value.each} == {"E0605"}
    assert shop.database.rows("select * from pg_publication") == []


def test_options_of_one_table(shop: Shop) -> None:
    text = WORKFLOW.replace("TYPE", "postgres").replace(
        "cdc: CDC", "cdc: true, per_table: {items: OPTIONS}"
    )
    text = text.replace("DSN", shop.database.dsn).replace("MODE", "batch")
    text = text.replace("PATTERNS", "[orders, items]")
    options = RunOptions(shop.folder / "home")
    result = run(
        load_text(text.replace("OPTIONS", "{columns: [id, line]}"), base=shop.folder), options
    )
    assert result.status == "finished", result.error
    with sqlite3.connect(shop.folder / "copy.db") as db:
        assert len(db.execute("select id, line from items").fetchall()) == 60
        assert [row[1] for row in db.execute("pragma table_info(items)")] == ["id", "line"]
    with pytest.raises(DataFlareError, match="'cdc' is the same for all"):
        plan(load_text(text.replace("OPTIONS", "{cdc: false}"), base=shop.folder))


def test_columns_that_two_tables_got_in_one_run_are_told_of_both(shop: Shop) -> None:
    left = [
        "alter table orders add column note text; alter table items add column price int",
        "insert into orders values (900, 'n', 'x'); insert into items values (900, 1, 'n', 7)",
    ]

    def act(point: str) -> None:
        while point == "postgres.cdc.after_snapshot" and left:
            shop.database.execute(left.pop(0))

    stops: list[bool] = []

    def stop_when_both_came(progress: Progress) -> None:
        came = {name: step.rows_in or 0 for name, step in progress.steps.items()}
        if not stops and came.get("copy.orders", 0) > 50 and came.get("copy.items", 0) > 60:
            stops.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    shop.mode = "auto"
    with observed(act):
        result = shop.run(listener=stop_when_both_came)
    assert result.status == "interrupted", result.error
    told = [each for each in result.warnings if "became columns" in each]
    assert sorted(told) == [
        "step 'shop.items': new fields became columns: price",
        "step 'shop.orders': new fields became columns: note",
    ]
    shop.mode = "batch"
    shop.catch_up()
    shop.check("orders", "items")


ODD = """\
name: odd
settings: {mode: MODE, parallelism: 1, checkpoint: {interval: 20ms}}
sources: {shop: {type: postgres, config: {connection_string: "DSN", tables: ["Order Lines", "a%/b"], cdc: true}}}
transformations: {big: {type: filter, inputs: [shop], config: {condition: "n > 10"}}}
destinations:
  copy:
    type: duckdb
    inputs: [big]
    config: {path: copy.duckdb, table: "{table}", mode: mirror}
"""


def test_the_newest_rows_of_tables_with_odd_names_are_kept(
    logical: Database, tmp_path: Path
) -> None:
    names = ['"Order Lines"', '"a%/b"']
    for name in names:
        logical.execute(
            f"create table {name} (id int primary key, n int)",
            f"insert into {name} select n, n from generate_series(1, 50) n",
        )
    home = RunOptions(tmp_path / "home")
    text = ODD.replace("DSN", logical.dsn)
    result = run(
        load_text(text.replace("MODE", "auto"), base=tmp_path), RunOptions(home.home, for_s=2.0)
    )
    assert result.status == "stopped", result.error
    for name in names:
        logical.execute(
            f"update {name} set n = 1 where id between 20 and 29",
            f"update {name} set n = 99 where id = 3",
        )
    result = run(load_text(text.replace("MODE", "batch"), base=tmp_path), home)
    assert result.status == "finished", result.error
    with duckdb.connect(tmp_path / "copy.duckdb", read_only=True) as db:
        for name in names:
            there = logical.rows(f"select id, n from {name} where n > 10 order by id")
            assert db.execute(f"select id, n from {name} order by id").fetchall() == there
