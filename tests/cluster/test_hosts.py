"""Workers on hosts of their own, which are cut off, stopped and killed, whose network is bad and whose clocks are wrong:
nothing is lost, nothing is written twice, and nothing hangs.

`make hosts SEEDS=60 SEED=1` runs scenarios; hosts that are stopped stay so for a minute there, in one of ten.
"""

from __future__ import annotations

import datetime
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hosts import MACHINE, Hosts, WorkersOnHosts, why_not
from places import PLACES, Place
from servers.services import SERVICES

from dataflare.checkpoint.shared_store import SharedStore
from dataflare.errors import render
from dataflare.jobs import RunOptions, run
from dataflare.jobs.progress import Progress
from dataflare.workflow import load

WORKFLOW = """
name: hosts
sources:
  events:
    type: generate
    config: {rows: ROWS, seed: 3, RATE columns: {n: {sequence: 0}, user: {int: [1, 97]}, amount: {int: [0, 999]}}}
transformations:
  sums: {type: aggregate, inputs: [events], config: {group_by: [user], measures: {n: "count(*)", total: "sum(amount)"}}}
destinations:
  sums_out: {type: sqlite, inputs: [sums], config: {path: out.sqlite, table: sums, mode: append}}
  rows_out: {inputs: [events], PLACE}
settings:
  parallelism: 4
  checkpoint: {interval: 150ms}
  restart: {attempts: 50, delay: 0s}
"""
RATE, ROWS = 4_000, 24_000
SEEDS = int(os.environ.get("CLUSTER_SEEDS", "6"))
FIRST = int(os.environ.get("CLUSTER_SEED", str(datetime.date.today().toordinal() * SEEDS)))
STOPPED_S = float(os.environ.get("CLUSTER_STOPPED_S", "0"))
"""How long a stopped worker stays so, in one of ten scenarios; else until another one has its place."""
GOES_ON_S = 40.0
"""A fault is noticed within 2.5 s. The rest is the start of another worker, and what a busy machine takes."""

HARD = ("kill", "stop", "cut", "cut_one_way")
"""The worker is replaced, and the fault is over then."""
SOFT: dict[str, dict[str, object]] = {
    "late": {"delay_s": 0.08, "jitter_s": 0.05},
    "narrow": {"bytes_per_s": 150_000.0, "delay_s": 0.01},
    "lossy": {"loss": 0.08},
    "twice": {"twice": 0.3, "jitter_s": 0.02},
    "flap": {"is_cut": True},
}
"""The network is bad for a while, and no worker has to be lost."""
CLOCKS = (-86_400, -3_600, -20, 20, 3_600)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    made = Hosts(5, os.getpid() % 200)
    yield made
    made.close()


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], object]]:
    """Servers that start when they are needed, and stay."""
    running: dict[str, object] = {}
    with ExitStack() as stack:

        def get(name: str) -> object:
            if name not in running:
                SERVICES[name].may_start()
                running[name] = stack.enter_context(SERVICES[name].server())
            return running[name]

        yield get


class Faults:
    """One fault after another, each when rows were committed after the one before."""

    def __init__(self, chance: random.Random, workers: WorkersOnHosts, stopped_s: float) -> None:
        self._chance, self._workers, self._stopped_s = chance, workers, stopped_s
        kinds = [*HARD, *SOFT]
        self._left = [chance.choice(kinds) for _ in range(chance.randint(1, 3))]
        if stopped_s:
            self._left.append("stop")
        self.done: list[str] = []
        self._seen = 0
        self._undo: Callable[[], object] | None = None
        self._is_over: Callable[[Progress], bool] = lambda progress: True
        self._began_s: float | None = None
        self.longest_s = 0.0

    def listen(self, progress: Progress) -> None:
        self._time(progress)
        if self._undo is not None and self._is_over(progress):
            self.end()
        if self._undo is not None or not self._left or progress.checkpoints <= self._seen:
            return
        self._seen = progress.checkpoints
        self._began_s = progress.elapsed_s
        self._begin(self._left.pop(), progress)

    def _time(self, progress: Progress) -> None:
        """How long no checkpoint came."""
        if self._began_s is None:
            return
        if progress.checkpoints > self._seen:
            self._began_s = None
        else:
            self.longest_s = max(self.longest_s, progress.elapsed_s - self._began_s)

    def _begin(self, kind: str, progress: Progress) -> None:
        workers, hosts, began_s = self._workers, self._workers.hosts, progress.elapsed_s
        number = self._chance.randrange(len(workers.processes))
        others = [MACHINE, *(host for n, host in enumerate(workers.host_of) if n != number)]
        process, host, other = workers.processes[number], workers.host_of[number], self._chance.choice(others)  # fmt: skip
        if process is None:
            return
        self.done.append(kind)
        starts = workers.starts
        self._is_over = lambda now: workers.starts > starts
        match kind:
            case "kill":
                process.kill()
                self._undo = lambda: None
            case "stop":
                os.kill(process.pid, signal.SIGSTOP)
                until_s = began_s + self._stopped_s
                self._is_over = lambda now: workers.starts > starts and now.elapsed_s > until_s
                self._undo = lambda: os.kill(process.pid, signal.SIGCONT)
            case "cut":
                workers.bad.add(host)
                hosts.cut(host)
            case "cut_one_way":
                workers.bad.add(host)
                ends = (host, other) if self._chance.random() < 0.5 else (other, host)
                hosts.cut_one_way(*ends)
            case "flap":
                hosts.ways(host, **SOFT[kind])
                self._is_over = lambda now: now.elapsed_s > began_s + 1.0
            case _:
                hosts.ways(host, **SOFT[kind])
                self._is_over = lambda now: now.elapsed_s > began_s + 2.0
        if self._undo is None:
            self._undo = lambda: (hosts.heal(host), workers.bad.discard(host))

    def end(self) -> None:
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()


def expected(folder: Path, rows: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """What one process writes."""
    folder.mkdir()
    place = PLACES["sqlite"](None, folder)
    file = folder / "w.yaml"
    file.write_text(text_of(place, "rows", rows, rate=""))
    assert run(load(file), RunOptions(home=folder / "home")).error is None
    return place.rows("rows"), sums_of(folder)


def text_of(place: Place, name: str, rows: int, rate: str) -> str:
    text = WORKFLOW.replace("ROWS", str(rows)).replace("RATE", rate)
    return text.replace("PLACE", place.step(name))


def sums_of(folder: Path) -> list[tuple[int, ...]]:
    with closing(sqlite3.connect(folder / "out.sqlite")) as database:
        return sorted(database.execute('select "user", n, total from sums'))


def until(is_so: Callable[[], bool], limit_s: float) -> bool:
    """Whether it is so before the time is over."""
    end = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_hosts_that_fail_cost_no_row(
    seed: int,
    tmp_path: Path,
    hosts: Hosts,
    servers: Callable[[str], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(seed)
    stopped_s = STOPPED_S if seed % 10 == 0 else 0.0
    rows = max(ROWS, int(RATE * (stopped_s + 15))) if stopped_s else ROWS
    kind = PLACES[[*PLACES][seed % len(PLACES)]]
    folder = tmp_path / "many"
    folder.mkdir()
    place = kind(servers(kind.service) if kind.service else None, folder)
    if place.port is not None:
        hosts.serve(place.port)
    for name, value in place.environment().items():
        monkeypatch.setenv(name, value)
    name = f"rows_{seed}"
    file = folder / "w.yaml"
    file.write_text(text_of(place, name, rows, rate=f"rate: {RATE}/s,"))
    clocks = {}
    if chance.random() < 0.3:
        clocks = {host: chance.choice(CLOCKS) for host in range(hosts.count)}
    workers = WorkersOnHosts(chance.randint(2, 3), hosts, clocks)
    faults = Faults(chance, workers, stopped_s)
    options = RunOptions(
        home=folder / "home", workers=workers, storage=SharedStore, listener=faults.listen
    )
    started = time.monotonic()
    try:
        result = run(load(file), options)
        what = f"{kind.__name__}, {', '.join(faults.done)}, clocks {[*clocks.values()]}"
        took = f"{time.monotonic() - started:.1f} s, at most {faults.longest_s:.1f} s without a checkpoint"
        print(f"seed {seed}: {what}: {took}, {workers.starts} workers")
        assert result.error is None, f"{what}: {render(result.error)}"
        assert result.status == "finished"
        faults.end()
        # Those that were left behind come back, and see that their attempt is over.
        assert until(lambda: not workers.links_left(), 20), workers.links_left()
        found = place.rows(name), sums_of(folder)
    finally:
        faults.end()
        for host in range(hosts.count):
            hosts.heal(host)
        workers.close()
    assert faults.done
    assert found == expected(tmp_path / "one", rows), what
    assert faults.longest_s < GOES_ON_S, what
