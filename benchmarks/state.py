"""State larger than memory: `python -m benchmarks.state keys [options]`.

`keys`: a run over many distinct keys with a small memory budget. The whole process is measured: its peak memory, its speed,
and the time between checkpoints.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import Candidate, run

DATA = Path(__file__).parent / "data"
DATAFLARE = str(Path(sys.executable).parent / "dataflare")
STEPS: dict[str, dict[str, Any]] = {
    "aggregate": {"type": "aggregate", "config": {"group_by": ["k"], "measures": {"n": "count(*)"}}},
    "deduplicate": {"type": "deduplicate", "config": {"key": ["k"]}},
}  # fmt: skip


def write_keys(path: Path, rows: int) -> None:
    """Distinct keys, in no order."""
    import polars as pl

    place = pl.int_range(rows, eager=True, dtype=pl.UInt64)
    keys = (place * 0x9E3779B97F4A7C15).reinterpret(signed=True).alias("k")
    pl.DataFrame([keys]).write_parquet(path, row_group_size=500_000)


def workflow(step: str, data: Path, memory: str, backend: str, interval: str) -> dict[str, Any]:
    return {
        "name": step,
        "version": "1.0",
        "settings": {
            "parallelism": 1,
            "resources": {"memory": memory},
            "checkpoint": {"interval": interval, "retain": 1000},
            "state": {"backend": backend},
        },
        "sources": {"rows": {"type": "file", "config": {"path": str(data)}}},
        "transformations": {"s": {**STEPS[step], "inputs": ["rows"]}},
        "destinations": {"out": {"type": "blackhole", "inputs": ["s"]}},
    }


def keys(given: argparse.Namespace) -> int:
    DATA.mkdir(exist_ok=True)
    data = DATA / f"keys-{given.rows}.parquet"
    if not data.exists():
        write_keys(data, given.rows)
    missed = 0
    for step in given.steps:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            flow = Path(folder) / "flow.yaml"
            described = workflow(step, data, given.memory, given.backend, given.interval)
            flow.write_text(yaml.safe_dump(described))
            home = {"DATAFLARE_HOME": f"{folder}/home"}
            command = [DATAFLARE, "run", str(flow), "--fresh", "--quiet"]
            cost = run(Candidate(step, command, home), Path(folder))
            longest = _longest_between(Path(folder) / "home")
        most = given.rss_mb or 1e9
        missed += cost.rss_mb > most
        print(
            f"{step}, {given.backend}: {given.rows:,} keys in {cost.wall_s:.1f} s "
            f"({given.rows / cost.wall_s / 1e6:.2f} M rows/s, {cost.cpu_s:.0f} CPU s), "
            f"peak {cost.rss_mb:.0f} MB, longest time between checkpoints {longest:.1f} s"
            + (f"; bar {most:.0f} MB: {'met' if cost.rss_mb <= most else 'MISSED'}")
        )
    return 1 if missed else 0


def _longest_between(home: Path) -> float:
    """By the modification times of what the run's checkpoints left behind; 0 where there were fewer than two."""
    times = sorted(path.stat().st_mtime for path in home.glob("*/*/manifest-*.json"))
    return max((b - a for a, b in pairwise(times)), default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("keys")
    one.add_argument("--rows", type=int, default=50_000_000)
    one.add_argument("--memory", default="1GiB")
    one.add_argument("--rss-mb", type=float, default=1.5 * 1024**3 / 1e6)
    one.add_argument("--backend", default="memory")
    one.add_argument("--interval", default="10s")
    one.add_argument("--folder", default=None, help="where state is written")
    one.add_argument("--steps", nargs="+", default=sorted(STEPS), choices=sorted(STEPS))
    one.set_defaults(command=keys)
    given = parser.parse_args()
    status: int = given.command(given)
    return status


if __name__ == "__main__":
    sys.exit(main())
