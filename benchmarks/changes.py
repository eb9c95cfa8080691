"""Changes of tables beside what the servers' own programs do with them: `python -m benchmarks.changes [CASE ...]`.

Starts servers of its own, which share this machine's processors with DataFlare. Each turn reads the same changes of the
same log: a slot is copied, or the state of a run put back. Prints a table in Markdown.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import Candidate, Failed, Measured, take_turns
from benchmarks.streams.case import (
    OURS,
    ROOT,
    Bench,
    Outcome,
    Way,
    asked,
    compared,
    inverted,
    shown,
    spread,
    turns,
    workflow,
)
from benchmarks.streams.command import main

TABLE = (
    "create table {} (id bigint primary key, customer int, name varchar(40), price double precision, "
    "at timestamp, ok smallint, note varchar(200))"
)
POSTGRES_ROW = (
    "i, i % 1000, 'customer ' || i % 1000, i * 0.5, timestamp '2026-01-01' + i * interval '1 s', i % 2, "
    "rpad('note of order ' || i, 140, 'abcdefghijklmnopqrstuvwxyz')"
)
MARIADB_ROW = (
    "seq, seq % 1000, concat('customer ', seq % 1000), seq * 0.5, timestamp '2026-01-01 00:00:00' + interval seq second, "
    "seq % 2, rpad(concat('note of order ', seq), 140, 'abcdefghijklmnopqrstuvwxyz')"
)
"""About 200 bytes."""
ADBC = """\
import sys, pyarrow.parquet as pq
from adbc_driver_postgresql import dbapi
cursor = dbapi.connect(sys.argv[1]).cursor()
cursor.execute("select * from orders")
rows = cursor.fetch_record_batch()
with pq.ParquetWriter(sys.argv[2], rows.schema, compression="zstd") as writer:
    for batch in rows:
        writer.write_batch(batch)
"""
IN_A_TRANSACTION = 100
TABLES = 20
MEMORY_MB = 1074
"""1 GiB."""


# -- servers ---------------------------------------------------------------------------------------


def postgres(bench: Bench, *more: str) -> str:
    """A server with a logical log; its connection string."""
    from servers.postgres import server

    settings = ["shared_buffers = 512MB", "wal_level = logical", "max_wal_size = 8GB", *more]
    return str(bench.stack.enter_context(server(*settings)).dsn())


def psql(dsn: str, *statements: str) -> list[tuple[Any, ...]]:
    """The rows of the last statement, if it has any."""
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as db:
        for statement in statements:
            cursor = db.execute(statement)
        return cursor.fetchall() if cursor.description else []


def copied_slot(dsn: str, name: str) -> None:
    """A slot that stands where the slot `base` stands."""
    psql(
        dsn,
        f"select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{name}'",
        f"select pg_copy_logical_replication_slot('base', '{name}')",
    )


def mariadb(bench: Bench) -> Any:
    from servers.mariadb import server

    settings = ["--innodb-buffer-pool-size=512M", "--innodb-flush-log-at-trx-commit=2"]
    return bench.stack.enter_context(server(*settings))


# -- ours ------------------------------------------------------------------------------------------


def changes_of(kind: str, dsn: str, **cdc: Any) -> dict[str, Any]:
    """A source of the changes that are there."""
    config = {"connection_string": dsn, "table": "orders", "cdc": {"stop": "latest", **cdc}}
    return {"type": kind, "config": config}


def to_parquet(bench: Bench, name: str, source: Mapping[str, Any]) -> tuple[list[str], Path]:
    """The command that copies a source of changes into Parquet, and where its files are."""
    out = bench.scratch / OURS / "out"
    config = {"path": f"{out}/", "format": "parquet", "changelog": "columns"}
    definition = {
        "sources": {"orders": source},
        "destinations": {"out": {"type": "file", "inputs": ["orders"], "config": config}},
    }
    return workflow(bench, name, definition), out


def rows_in(out: Path) -> int:
    return asked("parquet_rows", out)


# -- cases -----------------------------------------------------------------------------------------


def postgres_snapshot(bench: Bench) -> Outcome:
    """The first read of a table that is followed, beside a read of it by ADBC."""
    rows, dsn = bench.rows(5_000_000), postgres(bench)
    psql(
        dsn,
        TABLE.format("orders"),
        f"insert into orders select {POSTGRES_ROW} from generate_series(1, {rows}) i",
        "vacuum analyze orders",
        "create publication pub for table orders",
    )
    source = changes_of("postgres", dsn, slot="ours", publication="pub")
    command, out = to_parquet(bench, "snapshot", source)
    drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
    ours = Way(OURS, command, lambda: rows_in(out), lambda: psql(dsn, drop))
    by_hand = bench.scratch / "adbc"
    theirs = Way(
        "adbc",
        [sys.executable, "-c", ADBC, dsn, str(by_hand / "rows.parquet")],
        lambda: rows_in(by_hand),
    )
    return compared(bench, "PostgreSQL, first read to Parquet", [ours, theirs], rows, 0.9)


def postgres_log(bench: Bench) -> Outcome:
    """Inserts out of the log, beside pg_recvlogical that throws them away."""
    rows, dsn = bench.rows(2_000_000), postgres(bench)
    transactions = -(-rows // IN_A_TRANSACTION)
    psql(
        dsn,
        TABLE.format("orders"),
        "create publication pub for table orders",
        "select pg_create_logical_replication_slot('base', 'pgoutput')",
        f"do $$ begin for t in 0..{transactions - 1} loop insert into orders select {POSTGRES_ROW} from "
        f"generate_series(t * {IN_A_TRANSACTION} + 1, (t + 1) * {IN_A_TRANSACTION}) i; commit; end loop; end $$",
    )
    [(end,)] = psql(dsn, "select pg_current_wal_flush_lsn()::text")
    source = changes_of("postgres", dsn, slot="ours", publication="pub", snapshot="never")
    command, out = to_parquet(bench, "log", source)
    ours = Way(OURS, command, lambda: rows_in(out), lambda: copied_slot(dsn, "ours"))
    count = transactions * IN_A_TRANSACTION
    theirs = Way(
        "pg_recvlogical",
        ["pg_recvlogical", "-d", dsn, "-S", "theirs", "--start", "--no-loop", "-F", "0", "-f", "/dev/null",
         "-E", end, "-o", "proto_version=1", "-o", "publication_names=pub"],
        lambda: count,
        lambda: copied_slot(dsn, "theirs"),
    )  # fmt: skip
    measured, reference, again = turns(bench, [ours, theirs], count)
    outcome = beside("PostgreSQL, log to Parquet", measured, reference, again, count)
    ratio = inverted(measured.against[reference.name]).median
    outcome.bar, outcome.met = "at least 0.7", ratio >= 0.7
    return also_per_second(outcome, 120_000, count / measured.wall.median)


def mariadb_log(bench: Bench) -> Outcome:
    """Inserts out of the log, beside mariadb-binlog that copies the log as it is."""
    rows, server = bench.rows(2_000_000), mariadb(bench)
    transactions = -(-rows // IN_A_TRANSACTION)
    count = transactions * IN_A_TRANSACTION
    ours, first = mariadb_changes(
        bench,
        server,
        f"for t in 0..{transactions - 1} do insert into orders select {MARIADB_ROW} from "
        f"(select seq + t * {IN_A_TRANSACTION} as seq from seq_1_to_{IN_A_TRANSACTION}) as n; end for",
    )
    from servers.mariadb import PASSWORD

    theirs = Way(
        "mariadb-binlog",
        ["mariadb-binlog", "--read-from-remote-server", "--host=127.0.0.1", f"--port={server.port}",
         f"--user={server.user}", "--raw", "--to-last-log", "--result-file=./", first],
        lambda: count,
        environment={"MYSQL_PWD": PASSWORD},
    )  # fmt: skip
    measured, reference, again = turns(bench, [ours, theirs], count)
    outcome = beside("MariaDB, log to Parquet", measured, reference, again, count)
    return also_per_second(outcome, 80_000, count / measured.wall.median)


def mariadb_changes(bench: Bench, server: Any, statement: str) -> tuple[Way, str]:
    """A way to read the changes that a statement makes, and the first file of the log that has them."""
    source = changes_of("mysql", server.dsn(ssl_mode="disabled"), snapshot="never")
    command, out = to_parquet(bench, "log", source)
    state, kept = bench.scratch / ".dataflare", bench.scratch / "kept"
    with server.client("test") as db, db.cursor() as cursor:
        cursor.execute(TABLE.format("orders"))
        subprocess.run(command, check=True)  # it ends at once, and the next run goes on there
        shutil.move(state, kept)
        cursor.execute("flush binary logs")
        cursor.execute("show master status")
        first = str(cursor.fetchone()[0])
        cursor.execute(f"begin not atomic {statement}; end")

    def ready() -> None:
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(kept, state)

    resumed = [word for word in command if word != "--fresh"]
    return Way(OURS, resumed, lambda: rows_in(out), ready), first


def postgres_transaction(bench: Bench) -> Outcome:
    """One large transaction: how much memory it takes."""
    rows, dsn = bench.rows(5_000_000), postgres(bench)
    psql(
        dsn,
        TABLE.format("orders"),
        "create publication pub for table orders",
        "select pg_create_logical_replication_slot('base', 'pgoutput')",
        f"insert into orders select {POSTGRES_ROW} from generate_series(1, {rows}) i",
    )
    source = changes_of("postgres", dsn, slot="ours", publication="pub", snapshot="never")
    command, out = to_parquet(bench, "log", source)
    ours = Way(OURS, command, lambda: rows_in(out), lambda: copied_slot(dsn, "ours"))
    return in_memory(bench, "PostgreSQL, one transaction", ours, rows)


def mariadb_transaction(bench: Bench) -> Outcome:
    rows, server = bench.rows(5_000_000), mariadb(bench)
    insert = f"insert into orders select {MARIADB_ROW} from seq_1_to_{rows}"
    ours, _ = mariadb_changes(bench, server, insert)
    return in_memory(bench, "MariaDB, one transaction", ours, rows)


def postgres_latency(bench: Bench) -> Outcome:
    """From a commit in one database to the commit of its copy in another, for each row: the server keeps the times."""
    dsn = postgres(bench, "track_commit_timestamp = on")
    psql(dsn, "create database copied")
    copied = dsn.replace("/postgres", "/copied")
    psql(dsn, *(f"create table t{n} (id bigint primary key, note text)" for n in range(TABLES)))
    definition = {
        "settings": {"checkpoint": {"interval": "100ms"}},
        "sources": {"shop": {"type": "postgres", "config": {"connection_string": dsn, "tables": ["public.*"], "cdc": True}}},
        "destinations": {"copy": {"type": "postgres", "inputs": ["shop"], "config": {
            "connection_string": copied, "table": "{table}", "mode": "mirror"}}},
    }  # fmt: skip
    command = workflow(bench, "mirror", definition)
    log = bench.scratch / "errors.txt"
    with log.open("wb") as errors:
        run = subprocess.Popen(command, cwd=bench.scratch, stderr=errors)
    try:
        is_followed = "select 1 from pg_replication_slots where active"
        wait_until(lambda: bool(psql(dsn, is_followed)), run, log)
        written = write_steadily(dsn, max(4.0, 20 * bench.scale))
        count = " + ".join(f"(select count(*) from t{n})" for n in range(TABLES))
        wait_until(lambda: psql(copied, f"select {count}") == [(written,)], run, log)
    finally:
        run.send_signal(signal.SIGINT)
        run.wait(60)
    times = " union all ".join(
        f"select {n}, id, extract(epoch from pg_xact_commit_timestamp(xmin))::float8 from t{n}"
        for n in range(TABLES)
    )
    began, ended = ({(n, id_): at for n, id_, at in psql(where, times)} for where in (dsn, copied))
    steady = min(began.values()) + 2
    late = sorted(1000 * (ended[row] - at) for row, at in began.items() if at > steady)
    p50, p99 = late[len(late) // 2], late[len(late) * 99 // 100]
    outcome = Outcome(
        f"PostgreSQL to PostgreSQL, {TABLES} tables, 1,000 changes/s, checkpoints each 100 ms",
        "p50 at most 120 ms, p99 at most 250 ms",
        f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, most {late[-1]:.0f} ms",
    )
    outcome.met = p50 <= 120 and p99 <= 250
    return outcome


def write_steadily(dsn: str, seconds: float) -> int:
    """Insert a row into each table fifty times a second, each time in one transaction. Returns the number of rows."""
    import psycopg

    note, rounds = "x" * 100, int(seconds * 50)
    with psycopg.connect(dsn) as db, db.cursor() as cursor:
        began = time.monotonic()
        for number in range(rounds):
            for n in range(TABLES):
                cursor.execute(f"insert into t{n} values (%s, %s)", (number, note))
            db.commit()
            time.sleep(max(0.0, began + number / 50 - time.monotonic()))
    return rounds * TABLES


def wait_until(is_so: Callable[[], bool], run: subprocess.Popen[bytes], log: Path) -> None:
    """Raises Failed if the run ends, or after two minutes."""
    end = time.monotonic() + 120
    while not is_so():
        if run.poll() is not None or time.monotonic() > end:
            raise Failed(f"the run does not get there: {log.read_text()[-2000:]}")
        time.sleep(0.1)


def in_memory(bench: Bench, case: str, ours: Way, rows: int) -> Outcome:
    """One turn. The bar is on its peak memory."""
    alone = Candidate(ours.name, ours.command, {"PYTHONPATH": str(ROOT)})
    [measured] = take_turns([alone], 1, bench.scratch, lambda name: ours.ready())
    if (counted := ours.count()) != rows:
        raise Failed(f"{case}: {counted:,} rows are at the destination, expected {rows:,}")
    outcome = Outcome(
        f"{case} of {rows:,} rows", f"at most {MEMORY_MB:,} MB", shown(measured, rows)
    )
    outcome.met = measured.rss.max <= MEMORY_MB
    return outcome


def beside(case: str, ours: Measured, theirs: Measured, again: Measured, rows: int) -> Outcome:
    """Without a bar."""
    return Outcome(
        case,
        "",
        shown(ours, rows),
        shown(theirs, rows),
        spread(inverted(ours.against[theirs.name])),
        spread(again.against[theirs.name]),
    )


def also_per_second(outcome: Outcome, least: int, rate: float) -> Outcome:
    """With the bar that so many changes a second are read."""
    bar = f"at least {least:,} changes/s"
    outcome.bar = f"{outcome.bar}, {bar}" if outcome.bar else bar
    outcome.met = outcome.met is not False and rate >= least
    return outcome


CASES: dict[str, Callable[[Bench], Outcome]] = {
    "postgres_snapshot": postgres_snapshot,
    "postgres_log": postgres_log,
    "postgres_latency": postgres_latency,
    "postgres_transaction": postgres_transaction,
    "mariadb_log": mariadb_log,
    "mariadb_transaction": mariadb_transaction,
}


if __name__ == "__main__":
    sys.exit(main("benchmarks.changes", __doc__, CASES, sys.argv[1:]))
