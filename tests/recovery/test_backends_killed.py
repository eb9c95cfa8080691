"""SIGKILL at random moments, and each run goes on with another backend of state and another parallelism: the same rows
as undisturbed, and nothing is left of the backends."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from optional_packages import package

KILLS, SEED = 5, 20_261
WORKFLOW = """\
name: backends
version: "1.0"
settings:
  mode: streaming
  checkpoint: {interval: 30ms}
  batch: {initial: 300, min: 100, max: 1000}
sources:
  clicks:
    type: generate
    config:
      rows: 20000
      rate: 1000000/s
      seed: 7
      columns: {id: {sequence: 0}, user: {int: [1, 4000]}, amount: {float: [0, 100]}}
transformations:
  firsts: {type: deduplicate, inputs: [clicks], config: {key: [user]}}
  totals:
    type: aggregate
    inputs: [clicks]
    config:
      group_by: [user]
      measures: {n: "count(*)", ids: "sum(id)", most: "max(amount)", kinds: "count(distinct amount)"}
      emit: updates
destinations:
  firsts_out: {type: file, inputs: [firsts], config: {path: out/firsts.parquet}}
  totals_out:
    type: sqlite
    inputs: [totals]
    config: {path: out/totals.db, table: totals, mode: upsert, key: [user]}
"""
BACKENDS = ["memory", "sqlite", "rocksdb"]


def start(folder: Path, *sets: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    options = [part for each in sets for part in ("--set", each)]
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "--quiet", *options]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def folder_at(path: Path) -> Path:
    path.mkdir()
    (path / "w.yaml").write_text(WORKFLOW)
    return path


def finish(folder: Path, *sets: str) -> None:
    process = start(folder, *sets)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def contents(folder: Path) -> tuple[list[Any], list[Any]]:
    firsts = pl.read_parquet(folder / "out/firsts.parquet").sort("id")
    with closing(sqlite3.connect(folder / "out/totals.db")) as db:
        totals = db.execute("select * from totals order by user").fetchall()
    return firsts.rows(), totals


@pytest.mark.rotates(3)
def test_each_backend_goes_on_from_the_checkpoints_of_the_others_after_a_kill(
    tmp_path: Path,
) -> None:
    package("rocksdict")
    rng, died = random.Random(SEED), 0
    undisturbed = folder_at(tmp_path / "undisturbed")
    finish(undisturbed)
    disturbed = folder_at(tmp_path / "disturbed")
    while died < KILLS:
        process = start(
            disturbed,
            "sources.clicks.config.rate=5000/s",
            f"settings.state.backend={BACKENDS[died % 3]}",
            f"settings.parallelism={rng.randint(1, 3)}",
            "settings.state.path=scratch",
            "settings.resources.memory=16MiB",
        )
        try:
            process.communicate(timeout=rng.uniform(0.7, 2.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            died += 1
        else:
            break
    assert died
    finish(disturbed, "settings.state.backend=rocksdb", "settings.state.path=scratch")
    assert contents(disturbed) == contents(undisturbed)
    assert not list((disturbed / "scratch/backends").iterdir())
