"""The run or the server is killed at the worst moments, and nothing is lost or doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clickhouse_kit import Database
from servers import clickhouse as servers

WORKFLOW = """\
name: orders
settings:
  parallelism: 1
  checkpoint: {interval: 100ms}
  batch: {initial: 200, min: 100, max: 500}
  restart: {attempts: 1000, delay: 50ms, max_delay: 300ms}
sources:
  orders:
    type: generate
    config:
      rows: 3000
      seed: 7
      rate: 1500/s
      columns: {id: {sequence: 0}, customer: {int: [1, 100]}, amount: {float: [0, 100]}}
destinations:
  added:
    type: clickhouse
    inputs: [orders]
    config: {connection_string: "${CLICKHOUSE}", table: added, batch_size: 100}
  kept:
    type: clickhouse
    inputs: [orders]
    config: {connection_string: "${CLICKHOUSE}", table: kept, mode: upsert, key: customer}
"""
POINTS = ("commit.after_insert:3", "commit.before_marker")


def start(folder: Path, dsn: str, crash_at: str | None = None) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    environment["CLICKHOUSE"] = dsn
    if crash_at is not None:
        environment["DATAFLARE_CRASH_AT"] = f"clickhouse.{crash_at}"
    return subprocess.Popen(
        [sys.executable, "-m", "dataflare", "run", "workflow.yaml", "--quiet"], cwd=folder,
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def check(database: Database) -> None:
    assert database.rows("select count(), uniqExact(id), sum(id) from added") == [
        [3000, 3000, 3000 * 2999 // 2]]  # fmt: skip
    assert database.rows("select count() from kept final") == [[100]]
    last = "select customer, argMax(amount, id) from added group by customer order by customer"
    assert database.rows(last) == database.rows(
        "select customer, amount from kept final order by customer"
    )


def test_a_run_that_dies_again_and_again_loses_and_doubles_nothing(database: Database, tmp_path):
    (tmp_path / "workflow.yaml").write_text(WORKFLOW)
    for point in POINTS:
        process = start(tmp_path, database.dsn, point)
        _, errors = process.communicate(timeout=200)
        assert process.returncode == -signal.SIGKILL, errors
    process = start(tmp_path, database.dsn)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    check(database)


def test_a_server_that_dies_again_and_again_loses_and_doubles_nothing(
    server: servers.ClickhouseServer, database: Database, tmp_path: Path
):
    (tmp_path / "workflow.yaml").write_text(WORKFLOW)
    process = start(tmp_path, database.dsn)
    try:
        for _ in range(2):
            rows = count(database)
            while process.poll() is None and count(database) <= rows:
                time.sleep(0.02)
            server.restart()
        _, errors = process.communicate(timeout=200)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    check(database)


def count(database: Database) -> int:
    """How many rows are there by now."""
    there = ["added"] in database.rows("show tables")
    return database.rows("select count() from added")[0][0] if there else 0


@pytest.fixture(autouse=True)
def running_after(server: servers.ClickhouseServer):
    """A test that failed in the middle of a restart leaves the server to the next one."""
    yield
    server.ask("select 1")
