"""`python -m benchmarks`: measure, print a table, write JSON."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import CASES, Options, Result
from benchmarks.measure import Failed
from benchmarks.report import facts, summary, table, write


def main(arguments: Sequence[str]) -> int:
    given = parsed(arguments)
    machine = facts(given)
    print(f"{machine['cpus']} CPUs, {machine['system']}, Python {machine['python']}")
    print(", ".join(f"{name} {number}" for name, number in machine["versions"].items()))
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=given.scratch) as scratch:
        options = Options(given.rows, given.repeat, Path(scratch), given.seconds)
        for name in given.only or CASES:
            results.append(measured(name, options))
            print(table(results[-1]), flush=True)
            write(given.json, machine, results)
    print(f"\n{summary(results)}\nwritten: {given.json}")
    return 0 if all(result.met is not False and not result.wrong for result in results) else 1


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="orders (10 million)")
    parser.add_argument("--repeat", type=int, default=5, help="turns per candidate (5)")
    parser.add_argument("--seconds", type=int, default=10, help="of the latency cases (10)")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--scratch", type=Path, help="where results are written (the system's)")
    here = Path(__file__).parent / "results"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    parser.add_argument("--json", type=Path, default=here / f"{stamp}.json", help="the figures")
    return parser.parse_args(arguments)


def measured(name: str, options: Options) -> Result:
    """A case; one that fails is reported and the rest go on."""
    try:
        return CASES[name](options)
    except Failed as failed:
        return Result(name, "runs", False, "failed", wrong=[str(failed)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
