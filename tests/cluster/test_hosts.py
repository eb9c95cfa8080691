"""Workers on hosts of their own, which are cut off, stopped and killed: nothing is lost, and nothing is written twice."""

from __future__ import annotations

import datetime
import os
import random
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from hosts import Hosts, WorkersOnHosts, why_not

from dataflare.checkpoint.shared_store import SharedStore
from dataflare.jobs import RunOptions, run
from dataflare.jobs.progress import Progress
from dataflare.workflow import load

WORKFLOW = """
name: hosts
sources:
  events:
    type: generate
    config: {rows: 24000, seed: 3, %s columns: {n: {sequence: 0}, user: {int: [1, 97]}, amount: {int: [0, 999]}}}
transformations:
  sums: {type: aggregate, inputs: [events], config: {group_by: [user], measures: {n: "count(*)", total: "sum(amount)"}}}
destinations:
  sums_out: {type: sqlite, inputs: [sums], config: {path: out.sqlite, table: sums, mode: append}}
  rows_out: {type: file, inputs: [events], config: {path: rows, format: csv}}
settings:
  parallelism: 4
  checkpoint: {interval: 150ms}
  restart: {attempts: 50, delay: 0s}
"""
KINDS = ("kill", "stop", "cut", "cut_one_way")
SEEDS = int(os.environ.get("CLUSTER_SEEDS", "2"))
FIRST = int(os.environ.get("CLUSTER_SEED", str(datetime.date.today().toordinal() * 10)))


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    made = Hosts(5, os.getpid() % 200)
    yield made
    made.close()


class Faults:
    """One fault after another, each when new rows were committed after the one before; a fault is over when another worker
    is in its place."""

    def __init__(self, chance: random.Random, workers: WorkersOnHosts) -> None:
        self._chance, self._workers = chance, workers
        self._left = [chance.choice(KINDS) for _ in range(chance.randint(1, 3))]
        self.done: list[str] = []
        self._seen = 0
        self._over: list[object] = []
        self._starts = 0

    def listen(self, progress: Progress) -> None:
        if self._over and self._workers.starts > self._starts:
            for undo in self._over:
                undo()  # type: ignore[operator]
            self._over = []
        if self._over or not self._left or progress.checkpoints <= self._seen:
            return
        self._seen, kind = progress.checkpoints, self._left.pop()
        self._starts = self._workers.starts
        self._begin(kind)
        self.done.append(kind)

    def _begin(self, kind: str) -> None:
        workers, hosts = self._workers, self._workers.hosts
        number = self._chance.randrange(len(workers.processes))
        process, host = workers.processes[number], workers.host_of[number]
        if process is None:
            return
        match kind:
            case "kill":
                process.kill()
            case "stop":
                os.kill(process.pid, signal.SIGSTOP)
                self._over = [lambda: os.kill(process.pid, signal.SIGCONT)]
            case "cut":
                workers.bad.add(host)
                hosts.cut(host)
                self._over = [lambda: hosts.heal(host), lambda: workers.bad.discard(host)]
            case _:
                other = workers.host_of[(number + 1) % len(workers.host_of)]
                workers.bad.add(host)
                hosts.cut_one_way(host, other)
                self._over = [
                    lambda: hosts.heal_one_way(host, other),
                    lambda: workers.bad.discard(host),
                ]

    def end(self) -> None:
        for undo in self._over:
            undo()  # type: ignore[operator]


def written(folder: Path) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    rows = pl.concat([pl.read_csv(each) for each in (folder / "rows").glob("**/*.csv")])
    with closing(sqlite3.connect(folder / "out.sqlite")) as database:
        sums = database.execute('select "user", n, total from sums').fetchall()
    return sorted(rows.rows()), sorted(sums)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_hosts_that_fail_cost_no_row(seed: int, tmp_path: Path, hosts: Hosts) -> None:
    chance = random.Random(seed)
    folders = [tmp_path / "one", tmp_path / "many"]
    for folder in folders:
        folder.mkdir()
        (folder / "w.yaml").write_text(
            WORKFLOW % ("rate: 4000/s," if folder.name == "many" else "")
        )
    workers = WorkersOnHosts(chance.randint(2, 3), hosts)
    faults = Faults(chance, workers)
    options = RunOptions(
        home=folders[1] / "home", workers=workers, storage=SharedStore, listener=faults.listen
    )
    try:
        result = run(load(folders[1] / "w.yaml"), options)
    finally:
        faults.end()
        workers.close()
    assert result.status == "finished", (faults.done, result.error)
    assert faults.done
    assert run(load(folders[0] / "w.yaml"), RunOptions(home=folders[0] / "home")).error is None
    assert written(folders[1]) == written(folders[0]), faults.done
