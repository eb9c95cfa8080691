"""A table is mirrored while random writers change it and the run is killed: in the end both sides are equal."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import pymysql
import pytest
from mirrored_shop import Shop, mirror
from mysql_kit import Database
from random_writers import Statements, Writers

WORKFLOW = """\
name: shop
settings:
  parallelism: 1
  checkpoint: {interval: 20ms}
  restart: {attempts: 1000, delay: 20ms, max_delay: 100ms}
sources:
  t: {type: mysql, config: {connection_string: "${DB}", table: t, cdc: true}}
destinations:
  server: {type: mysql, inputs: [t], config: {connection_string: "${DB}", table: copied, mode: mirror, key: [id, part]}}
  file: {type: sqlite, inputs: [t], config: {path: copy.sqlite, table: copied, mode: mirror, key: [id, part]}}
"""
POINTS = [
    "mysql.cdc.after_snapshot",
    "mysql.cdc.after_snapshot:2",
    "mysql.commit.before_commit:2",
    "mysql.commit.after_commit:2",
]
COLUMNS = "id int, part varchar(5) collate utf8mb4_general_ci, name varchar(20), body text, at datetime(6)"
ROWS = "select id, part, name, body, cast(at as char), extra from {}"
FILE = "select id, part, name, body, at, extra from copied"
_IN_THE_WAY = (1054, 1062, 1205, 1213)
"""1054: the column is not there yet."""


def statements(database: Database) -> Statements:
    def connect() -> Any:
        no_wait = "set innodb_lock_wait_timeout = 0, lock_wait_timeout = 1"
        writer = database.server.client(database.name, ssl_disabled=True, init_command=no_wait)
        writer.autocommit(False)
        return writer

    return Statements(
        connect,
        lambda error: isinstance(error, pymysql.MySQLError) and error.args[0] in _IN_THE_WAY,
        "insert ignore into t (id, part, name, body, at) values (%s, %s, %s, %s, now(6))",
        [
            "replace into t (id, part, name, body) values (%s, %s, %s, %s)",
            "insert into t (id, part, name, body, extra) values (%s, %s, %s, %s, 1) on duplicate key update extra = "
            "ifnull(extra, 0) + 1",
        ],
    )


def check(database: Database, folder: Path) -> None:
    wanted = sorted(database.rows(ROWS.format("t")), key=repr)
    assert sorted(database.rows(ROWS.format("copied")), key=repr) == wanted
    with sqlite3.connect(folder / "copy.sqlite") as db:
        found = [
            (*row[:4], row[4] and row[4].replace("T", " "), row[5]) for row in db.execute(FILE)
        ]
    assert sorted(found, key=repr) == wanted


def mirror_table(database: Database, folder: Path, seed: int, kills: int) -> None:
    rng = random.Random(seed)
    database.execute(
        f"create table t ({COLUMNS}, primary key (id, part)) character set utf8mb4 collate utf8mb4_bin"
    )
    writers = Writers(statements(database), rng)
    add = "alter table t add column extra int" + rng.choice(["", " first", " after part"])
    shop = Shop(database.dsn, folder, WORKFLOW)
    mirror(shop, writers, rng, POINTS, kills, alter=lambda: database.execute(add))
    check(database, folder)


def test_a_killed_run_mirrors_the_table(plain: Database, tmp_path: Path) -> None:
    mirror_table(plain, tmp_path, 1, 3)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 42))
def test_many_killed_runs_mirror_the_table(plain: Database, tmp_path: Path, seed: int) -> None:
    mirror_table(plain, tmp_path, seed, 8)
