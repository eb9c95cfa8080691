"""We or the server are killed at the worst moments, and nothing is lost or doubled."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from killing import COPYING, Run, kill_server, wait_for
from servers import postgres as servers

POINTS = [
    "write.before_redo:3", "write.before_redo:30", "prepare.before_apply", "prepare.before_apply:6",
    "prepare.after_fsync:2", "prepare.after_fsync:7", "commit.before_marker", "commit.before_marker:3",
    "commit.before_commit", "commit.before_commit:3", "commit.after_commit", "commit.after_commit:3",
]  # fmt: skip
KILLS, SEED = 10, 20_251


@pytest.mark.parametrize("point", POINTS)
def test_each_row_is_there_once_after_a_kill_at(database, tmp_path, point):
    run = Run(tmp_path, database.dsn)
    assert run.end(crash_at=f"postgres.{point}") == -signal.SIGKILL
    assert run.end("--param", "rate=6000/s") == 0
    run.check()


def test_each_row_is_there_once_after_kills_in_a_row(database, tmp_path):
    run = Run(tmp_path, database.dsn)
    for point in (
        "commit.before_commit:2",
        "commit.after_commit",
        "prepare.after_fsync:3",
        "commit.before_marker:2",
    ):
        assert run.end(crash_at=f"postgres.{point}") == -signal.SIGKILL
    assert run.end() == 0
    run.check()


@pytest.fixture
def doomed() -> Iterator[servers.PostgresServer]:
    """A server of one's own, to be killed."""
    with servers.server() as made:
        yield made


def test_a_server_that_dies_again_and_again_loses_and_doubles_nothing(doomed, tmp_path: Path):
    run = Run(tmp_path, doomed.dsn())
    died = kill_server(run, doomed, random.Random(SEED), KILLS)
    assert died == KILLS
    run.check()


def test_a_table_is_copied_whole_though_the_server_dies(doomed, tmp_path: Path):
    run = Run(tmp_path, doomed.dsn(), COPYING)
    with psycopg.connect(doomed.dsn(), autocommit=True) as db:
        db.execute("create table given (id int primary key, v text)")
        db.execute("insert into given select i, repeat('x', 100) from generate_series(1, 60000) i")
    rng = random.Random(SEED)
    for _ in range(3):
        process = run.start()
        wait_for(run, "_dataflare_epochs")
        for _ in range(2):
            time.sleep(rng.uniform(0.0, 0.5))
            doomed.kill()
            doomed.start()
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        assert run.rows("select count(*), count(distinct id), sum(id) from copied") == [
            (60_000, 60_000, 60_000 * 60_001 // 2)]  # fmt: skip
        run.forget()
