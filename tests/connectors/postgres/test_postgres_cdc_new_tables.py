"""Tables that come while a run follows others."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from postgres_kit import Database
from streams_shop import Shop

from dataflare.connectors.postgres.cdc import reader as readers
from dataflare.errors import SystemError_
from dataflare.jobs import RunOptions, arun


@pytest.fixture
def shop(logical: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(readers, "_TELL_S", 0.05)
    monkeypatch.setattr(readers, "_CHECK_S", 0.1)
    logical.execute(
        "create table orders (id int primary key, name text)",
        "insert into orders select n, 'n' || n from generate_series(1, 50) n",
    )
    made = Shop(logical, tmp_path, "postgres")
    made.mode = "streaming"
    return made


def test_a_table_that_comes_while_the_run_goes_on_is_taken_in(shop: Shop) -> None:
    """With its rows from before and its changes, while the others go on; twice, and then by a next run."""
    execute = shop.database.execute
    steps = [
        lambda: execute(
            "create table people (id int primary key, name text)",
            "insert into people select n, 'p' from generate_series(1, 40) n",
            "update orders set name = 'x' where id < 9",
        ),
        lambda: execute(
            "delete from people where id < 5", "insert into orders values (900, 'with people')",
            "create table audit_more (id int)", "create table places (id int primary key, name text)",
            "insert into places values (1, null), (2, null)",
        ),
        lambda: execute("delete from places where id = 1", "insert into people values (99, 'z')"),
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
    execute("delete from people where id = 20", "delete from orders where id = 20")
    shop.catch_up()
    shop.check("orders", "people", "places")


def test_a_new_table_that_cannot_be_published_is_told_once(shop: Shop) -> None:
    """It is left out, and the run goes on."""

    def refuse(relation: Any) -> None:
        raise SystemError_("only its owner may", code="E0602", help="let the owner publish it")

    async def check() -> None:
        source = shop.database.source(tables=["*"], cdc=True)
        await source.members()
        shop.database.execute(
            "create table other (id int primary key)", "create table plain (id int)"
        )
        found = source.with_db("its tables", lambda db: source.new_tables(db, refuse))
        assert not found.names
        told = sorted(found.warnings)
        assert len(told) == 2
        assert told[0].startswith(
            "table 'public.other' is new, and is left out: only its owner may; let"
        )
        assert told[1].startswith("table 'public.plain' is new, and is left out: ")
        assert not source.with_db("its tables", source.new_tables).warnings
        await source.aclose()

    asyncio.run(check())
