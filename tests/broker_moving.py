"""What the tests of brokers share: the workflows that read and write one, and runs of them: one without end, which a test stops, and
one that is killed until it has come to its end.

A place, of each broker's kit, is a queue, a stream or a topic of its own for a test.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

import polars as pl

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.jobs.letters import LetterBox, Wanted, letter_places
from dataflare.jobs.replay import replay
from dataflare.sdk.brokers.queue import QueueSource
from dataflare.testing import FaultProxy
from dataflare.workflow.load import load_text

T = TypeVar("T")
_WAIT_S = 90.0

_COPY = """\
name: copy
settings: {parallelism: 2, checkpoint: {interval: 20ms}}
sources:
  given:
    type: TYPE
    config: {CONFIG}
    schema: {n: int64}
HANDLINGdestinations:
  out: {type: file, inputs: [given], config: {path: out, format: parquet}}
"""
_ENDLESS = """\
name: endless
settings:
  parallelism: 1
  checkpoint: {interval: INTERVAL}
  restart: {attempts: 1000, delay: 20ms, max_delay: 200ms}
sources:
  given:
    type: TYPE
    config: {CONFIG}
    schema: {n: int64}
    error_handling: {retry_policy: {max_attempts: 1000, initial_backoff: 20ms, max_backoff: 200ms}HANDLING}
destinations:
  out: {type: sqlite, inputs: [given], config: {path: out.db, table: t}}
"""
_MOVE = """\
name: moving
settings: {parallelism: 2, checkpoint: {interval: 10ms}}
sources:
  given: {type: TYPE, config: {CONFIG}, schema: {n: int64}}
destinations:
  out: {type: sqlite, inputs: [given], config: {path: out.db, table: t}}
"""
_WRITE = """\
name: write
settings: {parallelism: 1}
sources:
  rows: {type: inline, config: {rows: ROWS}}
destinations:
  out:
    type: TYPE
    inputs: [rows]
    config: {CONFIG}
HANDLING"""


ROWS = pl.DataFrame({"n": range(40), "text": [f"row {n}" for n in range(40)]})
"""What the laws of destinations write."""


def name_of(folder: Path) -> str:
    """A name of its own for each folder of the laws of destinations."""
    return f"c{zlib.crc32(str(folder).encode())}"


def rows_of(values: Iterable[str | bytes]) -> pl.DataFrame:
    """What was read back of `ROWS`. values: JSON."""
    return pl.DataFrame([json.loads(value) for value in values], schema=ROWS.schema)


ORDERS = [{"id": n, "customer": f"c{n % 3}", "amount": n / 2} for n in range(40)]
"""What the examples of brokers read."""
GOOD = [each for each in ORDERS if each["amount"] > 10]
"""What they write."""


def example(name: str) -> str:
    """The workflow of the example of a broker."""
    return (Path(__file__).parents[1] / "examples" / "brokers" / f"{name}.yaml").read_text()


def in_order(values: Iterable[str | bytes]) -> list[Any]:
    """JSON objects by their ids."""
    return sorted((json.loads(each) for each in values), key=lambda row: row["id"])


def apart(work: Coroutine[Any, Any, T]) -> T:
    """The result of work in a loop of its own, wherever it is asked for."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _filled(text: str, type_: str, config: str, **more: str) -> str:
    for name, value in {"TYPE": type_, "CONFIG": config, **more}.items():
        text = text.replace(name, value)
    return text


def copying(type_: str, config: str, handling: str = "") -> str:
    """A workflow that reads to the end and writes Parquet files. handling: of errors, of the source."""
    lines = f"    error_handling: {{{handling}}}\n" if handling else ""
    return _filled(_COPY, type_, config, HANDLING=lines)


def endless(type_: str, config: str, handling: str = "", interval: str = "20ms") -> str:
    """A workflow without end that writes a table, and tries again whatever breaks. interval: of checkpoints."""
    more = f", {handling}" if handling else ""
    return _filled(_ENDLESS, type_, config, HANDLING=more, INTERVAL=interval)


def moving(type_: str, config: str) -> str:
    """A workflow that reads to the end and writes a table, with many checkpoints."""
    return _filled(_MOVE, type_, config)


class BrokerPlace(ABC):
    """A place of a broker, and a folder for runs."""

    folder: Path

    @abstractmethod
    def filled(self, workflow: str) -> str:
        """The workflow with this place and its server in it."""

    @abstractmethod
    def numbers(self, first: int, after: int) -> None:
        """Put messages whose column `n` has these numbers."""

    def run(self, workflow: str, name: str = "home", **options: Any) -> RunResult:
        """A run of a workflow with this place in it."""
        loaded = load_text(self.filled(workflow), base=self.folder)
        return run(loaded, RunOptions(self.folder / name, **options))

    def write(
        self, type_: str, config: str, rows: Sequence[Mapping[str, Any]], handling: str = ""
    ) -> RunResult:
        """A run that writes rows. handling: of errors, of the destination."""
        lines = f"    error_handling: {{{handling}}}\n" if handling else ""
        return self.run(_filled(_WRITE, type_, config, ROWS=json.dumps(rows), HANDLING=lines))

    def written(self) -> pl.DataFrame:
        """The rows of the files that `copying` has written."""
        return pl.read_parquet(self.folder / "out" / "*.parquet")

    def copied(self) -> list[int]:
        """The numbers that `copying` has written, sorted."""
        return sorted(self.written()["n"].to_list())

    def dead_letters(self, workflow: str) -> tuple[RunResult, str]:
        """A run that sets bad messages aside, and the text of what it set aside. workflow: has DEAD for the handling."""
        dead = self.folder / "dead"
        handling = f"on_error: dead_letter, dead_letter: {{path: {dead}}}"
        result = self.run(workflow.replace("DEAD", handling))
        return result, "".join(path.read_text() for path in dead.rglob("*") if path.is_file())

    def replay(self, workflow: str, name: str = "home") -> tuple[int, int]:
        """Replay the letters of runs under this name, with this workflow. Returns the rows that were read again, and
        the letters that wait."""
        loaded = load_text(self.filled(workflow), base=self.folder)
        box = LetterBox(self.folder / name / loaded.name, letter_places(loaded)[0])
        return replay(loaded, box, Wanted()).rows, len(box.waiting())


class Endless:
    """A run in a process of its own, until the end of the `with`. It writes column `n` into the table t of `out.db`."""

    def __init__(self, place: BrokerPlace, workflow: str) -> None:
        self.folder = place.folder
        self._file = place.folder / "endless.yaml"
        self._file.write_text(place.filled(workflow))
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dataflare", "run", "--quiet", str(self._file)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        process.communicate()

    def stop(self) -> None:
        """As Ctrl-C does: it takes a checkpoint first."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=_WAIT_S)
        assert process.returncode == 130, said

    def numbers(self) -> list[int]:
        """What is written, sorted."""
        path = self.folder / "out.db"
        if not path.exists():
            return []
        connection = sqlite3.connect(path, timeout=10)
        try:
            return [n for (n,) in connection.execute("select n from t order by n")]
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
        finally:
            connection.close()

    def wait_rows(self, rows: int) -> None:
        """Until so many rows are written."""
        self.wait(lambda: len(self.numbers()) >= rows, f"fewer than {rows} rows")

    def wait(self, is_so: Callable[[], bool], so_far: str) -> None:
        """Until something is so. so_far: what is so as long as it is not."""
        end = time.monotonic() + _WAIT_S
        while not is_so():
            self._check(so_far)
            assert time.monotonic() < end, f"{so_far} after {_WAIT_S:g} s"
            time.sleep(0.02)

    def _check(self, so_far: str) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            said, _ = self._process.communicate()
            raise AssertionError(f"the run ended with {so_far}: {said}")


class Moving:
    """A run with an end, in processes that are killed."""

    def __init__(self, place: BrokerPlace, workflow: str) -> None:
        self._file = place.folder / "moving.yaml"
        self._file.write_text(place.filled(workflow))

    def start(self, crash_at: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dataflare", "run", "--quiet", str(self._file)],
            env={**os.environ, "DATAFLARE_CRASH_AT": crash_at},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def die(self, crash_at: str) -> bool:
        """Run until it dies at this place. False: it came to its end before."""
        process = self.start(crash_at)
        said, _ = process.communicate(timeout=_WAIT_S)
        if process.returncode == 0:
            return False
        assert process.returncode == -signal.SIGKILL, said
        return True

    def kill_after(self, seconds: float) -> bool:
        """Kill it after a while. False: it came to its end before."""
        process = self.start()
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return True
        assert process.returncode == 0, said
        return False

    def finish(self) -> None:
        process = self.start()
        said, _ = process.communicate(timeout=_WAIT_S * 2)
        assert process.returncode == 0, said


def comes_once(
    place: BrokerPlace,
    workflow: str,
    *,
    port: int,
    step: int = 50,
    server: Any = None,
    unacknowledged: Callable[[], int] = lambda: 0,
) -> None:
    """Assert that a run without end writes each message once over a network that breaks and hangs, the run's SIGKILL, and the
    server's, and acknowledges all of them. port: of the server. server: is killed and started again; None where its content
    is in memory. unacknowledged: how many messages the server keeps for the run, or has given it, still."""
    text = place.filled(workflow)
    after = 0

    def more(*, wait: bool = True) -> None:
        nonlocal after
        place.numbers(after, after + step)
        after += step
        if wait:
            running.wait_rows(after)

    with FaultProxy("127.0.0.1", port, seed=5) as proxy:
        text = text.replace(f":{port}", f":{proxy.port}")
        with Endless(place, text) as running:
            more()
            _break_one(proxy.reset)
            more()
            _break_one(proxy.half_open)
            more()
            proxy.hang()
            more(wait=False)
            proxy.go_on()
            more()
            if server is not None:
                server.kill()
                server.start()
                more()
            running.kill()
            more(wait=False)
            running.start()
            running.wait_rows(after)
            # What the killed run did not acknowledge is delivered again after a while.
            running.wait(lambda: unacknowledged() == 0, "messages without an acknowledgement")
    assert running.numbers() == list(range(after))


def certain_acknowledgements(source: QueueSource, proxy: FaultProxy) -> list[int]:
    """How many acknowledgements a session says that the server has: after those of ten messages, and after ten more while no byte
    passes the proxy. The place has twenty messages."""

    async def asked() -> list[int]:
        (split,) = await source.splits()
        session, _ = await source.session(split)
        certain = []
        try:
            for hangs in (False, True):
                tags: list[Any] = []
                while len(tags) < 10:
                    tags += [each.tag for each in await session.receive(10 - len(tags), _WAIT_S)]
                if hangs:
                    proxy.hang()
                certain.append(await session.acknowledge(tags))
        finally:
            proxy.go_on()
            await session.aclose()
        return certain

    return asyncio.run(asked())


def _break_one(break_all: Callable[[], int]) -> None:
    """Break the connections that are open, once there is one."""
    end = time.monotonic() + _WAIT_S
    while not break_all():
        assert time.monotonic() < end, "the run does not connect"
        time.sleep(0.005)


def moved_once(place: BrokerPlace, workflow: str, rows: int) -> None:
    """Assert that each of the messages is moved once over kills between what a destination commits and what a broker is told."""
    place.numbers(0, rows)
    moves = Moving(place, workflow)
    for point in ("engine.after_manifest", "engine.after_commit"):
        assert moves.die(point)
    moves.finish()
    assert Endless(place, workflow).numbers() == list(range(rows))


def random_kills(moving: Moving, rng: random.Random, kills: int) -> int:
    """Kill runs at random moments. Returns how many were alive then."""
    return sum(moving.kill_after(rng.uniform(0.8, 4.0)) for _ in range(kills))
