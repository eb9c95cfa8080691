"""A workflow into every kind of destination, run as a process that may be killed anywhere."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

WORKFLOW = """\
name: {name}
version: "1.0"
settings:
  parallelism: {parallelism}
  checkpoint: {{interval: {interval}}}
  batch: {{initial: 500, min: 100, max: 2000}}
sources:
  orders:
    type: generate
    config:
      rows: {rows}
      seed: 7
      {rate}
      columns:
        id: {{sequence: 0}}
        customer: {{int: [1, 500]}}
        amount: {{float: [0, 100]}}
        status: {{choice: [paid, open, gone]}}
transformations:
  paid:
    type: filter
    inputs: [orders]
    config: {{condition: "status <> 'gone'"}}
  priced:
    type: map
    inputs: [paid]
    config: {{derive: {{gross: "amount * 1.19"}}, select: [id, customer, gross, status]}}
  totals:
    type: aggregate
    inputs: [priced]
    config: {{group_by: [customer], measures: {{n: "count(*)", ids: "sum(id)", most: "max(gross)"}}}}
  seen: {{type: "tally:Tally", inputs: [priced], config: {{by: customer, of: id}}}}
destinations:
  single: {{type: file, inputs: [priced], config: {{path: out/single.parquet}}}}
  lines: {{type: file, inputs: [priced], config: {{path: out/lines.csv}}}}
  objects: {{type: file, inputs: [priced], config: {{path: out/objects.json.gz}}}}
  batches: {{type: file, inputs: [priced], config: {{path: out/batches.arrow, row_group_rows: 700}}}}
  parts: {{type: file, inputs: [priced], config: {{path: out/parts, partition_by: [status]}}}}
  lite: {{type: sqlite, inputs: [priced], config: {{path: out/lite.db, table: orders}}}}
  latest:
    type: sqlite
    inputs: [priced]
    config: {{path: out/lite.db, table: latest, mode: upsert, key: [customer]}}
  duck: {{type: duckdb, inputs: [priced], config: {{path: out/duck.db, table: orders}}}}
  sums: {{type: duckdb, inputs: [totals], config: {{path: out/duck.db, table: totals}}}}
  tallies: {{type: file, inputs: [seen], config: {{path: out/tallies.parquet}}}}
"""
DESTINATIONS = (
    "single",
    "lines",
    "objects",
    "batches",
    "parts",
    "lite",
    "latest",
    "duck",
    "sums",
    "tallies",
)
TALLY = Path(__file__).parent / "tally.py"


@dataclass
class Sandbox:
    """A folder with the workflow file, its state and what it writes."""

    folder: Path
    rows: int = 4_000
    rate: str = "4000/s"
    interval: str = "30ms"
    parallelism: int = 1

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = WORKFLOW.format(
            name="orders",
            rows=self.rows,
            rate=f"rate: {self.rate}" if self.rate else "",
            interval=self.interval,
            parallelism=self.parallelism,
        )
        (self.folder / "workflow.yaml").write_text(text)
        shutil.copy(TALLY, self.folder)

    def start(self, *options: str, crash_at: str | None = None) -> subprocess.Popen[str]:
        """Start `dataflare run` as a process of its own."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
        if crash_at is not None:
            environment["DATAFLARE_CRASH_AT"] = crash_at
        command = [sys.executable, "-m", "dataflare", "run", "workflow.yaml", "--quiet", *options]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str, crash_at: str | None = None) -> int:
        """Run to the end; a death by SIGKILL is -9. Anything else but success fails the test."""
        process = self.start(*options, crash_at=crash_at)
        _, errors = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), errors
        return process.returncode

    def contents(self) -> dict[str, pl.DataFrame]:
        """What every destination holds, in one order."""
        out = self.folder / "out"
        with sqlite3.connect(out / "lite.db") as lite:
            orders = _rows(
                lite.execute("select id, customer, gross, status from orders").fetchall()
            )
            latest = _rows(
                lite.execute("select id, customer, gross, status from latest").fetchall()
            )
        with duckdb.connect(str(out / "duck.db"), read_only=True) as duck:
            orders_sql = "select id, customer, gross, status from orders"
            duck_orders = pl.DataFrame(duck.sql(orders_sql).to_arrow_table())
            totals = pl.DataFrame(duck.sql("from totals").to_arrow_table())
        parts = pl.read_parquet(out / "parts/**/*.parquet", hive_partitioning=True)
        found = {
            "single": pl.read_parquet(out / "single.parquet"),
            "lines": pl.read_csv(out / "lines.csv"),
            "objects": pl.read_json(gzip.decompress((out / "objects.json.gz").read_bytes())),
            "batches": pl.read_ipc(out / "batches.arrow"),
            "parts": parts.select("id", "customer", "gross", pl.col("status").cast(pl.String)),
            "lite": orders,
            "latest": latest,
            "duck": duck_orders,
            "sums": totals,
            "tallies": pl.read_parquet(out / "tallies.parquet").sort("customer", "rows"),
        }
        return {
            name: frame.sort(frame.columns[0], maintain_order=True) for name, frame in found.items()
        }

    def leftovers(self) -> list[str]:
        """Staging files, and files half written, that a finished run must not leave."""
        out = self.folder / "out"
        paths = [path for path in out.rglob("*") if "inprogress" in path.name]
        return [str(path) for path in [*paths, *out.rglob(".tmp-*")]]


def _rows(rows: Sequence[tuple[object, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["id", "customer", "gross", "status"], orient="row")


def same(found: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    """Each row once, in every destination."""
    for name in DESTINATIONS:
        left, right = found[name], expected[name]
        assert left.height == right.height, f"{name}: {left.height} rows, not {right.height}"
        assert left.select(right.columns).equals(right), name
