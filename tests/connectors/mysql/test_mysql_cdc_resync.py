"""`dataflare resync` of tables of MariaDB: by the run that is active or by the next one, and the copy is the table."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from binlog_kit import Follower, Plain, rows_of
from mirrored_shop import Shop

from dataflare.checkpoint.files import workflow_folder
from dataflare.connectors.mysql.cdc import reader as readers
from dataflare.connectors.mysql.cdc import rereading
from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.jobs.resync import resync
from dataflare.model.batch import RowKind
from dataflare.sdk import resyncs
from dataflare.sdk.crashpoints import observed
from dataflare.workflow.load import load_text

WORKFLOW = """\
name: shop
settings:
  mode: MODE
  parallelism: 1
  checkpoint: {interval: 20ms}
  restart: {attempts: 1000, delay: 20ms, max_delay: 100ms}
sources:
  shop: {type: mysql, config: {connection_string: "DSN", tables: [orders, items], batch_size: 10, cdc: true}}
destinations:
  copy: {type: sqlite, inputs: [shop], config: {path: copy.db, table: "{table}", mode: mirror}}
"""


class Case:
    def __init__(self, database: Plain, folder: Path) -> None:
        self.database, self.folder, self.home = database, folder, folder / ".dataflare"
        self.text = WORKFLOW.replace("DSN", database.dsn)

    def workflow(self) -> Any:
        return load_text(self.text.replace("MODE", "batch"), base=self.folder)

    def catch_up(self) -> RunResult:
        result = run(self.workflow(), RunOptions(self.home))
        assert result.status == "finished", result.error
        return result

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
def case(plain: Plain, tmp_path: Path) -> Case:
    for table in ("orders", "items"):
        plain.execute(
            f"create table {table} (id int primary key, name varchar(20))",
            f"insert into {table} select seq, concat('n', seq) from seq_1_to_50",
        )
    return Case(plain, tmp_path)


def test_the_next_run_reads_it_again_and_no_other(case: Case) -> None:
    case.catch_up()
    case.spoil()
    assert resync(case.workflow(), case.home, "orders") == "shop.orders"
    assert case.states() == {"shop.orders": "asked"}
    case.database.execute(
        "update orders set name = 'later' where id = 5", "delete from orders where id = 6",
        "insert into items values (60, 'later')",
    )  # fmt: skip
    case.catch_up()
    assert case.rows("orders") == case.table("orders")
    assert {(999, "more"), (4, "spoiled"), (60, "later")} <= set(case.rows("items"))
    assert case.states() == {"shop.orders": "done"}
    assert not list((workflow_folder(case.home, "shop") / "resync").glob("*.json"))
    case.spoil()
    case.database.execute("insert into orders values (100, 'new')")
    case.catch_up()
    assert (4, "spoiled") in case.rows("orders"), "it was asked for once"
    for name in ("shop.orders", f"{case.database.name}.items"):
        resync(case.workflow(), case.home, name)
    case.catch_up()
    for table in ("orders", "items"):
        assert case.rows(table) == case.table(table)


@pytest.mark.parametrize(
    "crash_at", [None, "mysql.cdc.after_snapshot", "sqlite.commit.before_commit"]
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


def wait(is_so: Callable[[], bool], process: Any) -> None:
    end = time.monotonic() + 40
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end


@pytest.mark.parametrize("whole_rows", [1_000_000, 20])
def test_a_copy_is_never_seen_empty_unless_it_is_large(
    case: Case, monkeypatch: pytest.MonkeyPatch, whole_rows: int
) -> None:
    """Also where other tables were read before in the same snapshot, so that a new one is due."""
    monkeypatch.setattr(readers, "_PART_ROWS", 15)
    monkeypatch.setattr(rereading, "WHOLE_ROWS", whole_rows)
    case.catch_up()
    for table in ("orders", "items"):
        resync(case.workflow(), case.home, table)
    seen = set()

    def look(point: str) -> None:
        if point.startswith("sqlite.commit"):
            seen.update(len(case.rows(table)) for table in ("orders", "items"))

    with observed(look):
        case.catch_up()
    assert (seen == {50}) == (whole_rows > 50), seen
    assert 0 not in seen
    for table in ("orders", "items"):
        assert case.rows(table) == case.table(table)


def test_a_step_that_takes_no_truncate(case: Case) -> None:
    with pytest.raises(DataFlareError, match="'other' is not one table") as caught:
        resync(case.workflow(), case.home, "other")
    assert "shop.items, shop.orders" in json.dumps(caught.value.notes)
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
    warnings = case.catch_up().warnings
    assert any("is not read again, as was asked for" in each for each in warnings)
    assert {(4, "spoiled"), (100, "new")} <= set(case.rows("orders"))
    assert case.states() == {"shop.orders": "asked"}


@pytest.mark.parametrize(
    "statements",
    [
        ["set binlog_format = 'STATEMENT'", "update orders set name = 'x' where id = 5"],
        ["xa start 'a'", "update orders set name = 'x' where id = 5", "xa end 'a'", "xa prepare 'a'", "xa commit 'a'"],
    ],
)  # fmt: skip
def test_it_is_the_way_out_where_the_log_of_a_table_cannot_be_followed(
    case: Case, statements: list[str]
) -> None:
    case.text = case.text.replace("[orders, items]", "[orders]")
    case.catch_up()
    case.database.execute("insert into orders values (60, 'before')", *statements)
    case.database.execute("delete from orders where id = 4", "insert into orders (id) values (61)")
    for _ in range(2):
        error = run(case.workflow(), RunOptions(case.home)).error
        assert error is not None
        assert "dataflare resync" in (error.help or ""), error.help
    resync(case.workflow(), case.home, "orders")
    case.catch_up()
    assert [(str(id_), str(name)) for id_, name in case.rows("orders")] == [
        (str(id_), str(name)) for id_, name in case.table("orders")
    ]
    case.database.execute("delete from orders where id = 5")
    case.catch_up()
    assert [row[0] for row in case.rows("orders")] == [row[0] for row in case.table("orders")]


def test_a_table_without_a_key_is_read_again(plain: Plain) -> None:
    async def check() -> None:
        plain.execute("create table t (v varchar(20))", "insert into t values ('a'), ('a'), ('b')")
        follower = Follower(plain, "t")
        source = follower.source()
        await source.schema()
        [split] = await source.splits()
        reader = await source.open(split, None)
        assert [(await reader.read_batch(9)).num_rows for _ in range(2)] == [3, 0]
        follower.carried = reader.position().value
        await reader.aclose()
        plain.execute("insert into t values ('cu')", "alter table t modify v varchar(2)")
        source = follower.source()
        await source.schema()
        [split] = await source.splits(follower.carried)
        reader = await source.open(split, None)
        batches = [await reader.read_batch(2) for _ in range(4)]
        await reader.aclose()
        assert [batch.may_cut for batch in batches] == [False, False, False, True]
        assert [batch.frame["v"].to_list() for batch in batches] == [
            [None],
            ["a", "a"],
            ["b", "cu"],
            [],
        ]
        assert rows_of([batches[0].frame]) == [(RowKind.TRUNCATE, None)]
        follower.carried = reader.position().value
        plain.execute("delete from t where v = 'cu'")
        assert await follower.read() == [(RowKind.DELETE, "cu")]

    asyncio.run(check())
