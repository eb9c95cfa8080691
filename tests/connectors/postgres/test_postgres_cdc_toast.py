"""Large values (TOAST) that an update left as they were, without REPLICA IDENTITY FULL: the copy keeps its value."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from cdc_kit import Copy
from postgres_kit import Database

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.planner import plan
from dataflare.workflow.load import load_text

LARGE = 8_000
SOURCE = """\
name: shop
settings: {{mode: batch, parallelism: 2, checkpoint: {{interval: 20ms}}, restart: {{attempts: 0}}}}
sources:
  orders: {{type: postgres, config: {{connection_string: "{dsn}", table: orders, cdc: true}}}}
"""


@pytest.fixture
def orders(logical: Database) -> Database:
    logical.execute(
        "create table orders (id int primary key, name text, body text, note text)",
        "alter table orders alter body set storage external, alter note set storage external",
        f"insert into orders select n, 'n' || n, repeat(chr(96 + n), {LARGE}), repeat('z', {LARGE}) "
        "from generate_series(1, 9) n",
    )
    return logical


def go(text: str, database: Database, folder: Path) -> RunResult:
    workflow = load_text(text.format(dsn=database.dsn), base=folder)
    return run(workflow, RunOptions(folder / "home"))


def catch_up(text: str, database: Database, folder: Path) -> None:
    result = go(text, database, folder)
    assert result.status == "finished", result.error


CHANGES = (
    "update orders set name = 'new' where id = 1",
    "update orders set name = 'a', body = repeat('B', 8000) where id = 2", "update orders set name = 'b' where id = 2",
    "update orders set name = 'a' where id = 3", "update orders set name = 'b', note = 'short' where id = 3",
    "update orders set name = 'gone' where id = 4", "delete from orders where id = 4",
    "delete from orders where id = 5", f"insert into orders values (5, 'a', repeat('5', {LARGE}), null)",
    "update orders set name = 'b' where id = 5",
    f"insert into orders values (10, 'a', repeat('0', {LARGE}), 'n')", "update orders set name = 'b' where id = 10",
    "update orders set name = 'x', body = null where id = 6", "update orders set name = 'y' where id = 6",
)  # fmt: skip
KINDS = {
    "sqlite": "path: copy.db, table: copied",
    "duckdb": "path: copy.duckdb, table: copied",
    "postgres": 'connection_string: "DSN", table: copied',
}


def read(kind: str, database: Database, folder: Path) -> list[tuple[Any, ...]]:
    if kind == "postgres":
        return database.rows("select * from copied order by id")
    if kind == "duckdb":
        import duckdb

        with duckdb.connect(str(folder / "copy.duckdb")) as columns:
            return columns.execute("select * from copied order by id").fetchall()
    with sqlite3.connect(folder / "copy.db") as db:
        return db.execute("select * from copied order by id").fetchall()


@pytest.mark.parametrize("on_error", ["", ", error_handling: {on_error: skip}"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mirror_keeps_the_value_that_is_there(
    orders: Database, tmp_path: Path, kind: str, on_error: str
) -> None:
    into = KINDS[kind].replace("DSN", orders.dsn) + ", mode: mirror, key: [id]"
    copy = Copy(orders, tmp_path, kind=kind, into=into)
    copy.text = copy.text.replace(f"{{{into}}}", f"{{{into}}}{on_error}")
    copy.catch_up()
    for change in CHANGES:
        orders.execute(change)
    copy.catch_up()
    assert read(kind, orders, tmp_path) == orders.rows("select * from orders order by id")
    orders.execute("update orders set name = name || '!'")
    copy.catch_up()
    assert read(kind, orders, tmp_path) == orders.rows("select * from orders order by id")


def test_columns_are_renamed_and_dropped_on_the_way(orders: Database, tmp_path: Path) -> None:
    text = SOURCE + (
        "transformations:\n"
        "  told: {{type: map, inputs: [orders], config: {{rename: {{body: text}}, select: [id, name, text, upper], "
        'derive: {{upper: "upper(name)"}}}}}}\n'
        "destinations:\n"
        "  copy: {{type: sqlite, inputs: [told], config: {{path: copy.db, table: copied, mode: upsert, key: [id]}}}}\n"
    )
    nodes = plan(load_text(text.format(dsn=orders.dsn), base=tmp_path)).view()["nodes"]
    effects = next(node["effects"] for node in nodes if node["id"] == "orders")
    assert not any("'body'" in effect for effect in effects)
    catch_up(text, orders, tmp_path)
    orders.execute("update orders set name = 'new' where id < 3")
    catch_up(text, orders, tmp_path)
    with sqlite3.connect(tmp_path / "copy.db") as db:
        copied = db.execute("select id, name, text, upper from copied order by id").fetchall()
    assert copied == orders.rows("select id, name, body, upper(name) from orders order by id")


def test_steps_that_keep_the_newest_rows_have_the_value(orders: Database, tmp_path: Path) -> None:
    text = SOURCE + (
        "transformations:\n"
        "  some: {{type: filter, inputs: [orders], config: {{condition: \"body <> 'x' and id <> 9\"}}}}\n"
        "  sized: {{type: map, inputs: [some], config: {{derive: {{size: length(body)}}}}}}\n"
        "destinations:\n"
        "  copy: {{type: sqlite, inputs: [sized], config: {{path: copy.db, table: copied, mode: mirror, key: [id]}}}}\n"
        "  past: {{type: sqlite, inputs: [orders], config: {{path: copy.db, table: past, mode: history, key: [id]}}}}\n"
    )
    catch_up(text, orders, tmp_path)
    for change in CHANGES:
        orders.execute(change)
    catch_up(text, orders, tmp_path)
    wanted = orders.rows(
        "select *, length(body) from orders where body <> 'x' and id <> 9 order by id"
    )
    assert read("sqlite", orders, tmp_path) == wanted
    with sqlite3.connect(tmp_path / "copy.db") as db:
        current = "select id, name, body, note from past where is_current order by id"
        assert db.execute(current).fetchall() == orders.rows("select * from orders order by id")


def test_a_step_that_needs_the_value_is_named_beforehand(orders: Database, tmp_path: Path) -> None:
    text = SOURCE + (
        "transformations:\n"
        "  sized: {{type: map, inputs: [orders], config: {{derive: {{size: length(body)}}}}}}\n"
        "destinations:\n"
        "  copy: {{type: sqlite, inputs: [sized], config: {{path: copy.db, table: copied, mode: mirror, key: [id]}}}}\n"
    )
    nodes = plan(load_text(text.format(dsn=orders.dsn), base=tmp_path)).view()["nodes"]
    effects = next(node["effects"] for node in nodes if node["id"] == "orders")
    told = "an update that leaves a large value as it was (of 'body') ends the run, because step 'sized' needs the value"
    assert any(effect.startswith(told) for effect in effects), effects
    catch_up(text, orders, tmp_path)
    orders.execute("update orders set name = 'new' where id = 1")
    error = go(text, orders, tmp_path).error
    assert error is not None
    assert (error.code, "step 'sized' needs it" in error.message) == ("E0605", True)
    assert "REPLICA IDENTITY FULL" in (error.help or "")


def test_a_key_that_changes(orders: Database, tmp_path: Path) -> None:
    """The value would be in the row with the old key."""
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    orders.execute("update orders set id = 100 where id = 1")
    copy.text = copy.text.replace("parallelism: 1", "restart: {attempts: 0}")
    error = copy.run().error
    assert error is not None
    assert "changed the key of a row and left the large value of column 'body'" in error.message


def test_a_row_that_is_not_there(orders: Database, tmp_path: Path) -> None:
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    with sqlite3.connect(tmp_path / "copy.db") as db:
        db.execute("delete from orders where id = 7")
    orders.execute("update orders set name = 'new' where id = 7")
    copy.text = copy.text.replace("parallelism: 1", "restart: {attempts: 0}")
    error = copy.run().error
    assert error is not None
    assert (error.code, "has no row with id = 7" in error.message) == ("E0554", True)
