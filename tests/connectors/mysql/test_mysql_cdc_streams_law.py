"""Many tables of one log of MariaDB: each change of each table comes once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pymysql
import pytest
import streams_law
from binlog_kit import Plain
from mysql_kit import Database
from random_writers import Statements, Writers

from dataflare.connectors.mysql.cdc import reader as readers
from dataflare.connectors.mysql.cdc import rereading
from dataflare.sdk import resyncs

_IN_THE_WAY = (1062, 1205, 1213, 1412)


class Log(streams_law.Log):
    whole = True

    def __init__(self, database: Database, rng: random.Random) -> None:
        self.database = database
        statements = Statements(
            self._writer,
            lambda error: isinstance(error, pymysql.MySQLError) and error.args[0] in _IN_THE_WAY,
            "insert ignore into t (id, part, name, body) values (%s, %s, %s, %s)",
            ["replace into t (id, part, name, body) values (%s, %s, %s, %s)"],
        )
        self.writers = Writers(statements, rng, tables=[])

    def _writer(self) -> Any:
        no_wait = "set innodb_lock_wait_timeout = 0, lock_wait_timeout = 1"
        server, name = self.database.server, self.database.name
        writer = server.client(name, ssl_disabled=True, init_command=no_wait)
        writer.autocommit(False)
        return writer

    def create(self, table: str, columns: str) -> None:
        text = "character set utf8mb4 collate utf8mb4_bin"
        self.database.execute(f"create table {table} ({columns}) {text}")

    def client(self) -> Any:
        return self._writer()

    def rows(self, sql: str) -> Sequence[tuple[Any, ...]]:
        return self.database.rows(sql)

    def source(self, **config: Any) -> Any:
        return self.database.source(tables=["*"], **{"cdc": True, **config})

    def is_settled(self, table: Mapping[str, Any]) -> bool:
        return not table["reads"]

    def alter(self, rng: random.Random, attempt: int) -> None:
        """The rest is read in a new snapshot after a few rows; a table is read again, or is made anew."""
        readers._PART_ROWS = rng.choice([7, 30, 1_000_000])
        rereading.WHOLE_ROWS = rng.choice([0, 10, 1_000_000])
        if attempt and rng.random() < 0.5:
            resyncs.ask(self.database.folder, f"in.{rng.choice(['t', 'u'])}")
        if attempt and rng.random() < 0.5:
            self.database.execute(
                *rng.choice([["drop table u"], ["rename table u to gone", "drop table gone"]])
            )
            self.create("u", streams_law.COLUMNS)


@pytest.mark.parametrize("seed", range(6))
def test_each_change_of_each_table_comes_once(
    plain: Plain, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_PART_ROWS", 7)
    monkeypatch.setattr(rereading, "WHOLE_ROWS", 1_000_000)
    rng = random.Random(seed)
    asyncio.run(streams_law.follow(Log(plain, rng), rng))
