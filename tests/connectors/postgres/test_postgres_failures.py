"""Whole runs against a server that fails them: exit status, words, and no password in them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_kit import Database
from proxy import Proxy
from servers import postgres as servers

WORKFLOW = """\
name: orders
settings:
  parallelism: 1
  checkpoint: {{interval: 100ms}}
  restart: {{attempts: {attempts}, delay: 50ms, max_delay: 100ms}}
sources:
  made:
    type: generate
    config: {{rows: 20000, seed: 3, rate: 40000/s, columns: {{id: {{sequence: {first}}}, name: {{choice: [a, b]}}}}}}
destinations:
  out:
    type: postgres
    inputs: [made]
    config: {{connection_string: "${{PG}}", table: {table}, mode: {mode}, connect_timeout: 2s{more}}}
"""
WHOLE = [(20_000, 20_000)]
COUNT = "select count(*), count(distinct id) from orders"


@pytest.fixture
def proxy(database: Database) -> Iterator[Proxy]:
    made = Proxy(database.server.port)
    yield made
    made.close()


def run_it(
    folder: Path, dsn: str, *, mode: str = "append", table: str = "orders", attempts: int = 0,
    more: str = "", first: int = 1,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    text = WORKFLOW.format(mode=mode, table=table, attempts=attempts, more=more, first=first)
    (folder / "workflow.yaml").write_text(text)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", "run", "workflow.yaml"], cwd=folder, text=True,
        capture_output=True, env={**environment, "PG": dsn}, timeout=120,
    )  # fmt: skip
    for secret in (servers.PASSWORD, servers.PASSWORD.replace("/", "%2F"), "hunter2"):
        assert secret not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def through(proxy: Proxy, database: Database) -> str:
    return database.dsn.replace(f":{database.server.port}/", f":{proxy.port}/")


def refused(done: subprocess.CompletedProcess[str], code: str, *said: str) -> None:
    assert done.returncode == 1, done.stderr
    assert f"error[{code}]" in done.stderr
    assert [text for text in said if text not in done.stderr] == []


@pytest.mark.parametrize("mode", ["append", "upsert, key: id", "overwrite"])
def test_connections_that_close_in_the_middle_are_made_again(database, proxy, tmp_path, mode):
    proxy.closes, proxy.close_after = 6, 60_000
    done = run_it(tmp_path, through(proxy, database), mode=mode, attempts=20)
    assert done.returncode == 0, done.stderr
    assert proxy.closed >= 2
    assert database.rows(COUNT) == WHOLE


def test_a_connection_that_always_closes_ends_the_run(database, proxy, tmp_path):
    proxy.closes, proxy.close_after = 10_000, 0
    refused(run_it(tmp_path, through(proxy, database), attempts=1), "E0607")


def test_a_server_that_answers_slowly_is_waited_for(database, proxy, tmp_path):
    proxy.delay_s = 0.02
    done = run_it(tmp_path, through(proxy, database))
    assert done.returncode == 0, done.stderr
    assert database.rows(COUNT) == WHOLE


def test_a_server_that_hangs_for_a_while_is_waited_for(database, proxy, tmp_path):
    timers = [threading.Timer(1.2, proxy.going.clear), threading.Timer(3.0, proxy.going.set)]
    for timer in timers:
        timer.start()
    done = run_it(tmp_path, through(proxy, database))
    assert done.returncode == 0, done.stderr
    assert database.rows(COUNT) == WHOLE


def test_a_server_that_hangs_from_the_start_ends_the_run(database, proxy, tmp_path):
    proxy.going.clear()
    refused(run_it(tmp_path, through(proxy, database)), "E0607", "no connection to 127.0.0.1")


def test_a_server_that_is_not_there(database, tmp_path):
    dsn = database.dsn.replace(f":{database.server.port}/", ":1/")
    refused(run_it(tmp_path, dsn), "E0607", "no connection to 127.0.0.1:1/")


def test_a_wrong_password(database, tmp_path):
    dsn = database.dsn.replace("s3cret", "hunter2")
    refused(run_it(tmp_path, dsn, attempts=5), "E0606", "password authentication failed")


def test_a_missing_table_that_may_not_be_made(database, tmp_path):
    database.execute("create table orderz (id int)")
    done = run_it(tmp_path, database.dsn, more=", create_table: false")
    refused(done, "E0604", "orders", "did you mean 'orderz'?")


def test_missing_rights(database, tmp_path):
    database.execute("create table orders (id bigint, name text)", "drop role if exists visitor",
                     "create role visitor login password 'hunter2'", "grant select on orders to visitor")  # fmt: skip
    dsn = database.server.dsn(database.name, user="visitor").replace(
        "s3cret-Pass%2Fw0rd", "hunter2"
    )
    try:
        refused(run_it(tmp_path, dsn), "E0602", "insert")
    finally:
        database.execute("drop owned by visitor", "drop role visitor")


def test_a_value_out_of_range_names_its_row(database, tmp_path):
    database.execute("create table orders (id smallint, name text)")
    done = run_it(tmp_path, database.dsn, first=32_000)
    refused(done, "E0510", "out of range for type smallint", "the row: id = 32768, name = ")


@pytest.fixture
def small_disk(database: Database) -> Iterator[str]:
    """A tablespace of a few megabytes, where that can be made."""
    with database.server.small_disk() as place:
        database.execute(f"create tablespace small location '{place}'")
        yield "small"
        database.execute("drop table if exists orders", "drop tablespace small")


def test_a_full_disk_is_said_and_the_run_goes_on_later(database, small_disk, tmp_path):
    database.execute(f"create table orders (id bigint, name text) tablespace {small_disk}")
    done = run_it(tmp_path, database.dsn, attempts=1)
    refused(done, "E0603", "disk full at 127.0.0.1", "No space left on device", "last checkpoint")
    database.execute("alter table orders set tablespace pg_default")
    done = run_it(tmp_path, database.dsn)
    assert done.returncode == 0, done.stderr
    assert database.rows(COUNT) == WHOLE
