"""`dataflare resync`: a table is read again, by the run that is active or by the next one, and its copy is the table."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from mirrored_shop import Shop
from postgres_kit import Database

from dataflare.checkpoint.files import workflow_folder
from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, run
from dataflare.jobs.resync import resync
from dataflare.sdk import resyncs
from dataflare.workflow.load import load_text

WORKFLOW = """\
name: shop
settings:
  mode: MODE
  parallelism: 1
  checkpoint: {interval: 20ms}
  restart: {attempts: 1000, delay: 20ms, max_delay: 100ms}
sources:
  shop: {type: postgres, config: {connection_string: "DSN", tables: [orders, items], batch_size: 10, cdc: true}}
destinations:
  copy: {type: sqlite, inputs: [shop], config: {path: copy.db, table: "{table}", mode: mirror}}
"""


class Case:
    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder, self.home = database, folder, folder / ".dataflare"
        self.text = WORKFLOW.replace("DSN", database.dsn)

    def workflow(self) -> Any:
        return load_text(self.text.replace("MODE", "batch"), base=self.folder)

    def catch_up(self) -> None:
        result = run(self.workflow(), RunOptions(self.home))
        assert result.status == "finished", result.error

    def spoil(self) -> None:
        """Another program changes the copies: a row is gone, one is other, one is more."""
        with sqlite3.connect(self.folder / "copy.db") as db:
            for table in ("orders", "items"):
                db.execute(f"delete from {table} where id = 3")
                db.execute(f"update {table} set name = 'spoiled' where id = 4")
                db.execute(f"insert or replace into {table} values (999, 'more')")

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.folder / "copy.db", timeout=10) as db:
            return db.execute(f"select * from {table} order by id").fetchall()

    def table(self, table: str) -> list[tuple[Any, ...]]:
        return self.database.rows(f"select * from {table} order by id")

    def states(self) -> dict[str, str]:
        folder = workflow_folder(self.home, "shop")
        return {each.source: each.state for each in resyncs.resyncs(folder)}


@pytest.fixture
def case(logical: Database, tmp_path: Path) -> Case:
    for table in ("orders", "items"):
        logical.execute(
            f"create table {table} (id int primary key, name text)",
            f"insert into {table} select n, 'n' || n from generate_series(1, 50) n",
        )
    return Case(logical, tmp_path)


def test_the_next_run_reads_it_again_and_no_other(case: Case) -> None:
    case.catch_up()
    case.spoil()
    assert resync(case.workflow(), case.home, "orders") == "shop.orders"
    assert case.states() == {"shop.orders": "asked"}
    case.database.execute(
        "update orders set name = 'later' where id = 5", "delete from orders where id = 6"
    )
    case.catch_up()
    assert case.rows("orders") == case.table("orders")
    assert (999, "more") in case.rows("items")
    assert case.states() == {"shop.orders": "done"}
    assert not list((workflow_folder(case.home, "shop") / "resync").glob("*.json"))
    case.spoil()
    case.database.execute("insert into orders values (100, 'new')")
    case.catch_up()
    assert (4, "spoiled") in case.rows("orders"), "it was asked for once"
    resync(case.workflow(), case.home, "shop.orders")
    resync(case.workflow(), case.home, "public.items")
    case.catch_up()
    assert case.rows("orders") == case.table("orders")
    assert case.rows("items") == case.table("items")


@pytest.mark.parametrize(
    "crash_at", [None, "postgres.cdc.after_snapshot", "sqlite.commit.before_commit"]
)
def test_a_run_that_is_active_and_dies(case: Case, crash_at: str | None) -> None:
    case.catch_up()
    case.spoil()
    text = case.text.replace("MODE", "streaming")
    if crash_at is not None:
        resync(case.workflow(), case.home, "orders")
    shop = Shop(case.database.dsn, case.folder, text)
    if crash_at is not None:
        process = shop.start("streaming", crash_at)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    process = shop.start("streaming")
    if crash_at is None:
        case.database.execute("insert into orders values (100, 'new')")
        wait(lambda: (100, "new") in case.rows("orders"), process)
        resync(case.workflow(), case.home, "orders")
    wait(lambda: case.states() == {"shop.orders": "done"}, process)
    case.database.execute("insert into items values (100, 'behind')")
    wait(lambda: (100, "behind") in case.rows("items"), process)
    assert case.rows("orders") == case.table("orders")
    assert (999, "more") in case.rows("items")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors


def wait(is_so: Any, process: Any) -> None:
    end = time.monotonic() + 40
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end


def test_what_cannot_be_read_again_is_refused(case: Case) -> None:
    with pytest.raises(DataFlareError, match="'other' is not one table") as caught:
        resync(case.workflow(), case.home, "other")
    assert "shop.items, shop.orders" in json.dumps(caught.value.notes)
    case.database.execute("alter table orders replica identity full")
    case.text = case.text.replace(
        "destinations:\n",
        "transformations:\n  counted: {type: aggregate, inputs: [shop.orders], config: {group_by: [name], "
        'measures: {n: "count(*)"}, emit: updates}}\n'
        "destinations:\n  counts: {type: sqlite, inputs: [counted], config: {path: counts.db, table: c, mode: mirror, "
        "key: [name]}}\n",
    )
    with pytest.raises(DataFlareError, match="step 'counted' could not take back the rows"):
        resync(case.workflow(), case.home, "orders")
    # It may have been asked for when the workflow had no such step.
    case.catch_up()
    case.spoil()
    resyncs.ask(workflow_folder(case.home, "shop"), "shop.orders")
    case.database.execute("insert into orders values (100, 'new')")
    result = run(case.workflow(), RunOptions(case.home))
    assert result.status == "finished", result.error
    assert any("is not read again, as was asked for" in each for each in result.warnings)
    assert {(4, "spoiled"), (100, "new")} <= set(case.rows("orders"))
    assert case.states() == {"shop.orders": "asked"}


@pytest.mark.parametrize(
    ("statements", "codes"),
    [
        (["alter table orders alter column name type int using 7"], []),
        (["alter table orders rename column name to label"], ["E0545"]),
        (["alter table orders drop column name", "alter table orders add column name int default 5"], ["E0545"]),
        (["alter table orders replica identity full"], ["E0605"]),
        (["alter table orders add column code text default md5(random()::text)"], ["E0545"]),
    ],
)  # fmt: skip
def test_it_is_the_way_out_for_a_table_that_was_altered(
    case: Case, statements: list[str], codes: list[str]
) -> None:
    """The log has rows from before and from behind the statements, and changes of another table among them. No codes: the
    run reads the table again by itself."""
    case.catch_up()
    case.database.execute(
        "update orders set name = 'before' where id in (1, 2)", "delete from orders where id = 3",
        "insert into items values (100, 'before')", *statements,
        "delete from orders where id = 4", "insert into orders (id) values (60)",
        "insert into items values (101, 'behind')",
    )  # fmt: skip
    for _ in range(2):
        result = run(case.workflow(), RunOptions(case.home))
        assert [result.error.code] == codes if result.error else not codes
    assert not result.error or "dataflare resync" in str(result.error.help)
    resync(case.workflow(), case.home, "orders")
    case.catch_up()
    case.database.execute("delete from orders where id = 5", "insert into orders (id) values (61)")
    case.catch_up()
    [columns] = case.database.rows(
        "select string_agg(attname, ', ' order by attnum) from pg_attribute where attrelid = 'orders'::regclass and "
        "attnum > 0 and not attisdropped"
    )
    wanted = case.database.rows(f"select {columns[0]} from orders order by id")
    with sqlite3.connect(case.folder / "copy.db") as db:
        found = db.execute(f"select {columns[0]} from orders order by id").fetchall()
    assert [tuple(map(str, row)) for row in found] == [tuple(map(str, row)) for row in wanted]
    assert case.rows("items") == case.table("items")
    assert case.states() == {"shop.orders": "done"}
