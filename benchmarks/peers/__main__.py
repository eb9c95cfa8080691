"""Other tools at the same work, in turns with us: `python -m benchmarks.peers --dlt PYTHON ...`.

A peer lives in an environment of its own, never in ours; one that is not given is not run, and said.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import Result
from benchmarks.measure import Failed
from benchmarks.peers.cases import CASES, Bench
from benchmarks.peers.database import database
from benchmarks.report import facts, summary, table, write

PEERS = {
    "dlt": ("dlt", "pyarrow", "connectorx"),
    "bytewax": ("bytewax", "pyarrow"),
    "pathway": ("pathway",),
    "sling": ("sling-linux-amd64",),
    "ingestr": ("ingestr",),
    "spark": ("pyspark",),
}
"""Whose versions are printed."""
VERSIONS = (
    "import importlib.metadata as m, json, sys\n"
    "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
)


def main(arguments: Sequence[str]) -> int:
    given = parsed(arguments)
    pythons = {name: getattr(given, name) for name in PEERS if getattr(given, name)}
    machine = facts(given)
    machine["versions"] |= {k: v for name in pythons for k, v in versions(name, pythons[name])}
    print(f"{machine['cpus']} CPUs, {machine['system']}, Python {machine['python']}")
    print(", ".join(f"{name} {number}" for name, number in machine["versions"].items()))
    for name in PEERS.keys() - pythons.keys():
        print(f"{name}: not run, for it was not given (--{name} PYTHON)")
    chosen = {
        name: [peer for peer in CASES[name].peers if peer in pythons]
        for name in given.only or CASES
    }
    results: list[Result] = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="peers-", dir=given.scratch)
        )
        scratch = Path(folder)
        needed = any(CASES[name].needs_database for name, peers in chosen.items() if peers)
        server = stack.enter_context(database(scratch)) if needed else None
        bench = Bench(pythons, given.rows, given.repeat, given.seconds, scratch, server)
        for name, peers in chosen.items():
            if peers:
                results.append(measured(name, bench, peers))
                print(table(results[-1]), flush=True)
                write(given.json, machine, results)
    if not results:
        print("nothing to run")
        return 2
    print(f"\n{summary(results)}\nwritten: {given.json}")
    return 1 if any(result.wrong for result in results) else 0


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    rows = "orders; a tenth of them for pathway and into PostgreSQL, a fifth out of it (10 million)"
    parser.add_argument("--rows", type=int, default=10_000_000, help=rows)
    parser.add_argument("--repeat", type=int, default=3, help="turns per candidate (3)")
    parser.add_argument("--seconds", type=int, default=10, help="of the latency cases (10)")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--scratch", type=Path, help="where results are written (the system's)")
    here = Path(__file__).parents[1] / "results"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    parser.add_argument("--json", type=Path, default=here / f"peers-{stamp}.json")
    for name, packages in PEERS.items():
        text = f"the Python of an environment with {', '.join(packages)}"
        parser.add_argument(f"--{name}", metavar="PYTHON", help=text)
    return parser.parse_args(arguments)


def versions(name: str, python: str) -> list[tuple[str, str]]:
    """Of the peer's packages, as its own environment has them."""
    command = [python, "-c", VERSIONS, *PEERS[name]]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return [(f"{name}: {k}" if k != name else k, v) for k, v in found.items()]


def measured(name: str, bench: Bench, peers: list[str]) -> Result:
    """A case; one that fails is reported and the rest go on."""
    try:
        return CASES[name].measure(name, bench, peers)
    except Failed as failed:
        return Result(name, "runs", wrong=[str(failed)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
