"""We or the server are killed at the worst moments, and nothing is lost or doubled."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import COPYING, POINTS, Run, Side, kill_run, kill_server, wait_for
from servers import mariadb as servers

KILLS, SEED = 12, 20_251  # of each kind


def side(server: servers.MariaDbServer, database: str) -> Side:
    return Side(
        "mysql",
        server.dsn(database),
        lambda: server.client(database),
        "database()",
        "select customer, id, amount from added where id in "
        "(select max(id) from added group by customer) order by customer",
        "select table_name from information_schema.tables where table_schema = database() and "
        "(table_name like '\\_dataflare\\_new%' or table_name like '\\_dataflare\\_seen%')",
        "`key`",
    )


@pytest.mark.rotates(3)
def test_a_run_that_dies_again_and_again_loses_and_doubles_nothing(database, tmp_path):
    """At each named place, in the order of a fixed seed, and at random moments."""
    rng = random.Random(SEED)
    run = Run(tmp_path, side(database.server, database.name))
    kill_run(run, rng, rng.sample(POINTS, len(POINTS)), KILLS)


@pytest.fixture
def doomed() -> Iterator[servers.MariaDbServer]:
    """A separate server for this test, to be killed."""
    with servers.server() as made:
        yield made


@pytest.mark.rotates(3)
def test_a_server_that_dies_again_and_again_loses_and_doubles_nothing(doomed, tmp_path: Path):
    run = Run(tmp_path, side(doomed, "test"))
    rng, died = random.Random(SEED), 0
    while died < KILLS:
        died += kill_server(run, doomed, rng, min(6, KILLS - died))
        run.check()
        run.forget()


def test_a_table_is_copied_whole_though_the_server_dies(doomed, tmp_path: Path):
    run = Run(tmp_path, side(doomed, "test"), COPYING)
    with doomed.client("test") as db, db.cursor() as cursor:
        cursor.execute("create table given (id int primary key, v text)")
        cursor.execute("insert into given select seq, repeat('x', 100) from seq_1_to_60000")
    rng = random.Random(SEED)
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
