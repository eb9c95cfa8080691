"""We or the server are killed at the worst moments, and nothing is lost or doubled."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from killing import COPYING, POINTS, Run, kill_run, kill_server, wait_for
from postgres_side import side
from servers import postgres as servers

KILLS, SEED = 50, 20_251  # of each kind; `make soak KILLS=500 SEED=7` does more


@pytest.mark.rotates(3)
def test_a_run_that_dies_again_and_again_loses_and_doubles_nothing(database, tmp_path):
    """At each named place, in the order of a fixed seed, and at random moments."""
    rng = random.Random(SEED)
    run = Run(tmp_path, side(database.dsn))
    kill_run(run, rng, rng.sample(POINTS, len(POINTS)), KILLS)


@pytest.fixture
def doomed() -> Iterator[servers.PostgresServer]:
    """A separate server for this test, to be killed."""
    with servers.server() as made:
        yield made


@pytest.mark.rotates(3)
def test_a_server_that_dies_again_and_again_loses_and_doubles_nothing(doomed, tmp_path: Path):
    run = Run(tmp_path, side(doomed.dsn()))
    rng, died = random.Random(SEED), 0
    while died < KILLS:
        died += kill_server(run, doomed, rng, min(13, KILLS - died))
        run.check()
        run.forget()


def test_a_table_is_copied_whole_though_the_server_dies(doomed, tmp_path: Path):
    run = Run(tmp_path, side(doomed.dsn()), COPYING)
    with psycopg.connect(doomed.dsn(), autocommit=True) as db:
        db.execute("create table given (id int primary key, v text)")
        db.execute("insert into given select i, repeat('x', 100) from generate_series(1, 60000) i")
    rng = random.Random(SEED)
    for _ in range(3):
        process = run.start()
        wait_for(run, "_dataflare_epochs", process)
        for _ in range(2):
            time.sleep(rng.uniform(0.0, 0.5))
            doomed.kill()
            doomed.start()
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        assert run.rows("select count(*), count(distinct id), sum(id) from copied") == [
            (60_000, 60_000, 60_000 * 60_001 // 2)]  # fmt: skip
        run.forget()
