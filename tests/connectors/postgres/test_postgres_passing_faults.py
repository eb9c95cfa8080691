"""A server that fails for a moment costs the calls that it failed, never the run: each row is there once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest
from msgspec.structs import replace
from postgres_kit import Database, batch
from proxy import Proxy
from servers import faults
from servers import postgres as servers
from servers.faults import MODES, PATIENT, ROWS, Moments, not_restarted, wanted

from dataflare.connectors import memory
from dataflare.connectors.postgres import few
from dataflare.connectors.postgres.reader import PostgresPages
from dataflare.errors import RunError
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.model.types import Schema
from dataflare.resilience.policy import RetryPolicy
from dataflare.workflow.load import load_text


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> Moments:
    return Moments("postgres", monkeypatch)


def start(
    folder: Path, dsn: str, mode: str, *, more: str = "", handling: str = PATIENT, restarts: int = 0,
    listener: Callable[[str], None] = lambda message: None,
) -> RunResult:  # fmt: skip
    config = f'connection_string: "{dsn}", batch_size: 100{more}'
    return faults.start(
        folder, "postgres", mode, config, handling=handling, restarts=restarts, listener=listener
    )


def check(database: Database, result: RunResult, mode: str) -> None:
    """The table has exactly the rows, and the run was not restarted for them."""
    not_restarted(result)
    assert database.rows("select id, customer, amount from t order by id") == wanted(mode)
    assert database.rows("select relname from pg_class where relname like '%dataflare_new%'") == []


def end_sessions(database: Database) -> bool:
    """Terminate the backends of the run that write; False if there are none."""
    ended = database.rows(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = "
        "current_database() and application_name ~ '^dataflare [0-9a-f]{8} [0-9]+$'"
    )
    return ended == [(True,)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "place", ["write.before_redo", "prepare.before_apply", "prepare.after_fsync",
              "commit.before_marker", "commit.before_commit", "commit.after_commit"],
)  # fmt: skip
def test_a_backend_that_is_terminated(database, moments, tmp_path, mode, place):
    for time in (2, 4):
        moments.at(place, time, lambda: end_sessions(database))
    result = start(tmp_path, database.dsn, mode)
    assert len(moments.done) == 2
    check(database, result, mode)


@pytest.fixture
def proxy(database: Database) -> Iterator[Proxy]:
    made = Proxy(database.server.port)
    yield made
    made.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fate", ["lost", "unanswered", "half open"])
def test_a_commit_of_which_nobody_knows_whether_it_was_done(
    database, proxy, moments, tmp_path, mode, fate
):
    """It never reached the server; it did, and the answer was lost; it did not, and the server waits
    for more with all locks held."""

    def next_commit_fails() -> None:
        proxy.commit_fate = fate

    for time in (1, 3):
        moments.at("commit.before_commit", time, next_commit_fails)
    dsn = database.dsn.replace(f":{database.server.port}/", f":{proxy.port}/")
    result = start(tmp_path, dsn, mode)
    assert len(moments.done) == proxy.commits_failed == 2
    check(database, result, mode)


@pytest.fixture(scope="module")
def doomed() -> Iterator[servers.PostgresServer]:
    """A separate server for these tests, to be killed."""
    with servers.server() as made:
        yield made


@pytest.mark.parametrize(
    ("mode", "place"),
    [*((mode, "commit.before_commit") for mode in MODES), ("append", "write.before_redo"),
     ("overwrite", "prepare.before_apply")],
)  # fmt: skip
def test_a_server_that_is_killed_and_comes_back(doomed, moments, tmp_path, mode, place):
    database = Database(doomed, "postgres", tmp_path)
    database.execute("drop table if exists t, _dataflare_epochs")

    def back(message: str) -> None:
        if "(3 of 6)" in message:
            doomed.start()

    moments.at(place, 2, doomed.kill)
    result = start(tmp_path, database.dsn, mode, listener=back)
    assert len(moments.done) == 1
    check(database, result, mode)


def test_a_server_that_stays_away_ends_the_run_and_a_restart_follows_the_retries(
    doomed, moments, tmp_path
):
    database = Database(doomed, "postgres", tmp_path)
    database.execute("drop table if exists t, _dataflare_epochs")
    moments.at("prepare.before_apply", 2, doomed.kill)
    handling = "retry_policy: {max_attempts: 3, initial_backoff: 1ms}"
    result = start(tmp_path, database.dsn, "append", handling=handling)
    assert (result.status, result.exit_status) == ("failed", 1)
    assert result.error is not None
    assert (result.error.code, result.error.step) == ("E0607", "out")
    assert result.error.message.startswith("no connection to 127.0.0.1")
    assert result.error.message.endswith("(after 3 attempts)")
    doomed.start()
    moments.at("commit.before_commit", 3, doomed.kill)

    def back(message: str) -> None:
        if "restarting in" in message:
            doomed.start()

    again = start(tmp_path, database.dsn, "append", handling=handling, restarts=1, listener=back)
    assert again.status == "finished", again.error
    assert len([w for w in again.warnings if w.startswith("restarted after E0607")]) == 1
    assert database.rows("select count(*), count(distinct id), sum(id) from t") == [
        (ROWS, ROWS, ROWS * (ROWS - 1) // 2)]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_table_that_is_locked_for_a_while(database, moments, tmp_path, mode):
    with psycopg.connect(database.dsn) as other:

        def lock() -> None:
            other.execute(
                "create table if not exists t (id bigint, customer bigint, amount bigint)"
            )
            other.execute("lock table t in access exclusive mode")

        def let_go(message: str) -> None:
            if "trying again" in message:
                assert "is locked by another program" in message
                other.commit()

        moments.at("commit.after_commit", 1, lock)
        result = start(tmp_path, database.dsn, mode, more=", lock_timeout: 20ms", listener=let_go)
    assert len(moments.done) == 1
    check(database, result, mode)


@pytest.mark.parametrize(
    ("mode", "state"),
    [*((mode, "40001") for mode in MODES),
     *(("append", state) for state in ("40P01", "53300", "57P01", "57P03"))],
)  # fmt: skip
def test_what_a_server_says_when_it_may_do_next_time(database, tmp_path, mode, state):
    """Raised by the server itself, in the middle of the rows. A sequence is the one thing in it that a
    rollback does not turn back, so each number comes once."""
    unique = ", unique (customer)" if ", key" in mode else ""
    database.execute(
        f"create table t (id bigint, customer bigint, amount bigint{unique})",
        "create sequence calls",
        f"""create function fail() returns trigger language plpgsql as $$ begin
            if nextval('calls') in (30, 90) then
                raise exception 'not now' using errcode = '{state}'; end if;
            return new; end $$""",
        "create trigger failing before insert on t for each row execute function fail()",
    )
    result = start(tmp_path, database.dsn, mode)
    assert database.rows("select last_value > 90 from calls") == [(True,)]
    check(database, result, mode)
    [warning] = [w for w in result.warnings if "tried again" in w]
    assert ("E0605" if state.startswith("40") else "E0607") in warning


def test_rows_that_another_writer_changed_meanwhile(database, moments, tmp_path, monkeypatch):
    """Under repeatable read the server refuses to write over them: 40001. A few rows are sent with their merge, when no other
    writer can come between; these are copied before."""
    monkeypatch.setattr(few, "_ROWS_MAX", 0)
    database.execute(
        f"alter database {database.name} set default_transaction_isolation = 'repeatable read'",
        "create table t (id bigint, customer bigint unique, amount bigint)",
    )
    for time in (2, 4):
        moments.at(
            "prepare.before_apply", time, lambda: database.execute("update t set amount = -1")
        )
    result = start(tmp_path, database.dsn, "upsert, key: customer")
    assert len(moments.done) == 2
    check(database, result, "upsert, key: customer")


def test_without_a_policy_a_new_connection_is_made_at_once(database, moments, tmp_path):
    moments.at("write.before_redo", 3, lambda: end_sessions(database))
    said: list[str] = []
    result = start(
        tmp_path, database.dsn, "append", handling="on_error: fail", listener=said.append
    )
    check(database, result, "append")
    assert [s for s in said if "step 'out': " in s and "trying again in 0 s" in s]


def test_a_policy_of_one_attempt_leaves_it_to_restarts(database, moments, tmp_path):
    moments.at("write.before_redo", 3, lambda: end_sessions(database))
    result = start(
        tmp_path, database.dsn, "append", handling="retry_policy: {max_attempts: 1}", restarts=1
    )
    assert result.status == "finished"
    assert len([w for w in result.warnings if w.startswith("restarted after E0607")]) == 1


def test_a_circuit_breaker_counts_writes_and_holds_them_back(database, moments, tmp_path):
    for time in (6, 8, 10):
        moments.at("write.before_redo", time, lambda: end_sessions(database))
    breaker = "circuit_breaker: {failure_rate: 0.01, window: 60s, recovery: 1ms}"
    result = start(tmp_path, database.dsn, "append", handling=f"retry_count: 5, {breaker}")
    assert len(moments.done) == 3
    check(database, result, "append")
    assert [w for w in result.warnings if "'out': its circuit breaker opened" in w], result.warnings


def test_rows_that_are_left_out_are_told_of_once(database, moments, tmp_path):
    database.execute(
        "create table t (id bigint check (id % 100 <> 7), customer bigint, amount bigint)"
    )
    for place in ("write.before_redo", "prepare.before_apply", "commit.before_commit"):
        moments.at(place, 2, lambda: end_sessions(database))
    result = start(tmp_path, database.dsn, "append", handling=f"{PATIENT}, on_error: skip")
    assert result.status == "finished", result.error
    assert not [w for w in result.warnings if w.startswith("restarted")]
    assert [w for w in result.warnings if f"{ROWS // 100} rows failed" in w], result.warnings
    assert database.rows("select count(*), count(distinct id) from t") == [
        (ROWS - ROWS // 100, ROWS - ROWS // 100)]  # fmt: skip


READING = """\
name: reading
settings:
  parallelism: 1
  checkpoint: {{interval: 2ms}}
  restart: {{attempts: {restarts}, delay: 0s}}
  error_handling: {{{handling}}}
sources:
  given:
    type: postgres
    config: {{connection_string: "{dsn}", table: given, batch_size: 500, sharding: {{by: range, splits: 3}}}}
destinations:
  out: {{type: memory, inputs: [given]}}
"""
GIVEN = 12_000


def read_and_fail(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch, who: str, *, handling: str,
    restarts: int = 0,
) -> RunResult:  # fmt: skip
    """A run over a table. The sessions of its readers (and others that `who` matches) end after
    some pages, and the rows of the table change at the same time."""
    memory.clear()
    database.execute(
        "create table given (id int primary key, v text)",
        f"insert into given select i, repeat('x', 5000) from generate_series(1, {GIVEN}) i",
    )
    taken, real = 0, PostgresPages.take

    def take(self: PostgresPages, rows: int) -> pl.DataFrame | None:
        nonlocal taken
        taken += 1
        if taken == 3:
            database.execute(
                "update given set v = 'new'",
                "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = "
                f"current_database() and application_name like '{who}'",
            )
        return real(self, rows)

    monkeypatch.setattr(PostgresPages, "take", take)
    text = READING.format(dsn=database.dsn, handling=handling, restarts=restarts)
    return run(load_text(text, base=folder), RunOptions(folder / "home"))


@pytest.mark.parametrize("handling", [PATIENT, "on_error: fail"])
def test_a_reader_goes_on_behind_its_last_key_in_the_same_snapshot(
    database, tmp_path, monkeypatch, handling
):
    result = read_and_fail(database, tmp_path, monkeypatch, "dataflare given", handling=handling)
    assert result.status == "finished", result.error
    assert not [w for w in result.warnings if w.startswith("restarted")]
    assert [w for w in result.warnings if w.startswith("step 'given': tried again once")]
    found = memory.committed("out")
    assert sorted(found["id"].to_list()) == list(range(1, GIVEN + 1))
    assert set(found["v"].to_list()) == {"x" * 5_000}


def test_without_its_snapshot_a_run_is_restarted_and_not_tried_in_vain(
    database, tmp_path, monkeypatch
):
    result = read_and_fail(
        database, tmp_path, monkeypatch, "dataflare given%", handling=PATIENT, restarts=1
    )
    assert result.status == "finished", result.error
    assert len([w for w in result.warnings if w.startswith("restarted after E0607")]) == 1
    assert not [w for w in result.warnings if "tried again 2 times" in w]
    assert sorted(memory.committed("out")["id"].to_list()) == list(range(1, GIVEN + 1))


SCHEMA = Schema.of({"id": "int64", "v": "string"})
ONE, TWO, THREE = (batch([{"id": i, "v": f"v{i}"}]) for i in (1, 2, 3))


@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert", "mirror"])
@pytest.mark.parametrize("when", ["write", "prepare", "commit"])
def test_an_older_attempt_does_not_win_by_trying_again(database, when, mode, monkeypatch):
    """The newer one ends its session; it makes another, has all its rows, and is still fenced."""
    monkeypatch.setattr("dataflare.sdk.sql.session._WRITE_ROWS", 1)
    config: dict[str, Any] = {"mode": mode}
    if mode in ("upsert", "mirror"):
        config["key"] = ["id"]

    async def go():
        policy = RetryPolicy.model_validate({"max_attempts": 5, "initial_backoff": "1ms"})
        old = await database.step(SCHEMA, policy=policy, **config).start()
        first = await old.epoch(1, ONE)
        second = None
        if when != "write":
            await old.write(TWO)
        if when == "commit":
            second = await old.prepare(2)
        folder = database.folder / "elsewhere"
        folder.mkdir()
        new = database.step(SCHEMA, attempt=2, **config)
        new.context = replace(new.context, redo=folder)
        await new.start(1, [first])
        last = old.prepare(2, TWO) if second is None else old.commit(2, [second])
        with pytest.raises(RunError) as caught:
            await last
        assert caught.value.code == "E0804"
        assert len(old.retried) <= 1, "and not tried in vain"
        await old.close()
        await new.epoch(2, THREE, final=True)
        await new.close()
        assert database.rows("select id from t order by id") == [(1,), (3,)]

    asyncio.run(go())
