"""The example that mirrors tables of MariaDB: in the end its file has what the tables have."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import duckdb
import pytest
from mysql_kit import Database

from dataflare.jobs import RunOptions, run
from dataflare.workflow.load import load_text

EXAMPLE = Path(__file__).parents[3] / "examples/cdc/mariadb.yaml"
DUE = "select customer, count(*), sum(amount) from orders where state = 'open' group by customer order by 1"


def statement(rng: random.Random) -> str:
    id_, customer = rng.randrange(30), rng.randrange(5)
    match rng.randrange(6):
        case 0:
            return f"replace into customers values ({customer}, 'n{rng.randrange(99)}')"
        case 1:
            return f"delete from customers where id = {customer}"
        case 2 | 3:
            state = rng.choice(["open", "paid"])
            return (
                f"replace into orders values ({id_}, {customer}, {rng.randrange(999)}.5, '{state}')"
            )
        case 4:
            return f"update orders set state = 'paid' where customer = {customer}"
    return (
        f"update ignore orders set id = {rng.randrange(30)}, amount = amount + 1 where id = {id_}"
    )


def test_the_example_mirrors_two_tables(
    plain: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = EXAMPLE.read_text()
    creates = [line.partition("and: ")[2] for line in text.splitlines() if "create table" in line]
    plain.execute(*creates)
    monkeypatch.setenv("SHOP", plain.dsn)
    rng = random.Random(5)

    def rows(sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(tmp_path / "shop.duckdb", read_only=True) as db:
            return db.execute(sql).fetchall()

    for _ in range(4):
        plain.execute(*(statement(rng) for _ in range(40)))
        result = run(load_text(text, base=tmp_path), RunOptions(tmp_path / "home"))
        assert result.status == "finished", result.error
        for table in ("customers", "orders"):
            sql = f"select * from {table} order by id"
            assert rows(sql) == plain.rows(sql)
        assert rows("select customer, orders, due from dues order by 1") == plain.rows(DUE)
