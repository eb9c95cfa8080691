"""Changes that become row errors: the row that an update replaces is not true any more, and letters have what failed."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from changes_that_fail import (
    STEPS,
    FailingShop,
    check_that_a_change_that_fails_takes_its_row_with_it,
)
from postgres_kit import Database
from servers.services import SERVICES
from servers.web import Answer, Asked, http_server

from dataflare.jobs.letters import LetterBox
from dataflare.jobs.replay import replay
from dataflare.jobs.resync import resync
from dataflare.workflow.load import load_text


@pytest.fixture(params=["default", "full"])
def orders(logical: Database, request: pytest.FixtureRequest) -> Database:
    logical.execute(
        "create table orders (id int primary key, name text, v numeric(8, 2))",
        f"alter table orders replica identity {request.param}",
    )
    return logical


@pytest.mark.parametrize("fault", ["source", "step", "keeping step"])
@pytest.mark.parametrize("policy", ["dead_letter", "skip"])
def test_a_change_that_fails_takes_its_row_with_it(
    orders: Database, tmp_path: Path, fault: str, policy: str
) -> None:
    shop = FailingShop(orders, tmp_path, "postgres", fault)
    bad = "'NaN'" if fault == "source" else "2"
    if policy == "skip":
        shop.text = shop.text.replace("dead_letter", "skip")
        shop.letters = lambda: [{"name": name} for name in "xyz"]  # type: ignore[method-assign]
    check_that_a_change_that_fails_takes_its_row_with_it(shop, "1", bad)


def test_letters_of_changes_are_not_replayed_over_newer_rows(
    orders: Database, tmp_path: Path
) -> None:
    shop = FailingShop(orders, tmp_path, "postgres", "step")
    orders.execute("insert into orders values (1, '10', 1), (2, '20', 1)")
    shop.catch_up()
    orders.execute(
        "update orders set name = 'x' where id = 1", "update orders set name = 'y' where id = 1"
    )
    shop.catch_up()
    assert shop.rows() == [(2, "20")]
    shop.text = shop.text.replace("CAST(name", "TRY_CAST(name")
    workflow, box = load_text(shop.text, base=tmp_path), LetterBox(tmp_path / "home" / "shop", [])
    outcome = replay(workflow, box, lambda letter: True)
    [(reason, letters)] = outcome.reasons.items()
    assert (outcome.rows, letters) == (0, 2)
    assert "dataflare resync" in reason
    resync(workflow, tmp_path / "home", "orders")
    shop.catch_up()
    assert shop.rows() == [(1, "y"), (2, "20")]


def test_an_aggregate_takes_back_the_row_that_a_failed_change_replaces(
    orders: Database, tmp_path: Path
) -> None:
    shop = FailingShop(orders, tmp_path, "postgres", "step")
    shop.text = (
        shop.text.replace(
            "destinations:\n",
            "  sums: {type: aggregate, inputs: [n], config: {group_by: [v], measures: {name: sum(n)}, emit: updates}}\n"
            "destinations:\n",
        )
        .replace("[n], config: {path", "[sums], config: {path")
        .replace("key: [id]", "key: [v]")
    )

    def sums() -> list[tuple[float, int]]:
        with sqlite3.connect(tmp_path / "copy.db") as db:
            return db.execute("select v, name from orders order by v").fetchall()

    orders.execute("insert into orders values (1, '10', 1), (2, '20', 1), (3, '5', 2)")
    shop.catch_up()
    assert sums() == [(1, 30), (2, 5)]
    orders.execute(
        "update orders set name = 'x' where id = 1", "update orders set name = 'y' where id = 3"
    )
    shop.catch_up()
    assert sums() == [(1, 20)]
    orders.execute("update orders set name = '1' where id = 1", "delete from orders where id = 3")
    shop.catch_up()
    assert sums() == [(1, 21)]


LOOKUP = """\
  named:
    type: lookup
    inputs: [orders]
    config:
      source: SOURCE
      mapping: {key: name, fields: [level]}
      on_miss: "MISS"
"""


def with_levels(orders: Database, folder: Path, source: str, miss: str) -> FailingShop:
    shop = FailingShop(orders, folder, "postgres", "step")
    lookup = LOOKUP.replace("SOURCE", source).replace("MISS", miss)
    shop.text = shop.text.replace(STEPS["step"], lookup).replace("inputs: [n]", "inputs: [named]")
    return shop


def check_that_an_answer_that_cannot_be_read_takes_the_row_with_it(shop: FailingShop) -> None:
    """The keys 'bad' and 'worse' have such answers, 'absent' has none, the others are fine."""
    orders = shop.database
    orders.execute("insert into orders values (1, 'a', 1), (2, 'b', 1), (3, 'c', 1), (4, 'd', 1)")
    shop.catch_up()
    orders.execute(
        "update orders set name = 'bad' where id = 2", "insert into orders values (5, 'worse', 1)",
        "update orders set id = 33, name = 'bad' where id = 3",
    )  # fmt: skip
    result = shop.catch_up()
    assert shop.rows() == [(1, "a"), (4, "d")]
    assert result.steps["named"]["errors"] == 3
    assert sorted(row["id"] for row in shop.letters()) == [2, 5, 33]
    orders.execute("update orders set name = 'b' where id = 2", "delete from orders where id = 33")
    result = shop.catch_up()
    assert shop.rows() == [(1, "a"), (2, "b"), (4, "d")]
    assert result.steps["named"].get("errors", 0) == 0


@pytest.mark.parametrize("miss", ["null", "drop", "dead_letter"])
def test_an_answer_of_an_api_that_cannot_be_read_takes_the_row_with_it(
    orders: Database, tmp_path: Path, miss: str
) -> None:
    answers: dict[str, Any] = {"bad": b"oops", "worse": [1]}

    def answer(asked: Asked) -> Answer:
        return Answer(answers.get(asked.path.rpartition("/")[2], {"level": "3"}))

    with http_server(answer) as server:
        source = f'{{type: http, url: "{server.url}/{{name}}"}}'
        shop = with_levels(orders, tmp_path, source, miss)
        check_that_an_answer_that_cannot_be_read_takes_the_row_with_it(shop)
        # The answers for rows that are there become unreadable, and the rows go as they are asked to.
        answers |= {"a": b"oops", "b": b"oops"}
        orders.execute(
            "delete from orders where id = 1", "update orders set name = 'e' where id = 2"
        )
        shop.catch_up()
        assert shop.rows() == [(2, "e"), (4, "d")]


def test_a_hash_of_redis_that_cannot_be_read_takes_the_row_with_it(
    orders: Database, tmp_path: Path
) -> None:
    with SERVICES["redis"].server() as server:
        with server.client() as db:
            for name in "abcd":
                db.hset(name, "level", "3")
            for name in ("bad", "worse"):
                db.hset(name, "level", b"\xff")
        source = f'{{type: redis, connection: "{server.url}"}}'
        shop = with_levels(orders, tmp_path, source, "null")
        check_that_an_answer_that_cannot_be_read_takes_the_row_with_it(shop)
