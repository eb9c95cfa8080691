"""A scenario of a mirror test, all of it drawn from a seed: where rows come from and go to, what the writers do, what is
killed when.

One thread does all of it in turn: steps of the writers, and faults between them. So a seed repeats the order of things;
how far a run has come at each of them depends on the machine.
"""

from __future__ import annotations

import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from mirror_destinations import (
    Delta,
    Destination,
    DuckDb,
    Iceberg,
    Kafka,
    OnServer,
    Sqlite,
    canonical,
    dicts,
)
from mirror_process import RunProcess
from mirror_servers import PostgresSide, kill_and_start, side_of
from mirror_workload import Workload

from dataflare.jobs.chaos.fault_proxy import NO_FAULTS, FaultProxy, Faults
from dataflare.jobs.diff import Options, diff, sides
from dataflare.sdk import resyncs
from dataflare.workflow.load import load

_WORKFLOW = """\
name: shop
settings:
  mode: streaming
  parallelism: 1
  checkpoint: {{interval: {interval}ms}}
  batch: {{initial: {batch}, min: 10, max: {batch}}}
  restart: {{attempts: 1000, delay: 20ms, max_delay: 100ms}}
sources:
  shop: {{type: {source}, config: {{connection_string: "${{FROM}}", tables: ["t*"], batch_size: {batch}, cdc: true}}}}
destinations:
{steps}"""
_LOCAL: dict[str, Callable[[], Destination]] = {
    "duckdb": DuckDb, "sqlite": Sqlite, "delta": Delta, "iceberg": Iceberg,
}  # fmt: skip
KINDS = ("postgres", "mysql", *_LOCAL)
_POINTS = (
    "checkpoint.before_publish:3", "engine.after_prepare:2", "engine.after_manifest:3", "engine.before_commit:4",
    "engine.after_commit:3", "{source}.cdc.{first}", "{destination}.commit.before_commit:2",
    "{destination}.commit.after_commit:3",
)  # fmt: skip
_NOT_REACHED = ("E0600", "E0601", "E0606", "E0607")
_ANEW = "was written anew while it was read"
"""A run restarts itself then, unless it is to stop."""
_AGAIN = "run again: the run then has the columns that the table has now"
_STOP_S = 20.0
_FIRST = {"postgres": "after_slot", "mysql": "after_snapshot"}


class Scenario:
    """seed: of all choices. servers: by the connector's name; with Kafka, a topic is one of the destinations."""

    def __init__(self, seed: int, servers: dict[str, Any], folder: Path, stack: ExitStack) -> None:
        self.seed, self.folder = seed, folder
        self.rng = rng = random.Random(seed)
        source = ("postgres", "mysql")[seed % 2]
        first = KINDS[seed // 2 % len(KINDS)]
        kinds = [first, *rng.sample([kind for kind in KINDS if kind != first], rng.randint(0, 2))]
        self.side = stack.enter_context(side_of(source, servers))
        self.destinations: list[Destination] = []
        for kind in kinds:
            if kind in _LOCAL:
                self.destinations.append(_LOCAL[kind]())
            else:
                self.destinations.append(OnServer(stack.enter_context(side_of(kind, servers))))
        if "kafka" in servers:
            self.destinations.append(Kafka(servers["kafka"]))
        self.proxies: dict[str, FaultProxy] = {}
        for kind in {source, *(d.server for d in self.destinations if d.server)}:
            if kind == "kafka":
                self.proxies[kind] = servers[kind].brokers[0].proxy
            else:
                proxy = FaultProxy("127.0.0.1", servers[kind].port, seed=seed)
                self.proxies[kind] = stack.enter_context(proxy)
        self.servers = servers
        self.workload = Workload(self.side, rng, [])
        is_ours = isinstance(self.side, PostgresSide)
        keeps_values = {each.name for each in self.destinations} <= {
            "postgres",
            "mysql",
            "duckdb",
            "sqlite",
        }
        if isinstance(self.side, PostgresSide):
            self.side.is_whole = not keeps_values or rng.random() < 0.5
        self.may_resync = "kafka" not in servers
        self.workload.truncates = is_ours and self.may_resync
        stack.callback(self.workload.close)
        self.events: list[str] = []
        self.process: RunProcess | None = None
        stack.callback(self._end_process)
        steps = "".join(destination.step() for destination in self.destinations)
        self.text = _WORKFLOW.format(
            interval=rng.choice([10, 30, 100]), batch=rng.choice([20, 100, 1_000]), source=source, steps=steps,
        )  # fmt: skip
        (folder / "shop.yaml").write_text(self.text)

    @property
    def title(self) -> str:
        names = ", ".join(destination.name for destination in self.destinations)
        return f"seed {self.seed}: {self.side.type} to {names}"

    def describe(self) -> str:
        return "\n  ".join([self.title, *self.events])

    # -- the whole ---------------------------------------------------------------------------------

    def play(self, events: int) -> None:
        self.side.execute("create table beside (id int)")
        for number in range(self.rng.choice([1, 1, 2, 3])):
            self.workload.create(f"t{number}")
        self.workload.fill(self.rng.choice([0, 300, 1_500]))
        for _ in range(50):
            self.workload.step(may_stay_open=False)
        self._start()
        for _ in range(events):
            self._write_for(self.rng.uniform(0.05, 0.8))
            self._event()
        self._write_for(0.2)
        self._stop()
        self.workload.settle()
        self._settle()
        self.check()

    def check(self) -> None:
        """Both by programs of the destinations, and by `dataflare diff`."""
        for table in self.workload.added:
            columns = self.side.names(table)
            rows = self.side.rows(f"select {', '.join(columns)} from {table}")
            expected = canonical(dicts(columns, rows), columns)
            for destination in self.destinations:
                copied = canonical(destination.rows(self.folder, table), columns)
                missing, more = set(expected) - set(copied), set(copied) - set(expected)
                assert copied == expected, (
                    f"{table} of {destination.name} has {len(copied)} rows of {len(expected)}; "
                    f"missing: {_short(missing)}; more: {_short(more)}"
                )
                if destination.can_diff:
                    left, right = self._sides(destination, table)
                    found = diff(left, right, Options())
                    assert found.is_equal, (destination.name, table, found.to_json())

    def _sides(self, destination: Destination, table: str) -> Any:
        import os

        before = dict(os.environ)
        os.environ.update(self._environment())
        try:
            file = self.folder / "shop.yaml"
            return sides(f"{file}:shop.{table}", f"{file}:{destination.name}.{table}", load)
        finally:
            os.environ.clear()
            os.environ.update(before)

    # -- runs --------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        environment = {"FROM": self.side.dsn(self.proxies[self.side.type].port)}
        for destination in self.destinations:
            if isinstance(destination, OnServer):
                dsn = destination.side.dsn(self.proxies[destination.server].port)
                environment[f"TO_{destination.server.upper()}"] = dsn
        return environment

    def _start(self, *options: str, crash_at: str | None = None) -> None:
        arguments = ["shop.yaml", "--quiet", *options]
        self._begun = self._records()
        self.process = RunProcess(self.folder, arguments, self._environment(), crash_at)

    def _restart(self) -> None:
        """Perhaps with another parallelism, perhaps to die at a named place."""
        rng, options, crash_at = self.rng, [], None
        if rng.random() < 0.3:
            options = ["--set", "settings.parallelism=2"]
        if rng.random() < 0.5:
            kinds = [d.name for d in self.destinations]
            crash_at = rng.choice(_POINTS).format(
                source=self.side.type, first=_FIRST[self.side.type], destination=rng.choice(kinds)
            )
        self.events.append(f"start {' '.join(options)}, dies at {crash_at}")
        self._start(*options, crash_at=crash_at)

    def _end_process(self) -> None:
        if self.process is not None and not self.process.has_ended:
            self.process.kill()

    def _settle(self) -> None:
        """Let a last run come to the end of what is there."""
        self.events.append("settle")
        self._start("--set", "settings.mode=batch")
        assert self.process is not None
        if self.process.wait() and self._asks_for_another_run(self.process.errors()):
            self._start("--set", "settings.mode=batch")
        status = self.process.wait()
        assert status == 0, f"{status}:\n{self.process.errors()}"

    def _asks_for_another_run(self, errors: str) -> bool:
        return any(self.workload.added.values()) and "E0545" in errors and _AGAIN in errors

    def _see_how_it_ended(self, *, is_stopped: bool = False) -> None:
        """At its place to die, or because a server could not be reached before the run began, or when it was to stop, or
        because a column was added while rows were read: else a run that has begun restarts itself."""
        process = self.process
        assert process is not None
        status = process.wait()
        if status == -signal.SIGKILL or (is_stopped and status == 130):
            return
        errors = process.errors()
        if self._asks_for_another_run(errors):
            self.events.append("a column came while rows were read")
            return
        if is_stopped and _ANEW in errors:
            self.events.append("a table was written anew while it was read")
            return
        may_end = is_stopped or self._records() == self._begun
        may_end = may_end and any(code in errors for code in _NOT_REACHED)
        assert may_end, f"{status}:\n{errors}"
        self.events.append("a server cannot be reached")

    def _records(self) -> int:
        return len(list(self.folder.glob(".dataflare/**/runs/*.json")))

    def _stop(self) -> None:
        """As Ctrl-C does. The writers go on, because a first run waits for transactions that are open."""
        process = self.process
        assert process is not None
        self._write_until(lambda: process.has_ended or self._records() > self._begun)
        process.interrupt()
        self._write_until(lambda: process.has_ended)
        self._see_how_it_ended(is_stopped=True)

    # -- writers and faults ------------------------------------------------------------------------

    def _write_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.workload.step()
            self._see_that_it_runs()

    def _write_until(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + _STOP_S
        while not is_so() and time.monotonic() < end:
            self.workload.step()

    def _see_that_it_runs(self) -> None:
        """A run that died at its place is started again."""
        if self.process is not None and self.process.has_ended:
            self._see_how_it_ended()
            self._restart()

    def _event(self) -> None:
        rng = self.rng
        names = ["kill", "kill", "kill", "stop", "network", "network", "server", "table"]
        names += ["resync"] if self.may_resync else []
        name = rng.choice(names)
        self.events.append(name)
        match name:
            case "kill":
                assert self.process is not None
                self.process.kill()
                self._restart()
            case "stop":
                self._stop()
                self._restart()
            case "network":
                self._network()
            case "resync":
                asked = rng.choice(list(self.workload.added))
                folder = self.folder / ".dataflare" / "shop"
                if isinstance(self.side, PostgresSide) and rng.random() < 0.5:
                    self.events.append("of some rows")
                    condition = f"id % 5 = {rng.randrange(5)}"
                    resyncs.ask_for_range(folder, f"shop.{asked}", condition, self._some_keys())
                else:
                    resyncs.ask(folder, f"shop.{asked}")
            case "server":
                kind = rng.choice(sorted(self.proxies))
                self.events.append(f"the server {kind} is killed")
                if kind == self.side.type:
                    self.workload.forget()
                kill_and_start(self.servers[kind])
            case _ if rng.random() < 0.3:
                self.workload.create(f"t{len(self.workload.added)}")
            case _:
                self.workload.change_table()

    def _some_keys(self) -> pl.DataFrame:
        """Of rows that are there or not."""
        keys = {(self.rng.randrange(80), self.rng.choice(["a", "B", "é"])) for _ in range(60)}
        return pl.DataFrame(list(keys), schema=["id", "part"], orient="row")

    def _network(self) -> None:
        rng = self.rng
        proxy = self.proxies[rng.choice(sorted(self.proxies))]
        fault = rng.choice(["cut", "reset", "hang", "slow", "short", "refuses"])
        self.events.append(fault)
        with _fault(proxy, fault, rng):
            self._write_for(rng.uniform(0.05, 0.4))


@contextmanager
def _fault(proxy: FaultProxy, fault: str, rng: random.Random) -> Iterator[None]:
    """Something is wrong with the network, for a while."""
    match fault:
        case "cut":
            proxy.cut()
        case "reset":
            proxy.reset()
        case "hang":
            proxy.hang()
        case "slow":
            proxy.faults = Faults(delay_s=0.02, jitter_s=0.05)
        case "short":
            proxy.faults = Faults(cut_after=(500, 20_000), reset=rng.random() < 0.5)
            proxy.reset()
        case _:
            proxy.refuses = True
            proxy.reset()
    try:
        yield
    finally:
        proxy.faults, proxy.refuses = NO_FAULTS, False
        proxy.go_on()


def _short(rows: set[Any]) -> str:
    return str([tuple(value[:20] for value in row) for row in sorted(rows)[:3]])


def _told(error: Exception) -> str:
    """With the place where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}\nat {place.filename}:{place.lineno}: {place.line}"


def mirror(seed: int, servers: dict[str, Any], folder: Path, events: int = 3) -> Scenario:
    """Play a scenario. Its AssertionError begins with the seed and what happened."""
    with ExitStack() as stack:
        scenario = Scenario(seed, servers, folder, stack)
        try:
            scenario.play(events)
        except Exception as error:
            raise AssertionError(f"{scenario.describe()}\n{_told(error)}") from error
    return scenario
