"""Windows beside a Polars `group_by` of the whole input: `python -m benchmarks.windows [--rows 10_000_000] [--repeat 3]`.

Rows come from a Parquet file, 100,000 for each second of event time, up to 5 s out of order. The candidates take
turns. A bar says how many rows a second there must be, and which share of the speed of another candidate.

`python -m benchmarks.windows data PATH ROWS KEYS` writes a file; `... reference PATH` is the `group_by`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import Candidate, Cost, run

DATA = Path(__file__).parent / "data"
DATAFLARE = str(Path(sys.executable).parent / "dataflare")
MEASURES = {"n": "count(*)", "total": "sum(v)", "high": "max(v)"}
RATE = 100_000


@dataclass(frozen=True)
class Bar:
    """rows_per_s: at least. of: at least this share of the speed of the candidate of that name."""

    rows_per_s: float = 0.0
    share: float = 0.0
    of: str = ""


@dataclass(frozen=True)
class Case:
    """config: of the window step; None for the reference."""

    name: str
    keys: int
    config: dict[str, Any] | None
    mode: str = "batch"
    bar: Bar | None = None


CASES = (
    Case("reference", 10_000, None),
    Case("tumbling", 10_000, {"kind": "tumbling", "size": "10s"}, bar=Bar(4e6, 0.5, "reference")),
    Case("tumbling, streaming", 10_000, {"kind": "tumbling", "size": "10s"}, "streaming"),
    Case("tumbling, 1 M keys", 1_000_000, {"kind": "tumbling", "size": "10s"}, bar=Bar(1.5e6)),
    Case("sliding", 10_000, {"kind": "sliding", "size": "60s", "slide": "1s"}, bar=Bar(0, 0.5, "tumbling")),
    Case("sliding, streaming", 10_000, {"kind": "sliding", "size": "60s", "slide": "1s"}, "streaming"),
    Case("session", 100_000, {"kind": "session", "gap": "30s"}, bar=Bar(1.5e6)),
    Case("session, streaming", 100_000, {"kind": "session", "gap": "30s"}, "streaming"),
)  # fmt: skip


def workflow(case: Case, path: Path) -> dict[str, Any]:
    config = {**(case.config or {}), "group_by": ["k"], "measures": MEASURES}
    event_time = {"column": "at", "out_of_orderness": "5s"}
    source = {"type": "file", "config": {"path": str(path)}, "event_time": event_time}
    return {
        "name": "windows",
        "version": "1.0",
        "settings": {"mode": case.mode},
        "sources": {"rows": source},
        "transformations": {"w": {"type": "window", "inputs": ["rows"], "config": config}},
        "destinations": {"out": {"type": "blackhole", "inputs": ["w"]}},
    }


def write_data(path: Path, rows: int, keys: int) -> None:
    import polars as pl

    place = pl.int_range(rows, eager=True).alias("place")
    at = place * (1_000_000 // RATE) + 1_700_000_000_000_000
    late = (place.hash(3) % 5_000_000).cast(pl.Int64)
    columns = {
        "k": (place.hash(1) % keys).cast(pl.Int64),
        "v": (place.hash(2) % 1000).cast(pl.Int64),
        "at": (at - late).cast(pl.Datetime("us", "UTC")),
    }
    pl.DataFrame(columns).write_parquet(path, row_group_size=500_000)


def reference(path: Path) -> None:
    import polars as pl

    window = pl.col("at").dt.truncate("10s")
    measures = [pl.len(), pl.col("v").sum(), pl.col("v").max().alias("high")]
    pl.read_parquet(path).group_by("k", window).agg(measures)


def candidate(case: Case, rows: int, scratch: Path) -> Candidate:
    path = DATA / f"windows-{rows}-{case.keys}.parquet"
    module = [sys.executable, "-m", "benchmarks.windows"]
    env = {"PYTHONPATH": str(DATA.parents[1])}
    if not path.exists():
        DATA.mkdir(exist_ok=True)
        run(
            Candidate("data", [*module, "data", str(path), str(rows), str(case.keys)], env), scratch
        )
    if case.config is None:
        return Candidate(case.name, [*module, "reference", str(path)], env)
    flow = scratch / f"{case.name}.yaml"
    flow.write_text(yaml.safe_dump(workflow(case, path)))
    return Candidate(case.name, [DATAFLARE, "run", str(flow), "--fresh", "--quiet"])


def measure(rows: int, repeat: int, only: Sequence[str]) -> int:
    cases = [case for case in CASES if not only or case.name in only]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        candidates = {case.name: candidate(case, rows, scratch) for case in cases}
        costs: dict[str, list[Cost]] = {name: [] for name in candidates}
        for _ in range(repeat):
            for name, each in candidates.items():
                costs[name].append(run(each, scratch / "turn"))
    speeds = {n: rows / statistics.median(c.wall_s for c in each) for n, each in costs.items()}
    print(f"{rows:,} rows, the median of {repeat} turns; whole processes, start-up included")
    missed = 0
    for case in cases:
        cpu_s = statistics.median(cost.cpu_s for cost in costs[case.name])
        rss_mb = max(cost.rss_mb for cost in costs[case.name])
        line = f"{case.name:22} {speeds[case.name] / 1e6:6.2f} M rows/s  {rows / cpu_s / 1e6:6.2f} M rows/CPU-s"
        line += f"  {rss_mb:6.0f} MB"
        if case.bar is not None and case.bar.of in ("", *speeds):
            least = max(case.bar.rows_per_s, case.bar.share * speeds.get(case.bar.of, 0.0))
            met = speeds[case.name] >= least
            missed += not met
            line += f"  bar {least / 1e6:.2f} M rows/s: {'met' if met else 'MISSED'}"
        print(line)
    return 1 if missed else 0


def main() -> int:
    if sys.argv[1:2] == ["data"]:
        write_data(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        return 0
    if sys.argv[1:2] == ["reference"]:
        reference(Path(sys.argv[2]))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], choices=[case.name for case in CASES])
    given = parser.parse_args()
    return measure(given.rows, given.repeat, given.only)


if __name__ == "__main__":
    sys.exit(main())
