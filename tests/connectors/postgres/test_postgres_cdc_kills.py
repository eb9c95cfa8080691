"""A table is mirrored while random writers change it and the run is killed: in the end both sides are equal."""

from __future__ import annotations

import random
import signal
import sqlite3
from pathlib import Path

import duckdb
import psycopg
import pytest
from cdc_kit import is_following
from cdc_workload import COLUMNS, statements
from mirrored_shop import Shop, mirror
from pieces_kit import NOISE, send_in_pieces, streamed
from postgres_kit import Database
from random_writers import Writers

WORKFLOW = """\
name: shop
settings:
  parallelism: 1
  checkpoint: {interval: 20ms}
  restart: {attempts: 1000, delay: 20ms, max_delay: 100ms}
sources:
  t: {type: postgres, config: {connection_string: "${DB}", table: t, cdc: true}}
destinations:
  server: {type: postgres, inputs: [t], config: {connection_string: "${DB}", table: copied, mode: mirror, key: [id, part]}}
  file: {type: sqlite, inputs: [t], config: {path: copy.sqlite, table: copied, mode: mirror, key: [id, part]}}
  columns: {type: duckdb, inputs: [t], config: {path: copy.duckdb, table: copied, mode: mirror, key: [id, part]}}
"""
MANY = """\
name: shop
settings:
  parallelism: 1
  checkpoint: {interval: 20ms}
  restart: {attempts: 1000, delay: 20ms, max_delay: 100ms}
sources:
  shop: {type: postgres, config: {connection_string: "${DB}", tables: ["shop.*"], cdc: true}}
destinations:
  server: {type: postgres, inputs: [shop], config: {connection_string: "${DB}", table: "copied.{table}", mode: mirror}}
  file: {type: sqlite, inputs: [shop], config: {path: copy.sqlite, table: "{table}", mode: mirror}}
"""
POINTS = [
    "postgres.cdc.after_slot",
    "postgres.commit.before_commit:2",
    "postgres.commit.after_commit:2",
]
PIECES = ["postgres.cdc.after_piece:2", "postgres.cdc.after_piece:40", "postgres.cdc.after_block:3"]
CHECK = "select id, part, name, body from copied order by id, part"


def check(database: Database, folder: Path) -> None:
    wanted = database.rows('select * from t order by id, part collate "C"')
    server = CHECK.replace("order by id, part", 'order by id, part collate "C"')
    assert database.rows(server) == wanted
    with sqlite3.connect(folder / "copy.sqlite") as db:
        assert db.execute(CHECK).fetchall() == wanted
    with duckdb.connect(folder / "copy.duckdb") as columns:
        assert columns.execute(CHECK).fetchall() == wanted


def mirror_table(
    database: Database, folder: Path, seed: int, kills: int, *, is_whole: bool = True, in_pieces: bool = False,
) -> None:  # fmt: skip
    """is_whole: the log has rows as they were; else it lacks large values that did not change. in_pieces: the server sends
    transactions while they run."""
    rng = random.Random(seed)
    database.execute(f"create table t ({COLUMNS}, primary key (id, part))")
    written = statements(database.dsn, "truncate t")
    if is_whole:
        database.execute("alter table t replica identity full")
    else:
        database.execute("alter table t alter body set storage external")
        written = written._replace(moved=", body = body || ''")
    if in_pieces:
        send_in_pieces(database, by_trigger="t")
    writers = Writers(written, rng)
    # A first slot waits for transactions that are open, so writing begins behind it.
    points = PIECES if in_pieces else POINTS
    mirror(Shop(database.dsn, folder, WORKFLOW), writers, rng, points, kills, first_alone=True)
    check(database, folder)
    assert not in_pieces or streamed(database)[0]


def mirror_tables(database: Database, folder: Path, seed: int, kills: int) -> None:
    """Two tables, and then another one beside them, which the next run takes in while it is killed."""
    rng, tables, shop = random.Random(seed), [], Shop(database.dsn, folder, MANY)
    database.execute("create schema shop", "create schema copied")
    for coming in (("t", "u"), ("later",)):
        for name in coming:
            database.execute(
                f"create table shop.{name} ({COLUMNS}, primary key (id, part))",
                f"alter table shop.{name} replica identity full",
                f"insert into shop.{name} select n, 'é', 'n', 'b' from generate_series(100, 400) n",
            )
            tables.append(f"shop.{name}")
        writers = Writers(statements(database.dsn, "truncate t"), rng, tables=tables)
        # A table is taken in when the transactions that are open have ended, so writing begins behind it.
        mirror(shop, writers, rng, POINTS, kills, first_alone=True)
    with sqlite3.connect(folder / "copy.sqlite") as db:
        for table in tables:
            wanted = database.rows(f'select * from {table} order by id, part collate "C"')
            copied = table.replace("shop", "copied")
            assert database.rows(f'select * from {copied} order by id, part collate "C"') == wanted
            own = table.partition(".")[2]
            assert db.execute(f"select * from {own} order by id, part").fetchall() == wanted


def test_a_killed_run_mirrors_all_tables(logical: Database, tmp_path: Path) -> None:
    mirror_tables(logical, tmp_path, 1, 2)


def test_a_killed_run_mirrors_the_table(logical: Database, tmp_path: Path) -> None:
    mirror_table(logical, tmp_path, 1, 3)


def test_a_killed_run_keeps_large_values(logical: Database, tmp_path: Path) -> None:
    mirror_table(logical, tmp_path, 3, 3, is_whole=False)


def test_a_run_that_is_killed_inside_of_transactions_mirrors_the_table(
    logical: Database, tmp_path: Path
) -> None:
    mirror_table(logical, tmp_path, 4, 4, in_pieces=True)


def test_a_run_that_is_killed_in_the_middle_of_a_transaction(
    logical: Database, tmp_path: Path
) -> None:
    shop = Shop(logical.dsn, tmp_path, WORKFLOW)
    send_in_pieces(logical)
    logical.execute(
        f"create table t ({COLUMNS}, primary key (id, part))",
        "insert into t values (1, 'a', 'n', 'b')",
    )
    shop.settle()
    with psycopg.connect(logical.dsn) as writer:
        process, at = shop.start("streaming", "postgres.cdc.after_piece:3"), 1
        while not is_following(logical):
            assert process.poll() is None, process.communicate()
        while process.poll() is None:
            at += 1
            writer.execute("insert into t values (%s, 'a', 'n', 'b')", (at,))
            writer.execute(NOISE)
            if at % 5 == 0:
                writer.execute(f"savepoint s{at}")
                writer.execute("insert into t values (%s, 'b', 'gone', 'b')", (at,))
                writer.execute(NOISE)
                writer.execute(f"rollback to savepoint s{at}")
            logical.execute(f"insert into t values ({at}, 'c', 'small', 'b')")
        assert process.returncode == -signal.SIGKILL, process.communicate()
        writer.execute("update t set name = 'new' where id = 1")
    process = shop.start("streaming", "postgres.cdc.after_block:2")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    shop.settle()
    check(logical, tmp_path)


def test_a_server_that_is_killed_under_a_run(logical: Database, tmp_path: Path) -> None:
    shop = Shop(logical.dsn, tmp_path, WORKFLOW)
    logical.execute(
        f"create table t ({COLUMNS}, primary key (id, part))",
        "insert into t values (1, 'a', 'n', 'b')",
    )
    process = shop.start("streaming")
    is_read = "select active from pg_replication_slots where active"
    while not logical.rows(is_read):
        assert process.poll() is None, process.communicate()
    logical.server.restart()
    logical.execute("update t set name = 'new'", "insert into t values (2, 'a', 'n', 'b')")
    while not logical.rows(is_read):
        assert process.poll() is None, process.communicate()
    logical.execute("delete from t where id = 1", "insert into t values (3, 'a', 'n', 'b')")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    shop.settle()
    check(logical, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 42))
def test_many_killed_runs_mirror_the_table(logical: Database, tmp_path: Path, seed: int) -> None:
    mirror_table(logical, tmp_path, seed, 8, is_whole=bool(seed % 2), in_pieces=seed % 4 > 1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 22))
def test_many_killed_runs_mirror_all_tables(logical: Database, tmp_path: Path, seed: int) -> None:
    mirror_tables(logical, tmp_path, seed, 5)
