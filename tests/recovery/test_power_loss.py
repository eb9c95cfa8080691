"""The power fails at any moment of a run, and what was not synced is gone or torn: the next run
brings every row exactly once, into each kind of destination."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

import dataflare
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.testing import DiskState, RecordedDisk

pytestmark = pytest.mark.rotates(4)

WORKFLOW = """\
name: orders
version: "1.0"
settings: {{parallelism: 1, checkpoint: {{interval: 12ms}}, batch: {{initial: 100, min: 100, max: 100}}}}
sources:
  orders:
    type: generate
    config:
      rows: 90
      rate: 3000/s
      seed: 7
      columns: {{id: {{sequence: 0}}, customer: {{int: [1, 20]}}, amount: {{float: [0, 100]}}, half: {{choice: [a, b]}}}}
transformations:
  totals:
    type: aggregate
    inputs: [orders]
    config: {{group_by: [customer], measures: {{n: "count(*)", most: "max(id)"}}}}
destinations:
  orders_out: {{type: {type}, inputs: [orders], config: {config}}}
  totals_out: {{type: file, inputs: [totals], config: {{path: out/totals.ndjson}}}}
"""


def _sqlite(path: Path) -> list[Any]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("select id, customer, amount from orders order by id").fetchall()
    connection.close()
    return rows


def _duckdb(path: Path) -> list[Any]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute("select id, customer, amount from orders order by id").fetchall()


def _files(read: Callable[[Path], pl.DataFrame]) -> Callable[[Path], list[Any]]:
    return lambda path: read(path).select("id", "customer", "amount").sort("id").rows()


Case = tuple[str, str, str, Callable[[Path], list[Any]]]
DESTINATIONS: dict[str, Case] = {
    "csv": ("file", "{path: out/orders.csv}", "orders.csv", _files(pl.read_csv)),
    "parquet": ("file", "{path: out/orders.parquet}", "orders.parquet", _files(pl.read_parquet)),
    "arrow": ("file", "{path: out/orders.arrow}", "orders.arrow", _files(pl.read_ipc)),
    "parts": (
        "file",
        "{path: out/orders/, mode: append, format: parquet, partition_by: [half]}",
        "orders/*/*.parquet",
        _files(partial(pl.read_parquet, hive_partitioning=True)),
    ),
    "replaced parts": (
        "file",
        "{path: out/orders/, mode: overwrite, format: parquet}",
        "orders/*.parquet",
        _files(pl.read_parquet),
    ),
    "sqlite": ("sqlite", "{path: out/orders.db, table: orders}", "orders.db", _sqlite),
    "duckdb": ("duckdb", "{path: out/orders.db, table: orders}", "orders.db", _duckdb),
}


def reported(state: DiskState) -> bool:
    """Whether the run is known to have finished: the next command is another run then."""
    records = [data for path, data in state.tree.items() if "/runs/" in path and data]
    return any(b'"status": "finished"' in data for data in records)


@pytest.mark.parametrize("kind", DESTINATIONS)
def test_whatever_a_power_cut_leaves_the_next_run_brings_each_row_once(
    kind: str, tmp_path: Path
) -> None:
    type_, config, name, read = DESTINATIONS[kind]
    root = tmp_path / "root"
    root.mkdir()
    (root / "orders.yaml").write_text(WORKFLOW.format(type=type_, config=config))

    def go() -> RunResult:
        return run(dataflare.load(root / "orders.yaml"), RunOptions(home=root / ".dataflare"))

    def contents() -> tuple[list[Any], list[Any]]:
        totals = pl.read_ndjson(root / "out/totals.ndjson").sort("customer")
        return read(root / "out" / name), totals.rows()

    settled = ("sqlite.commit.after_commit", "duckdb.commit.after_commit")
    with RecordedDisk(root, self_synced=("orders.db*",), settled=settled) as disk:
        assert go().status == "finished"
    expected = contents()
    assert len(expected[0]) == 90

    states = [state for state in disk.states() if not reported(state)]
    assert len(states) > 40
    for state in states:
        state.restore(root)
        result = go()
        told = f"{state}: {result.error}, {result.warnings}"
        assert result.status == "finished", told
        assert contents() == expected, told
    shutil.rmtree(root)
