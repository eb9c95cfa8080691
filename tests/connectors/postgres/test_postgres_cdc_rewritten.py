"""ALTER TABLE writes rows anew, and partitions come and go with their rows: the log has no change of them, and the copy is
the table nevertheless."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from cdc_kit import Copy, is_following
from postgres_kit import Database

ADDED_WITH_A_VALUE_EACH = (
    "alter table orders add u uuid not null default gen_random_uuid()", "alter table orders alter u drop default",
)  # fmt: skip
ADDED_WITH_A_DEFAULT = (
    "alter table orders add d int default 5", "alter table orders alter d drop default", "vacuum full orders",
)  # fmt: skip
ADDED_AND_FILLED = (
    "alter table orders add d int",
    "alter table orders alter d type int using v * 2",
)


@pytest.fixture
def orders(logical: Database) -> Database:
    logical.execute(
        "create table orders (id int primary key, v int, name varchar(20))",
        "insert into orders values (1, 10, 'a'), (2, 20, 'b')",
    )
    return logical


def is_the_table(copy: Copy, database: Database) -> bool:
    return sorted(map(str, copy.rows())) == sorted(
        str(tuple(str(v) if v.__class__.__name__ == "UUID" else v for v in row))
        for row in database.rows("select * from orders")
    )


@pytest.mark.parametrize(
    "statements",
    [
        ADDED_WITH_A_VALUE_EACH,
        ADDED_WITH_A_DEFAULT,
        ADDED_AND_FILLED,
        ["alter table orders alter v type int using v + 1"],
        ["alter table orders alter name type varchar(20) using upper(name)"],
        ["alter table orders alter id type int using id + 100"],
    ],
)
@pytest.mark.parametrize("identity", ["default", "full"])
def test_rows_that_were_written_anew_are_read_again(
    orders: Database, tmp_path: Path, statements: list[str], identity: str
) -> None:
    orders.execute(f"alter table orders replica identity {identity}")
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    orders.execute("update orders set v = 11 where id = 1", *statements)
    orders.execute("update orders set v = v + 1 where name in ('b', 'B')")
    result = copy.catch_up(accept_changes=True)
    assert is_the_table(copy, orders)
    assert [w for w in result.warnings if "is read again: ALTER TABLE" in w]
    orders.execute("delete from orders where name in ('a', 'A')")
    assert not copy.catch_up().warnings
    assert is_the_table(copy, orders)


def test_a_table_with_other_files_alone_is_not_read_again(orders: Database, tmp_path: Path) -> None:
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    for statements in (["vacuum full orders"], ["alter table orders add note text"]):
        orders.execute(*statements)
        orders.execute("update orders set v = v + 1 where id = 1")
        assert not copy.catch_up(accept_changes=True).warnings
        assert is_the_table(copy, orders)


def test_a_run_that_waits_for_changes_reads_the_table_again(
    orders: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no change follows that would bring it up."""
    for name in ("_TELL_S", "_CHECK_S"):
        monkeypatch.setattr(f"dataflare.connectors.postgres.cdc.reader.{name}", 0.05)
    copy = Copy(orders, tmp_path, mode="auto")
    done: list[Any] = []

    def listener(progress: Any) -> None:
        # The copy cannot be read in this process: two libraries would lock it, and closing one frees the other's locks.
        came = progress.steps["copy"].rows_in or 0
        if not done and is_following(orders) and came == 2:
            done.append(orders.execute("alter table orders alter v type int using v + 1"))
        elif len(done) == 1 and came >= 4:
            done.append(os.kill(os.getpid(), signal.SIGTERM))

    result = copy.run(listener=listener)
    assert result.status == "interrupted", result.error
    assert copy.rows() == [(1, 11, "a"), (2, 21, "b")]


def test_a_step_that_cannot_take_back_its_rows_ends_the_run(
    orders: Database, tmp_path: Path
) -> None:
    orders.execute("alter table orders replica identity full")
    copy = Copy(orders, tmp_path, into="path: copy.db, table: orders, mode: mirror, key: [name]")
    sums = "{type: aggregate, inputs: [orders], config: {group_by: [name], measures: {s: sum(v)}, emit: updates}}"
    copy.text = copy.text.replace("inputs: [orders]", "inputs: [sums]").replace(
        "destinations:", f"transformations:\n  sums: {sums}\ndestinations:"
    )
    copy.catch_up()
    orders.execute("vacuum full orders")
    orders.execute("insert into orders values (3, 30, 'c')")
    copy.catch_up()
    orders.execute("alter table orders alter v type int using v + 1")
    error = copy.run().error
    assert error is not None
    assert (error.code, error.step) == ("E0545", "orders")
    assert "step 'sums' cannot take back" in error.message
    assert "--fresh" in str(error.help)


def test_where_only_changes_are_given_it_is_told(orders: Database, tmp_path: Path) -> None:
    copy = Copy(orders, tmp_path, cdc="{snapshot: never}")
    copy.catch_up()
    orders.execute("alter table orders alter v type int using v + 1")
    orders.execute("insert into orders values (3, 30, 'c')")
    result = copy.catch_up()
    assert copy.rows() == [(3, 30, "c")]
    assert [w for w in result.warnings if "only changes are given" in w and "ALTER TABLE" in w]


@pytest.mark.parametrize(
    "statements",
    [
        ["alter table orders detach partition low"],
        ["drop table low"],
        ["create table more (like orders including all)", "insert into more values (250, 'm')",
         "alter table orders attach partition more for values from (200) to (300)"],
        ["alter table orders alter name type text using name || '!'"],
    ],
)  # fmt: skip
def test_partitions_that_come_and_go_with_their_rows(
    logical: Database, tmp_path: Path, statements: list[str]
) -> None:
    logical.execute(
        "create table orders (id int primary key, name text) partition by range (id)",
        "create table low partition of orders for values from (0) to (100)",
        "create table high partition of orders for values from (100) to (200)",
        "insert into orders values (1, 'a'), (150, 'b')",
    )
    copy = Copy(logical, tmp_path)
    copy.catch_up()
    logical.execute(
        "create table new partition of orders for values from (300) to (400)",
        "insert into orders values (350, 'x')",
    )
    assert not copy.catch_up().warnings
    logical.execute(*statements)
    logical.execute("update orders set name = 'y' where id = 150")
    result = copy.catch_up()
    assert is_the_table(copy, logical)
    assert [
        w
        for w in result.warnings
        if "is read again: partitions" in w or "is read again: ALTER" in w
    ]


@pytest.mark.parametrize(
    ("leave", "back"),
    [
        ("drop table orders", "add table orders"),
        ("set (publish = 'insert')", "set (publish = 'insert, update, delete, truncate')"),
        ("set table orders where (id > 5)", "set table orders"),
    ],
)
def test_a_publication_that_left_out_changes_for_a_while(
    orders: Database, tmp_path: Path, leave: str, back: str
) -> None:
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    [(name,)] = orders.rows("select pubname::text from pg_publication")
    orders.execute(f'alter publication "{name}" {leave}')
    orders.execute("delete from orders where id = 1")
    orders.execute(f'alter publication "{name}" {back}')
    result = copy.catch_up()
    assert is_the_table(copy, orders)
    assert [w for w in result.warnings if "is read again: its publication" in w]
    assert not copy.catch_up().warnings


def test_a_publication_that_was_made_again(orders: Database, tmp_path: Path) -> None:
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    [(name,)] = orders.rows("select pubname::text from pg_publication")
    orders.execute(f'drop publication "{name}"', "delete from orders where id = 1")
    orders.execute(f'create publication "{name}" for table orders')
    error = copy.run().error
    assert error is not None
    assert error.code == "E0605"
    assert "was dropped and made again" in error.message
