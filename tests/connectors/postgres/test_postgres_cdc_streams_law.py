"""Many tables of one log of PostgreSQL: each change of each table comes once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
import pytest
import streams_law
from cdc_kit import source
from cdc_workload import statements
from postgres_kit import Database
from random_writers import Writers


class Log(streams_law.Log):
    def __init__(self, database: Database, rng: random.Random, *, whole: bool) -> None:
        self.database, self.whole = database, whole
        self.writers = Writers(statements(database.dsn), rng, tables=[])

    def create(self, table: str, columns: str) -> None:
        self.database.execute(f"create table {table} ({columns})")
        if self.whole:
            self.database.execute(f"alter table {table} replica identity full")
        elif "body" in columns:
            self.database.execute(f"alter table {table} alter body set storage main")

    def client(self) -> Any:
        return psycopg.connect(self.database.dsn)

    def rows(self, sql: str) -> Sequence[tuple[Any, ...]]:
        return self.database.rows(sql)

    def source(self, **config: Any) -> Any:
        return source(self.database, tables=["*"], **config)

    def is_settled(self, table: Mapping[str, Any]) -> bool:
        return "snapshot" not in table


@pytest.mark.parametrize("identity", ["full", "key"])
@pytest.mark.parametrize("seed", range(3))
def test_each_change_of_each_table_comes_once(logical: Database, seed: int, identity: str) -> None:
    rng = random.Random(f"{seed} {identity}")
    asyncio.run(streams_law.follow(Log(logical, rng, whole=identity == "full"), rng))
