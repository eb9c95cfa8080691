"""Two streams joined by time: `python -m benchmarks.joins [--rows 4000000] [--repeat 3]`.

Each stream has a million rows a second of event time, up to 5 s out of order, and 100,000 keys; a row has about one
match within 50 ms. DataFlare reads both from Parquet in streaming mode and settles rows as the watermark
moves; Polars joins the whole files at once, by buckets of time. The number of pairs must be the same.

`python -m benchmarks.joins polars LEFT RIGHT` is one turn of Polars.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks import workflows
from benchmarks.cases import DATAFLARE, OURS, ROOT
from benchmarks.generate import uniform
from benchmarks.measure import Candidate, Measured, take_turns, warm

KEYS = 100_000
WITHIN_US = 50_000
DISORDER_US = 5_000_000
RATE_MIN = 2_000_000
"""The bar: rows a second of both sides together."""
START = 1_700_000_000_000_000


def stream(rows: int, column: int, value: str) -> pl.DataFrame:
    """One side: a row each microsecond, each up to `DISORDER_US` late."""
    row = pl.col("row")
    numbers = pl.select(row=pl.int_range(rows))
    late = (uniform(row, column) * DISORDER_US).cast(pl.Int64)
    return numbers.select(
        (uniform(row, column + 1) * KEYS).cast(pl.Int64).alias("k"),
        row.alias(value),
        (row + START - late).cast(pl.Datetime("us", "UTC")).alias("at" + value),
    )


def flow(left: Path, right: Path) -> dict[str, Any]:
    def source(path: Path, value: str) -> dict[str, Any]:
        event_time = {"column": f"at{value}", "out_of_orderness": "5s"}
        return {"type": "file", "config": {"path": str(path)}, "event_time": event_time}

    return {
        "name": "joins",
        "version": "1.0",
        "settings": {"mode": "streaming", "checkpoint": {"interval": "10s"}},
        "sources": {"left": source(left, "a"), "right": source(right, "b")},
        "transformations": {
            "pairs": {
                "type": "join",
                "inputs": ["left", "right"],
                "config": {"on": ["k"], "within": f"{WITHIN_US // 1000}ms"},
            }
        },
        "destinations": {"out": {"type": "blackhole", "inputs": ["pairs"]}},
    }


def by_polars(left: str, right: str) -> None:
    """The whole files at once: each row of the right side in the buckets that it may match in."""
    width = 2 * WITHIN_US + 1
    own = pl.read_parquet(left).with_columns(t=pl.col("ata").cast(pl.Int64))
    other = pl.read_parquet(right).with_columns(u=pl.col("atb").cast(pl.Int64))
    low = other.with_columns(bucket=(pl.col("u") - WITHIN_US) // width)
    high = other.with_columns(bucket=(pl.col("u") + WITHIN_US) // width)
    high = high.filter(high["bucket"] != low["bucket"])
    pairs = (
        own.with_columns(bucket=pl.col("t") // width)
        .lazy()
        .join(pl.concat([low, high]).lazy(), on=["k", "bucket"])
        .filter((pl.col("t") - pl.col("u")).abs() <= WITHIN_US)
        .select("k", "a", "ata", "b", "atb")
        .collect()
    )
    print(json.dumps({"pairs": pairs.height}))


def pairs_of(name: str, scratch: Path) -> int:
    """How many pairs the last turn of a candidate gave."""
    said = (scratch / name / "stderr.txt").read_text().strip().splitlines()[-1]
    result = json.loads(said)
    return int(result["pairs"] if name == "polars" else result["steps"]["pairs"]["rows_out"])


def line(each: Measured, rows: int, pairs: int) -> str:
    return (
        f"{each.name:11} {rows / each.wall.median / 1e6:5.2f} Mrows/s  wall {each.wall.median:6.2f} s  "
        f"cpu {each.cpu.median:6.2f} s, {each.cpu.median / rows * 1e6:.2f} us a row  "
        f"peak {each.rss.median:5.0f} MB  {pairs:,} pairs"
    )


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["polars"]:
        by_polars(*arguments[1:])
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks.joins", description=__doc__)
    parser.add_argument("--rows", type=int, default=4_000_000, help="of each side (4 million)")
    parser.add_argument("--repeat", type=int, default=3, help="turns per candidate (3)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        scratch = Path(folder)
        left, right = scratch / "left.parquet", scratch / "right.parquet"
        stream(given.rows, 1, "a").write_parquet(left)
        stream(given.rows, 3, "b").write_parquet(right)
        warm([left, right])
        file = workflows.write(flow(left, right), scratch / "joins.yaml")
        by_hand = [sys.executable, "-m", "benchmarks.joins", "polars", str(left), str(right)]
        candidates = [
            Candidate(OURS, [DATAFLARE, "run", str(file), "--json", "--fresh"]),
            Candidate("polars", by_hand, env={"PYTHONPATH": str(ROOT)}),
        ]
        turns = take_turns(candidates, given.repeat, scratch)
        pairs = [pairs_of(each.name, scratch) for each in turns]
    rows = 2 * given.rows
    for each, number in zip(turns, pairs, strict=True):
        print(line(each, rows, number))
    rate = rows / turns[0].wall.median
    met = rate >= RATE_MIN and pairs[0] == pairs[1]
    print(f"{'met' if met else 'missed'}: {rate / 1e6:.2f} Mrows/s, bar {RATE_MIN / 1e6:g}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
