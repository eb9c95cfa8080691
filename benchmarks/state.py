"""State larger than memory: `python -m benchmarks.state keys|checkpoints [options]`.

`keys`: a run over many distinct keys with a small memory budget. The whole process is measured: its peak memory, its speed,
and the time between checkpoints.

`checkpoints`: the newest row of each of many keys, of which a hundredth changes between each two checkpoints. Measured: the
share of the state that each checkpoint writes, how long the rows stand still while one is taken, and how long the table of
a new process takes until it has answered.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import Candidate, run

_BATCH = 100_000
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


def checkpoints(given: argparse.Namespace) -> int:
    import polars as pl

    from dataflare.checkpoint.store import LocalStore
    from dataflare.engine.operating import ChunkFolder
    from dataflare.state.tables import Frozen, Tables, TableShare

    rows = int(given.mb * 1e6 / 72)
    generator = random.Random(1)

    def changed(first: int, count: int) -> pl.DataFrame:
        """Rows of these keys with values that cannot be compressed."""
        place = pl.int_range(first, first + count, eager=True) % rows
        seed = generator.getrandbits(32)
        columns = [place.hash(seed + n).reinterpret(signed=True).alias(f"v{n}") for n in range(8)]
        return pl.DataFrame([(place * 0x9E3779B97F4A7C1).alias("k"), *columns])

    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        store = LocalStore(Path(folder), "0123456789abcdef")
        chunks = ChunkFolder(store, "s", 0, 1)
        tables = Tables(storage=chunks)
        table = tables.newest("t", ["k"])
        for first in range(0, rows, _BATCH):
            table.put(changed(first, min(_BATCH, rows - first)))
            tables.keep_within(given.memory_mb * 1_000_000)
        known: set[str] = set()
        share: TableShare | None = None

        def stored(frozen: Frozen) -> float:
            """Store, and say how many bytes were written."""
            nonlocal share
            share = tables.store(frozen)
            fresh = {c.name: c.num_bytes for c in share.chunks["t"] if c.name not in known}  # type: ignore[attr-defined]
            known.update(fresh)
            return sum(fresh.values())

        whole = stored(tables.freeze())
        written, pauses, steps = [], [], []
        with ThreadPoolExecutor(1) as pool:
            for number in range(given.checkpoints):
                frozen_at = time.perf_counter()
                chunks.epoch = number + 2
                frozen = tables.freeze()
                pauses.append(time.perf_counter() - frozen_at)
                storing = pool.submit(stored, frozen)
                first = generator.randrange(rows)
                for start in range(first, first + rows // 100, _BATCH):
                    part = changed(start, min(_BATCH, first + rows // 100 - start))
                    began = time.perf_counter()
                    table.find(part.select("k"))
                    table.put(part)
                    steps.append(time.perf_counter() - began)
                    tables.keep_within(given.memory_mb * 1_000_000)
                written.append(storing.result() / whole)
        began = time.perf_counter()
        assert share is not None
        again = Tables(storage=ChunkFolder(store, "s", 0, 2), shares=[share])
        found = again.newest("t", ["k"]).find(changed(0, 1000).select("k"))
        recovery = time.perf_counter() - began
        assert found is not None
        assert found.height == 1000
    median, most = statistics.median(written[1:]), max(written[1:])
    met = median <= 0.03 and most <= 0.1 and max(pauses) < 0.2 and recovery < 30
    print(
        f"{whole / 1e6:,.0f} MB of state, {given.checkpoints} checkpoints: median {median:.1%} written, most {most:.1%}; "
        f"pause {max(pauses) * 1000:.1f} ms, longest step {max(steps) * 1000:.0f} ms; recovery {recovery:.1f} s: "
        + ("met" if met else "MISSED")
    )
    return 0 if met else 1


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
    two = commands.add_parser("checkpoints")
    two.add_argument("--mb", type=float, default=5000)
    two.add_argument("--checkpoints", type=int, default=100)
    two.add_argument("--memory-mb", type=int, default=8000)
    two.add_argument("--folder", default=None, help="where state is written")
    two.set_defaults(command=checkpoints)
    given = parser.parse_args()
    status: int = given.command(given)
    return status


if __name__ == "__main__":
    sys.exit(main())
