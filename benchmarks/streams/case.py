"""What a case of `benchmarks.streams` is: ways to do the same work, which take turns.

Always true: the first way is DataFlare's; the last two are the same one, so that their ratio shows the noise; the
rows at the destination are counted after each turn, and a wrong number ends the case.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import Candidate, Failed, Measured, Spread, take_turns

ROOT = Path(__file__).parents[2]
DATAFLARE = str(Path(sys.executable).parent / "dataflare")
OURS, CONTROL = "dataflare", " (again)"


@dataclass
class Bench:
    """What a case is given. scale: of all numbers of rows. stack: ends what the case has started."""

    scratch: Path
    repeat: int
    scale: float
    stack: contextlib.ExitStack

    def rows(self, usual: int) -> int:
        return max(1_000, int(usual * self.scale))

    def server(self, name: str, **options: Any) -> Any:
        """A server of the tests, which runs until the case ends."""
        from servers.services import SERVICES

        return self.stack.enter_context(SERVICES[name].server(**options))


@dataclass(frozen=True)
class Way:
    """command: does the work once, as a process. ready: empties the destination. count: the rows that are there."""

    name: str
    command: Sequence[str]
    count: Callable[[], int]
    ready: Callable[[], object] = lambda: None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """A row of the table, below the title of its column. met: None without a bar."""

    case: str
    bar: str
    ours: str = ""
    beside: str = ""
    ratio: str = ""
    control: str = ""
    met: bool | None = None

    def row(self) -> str:
        verdict = {True: "met", False: "missed", None: "none"}[self.met]
        bar = f"{self.bar}: {verdict}" if self.met is not None else self.bar
        return (
            f"| {' | '.join((self.case, self.ours, self.beside, self.ratio, self.control, bar))} |"
        )


TITLE = """\
| case | DataFlare | beside it | speed, ours / theirs | theirs / theirs | bar |
| --- | --- | --- | --- | --- | --- |"""


def workflow(bench: Bench, name: str, definition: Mapping[str, Any]) -> list[str]:
    """The command that runs a workflow from its beginning."""
    bench.scratch.mkdir(parents=True, exist_ok=True)
    file = bench.scratch / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"name": name, **definition}, sort_keys=False))
    return [DATAFLARE, "run", str(file), "--quiet", "--fresh"]


def by_hand(task: str, *arguments: object) -> list[str]:
    """The command for a function of `benchmarks.streams.by_hand`."""
    return [sys.executable, "-m", "benchmarks.streams.by_hand", task, *map(str, arguments)]


def asked(task: str, *arguments: object) -> int:
    """The number that a function of `by_hand` prints, else 0."""
    text = output(by_hand(task, *arguments)).split()
    return int(text[-1]) if text else 0


def output(command: Sequence[str]) -> str:
    """What a command prints. Raises Failed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return done.stdout


@contextlib.contextmanager
def running(command: Sequence[str]) -> Iterator[None]:
    """A command without end, stopped behind it. Raises Failed where it ended by itself."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield
        if process.poll() is not None:
            assert process.stderr is not None
            raise Failed(f"{' '.join(command)}:\n{process.stderr.read().decode()[-2000:]}")
    finally:
        process.terminate()
        process.wait(60)


def turns(bench: Bench, ways: Sequence[Way], expected: int) -> list[Measured]:
    """All ways, the last one twice. expected: how many rows must be at the destination after each turn."""
    ways = [*ways, Way(ways[-1].name + CONTROL, *_parts(ways[-1]))]
    named = {way.name: way for way in ways}

    def counted(name: str) -> None:
        rows = named[name].count()
        if rows != expected:
            raise Failed(f"{name}: {rows:,} rows are at the destination, expected {expected:,}")

    candidates = [
        Candidate(way.name, way.command, {"PYTHONPATH": str(ROOT), **way.environment})
        for way in ways
    ]
    return take_turns(
        candidates, bench.repeat, bench.scratch, lambda name: named[name].ready(), counted
    )


def _parts(way: Way) -> tuple[Any, ...]:
    return way.command, way.count, way.ready, way.environment


def compared(
    bench: Bench,
    case: str,
    ways: Sequence[Way],
    rows: int,
    least: float,
    expected: int | None = None,
) -> Outcome:
    """DataFlare's speed over that of the second way. rows: that each turn moves. least: the bar. expected: rows at the
    destination, where they are not all."""
    ours, theirs, again = turns(bench, ways, rows if expected is None else expected)
    outcome = Outcome(case, f"at least {least:g}", shown(ours, rows), shown(theirs, rows))
    ratio = inverted(ours.against[theirs.name])
    outcome.ratio = spread(ratio)
    outcome.control = spread(again.against[theirs.name])
    outcome.met = ratio.median >= least
    return outcome


def inverted(times: Spread) -> Spread:
    """The ratio of speeds, from that of times."""
    return Spread(1 / times.median, 1 / times.max, 1 / times.min)


def spread(values: Spread) -> str:
    return f"{values.median:.2f} ({values.min:.2f} to {values.max:.2f})"


def shown(measured: Measured, rows: int) -> str:
    return (
        f"{rows / measured.wall.median:,.0f} rows/s, {measured.wall.median:.1f} s, "
        f"CPU {measured.cpu.median:.1f} s, {measured.rss.median:.0f} MB"
    )
