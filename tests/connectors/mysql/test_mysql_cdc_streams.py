"""Many tables of MariaDB followed by one reader: a stream for each table."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mysql_kit import Database
from streams_shop import WORKFLOW, Shop

from dataflare.connectors.mysql.cdc import reader as readers
from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, arun, run
from dataflare.planner import plan
from dataflare.sdk.crashpoints import observed
from dataflare.workflow.load import load_text


@pytest.fixture
def shop(plain: Database, tmp_path: Path) -> Shop:
    plain.execute(
        "create table orders (id int primary key, name varchar(20)) character set utf8mb4",
        "create table items (id int, line int, name varchar(20), primary key (id, line)) character set utf8mb4",
        "create table audit_log (what text) engine = MyISAM",
        "insert into orders select seq, concat('n', seq) from seq_1_to_50",
        "insert into items select n.seq, l.seq, 'i' from seq_1_to_30 n, seq_1_to_2 l",
    )  # fmt: skip
    return Shop(plain, tmp_path, "mysql")


def test_each_table_is_mirrored_by_one_reader(shop: Shop) -> None:
    nodes = {node["id"]: node for node in plan(shop.workflow()).view()["nodes"]}
    assert {"shop.items", "shop.orders", "copy.items", "copy.orders"} <= nodes.keys()
    assert nodes["shop.items"]["stage"] == nodes["shop.orders"]["stage"]
    result = shop.catch_up()
    assert result.steps["shop.orders"]["rows_out"] == 50
    assert result.steps["shop.items"]["rows_out"] == 60
    shop.check("orders", "items")
    with shop.database.client() as db, db.cursor() as cursor:
        db.begin()
        cursor.execute("update orders set name = 'new' where id < 5")
        cursor.execute("delete from items where line = 2 and id > 20")
        cursor.execute("insert into orders values (100, 'both')")
        cursor.execute("insert into items values (100, 1, 'both')")
        db.commit()
    shop.database.execute(
        "update items set id = id + 1000 where id < 3",
        "insert into audit_log values ('not followed')",
    )
    shop.catch_up()
    shop.check("orders", "items")


def test_a_copy_never_shows_half_of_a_transaction_over_two_tables(shop: Shop) -> None:
    shop.catch_up()
    with shop.database.client() as db, db.cursor() as cursor:
        for n in range(200, 600):
            db.begin()
            cursor.execute(f"insert into orders values ({n}, 'o')")
            cursor.execute(f"insert into items values ({n}, 1, 'i')")
            cursor.execute(f"delete from orders where id = {n - 7}")
            cursor.execute(f"delete from items where id = {n - 7}")
            db.commit()
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
        "create table people (id int primary key, name varchar(20))",
        "insert into people select seq, 'p' from seq_1_to_40",
        "update orders set name = 'x' where id < 9", "alter table people add city varchar(9)", "drop table items",
        "update people set city = 'here' where id = 7", "truncate table audit_log",
    )  # fmt: skip
    result = shop.catch_up()
    shop.check("orders", "people")
    name = shop.database.name
    assert any(f"'{name}.items' is not followed any more" in each for each in result.warnings)
    shop.database.execute("delete from people where id < 10", "update orders set name = 'y'")
    shop.catch_up()
    shop.check("orders", "people")


def test_an_unfinished_run_goes_on_with_a_new_table(shop: Shop) -> None:
    """A run that follows changes never finishes, so the next one must take new tables in."""
    shop.mode = "auto"
    shop.run(for_s=2.0)
    shop.check("orders", "items")
    shop.database.execute(
        "create table people (id int primary key, name varchar(20))",
        "insert into people select seq, 'p' from seq_1_to_40",
        "insert into orders values (99, 'new')", "drop table items",
    )  # fmt: skip
    shop.mode = "batch"
    shop.catch_up()
    shop.check("orders", "people")


def test_without_a_first_read_a_new_table_begins_with_what_comes_later(shop: Shop) -> None:
    shop.cdc = "{snapshot: never}"
    shop.catch_up()
    shop.database.execute(
        "create table people (id int primary key, name varchar(20))",
        "insert into people values (1, 'before')",
        "insert into orders values (99, 'new')",
    )
    shop.catch_up()
    shop.database.execute("insert into people values (2, 'later')")
    shop.catch_up()
    with sqlite3.connect(shop.folder / "copy.db") as db:
        assert db.execute("select * from people").fetchall() == [(2, "later")]
        assert db.execute("select * from orders").fetchall() == [(99, "new")]


def test_all_tables_that_cannot_be_followed_are_named_together(shop: Shop) -> None:
    shop.patterns = ["*"]
    shop.database.execute("create table audit_more (id int primary key) engine = MyISAM")
    with pytest.raises(DataFlareError) as refused:
        plan(shop.workflow())
    assert [each.step for each in refused.value.each] == ["shop.audit_log", "shop.audit_more"]
    assert {each.code for each in refused.value.each} == {"E0605"}


@pytest.mark.parametrize(
    ("change", "code"),
    [("truncate orders", "E0605"), ("alter table orders add column w int default 5", "E0545")],
)
def test_what_stands_before_a_change_that_cannot_be_followed_is_written(
    shop: Shop, change: str, code: str
) -> None:
    """It comes once, and the run ends at the change, and so does the next one."""
    options = RunOptions(shop.folder / "home")
    text = f"""\
name: changes
settings: {{mode: batch, checkpoint: {{interval: 1h}}}}
sources:
  orders: {{type: mysql, config: {{connection_string: "{shop.database.dsn}", table: orders, cdc: true}}}}
transformations:
  counted: {{type: aggregate, inputs: [orders], config: {{group_by: [name], measures: {{n: "count(*)"}}, emit: updates}}}}
destinations:
  all: {{type: sqlite, inputs: [orders], config: {{path: copy.db, table: changes, changelog: columns}}}}
  counts: {{type: sqlite, inputs: [counted], config: {{path: copy.db, table: counts, mode: mirror, key: [name]}}}}
"""
    assert run(load_text(text, base=shop.folder), options).error is None
    shop.database.execute("insert into orders (id, name) values (77, 'before')", change)
    for _ in range(2):
        error = run(load_text(text, base=shop.folder), options).error
        assert error is not None
        assert (error.code, error.step) == (code, "orders")
        with sqlite3.connect(shop.folder / "copy.db") as db:
            assert db.execute("select count(*) from changes where id = 77").fetchone() == (1,)
            assert db.execute("select n from counts where name = 'before'").fetchone() == (1,)


ITEMS = "(id int, line int, name varchar(20), primary key (id, line)) character set utf8mb4"


@pytest.mark.parametrize(
    "statements",
    [
        ["drop table items", f"create table items {ITEMS}", "insert into items values (7, 1, 'new')"],
        [f"create or replace table items {ITEMS}", "insert into items values (7, 1, 'new')"],
        [f"create table other {ITEMS}", "insert into other values (8, 1, 'o')", "rename table items to old, other to items",
         "drop table old"],
        ["drop table items", f"create table items {ITEMS}", "drop table items", f"create table items {ITEMS}"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_split", [False, True])
def test_a_table_that_is_another_one_now_is_read_again(
    shop: Shop, statements: list[str], is_split: bool
) -> None:
    """And the rows of the old one go. is_split: whether a run sees only a part of the statements."""
    shop.catch_up()
    shop.database.execute("insert into orders values (99, 'new')", statements[0])
    if is_split:
        shop.catch_up()
    shop.database.execute("delete from orders where id = 3", *statements[1:])
    warnings = shop.catch_up().warnings
    shop.check("orders", "items")
    if not (is_split and statements[0].startswith("create or")):
        name = f"{shop.database.name}.items"
        assert any(f"table '{name}' is read again: it " in each for each in warnings), warnings
    shop.database.execute(
        "insert into items values (9, 9, 'last')", "delete from items where id = 7"
    )
    assert not any("read again" in each for each in shop.catch_up().warnings)
    shop.check("orders", "items")


def test_a_table_that_was_left_out_is_read_again(shop: Shop) -> None:
    shop.catch_up()
    shop.patterns = ["orders"]
    shop.catch_up()
    shop.database.execute("delete from items where id < 20", "update items set name = 'x'")
    shop.patterns = ["orders", "items"]
    warnings = shop.catch_up().warnings
    shop.check("orders", "items")
    assert any(
        "another table than the one of this name that was followed before" in w for w in warnings
    )


@pytest.mark.parametrize(
    "statement",
    ["alter table parts drop partition p1", "alter table parts truncate partition p1, p2",
     "alter table parts exchange partition p1 with table other", "alter table parts convert partition p1 to table gone",
     "alter table parts modify kind enum('A','b','c')", "alter ignore table parts add unique key (kind)"],
)  # fmt: skip
def test_rows_that_go_without_a_change_in_the_log_go_in_the_copy(
    shop: Shop, statement: str
) -> None:
    split = "partition by range (id) (partition p1 values less than (10), partition p2 values less than (99))"
    if "ignore" in statement:
        split = ""
    shop.database.execute(
        f"create table parts (id int primary key, kind enum('a','b','c')) character set utf8mb4 {split}",
        "insert into parts select seq, 1 + seq % 3 from seq_1_to_30",
        "create table other (id int primary key, kind enum('a','b','c')) character set utf8mb4",
        "insert into other values (3, 'c')",
    )
    shop.patterns = ["orders", "parts", "other"]
    shop.catch_up()
    shop.database.execute("update parts set kind = 'c' where id in (2, 20)", statement)
    shop.database.execute(
        "insert into orders values (99, 'new')", "delete from parts where id = 21"
    )
    assert any("is read again: it " in w for w in shop.catch_up().warnings)
    shop.check("orders", "parts", "other")
    assert not any("read again" in each for each in shop.catch_up().warnings)


def test_rows_of_a_table_that_only_seemed_to_go_end_the_run(shop: Shop) -> None:
    """The log does not say that a RENAME is of a temporary table."""
    shop.catch_up()
    shop.database.execute(
        "set binlog_format = 'STATEMENT'", "create temporary table items (id int)", "rename table items to old"
    )  # fmt: skip
    shop.database.execute("insert into items values (500, 1, 'new')")
    result = shop.run(accept_changes=True)
    assert result.error is not None
    assert (result.error.code, "with which it went" in result.error.message) == ("E0605", True)


def test_a_table_is_emptied_between_changes_of_others(shop: Shop) -> None:
    shop.catch_up()
    shop.database.execute(
        "insert into items values (500, 1, 'gone')", "update orders set name = 'a'", "truncate table items",
        "update orders set name = 'b' where id < 9", "insert into items values (1, 1, 'new')",
    )  # fmt: skip
    shop.catch_up()
    shop.check("orders", "items")
    assert shop.database.rows("select count(*) from items") == [(1,)]


def test_a_table_gets_another_name(shop: Shop) -> None:
    shop.catch_up()
    shop.database.execute(
        "update items set name = 'a'", "rename table items to things", "update things set name = 'b'"
    )  # fmt: skip
    shop.catch_up()
    shop.check("orders", "things")
    with sqlite3.connect(shop.folder / "copy.db") as db:
        assert len(db.execute("select * from items").fetchall()) == 60


def test_a_table_is_dropped_while_it_is_followed(shop: Shop) -> None:
    """The others go on. The position says that it is gone."""
    name = shop.database.name

    async def check() -> None:
        made = shop.database.source(tables=["orders", "items"], cdc={"snapshot": "never"})
        streams = await made.streams()
        made.streams_known = made.streams_read = frozenset(each.name for each in streams)
        [split] = await made.splits()
        reader = await made.open(split, None)
        shop.database.execute(
            "insert into items values (91, 1, 'z')", "drop table items", "insert into orders values (91, 'z')"
        )  # fmt: skip
        found = {}
        while len(found) < 2:
            batch = await reader.read_batch(10)
            found[batch.stream] = batch.num_rows
        assert found == {"items": 1, "orders": 1}
        assert reader.warnings == {
            f"table '{name}.items' was dropped: its rows stay where they are": 0
        }
        position = reader.position()
        assert position.value["tables"][f"{name}.items"]["gone"] is True
        # Rows from before the first run were not given, so the new table has only changes.
        shop.database.execute(
            "insert into orders values (92, 'z')", f"create table items {ITEMS}", "insert into items values (1, 1, 'never')",
        )  # fmt: skip
        assert (await reader.read_batch(10)).stream == "orders"
        with pytest.raises(DataFlareError, match="changed by the statement: create table items"):
            await reader.read_batch(10)
        await reader.aclose()
        reader = await made.open(split, position)
        told = f"of table '{name}.items' only changes are given, and not what comes otherwise: it is another table"
        assert [told in each for each in reader.warnings] == [True]
        await reader.aclose()

    asyncio.run(check())


def test_columns_of_one_of_many_tables_come(shop: Shop) -> None:
    shop.catch_up()
    shop.database.execute(
        "insert into orders values (99, 'before')", "alter table items add amount int",
        "update items set amount = id where id < 4", "insert into items values (200, 1, 'i', 7)",
        "alter table orders add city varchar(9) after id", "update orders set city = 'here' where id = 99",
    )  # fmt: skip
    result = shop.run(accept_changes=True)
    assert result.status == "finished", result.error
    with sqlite3.connect(shop.folder / "copy.db") as db:
        for table, columns in {
            "orders": "id, name, city",
            "items": "id, line, name, amount",
        }.items():
            sql = f"select {columns} from {table} order by 1, 2"
            assert db.execute(sql).fetchall() == shop.database.rows(sql)


def test_options_of_one_table(shop: Shop) -> None:
    text = WORKFLOW.replace("TYPE", "mysql").replace(
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
        assert [row[1] for row in db.execute("pragma table_info(items)")] == ["id", "line"]
    with pytest.raises(DataFlareError, match="'cdc' is the same for all"):
        plan(load_text(text.replace("OPTIONS", "{cdc: false}"), base=shop.folder))


def test_a_table_that_comes_while_the_run_goes_on_is_taken_in(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its rows from before and its changes, while the others go on; twice, and then by a next run."""
    monkeypatch.setattr(readers, "_LAG_S", 0.1)
    shop.mode, database = "streaming", shop.database
    steps = [
        lambda: database.execute(
            "create table people (id int primary key, name varchar(20))",
            "insert into people select seq, 'p' from seq_1_to_40",
            "update orders set name = 'x' where id < 9",
        ),
        lambda: database.execute(
            "delete from people where id < 5", "insert into orders values (900, 'with people')",
            "create table audit_more (id int)", "create table places (id int primary key, name varchar(9))",
            "insert into places values (1, null), (2, null)",
        ),
        lambda: database.execute("delete from places where id = 1", "insert into people values (99, 'z')"),
    ]  # fmt: skip
    rows = [("orders", 50), ("people", 40), ("places", 2), ("people", 45)]
    """Of which stream so many come before the next statements are run."""
    running: list[asyncio.Future[Any]] = []

    def listener(progress: Any) -> None:
        stream, count = rows[0] if rows else ("orders", 0)
        step = progress.steps.get(f"shop.{stream}")
        is_there = step is not None and (step.rows_out or 0) >= count
        if is_there and rows:
            rows.pop(0)
            if steps:
                steps.pop(0)()
            else:
                running[0].cancel()

    async def check() -> None:
        options = RunOptions(shop.folder / "home", listener=listener)
        running.append(asyncio.ensure_future(arun(shop.workflow(), options)))
        with contextlib.suppress(asyncio.CancelledError):
            result = await running[0]
            assert result.error is None, result.error

    asyncio.run(check())
    assert (rows, steps) == ([], [])
    shop.mode = "batch"
    shop.database.execute("delete from people where id = 20", "delete from orders where id = 20")
    shop.catch_up()
    shop.check("orders", "items", "people", "places")


@pytest.mark.parametrize("adds", [True, False])
def test_a_new_table_that_is_not_taken_in_is_told_once(shop: Shop, adds: bool) -> None:
    async def check() -> None:
        source = shop.database.source(tables=["*", "!audit_*"], cdc=True)
        source.adds_columns = adds
        await source.members()
        shop.database.execute(
            "create table odd (id int primary key) engine = MyISAM", "create table good (id int primary key)",
            "create table audit_other (id int primary key)",
        )  # fmt: skip
        found = source.with_db("its tables", source.new_tables)
        assert list(found.names) == (["good"] if adds else [])
        name = shop.database.name
        told = (
            f"'{name}.odd' is new, and is left out: table '{name}.odd' in "
            if adds
            else "is new: the next run takes it in"
        )
        assert len(found.warnings) == (1 if adds else 2)
        assert all(told in each for each in found.warnings), found.warnings
        assert not source.with_db("its tables", source.new_tables).warnings
        await source.aclose()

    asyncio.run(check())


def test_what_happens_to_a_table_is_told_while_the_run_goes_on(shop: Shop) -> None:
    shop.mode, told = "streaming", []
    steps = [["drop table items", "insert into orders values (900, 'x')"]]
    running: list[asyncio.Future[Any]] = []

    def listener(progress: Any) -> None:
        told.append(str(progress.message))
        if any("items' was dropped: its rows stay" in each for each in told):
            running[0].cancel()
        elif steps and (shop.folder / "copy.db").exists() and progress.checkpoints:
            shop.database.execute(*steps.pop())

    async def check() -> None:
        options = RunOptions(shop.folder / "home", listener=listener)
        running.append(asyncio.ensure_future(arun(shop.workflow(), options)))
        with contextlib.suppress(asyncio.CancelledError):
            result = await running[0]
            raise AssertionError(result.error)

    asyncio.run(check())
    assert not steps
