"""A run that is killed around its end has run once: the same command again doubles nothing."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

pytestmark = pytest.mark.rotates(3)

ROWS = 300
WORKFLOW = f"""\
name: fin
version: "1.0"
sources:
  numbers: {{type: generate, config: {{rows: {ROWS}, columns: {{id: {{sequence: 0}}}}}}}}
destinations:
  table: {{type: sqlite, inputs: [numbers], config: {{path: out.db, table: t}}}}
  parts: {{type: file, inputs: [numbers], config: {{path: parts/, format: ndjson}}}}
  lines: {{type: file, inputs: [numbers], config: {{path: lines.csv, mode: append}}}}
"""
AROUND_THE_END = (
    "engine.before_manifest",
    "checkpoint.before_publish",
    "checkpoint.after_rename",
    "engine.after_manifest",
    "engine.before_commit",
    "engine.after_commit",
    "sqlite.commit.before_commit",
    "sqlite.commit.after_commit",
    "file.commit.after_publish",
    "run.finished",
    "run.told",
)


def run(
    folder: Path, *options: str, crash_at: str | None = None
) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    if crash_at:
        environ["DATAFLARE_CRASH_AT"] = f"{crash_at}:1"
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "--quiet", *options]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)


def counts(folder: Path) -> tuple[int, int, int]:
    """Rows in the table, in the parts, in the file."""
    with sqlite3.connect(folder / "out.db") as db:
        table = db.execute("select count(*) from t").fetchone()[0]
    parts = sum(len(p.read_text().splitlines()) for p in (folder / "parts").glob("*.ndjson"))
    return table, parts, pl.read_csv(folder / "lines.csv").height


def status_of_last(folder: Path) -> str:
    command = [sys.executable, "-m", "dataflare", "runs", "--json"]
    listed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(listed.stdout)[0]["status"]


@pytest.mark.parametrize("point", AROUND_THE_END)
def test_a_run_killed_near_its_end_counts_once(point: str, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    assert run(tmp_path, crash_at=point).returncode == -signal.SIGKILL
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    assert counts(tmp_path) == (ROWS, ROWS, ROWS)
    third = run(tmp_path)
    assert third.returncode == 0, third.stderr
    assert counts(tmp_path) == (2 * ROWS, 2 * ROWS, 2 * ROWS)


@pytest.mark.parametrize("point", ["run.finished", "run.told"])
def test_the_next_command_says_once_that_the_run_had_finished(point: str, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    run(tmp_path, crash_at=point)
    assert status_of_last(tmp_path) == "finished"
    again = run(tmp_path, "--json")
    assert "had finished" in again.stderr
    told = json.loads(again.stdout)
    assert told["status"] == "finished"
    assert told["steps"]["table"]["rows_in"] == ROWS
    assert told["run_id"] == json.loads(_runs(tmp_path))[0]["run_id"]
    assert "had finished" not in run(tmp_path).stderr


def test_a_fresh_run_does_not_wait_for_the_report(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    run(tmp_path, crash_at="run.finished")
    assert run(tmp_path, "--fresh").returncode == 0
    assert counts(tmp_path) == (2 * ROWS, 2 * ROWS, 2 * ROWS)


def _runs(folder: Path) -> str:
    command = [sys.executable, "-m", "dataflare", "runs", "--json"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
