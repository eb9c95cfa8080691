"""A table is altered in the moments between the plan, the snapshot and the first rows of a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cdc_kit import Copy
from postgres_kit import Database

from dataflare.sdk.crashpoints import observed


@pytest.fixture
def orders(logical: Database) -> Database:
    logical.execute(
        "create table orders (id int primary key, name text)",
        "insert into orders select n, 'n' || n from generate_series(1, 100) n",
    )
    return logical


def at(point: str, *statements: str, of: Database) -> Callable[[str], None]:
    """Run statements the first time that a run comes to a place."""
    left = list(statements)

    def act(name: str) -> None:
        if name == point:
            while left:
                of.execute(left.pop(0))

    return act


@pytest.mark.parametrize("point", ["after_slot", "after_snapshot"])
def test_a_column_that_came_behind_the_plan_has_its_values(
    orders: Database, tmp_path: Path, point: str
) -> None:
    copy = Copy(orders, tmp_path)
    alter = ("alter table orders add column note text", "update orders set note = 'x' where id = 7")
    with observed(at(f"postgres.cdc.{point}", *alter, of=orders)):
        copy.catch_up()
    orders.execute("update orders set name = 'y' where id = 8")
    copy.catch_up()
    columns = "id, name, note"
    wanted = orders.rows(f"select {columns} from orders order by id")
    assert copy.rows(f"select {columns} from orders order by id") == wanted


def test_rows_of_a_table_that_was_rewritten_behind_the_snapshot_are_read(
    orders: Database, tmp_path: Path
) -> None:
    copy = Copy(orders, tmp_path)
    rewrite = "alter table orders alter column id type bigint"
    with observed(at("postgres.cdc.after_snapshot", rewrite, of=orders)):
        copy.run()
    copy.catch_up()
    assert copy.rows() == orders.rows("select * from orders order by id")


@pytest.mark.parametrize(
    ("statements", "why"),
    [
        (["alter table orders rename name to label"], "'label'.* had another name"),
        (
            ["alter table orders drop column name", "alter table orders add column name text"],
            "'name'.* was another one",
        ),
    ],
)
def test_a_column_with_another_name_is_not_taken_for_a_new_one(
    orders: Database, tmp_path: Path, statements: list[str], why: str
) -> None:
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    for statement in statements:
        orders.execute(statement)
    result = copy.run()
    assert (result.error.code, result.error.step) == ("E0545", "orders")
    assert re.search(why, str(result.error))
    assert "--fresh" in str(result.error.help)


def test_a_column_that_came_while_it_was_followed_may_not_be_renamed(
    orders: Database, tmp_path: Path
) -> None:
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    orders.execute(
        "alter table orders add column note text",
        "update orders set note = 'x' where id = 7",
        "alter table orders rename note to remark",
    )
    first = copy.run()
    orders.execute("update orders set remark = 'y' where id = 8")
    last = copy.run()
    assert "E0545" in [each.error.code for each in (first, last) if each.error is not None]
