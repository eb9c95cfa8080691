"""A run is killed at each point of its commits, and each row is in the tables once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pytest
from lake_kit import KINDS, Lake

ROWS = 800
CUSTOMERS = 40
PLACES = {
    "delta": "path: lake/{}",
    "iceberg": "catalog: {{type: sql, uri: 'sqlite:///catalog.db', warehouse: lake}}, table: shop.{}",
}
WORKFLOW = """\
name: orders
settings:
  parallelism: 1
  checkpoint: {interval: 100ms}
  batch: {initial: 100, min: 50, max: 200}
sources:
  orders:
    type: generate
    config:
      rows: ROWS
      seed: 7
      rate: 1500/s
      columns: {id: {sequence: 0}, customer: {int: [1, CUSTOMERS]}, amount: {float: [0, 100]}}
destinations:
  added: {type: KIND, inputs: [orders], config: {ADDED}}
  kept: {type: KIND, inputs: [orders], config: {KEPT, mode: upsert, key: customer}}
""".replace("ROWS", str(ROWS)).replace("CUSTOMERS", str(CUSTOMERS))
POINTS = {
    "delta": ("before_marker", "after_marker:3", "after_version:2"),
    "iceberg": ("before_marker", "before_swap:3", "after_commit:2"),
}
"""Places in a commit. Two tables pass them in each epoch, so that at 2 one table has the epoch."""


def run(folder: Path, crash_at: str = "") -> tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    environment["DATAFLARE_CRASH_AT"] = crash_at
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", "run", "workflow.yaml", "--quiet"],
        cwd=folder, env=environment, text=True, capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, done.stderr


def by_log(folder: Path) -> pl.DataFrame:
    """The rows of a Delta table as its log says, without the library."""
    paths: dict[str, None] = {}
    for version in sorted((folder / "_delta_log").glob("*.json")):
        for line in version.read_text().splitlines():
            action = json.loads(line)
            if "add" in action:
                paths[action["add"]["path"]] = None
            elif "remove" in action:
                del paths[action["remove"]["path"]]
    return pl.concat([pl.read_parquet(folder / unquote(path)) for path in paths])


def frames(lake: Lake, table: str) -> list[pl.DataFrame]:
    """What two other readers find."""
    if lake.kind == "delta":
        return [lake.frame(table), by_log(lake.folder / "lake" / table)]
    native = pl.scan_iceberg(lake.table(table), reader_override="native").collect()
    return [lake.frame(table), native]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Iceberg scan planning")
def test_a_run_that_dies_again_and_again_loses_and_doubles_nothing(kind: str, tmp_path: Path):
    text = WORKFLOW.replace("ADDED", PLACES[kind].format("added"))
    text = text.replace("KEPT", PLACES[kind].format("kept")).replace("KIND", kind)
    (tmp_path / "workflow.yaml").write_text(text)
    for point in POINTS[kind]:
        code, said = run(tmp_path, f"{kind}.commit.{point}")
        assert code == -signal.SIGKILL, (point, said)
    code, said = run(tmp_path)
    assert code == 0, said
    lake = Lake(kind, tmp_path)
    for added, kept in zip(frames(lake, "added"), frames(lake, "kept"), strict=True):
        assert added["id"].sort().to_list() == list(range(ROWS))
        last = added.sort("id").unique("customer", keep="last").sort("customer")
        assert kept.sort("customer").select(last.columns).equals(last)
        assert last.height == CUSTOMERS
