"""The changes of a table, copied from the log of a real server."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import psycopg
import pytest
from cdc_kit import Copy
from postgres_kit import Database

from dataflare.jobs import RunOptions, arun, run
from dataflare.workflow.load import load_text


@pytest.fixture
def orders(logical: Database) -> Database:
    logical.execute(
        "create table orders (id int primary key, name text, amount numeric(10, 2))",
        "insert into orders select n, 'n' || n, n / 4.0 from generate_series(1, 100) n",
    )
    return logical


def source_rows(database: Database) -> list[tuple[object, ...]]:
    return [
        (id_, name, None if amount is None else float(amount))
        for id_, name, amount in database.rows("select * from orders order by id")
    ]


def test_runs_go_on_where_the_last_one_ended(orders: Database, tmp_path: Path) -> None:
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    assert copy.rows() == source_rows(orders)
    orders.execute(
        "update orders set name = 'changed' where id < 10",
        "delete from orders where id between 20 and 30",
        "update orders set id = id + 1000 where id between 40 and 45",
        "insert into orders values (500, 'new', 1.25), (501, null, null)",
    )
    result = copy.catch_up()
    assert result is not None
    assert copy.rows() == source_rows(orders)
    copy.catch_up()
    assert copy.rows() == source_rows(orders)


def test_the_example_goes_on_with_its_totals(
    logical: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP", logical.dsn)
    logical.execute(
        "create table orders (id int primary key, customer text, amount numeric(10, 2))",
        "insert into orders values (1, 'ann', 100), (2, 'ann', 250.50), (3, 'bob', 20)",
    )
    text = (Path(__file__).parents[3] / "examples/cdc/orders.yaml").read_text()

    def catch_up() -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
        result = run(load_text(text, base=tmp_path), RunOptions(tmp_path / "home"))
        assert result.status == "finished", result.error
        with sqlite3.connect(tmp_path / "shop.db") as db:
            copied = db.execute("select id, amount from orders order by id").fetchall()
            return copied, db.execute(
                "select customer, orders, cast(total as real) from totals order by 1"
            ).fetchall()

    assert catch_up() == ([(1, 100), (2, 250.5), (3, 20)], [("ann", 2, 350.5)])
    logical.execute(
        "update orders set amount = 50 where id = 2", "update orders set amount = 300 where id = 3",
        "delete from orders where id = 1",
    )  # fmt: skip
    assert catch_up() == ([(2, 50), (3, 300)], [("bob", 1, 300)])


def test_a_run_ends_at_once_although_its_slot_waits_for_a_transaction(
    orders: Database, tmp_path: Path
) -> None:
    waits = "select 1 from pg_stat_activity where query like '%create_logical%' and wait_event = 'transactionid'"
    workflow = load_text(Copy(orders, tmp_path).text, base=tmp_path)

    async def cancelled() -> bool:
        running = asyncio.ensure_future(arun(workflow, RunOptions(tmp_path / "home")))
        async with asyncio.timeout(60):
            while not orders.rows(waits):
                await asyncio.sleep(0.02)
        running.cancel()
        async with asyncio.timeout(20):
            await asyncio.wait([running])
        return running.cancelled()

    with psycopg.connect(orders.dsn) as writer:
        writer.execute("delete from orders")
        assert asyncio.run(cancelled())
        writer.rollback()
    assert orders.rows("select 1 from pg_replication_slots") == []
