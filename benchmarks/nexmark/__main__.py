"""`python -m benchmarks.nexmark [--events 10000000] [--rate 10000] [--repeat 3] [--queries q5 q11]`.

Runs each query as a process of its own, in turns with DuckDB over the same files, compares the rows, and prints events
a second (all events of the stream, as Nexmark counts). `--only-check` compares in this process, and measures nothing.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from pathlib import Path

from benchmarks.measure import Candidate, run
from benchmarks.nexmark.check import difference, expected, last_step
from benchmarks.nexmark.generate import generate
from benchmarks.nexmark.queries import QUERIES, workflow

DATA = Path("benchmarks/data")
_DUCKDB = """
import sys
from benchmarks.nexmark.check import expected
expected(sys.argv[1], sys.argv[2]).write_parquet(sys.argv[3])
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--rate", type=int, default=10_000, help="events in a second of event time")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--queries", nargs="*", default=list(QUERIES))
    parser.add_argument("--only-check", action="store_true")
    options = parser.parse_args()
    folder = DATA.resolve() / f"nexmark-{options.events}-{options.rate}"
    if not (folder / "side.parquet").exists():
        generate(folder, events=options.events, rate=options.rate)
    scratch = (DATA / "nexmark-out").resolve()
    wrong = 0
    print(f"{options.events:,} events at {options.rate:,} a second of event time")
    for name in options.queries:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        out = scratch / "out.parquet"
        target = f"{{type: file, inputs: [{last_step(name)}], config: {{path: '{out}'}}}}"
        file = scratch / f"{name}.yaml"
        file.write_text(workflow(name, str(folder), target))
        own = Candidate(
            "dataflare", [sys.executable, "-m", "dataflare", "run", str(file), "--fresh", "--quiet"]
        )
        told = Candidate(
            "duckdb",
            [sys.executable, "-c", _DUCKDB, name, str(folder), str(scratch / "duck.parquet")],
            {"PYTHONPATH": str(Path.cwd())},
        )
        walls: dict[str, list[float]] = {"dataflare": [], "duckdb": []}
        for _ in range(1 if options.only_check else options.repeat):
            for candidate in (own, told):
                walls[candidate.name].append(run(candidate, scratch / candidate.name).wall_s)
        problem = difference(name, out, expected(name, str(folder)))
        wrong += problem is not None
        ours, theirs = (statistics.median(each) for each in walls.values())
        rate = options.events / ours
        print(
            f"{name:4} {rate:>12,.0f} events/s   {ours:6.2f} s   DuckDB, the input at once: {theirs:6.2f} s   {problem or 'equal'}"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
