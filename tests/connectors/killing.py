"""Runs into and out of a real database server, while they or the server are killed. What differs between databases is
passed in."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from changing import outcome

PROGRAM = Path(__file__).parent / "changing.py"
ROWS = 6_000
WORKFLOW = """\
name: orders
settings:
  parallelism: 1
  checkpoint: {interval: 40ms}
  batch: {initial: 200, min: 100, max: 500}
  restart: {attempts: 1000, delay: 50ms, max_delay: 300ms}
params:
  rate: {type: string, default: 6000/s}
sources:
  orders:
    type: generate
    config:
      rows: 6000
      seed: 7
      rate: "${param:rate}"
      columns: {id: {sequence: 0}, customer: {int: [1, 300]}, amount: {float: [0, 100]}}
  changed: {type: changes, config: {rate: 6000}}
destinations:
  added: {type: DATABASE, inputs: [orders], config: {connection_string: "${DB}", table: added}}
  kept:
    type: DATABASE
    inputs: [orders]
    config: {connection_string: "${DB}", table: kept, mode: upsert, key: customer}
  newest:
    type: DATABASE
    inputs: [orders]
    config: {connection_string: "${DB}", table: newest, mode: upsert, key: customer, sequence: id}
  mirrored:
    type: DATABASE
    inputs: [changed]
    config: {connection_string: "${DB}", table: mirrored, mode: mirror, key: key}
  whole:
    type: DATABASE
    inputs: [orders]
    config: {connection_string: "${DB}", table: whole, mode: overwrite}
"""
POINTS = [
    "write.before_redo:3", "write.before_redo:30", "prepare.before_apply", "prepare.before_apply:6",
    "prepare.after_fsync:2", "prepare.after_fsync:7", "commit.before_marker", "commit.before_marker:3",
    "commit.before_commit", "commit.before_commit:3", "commit.after_commit", "commit.after_commit:3",
]  # fmt: skip
COPYING = """\
name: copying
settings:
  parallelism: 2
  checkpoint: {interval: 40ms}
  restart: {attempts: 1000, delay: 50ms, max_delay: 300ms}
sources:
  given:
    type: DATABASE
    config:
      connection_string: "${DB}"
      table: given
      batch_size: 500
      sharding: {by: hash, splits: 6}
destinations:
  copied: {type: DATABASE, inputs: [given], config: {connection_string: "${DB}", table: copied}}
"""


class Side(NamedTuple):
    """A database. type: of its connectors. connect: makes a connection in autocommit. schema: in SQL, the schema of
    the tables. newest: in SQL, the rows of `added` with the last id of each customer. left: in SQL, the tables that a
    run must not leave behind. key: the name of this column in SQL."""

    type: str
    dsn: str
    connect: Callable[[], Any]
    schema: str
    newest: str
    left: str
    key: str = "key"


class Run:
    """A workflow in a folder of its own, run as a process."""

    def __init__(self, folder: Path, side: Side, text: str = WORKFLOW) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.side = folder, side
        (folder / "workflow.yaml").write_text(text.replace("DATABASE", side.type))

    def start(self, *options: str, crash_at: str | None = None) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
        environment["DB"] = self.side.dsn
        if crash_at is not None:
            environment["DATAFLARE_CRASH_AT"] = crash_at
        command = [sys.executable, str(PROGRAM), "run", "workflow.yaml", "--quiet", *options]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def end(
        self, *options: str, crash_at: str | None = None, die_after: float | None = None
    ) -> int:
        """Its exit status. crash_at: a named place to die at; die_after: or a time in seconds."""
        process = self.start(*options, crash_at=crash_at)
        try:
            _, errors = process.communicate(timeout=die_after or 200)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
            assert die_after is not None, errors
        assert process.returncode in (0, -signal.SIGKILL), errors
        return process.returncode

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.side.connect() as db, db.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def check(self) -> None:
        """Each row is there once, wherever it went."""
        for table in ("added", "whole"):
            found = self.rows(f"select count(*), count(distinct id), min(id), max(id) from {table}")
            assert found == [(ROWS, ROWS, 0, ROWS - 1)], (table, found)
        wanted = self.rows(self.side.newest)
        for table in ("kept", "newest"):
            assert self.rows(f"select customer, id, amount from {table} order by 1") == wanted, (
                table
            )
        assert self.rows(f"select {self.side.key}, round from mirrored order by 1") == outcome()
        assert self.rows(self.side.left) == []

    def forget(self) -> None:
        """The tables and the state of the run."""
        with self.side.connect() as db, db.cursor() as cursor:
            for table in (
                "added",
                "kept",
                "newest",
                "mirrored",
                "whole",
                "copied",
                "_dataflare_epochs",
            ):
                cursor.execute(f"drop table if exists {table}")
        subprocess.run(["rm", "-rf", str(self.folder / ".dataflare")], check=True)


def at_rate(rows: int) -> list[str]:
    """The options that make both sources give so many rows a second."""
    return ["--param", f"rate={rows}/s", "--set", f"sources.changed.config.rate={rows}"]


def kill_run(run: Run, rng: random.Random, points: Sequence[str], kills: int) -> None:
    """Kill the run at each of the points, then at random moments, until it died so often; each time it
    came to its end, look at the tables and begin anew."""
    waiting, died = list(points), 0
    while died < kills:
        paced = at_rate(rng.choice([1_500, 3_000, 6_000]))
        if waiting:
            status = run.end(*paced, crash_at=f"{run.side.type}.{waiting.pop()}")
        else:
            status = run.end(*paced, die_after=rng.uniform(0.5, 1.2))
        if status == 0:
            run.check()
            run.forget()
        else:
            died += 1
    assert run.end() == 0
    run.check()


def kill_server(run: Run, server: Any, rng: random.Random, kills: int) -> int:
    """Kill and start the server at random moments of one run, then let it end; returns how many
    times it died while the run was going on."""
    process = run.start(*at_rate(max(200, 6_000 // max(1, kills))))
    wait_for(run, "added", process)
    died = 0
    for _ in range(kills):
        time.sleep(rng.uniform(0.05, 0.4))
        if process.poll() is not None:
            break
        server.kill()
        died += 1
        time.sleep(rng.choice([0.0, 0.0, 0.2]))
        server.start()
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    return died


def wait_for(run: Run, table: str, process: subprocess.Popen[str]) -> None:
    """Until the run has begun to write."""
    is_there = f"table_schema = {run.side.schema} and table_name = '{table}'"
    for _ in range(600):
        if run.rows(f"select 1 from information_schema.tables where {is_there}"):
            return
        if process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"the run does not begin: {process.communicate()[1]}")
