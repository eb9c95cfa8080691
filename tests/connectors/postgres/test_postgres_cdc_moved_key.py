"""Another column becomes the key of a table that is mirrored."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from cdc_kit import Copy
from mirrored_shop import Shop
from postgres_kit import Database

from dataflare.jobs.resync import resync
from dataflare.workflow.load import load_text

MOVE = (
    "alter table orders drop constraint orders_pkey",
    "alter table orders add primary key (code)",
)
AFTER = ("update orders set id = 7 where code = 'a'", "insert into orders values (9, 'z')",
         "delete from orders where code = 'c'")  # fmt: skip
BY_ID = "path: copy.db, table: orders, mode: mirror, key: [id]"
BY_KEY_OF_SOURCE = "path: copy.db, table: '{table}', mode: mirror"


@pytest.fixture
def orders(logical: Database) -> Database:
    logical.execute(
        "create table orders (id int primary key, code text not null unique)",
        "insert into orders values (1, 'a'), (2, 'b')",
    )
    return logical


def test_a_mirror_by_the_old_key_is_refused_until_it_has_the_new_one(
    orders: Database, tmp_path: Path
) -> None:
    copy = Copy(orders, tmp_path, into=BY_ID)
    copy.catch_up()
    orders.execute("update orders set code = 'c' where id = 2", *MOVE, *AFTER)
    for options in ({}, {"accept_changes": True}):
        error = copy.run(**options).error
        assert error is not None
        assert (error.code, error.step) == ("E0812", "orders")
        assert "key: [code]" in str(error.help)
    copy.text = copy.text.replace("key: [id]", "key: [code]")
    error = copy.run(accept_changes=True).error
    assert error is not None
    assert error.code == "E0605", "the log has changes by the old key"
    resync(load_text(copy.text, base=tmp_path), tmp_path / "home", "orders")
    copy.catch_up(accept_changes=True)
    assert copy.rows() == [(7, "a"), (9, "z")]


def test_a_mirror_by_the_key_of_its_source_goes_on_behind_a_resync(
    orders: Database, tmp_path: Path
) -> None:
    copy = Copy(orders, tmp_path, into=BY_KEY_OF_SOURCE)
    copy.text = copy.text.replace("table: orders, cdc", "tables: [public.orders], cdc")
    copy.catch_up()
    orders.execute("update orders set code = 'c' where id = 2", *MOVE, *AFTER)
    error = copy.run().error
    assert error is not None
    assert error.code == "E0605"
    resync(load_text(copy.text, base=tmp_path), tmp_path / "home", "orders")
    copy.catch_up()
    assert copy.rows() == [(7, "a"), (9, "z")]
    orders.execute("update orders set id = 8 where code = 'a'")
    copy.catch_up()
    assert copy.rows() == [(8, "a"), (9, "z")]


def test_a_run_that_is_not_finished_is_refused_too(orders: Database, tmp_path: Path) -> None:
    """Its copy had rows that the table did not have any more, and nothing told it."""
    copy = Copy(orders, tmp_path, into=BY_ID, mode="streaming")
    shop = Shop(orders.dsn, tmp_path, copy.text)
    process = shop.start("streaming")
    wait(lambda: len(copy.rows()) == 2, process)
    orders.execute("update orders set code = 'c' where id = 2", *MOVE, *AFTER)
    assert "E0605" in process.communicate(timeout=60)[1]
    assert "E0812" in shop.start("streaming").communicate(timeout=60)[1]
    assert copy.rows() in ([(1, "a"), (2, "b")], [(1, "a"), (2, "c")])


def wait(is_so: Any, process: Any) -> None:
    end = time.monotonic() + 40
    while not _holds(is_so):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end


def _holds(is_so: Any) -> bool:
    import sqlite3

    try:
        return bool(is_so())
    except sqlite3.OperationalError:  # the table is not there yet
        return False
