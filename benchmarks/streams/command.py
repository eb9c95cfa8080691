"""Run cases by name, and print their table in Markdown."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.measure import Failed
from benchmarks.streams.case import ROOT, TITLE, Bench, Outcome

Cases = Mapping[str, Callable[[Bench], Outcome]]


def main(program: str, description: str | None, cases: Cases, arguments: Sequence[str]) -> int:
    """The exit status: 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument(
        "case", nargs="*", choices=[*cases, []], metavar="CASE", help=", ".join(cases)
    )
    parser.add_argument("--repeat", type=int, default=3, help="turns of each way (3)")
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of rows (1)")
    parser.add_argument("--scratch", type=Path, help="where files are written (the system's)")
    chosen = parser.parse_args(arguments)
    os.environ["CI"] = "true"  # servers that are missing are installed
    sys.path.insert(0, str(ROOT / "tests"))
    outcomes = [
        measured(name, cases[name], chosen.repeat, chosen.scale, chosen.scratch)
        for name in chosen.case or cases
    ]
    print("\n".join(["", TITLE, *(outcome.row() for outcome in outcomes)]))
    return 0 if all(outcome.met is not False for outcome in outcomes) else 1


def measured(
    name: str,
    case: Callable[[Bench], Outcome],
    repeat: int,
    scale: float,
    scratch: Path | None,
) -> Outcome:
    """A case; one that fails is reported and the others go on."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=scratch))
        try:
            outcome = case(Bench(Path(folder), repeat, scale, stack))
        except Failed as failed:
            print(failed, file=sys.stderr)
            outcome = Outcome(name, "runs", "failed", met=False)
    load = f"load {os.getloadavg()[0]:.1f}"
    print(f"{outcome.row()}\n  ({time.monotonic() - began:.0f} s, {load})", flush=True)
    return outcome
