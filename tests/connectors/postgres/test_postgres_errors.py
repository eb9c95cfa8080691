"""What goes wrong between us and a server: said as errors of DataFlare, without a password, worth retrying or not."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from optional_packages import package
from postgres_kit import Database, batch, drain, run
from servers.certificates import make_certificate
from servers.postgres import PASSWORD, server

from dataflare.connectors.postgres.connection import Server
from dataflare.connectors.postgres.errors import postgres_errors, translated
from dataflare.engine.reopening import ReopeningReader
from dataflare.errors import ConfigError, DataError, DataFlareError, Retry, SystemError_, render
from dataflare.model.types import Schema
from dataflare.resilience.retry import Retried, Retrying
from dataflare.sdk import registry
from dataflare.sdk.source import EndOfSplit

SCHEMA = Schema.of({"id": "int64"})


def refused(database: Database, **config: object) -> DataFlareError:
    with pytest.raises(DataFlareError) as caught:
        run(database.source(table="t", **config).validate())
    return caught.value


def test_a_wrong_password_is_said_and_not_shown(database):
    error = refused(database, connection_string=database.dsn.replace("s3cret", "hunter2"))
    assert (error.code, error.retry, error.exit_status) == ("E0606", Retry.NEVER, 1)
    assert error.message == (
        f"127.0.0.1:{database.server.port}/{database.name} refuses the login: password authentication "
        'failed for user "tester"'
    )
    assert "hunter2" not in render(error)
    assert "hunter2" not in repr(error.__cause__)


@pytest.mark.parametrize("form", ["uri", "pairs"])
def test_a_server_that_is_not_there_is_worth_waiting_for(database, form):
    dsn = {"uri": f"postgresql://me:{PASSWORD[:4]}@127.0.0.1:1/shop",
           "pairs": "host=127.0.0.1 port=1 dbname=shop password=s3cr"}[form]  # fmt: skip
    error = refused(database, connection_string=dsn)
    assert (error.code, error.retry) == ("E0607", Retry.LATER)
    assert error.message == "no connection to 127.0.0.1:1/shop: Connection refused"


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda dsn: dsn.rpartition("/")[0] + "/nowhere", "E0604", 'database "nowhere" does not exist'),
        (lambda dsn: dsn.replace("tester", "stranger"), "E0606", "refuses the login"),
        (lambda dsn: dsn + "?sslmode=require", "E0609", "server does not support SSL, but SSL was required"),
        (lambda dsn: dsn.replace("127.0.0.1", "no-such-host.invalid"), "E0607", "cannot be found"),
        (lambda dsn: dsn + "?sslmode=verify-full&sslrootcert=/nowhere.crt", "E0609", "no TLS connection to"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_connection_is_said(database, change, code, said):
    error = refused(database, connection_string=change(database.dsn))
    assert error.code == code
    assert said in error.message
    assert PASSWORD not in render(error)


@pytest.mark.parametrize("text", ["host=x password=a b", "postgresql://u:p@ss@h:x/y?=", "nonsense"])
def test_a_text_that_is_no_connection_string_is_not_repeated(database, text):
    error = refused(database, connection_string=text)
    assert (error.code, error.exit_status) == ("E0414", 2)
    assert error.message == "'connection_string' is not one that PostgreSQL understands"
    assert error.__cause__ is None


def test_nothing_shows_the_password(database, caplog):
    caplog.set_level(logging.DEBUG)
    source, destination = database.source(table="t"), database.destination()
    server = Server.of(source.config)
    shown = [
        repr(source.config), str(source.config), repr(destination.config), repr(server), str(server),
        server.label, caplog.text,
    ]  # fmt: skip
    assert not [text for text in shown if PASSWORD in text or PASSWORD.replace("/", "%2F") in text]


def test_a_wrong_config_does_not_show_the_password(database):
    class_ = registry.destination("postgres")
    with pytest.raises(ValueError) as caught:
        class_.Config(connection_string=database.dsn, table="t", mode="upsert")
    assert PASSWORD[:5] not in str(caught.value)


def test_rights_that_are_missing_are_named(database):
    database.execute(
        "create table t (id bigint primary key)",
        "drop role if exists guest",
        "create role guest login password 'guest-Pass1'",
    )
    dsn = database.server.dsn(database.name, user="guest").replace(
        "s3cret-Pass%2Fw0rd", "guest-Pass1"
    )

    async def go():
        error = None
        with pytest.raises(SystemError_) as caught:
            await database.source(table="t", connection_string=dsn).validate()
        error = caught.value
        assert (error.code, error.help) == ("E0602", 'grant select on "public"."t"')
        with pytest.raises(SystemError_) as caught:
            await database.destination(connection_string=dsn).validate(SCHEMA)
        assert caught.value.code == "E0602"
        assert caught.value.message.endswith("it lacks the right to insert")
        with pytest.raises(SystemError_) as caught:
            await database.step(SCHEMA, connection_string=dsn, table="other").start()
        assert caught.value.code == "E0602"
        assert "permission denied for schema public" in caught.value.message
        facts = await database.destination(connection_string=dsn, mode="mirror", key="id").inspect()
        assert facts["user"] == "guest"
        assert facts["missing"] == (
            "the right to select, the right to insert, the right to update, the right to delete, "
            "the right to create _dataflare_epochs in public"
        )

    try:
        run(go())
    finally:
        database.execute("drop owned by guest", "drop role guest")


def test_a_look_tells_what_is_there(database):
    database.execute("create table t (id bigint primary key)")

    async def go():
        facts = await database.source(table="t").inspect()
        assert facts["server"].startswith("PostgreSQL ")
        assert (facts["user"], facts["encryption"], facts["key"]) == ("tester", "none", "id")
        assert facts["replay"] == "by key"
        facts = await database.destination().inspect()
        assert (facts["table"], facts["missing"]) == ("t", "nothing")
        facts = await database.destination(table="new").inspect()
        assert (facts["table"], facts["missing"]) == ("missing; it will be created", "nothing")

    run(go())


def test_a_statement_that_takes_too_long_is_ended(database):
    async def go():
        with pytest.raises(SystemError_) as caught:
            await database.read(query="select pg_sleep(30)::text as a", statement_timeout="200ms")
        error = caught.value
        assert (error.code, error.retry) == ("E0608", Retry.LATER)
        assert error.message.endswith("took too long: canceling statement due to statement timeout")

    run(go())


def test_a_table_that_others_hold_is_waited_for_and_no_longer(database):
    database.execute("create table t (id bigint)")

    async def go():
        step = await database.step(SCHEMA, lock_timeout="200ms").start()
        with psycopg.connect(database.dsn) as other:
            other.execute("lock table t")
            with pytest.raises(SystemError_) as caught:
                await step.prepare(1, batch([{"id": 1}]))
        assert (caught.value.code, caught.value.retry) == ("E0605", Retry.LATER)
        assert caught.value.message.endswith("is locked by another program")
        step.die()

    run(go())


def test_a_server_that_hangs_is_not_waited_for_forever(tmp_path):
    with server() as made:
        database = Database(made, "postgres", tmp_path)
        made.pause()
        try:
            error = refused(database, connect_timeout="2s")
        finally:
            made.go_on()
        assert (error.code, error.retry) == ("E0607", Retry.LATER)


def test_a_standby_may_not_be_written(database):
    async def go():
        dsn = database.dsn + "?options=-c%20default_transaction_read_only%3Don"
        with pytest.raises(SystemError_) as caught:
            await database.step(SCHEMA, connection_string=dsn).start()
        assert caught.value.code == "E0602"
        assert "read-only" in caught.value.help

    run(go())


def test_tls_works_both_ways(tmp_path):
    """With a certificate made for the occasion."""
    with server() as made:
        trusted = made.secure()
        Database(made, "postgres", tmp_path).execute("alter system set ssl = on")
        made.restart()
        more = {"sslmode": "verify-full", "sslrootcert": str(trusted)}
        dsn = made.dsn(**more)
        database = Database(made, "postgres", tmp_path)

        async def go():
            step = await database.step(SCHEMA, connection_string=dsn).start()
            await step.epoch(1, batch([{"id": 1}]), final=True)
            await step.close()
            found, _ = await database.read(table="t", connection_string=dsn)
            assert found["id"].to_list() == [1]
            facts = await database.source(table="t", connection_string=dsn).inspect()
            assert facts["encryption"].startswith("TLS")

        run(go())
        other = tmp_path / "other.crt"
        make_certificate(other, tmp_path / "other.key")
        error = refused(
            database, connection_string=made.dsn(sslmode="verify-full", sslrootcert=str(other))
        )
        assert error.code == "E0609"


@pytest.mark.parametrize(
    ("state", "kind", "code", "retry"),
    [
        ("53100", SystemError_, "E0603", Retry.LATER),
        ("53200", SystemError_, "E0600", Retry.LATER),
        ("53300", SystemError_, "E0607", Retry.LATER),
        ("57P01", SystemError_, "E0607", Retry.LATER),
        ("57P03", SystemError_, "E0607", Retry.LATER),
        ("08006", SystemError_, "E0607", Retry.LATER),
        ("40P01", SystemError_, "E0605", Retry.LATER),
        ("40001", SystemError_, "E0605", Retry.LATER),
        ("42501", SystemError_, "E0602", Retry.NEVER),
        ("3D000", SystemError_, "E0604", Retry.NEVER),
        ("42P01", SystemError_, "E0604", Retry.NEVER),
        ("22003", DataError, "E0510", Retry.NEVER),
        ("23505", DataError, "E0510", Retry.NEVER),
        ("XX000", SystemError_, "E0600", Retry.NEVER),
    ],
)
def test_each_kind_of_error_has_a_code(state, kind, code, retry):
    error = psycopg.errors.lookup(state)("something") if state != "53100" else _stated(state)
    found = translated(error, "h:1/d", "table 't'")
    assert (type(found), found.code, found.retry) == (kind, code, retry)


def _stated(state: str) -> psycopg.Error:
    class Stated(psycopg.OperationalError):
        sqlstate = state

    return Stated("could not extend file: No space left on device")


@pytest.mark.parametrize(
    "text",
    [
        'connection failed: connection to server at "h", port 1 failed: server sent an error response '
        "during SSL exchange",
        "consuming input failed: SSL error: unexpected eof while reading",
        "[libpq] Execution error [PGRES_FATAL_ERROR]: FATAL:  terminating connection due to administrator "
        "command",
        'connection to server at "h", port 1 failed: FATAL:  something in another language',
        "[libpq] Execution error [PGRES_FATAL_ERROR]: ERROR:  lost connection to parallel worker",
        "[libpq] Failed to execute query 'COPY (...) TO STDOUT': FATAL:  postmaster exited during a parallel "
        "transaction",
    ],
)
def test_a_connection_that_breaks_is_worth_making_again(text):
    found = translated(psycopg.OperationalError(text), "h:1/d", "table 't'")
    assert (found.code, found.retry) == ("E0607", Retry.LATER)


def test_an_error_in_the_middle_of_a_result_may_come_from_arrow():
    pyarrow = package("pyarrow")
    text = (
        "[libpq] Execution error [PGRES_FATAL_ERROR]: ERROR:  lost connection to parallel worker\n"
    )
    with pytest.raises(SystemError_) as caught, postgres_errors("h:1/d", "table 't'"):
        raise pyarrow.ArrowInvalid(text)
    assert (caught.value.code, caught.value.retry) == ("E0607", Retry.LATER)
    with pytest.raises(ValueError, match="ours"), postgres_errors("h:1/d", "table 't'"):
        raise ValueError("ours")


def test_what_nobody_has_heard_of_is_still_ours():
    found = translated(psycopg.OperationalError("flux capacitor"), "h:1/d", "table 't'")
    assert (found.code, found.message) == ("E0600", "table 't' failed at h:1/d: flux capacitor")


async def to_the_end(reader: Any) -> list[int]:
    seen: list[int] = []
    try:
        while True:
            seen += (await reader.read_batch(500)).frame["id"].to_list()
    except EndOfSplit:
        return seen


def test_a_reader_makes_its_connection_again_where_nothing_is_lost(database):
    database.execute("create table t (id int primary key, v text)",
                     "insert into t select i, repeat('x', 1000) from generate_series(1, 30000) i")  # fmt: skip

    async def go():
        made = database.source(table="t")
        [split] = await made.splits()
        retried: list[Retried] = []
        reader = ReopeningReader(made, split, None, Retrying("in", on_retry=retried.append), 0.0)
        seen = (await reader.read_batch(500)).frame["id"].to_list()
        database.execute(
            "delete from t where id % 2 = 0",  # not in the snapshot
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'dataflare in'",
        )
        seen += await to_the_end(reader)
        assert seen == list(range(1, 30_001))
        assert [each.error.code for each in retried] == ["E0607"]
        await reader.aclose()
        await made.aclose()

    run(go())


def test_a_reader_that_cannot_go_on_by_itself_asks_for_a_restart(database):
    database.execute("create table t (id int, v text)",
                     "insert into t select i, repeat('x', 1000) from generate_series(1, 30000) i")  # fmt: skip

    async def go():
        made = database.source(table="t")
        [split] = await made.splits()
        reader = await made.open(split, None)
        await reader.read_batch(500)
        database.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'dataflare in'"
        )
        with pytest.raises(SystemError_) as caught:
            await to_the_end(reader)
        assert (caught.value.code, caught.value.retry) == ("E0607", Retry.LATER)
        await reader.aclose()
        await made.aclose()
        # From the start again, as an unfinished run without checkpoints does.
        again = database.source(table="t")
        [split] = await again.splits()
        found, _ = await drain(again, split, None)
        assert sum(f.height for f in found) == 30_000
        await again.aclose()

    run(go())


@pytest.mark.parametrize("library", ["psycopg", "adbc_driver_postgresql"])
def test_a_missing_library_names_its_extra(library, database):
    code = f"""
import sys, asyncio
sys.modules[{library!r}] = None
from dataflare.sdk import registry
from dataflare.sdk.source import EndOfSplit
from dataflare.sdk.context import ConnectorContext
from dataflare.errors import ConfigError
async def go():
    class_ = registry.source("postgres")
    made = class_(class_.Config(connection_string={database.dsn!r}, query="select 1 as a"), ConnectorContext("in"))
    [split] = await made.splits()
    await (await made.open(split, None)).read_batch(1)
try:
    asyncio.run(go())
except ConfigError as error:
    print(error.code, error.help)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "E0402 install it with: pip install 'dataflare[postgres]'", (
        done.stderr
    )


def test_a_run_says_it_in_one_block(database, tmp_path: Path):
    dsn = database.dsn.replace("s3cret", "wrong")
    (tmp_path / "flow.yaml").write_text(f"""
name: flow
sources:
  a: {{type: postgres, config: {{connection_string: "{dsn}", table: t}}}}
destinations:
  b: {{type: blackhole, inputs: [a]}}
""")
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", "run", "flow.yaml"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert re.match(r"error\[E0606\]: 127\.0\.0\.1:\d+/test_\d+ refuses the login", done.stderr)
    assert "wrong-Pass" not in done.stderr + done.stdout
    assert not isinstance(done, ConfigError)
