"""Run commands as child processes, and see what each cost.

Always true: the wall time is the whole process, start-up included; CPU and peak memory come from the
kernel's accounting of the child (`wait4`), not from sampling; candidates take turns (A B C A B C), so
that a disturbance hits all of them.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


class Failed(Exception):
    """A candidate ended with an error; the text is what it wrote."""


@dataclass(frozen=True)
class Cost:
    """Of one process: seconds of wall and CPU (user and system, its children included), peak MB."""

    wall_s: float
    cpu_s: float
    rss_mb: float


@dataclass(frozen=True)
class Candidate:
    """One way to do a case's work. before: a command that makes a turn ready; its time is not counted."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] | None = None
    before: Sequence[str] | None = None


def run(candidate: Candidate, scratch: Path) -> Cost:
    """Run it once, in an empty folder. Raises Failed."""
    scratch.mkdir(parents=True, exist_ok=True)
    if candidate.before:
        subprocess.run(candidate.before, check=True, stdout=subprocess.DEVNULL)
    log = scratch / "stderr.txt"
    with log.open("wb") as errors:
        began = time.perf_counter()
        child = subprocess.Popen(
            candidate.command,
            cwd=scratch,
            env=_environment(candidate),
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        text = log.read_text(errors="replace")[-2000:]
        raise Failed(f"{candidate.name} ended with {child.returncode}:\n{text}")
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * kilobyte / 1e6)


def _environment(candidate: Candidate) -> dict[str, str]:
    """Of a process as a user would start it: where Python may not keep compiled modules, an editable
    install would be compiled anew at each start, and nothing else would."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **(candidate.env or {})}


@dataclass
class Spread:
    """Of several measurements."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Measured:
    """What a candidate's turns gave. against: its wall over each other candidate's in the same turn."""

    name: str
    turns: list[Cost]
    against: dict[str, Spread]

    @property
    def wall(self) -> Spread:
        return Spread.of([turn.wall_s for turn in self.turns])

    @property
    def cpu(self) -> Spread:
        return Spread.of([turn.cpu_s for turn in self.turns])

    @property
    def rss(self) -> Spread:
        return Spread.of([turn.rss_mb for turn in self.turns])

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "wall_s": asdict(self.wall),
            "cpu_s": asdict(self.cpu),
            "rss_mb": asdict(self.rss),
            "wall_ratio_to": {name: asdict(spread) for name, spread in self.against.items()},
            "turns": [asdict(turn) for turn in self.turns],
        }


def take_turns(
    candidates: Sequence[Candidate],
    repeat: int,
    scratch: Path,
    before: Callable[[str], object] = lambda name: None,
    after: Callable[[str], object] = lambda name: None,
) -> list[Measured]:
    """Each candidate `repeat` times, in turn; the order rotates, so that each is first in some turn. before, after: called
    with the candidate's name around each of its turns, outside of its time."""
    turns: dict[str, list[Cost]] = {candidate.name: [] for candidate in candidates}
    for i in range(repeat):
        shift = i % len(candidates)
        for candidate in (*candidates[shift:], *candidates[:shift]):
            folder = scratch / candidate.name
            clear(folder)
            before(candidate.name)
            turns[candidate.name].append(run(candidate, folder))
            after(candidate.name)
    return [
        Measured(
            name,
            own,
            {
                other: Spread.of([a.wall_s / b.wall_s for a, b in zip(own, theirs, strict=True)])
                for other, theirs in turns.items()
                if other != name
            },
        )
        for name, own in turns.items()
    ]


def clear(folder: Path) -> None:
    """Remove a folder of ours, as anything in it would be resumed or appended to."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def warm(paths: Sequence[Path]) -> None:
    """Read files once, so that every candidate finds them in the page cache."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass
