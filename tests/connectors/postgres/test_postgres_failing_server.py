"""A server behind a network that fails in each of the usual ways: the exact rows of the table, and the exact dead letters."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres_kit import Database

from dataflare.jobs import Progress, RunOptions, RunResult, run
from dataflare.sdk import crashpoints
from dataflare.testing import FaultProxy, Faults
from dataflare.workflow.load import load_text

ROWS = 20_000
PATIENT = "retry_policy: {max_attempts: 60, initial_backoff: 1ms, max_backoff: 5ms}"
MODES = ["append", "upsert, key: id"]


@pytest.fixture
def proxy(database: Database) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", database.server.port, seed=3) as proxy:
        yield proxy


def start(
    folder: Path, database: Database, proxy: FaultProxy, mode: str, handling: str = PATIENT, *,
    restarts: int = 0, more: str = "", timeout: str = "60s",
    listener: Callable[[str], None] = lambda message: None,
) -> RunResult:  # fmt: skip
    dsn = database.dsn.replace(f":{database.server.port}/", f":{proxy.port}/")
    text = f"""\
name: failing
settings:
  parallelism: 1
  checkpoint: {{interval: 10ms, timeout: {timeout}}}
  batch: {{initial: 200, min: 200, max: 400}}
  restart: {{attempts: {restarts}, delay: 0s}}
  error_handling: {{{handling}}}
sources:
  rows: {{type: generate, config: {{columns: {{id: {{sequence: 0}}, v: {{int: [1, 9]}}}}, rows: {ROWS}, seed: 1}}}}
destinations:
  out:
    type: postgres
    inputs: [rows]
    config: {{connection_string: "{dsn}", table: t, mode: {mode}, batch_size: 500{more}}}
"""

    def told(progress: Progress) -> None:
        if progress.message:
            listener(progress.message)

    return run(load_text(text, base=folder), RunOptions(folder / "home", listener=told))


def ids(database: Database) -> list[int]:
    return [row[0] for row in database.rows("select id from t order by id")]


def letters(folder: Path) -> list[int]:
    files = sorted((folder / "home/failing/dead_letters").glob("*.ndjson"))
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert {(each["step"], each["code"]) for each in lines} <= {("out", "E0510")}
    return sorted(json.loads(each["row"])["id"] for each in lines)


def breaking(proxy: FaultProxy, seed: int) -> Callable[[str], None]:
    """Of the connections that follow an error, three of ten break after some bytes. The first one does."""
    chance = random.Random(seed)
    proxy.faults = Faults(cut_after=(2_000, 60_000))

    def listener(message: str) -> None:
        cut = (500, 60_000) if chance.random() < 0.3 else None
        proxy.faults = Faults(cut_after=cut, reset=chance.random() < 0.5)

    return listener


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(2))
def test_connections_that_break_at_random(database, proxy, tmp_path, mode, seed):
    """Three of ten connections break somewhere within what they carry, and each is followed by another."""
    result = start(tmp_path, database, proxy, mode, listener=breaking(proxy, seed))
    assert result.status == "finished", result.error
    assert proxy.broken >= 1
    assert ids(database) == list(range(ROWS))
    assert letters(tmp_path) == []


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_is_away_for_a_while(database, proxy, tmp_path, mode):
    """Its connections break and it takes no others, until the breaker has opened for the third time."""
    opened: list[str] = []
    breaker = "circuit_breaker: {failure_rate: 0.01, window: 60s, recovery: 5ms}"

    def listener(message: str) -> None:
        opened.extend([message] if "none is made for" in message else [])
        proxy.faults = Faults()
        proxy.refuses = proxy.broken > 0 and len(opened) < 3

    proxy.faults = Faults(cut_after=(30_000, 60_000))
    result = start(tmp_path, database, proxy, mode, f"{PATIENT}, {breaker}", listener=listener)
    assert result.status == "finished", result.error
    assert len(opened) >= 3
    assert ids(database) == list(range(ROWS))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("place", ["prepare.before_apply", "commit.before_commit"])
def test_a_server_that_hangs(database, proxy, tmp_path, mode, place):
    """No byte passes on any connection. It is given up after `statement_timeout` and `connect_timeout`, and the rows are
    written on a new one."""
    hung: list[str] = []

    def at(point: str) -> None:
        if point == f"postgres.{place}" and not hung:
            hung.append(point)
            proxy.hang()

    said: list[str] = []

    def listener(message: str) -> None:
        said.append(message)
        if "did not answer within 0.6 s" in message:
            proxy.reset()
            proxy.go_on()

    more = ", statement_timeout: 500ms, connect_timeout: 100ms"
    with crashpoints.observed(at):
        result = start(tmp_path, database, proxy, mode, more=more, listener=listener)
    assert result.status == "finished", result.error
    assert ids(database) == list(range(ROWS))
    assert len([text for text in said if "did not answer within 0.6 s; trying again" in text]) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_refuses_one_row_in_a_thousand(database, proxy, tmp_path, mode):
    """Exactly these are dead letters, also when connections break meanwhile."""
    database.execute("create table t (id bigint primary key check (id % 1000 <> 7), v bigint)")
    handling = f"{PATIENT}, on_error: dead_letter"
    result = start(tmp_path, database, proxy, mode, handling, listener=breaking(proxy, 5))
    assert result.status == "finished", result.error
    guilty = [i for i in range(ROWS) if i % 1000 == 7]
    assert ids(database) == [i for i in range(ROWS) if i % 1000 != 7]
    assert letters(tmp_path) == guilty
    step = result.steps["out"]
    assert (step["rows_out"], step["errors"], step["dead_letters"]) == (ROWS - 20, 20, 20)


def test_too_many_refused_rows_end_the_search(database, proxy, tmp_path):
    database.execute("create table t (id bigint check (id < 0), v bigint)")
    handling = f"{PATIENT}, on_error: dead_letter, max_errors: 50"
    result = start(tmp_path, database, proxy, "append", handling)
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.code, result.error.step) == ("E0530", "out")
    assert ids(database) == letters(tmp_path) == []


def test_a_refused_row_of_a_mirror_ends_the_run(database, proxy, tmp_path):
    database.execute("create table t (id bigint primary key check (id <> 7), v bigint)")
    result = start(tmp_path, database, proxy, "mirror, key: id")
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.code == "E0510"
    assert ids(database) == []
