"""A run is killed while it reads a table again that was altered: also where parts of it were given, and where it is altered
once more meanwhile."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from postgres_kit import Database

WORKFLOW = """\
name: shop
settings:
  parallelism: 1
  checkpoint: {interval: 10ms}
  restart: {attempts: 1000, delay: 20ms, max_delay: 100ms}
sources:
  shop: {type: postgres, config: {connection_string: "${DB}", tables: [orders, items], batch_size: 20, cdc: true}}
destinations:
  copy: {type: sqlite, inputs: [shop], config: {path: copy.db, table: "{table}", mode: mirror}}
"""
RUN = """\
import sys
from dataflare.connectors.postgres.cdc import resyncing
from dataflare.__main__ import main
resyncing.WHOLE_ROWS = int(sys.argv.pop(1))
sys.exit(main())
"""
ALTERATIONS = [
    "alter table orders alter v type int using v + 1",
    "alter table orders alter name type text using upper(name)",
    "drop table orders; create table orders (id int primary key, name text, v int); "
    "insert into orders select n, 'again', n from generate_series(100, 700) n",
    "alter table orders add u int; alter table orders alter u type int using v",
    "truncate orders; insert into orders select n, 't', n from generate_series(1, 300) n",
]


class Killed:
    """whole_rows: a table with more rows is given in parts."""

    def __init__(self, database: Database, folder: Path, whole_rows: int) -> None:
        self._database, self._folder, self._whole_rows = database, folder, whole_rows
        (folder / "shop.yaml").write_text(WORKFLOW)

    def start(self, mode: str, crash_at: str | None = None) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
        environment["DB"] = self._database.dsn
        if crash_at is not None:
            environment["DATAFLARE_CRASH_AT"] = crash_at
        return subprocess.Popen(
            [sys.executable, "-c", RUN, str(self._whole_rows), "run", "shop.yaml", "--quiet", "--accept-changes",
             "--set", f"settings.mode={mode}"],
            cwd=self._folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def die(self, crash_at: str | None, after_s: float) -> bool:
        """Whether it was killed; else it had ended with an error that says to run again."""
        process = self.start("streaming", crash_at)
        try:
            process.communicate(timeout=after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return process.returncode == -signal.SIGKILL

    def settle(self) -> None:
        for _ in range(3):
            process = self.start("batch")
            _, errors = process.communicate(timeout=120)
            if process.returncode == 0:
                return
        raise AssertionError(errors)

    def check(self) -> None:
        with sqlite3.connect(self._folder / "copy.db") as db:
            for table in ("orders", "items"):
                [(names,)] = self._database.rows(
                    "select string_agg(attname, ', ' order by attnum) from pg_attribute where attnum > 0 and "
                    f"not attisdropped and attrelid = '{table}'::regclass"
                )
                wanted = self._database.rows(f"select {names} from {table} order by id")
                assert db.execute(f"select {names} from {table} order by id").fetchall() == wanted


def kill_while_it_is_read_again(
    database: Database, folder: Path, seed: int, kills: int, whole_rows: int
) -> None:
    rng = random.Random(seed)
    for table in ("orders", "items"):
        database.execute(
            f"create table {table} (id int primary key, name text, v int)",
            f"insert into {table} select n, 'n' || n, n from generate_series(1, 600) n",
        )
    shop = Killed(database, folder, whole_rows)
    shop.settle()
    points = [
        "postgres.cdc.after_snapshot",
        "sqlite.commit.before_commit",
        "engine.after_prepare",
        None,
        None,
    ]
    killed = 0
    for number in range(kills):
        database.execute(
            rng.choice(ALTERATIONS).replace(" u ", f" u{number} ").replace(" u;", f" u{number};"),
            f"delete from orders where id % 17 = {number}",
            f"update orders set v = {number} where id % 13 = {number}",
            f"update items set v = v + 1 where id % 7 = {number}",
            f"insert into items values ({1000 + number}, 'new', 0)",
        )
        killed += shop.die(rng.choice(points), rng.uniform(1.2, 3.0))
    assert killed, "no run was killed"
    shop.settle()
    shop.check()


@pytest.mark.parametrize(("seed", "whole_rows"), [(1, 1_000_000), (2, 50)])
def test_a_run_that_is_killed_while_it_reads_an_altered_table_again(
    logical: Database, tmp_path: Path, seed: int, whole_rows: int
) -> None:
    kill_while_it_is_read_again(logical, tmp_path, seed, 4, whole_rows)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3, 23))
def test_many_runs_that_are_killed_while_they_read_altered_tables_again(
    logical: Database, tmp_path: Path, seed: int
) -> None:
    kill_while_it_is_read_again(logical, tmp_path, seed, 8, 50 if seed % 2 else 1_000_000)
