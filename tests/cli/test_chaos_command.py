"""`dataflare chaos`: a right workflow passes with faults, a wrong one is found with the fewest faults that show it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import cli, write

EXAMPLES = Path(__file__).parents[2] / "examples"

WRONG = """\
name: doubling
version: "1.0"
sources:
  rows: {type: generate, config: {rows: 300, seed: 1, columns: {id: {sequence: 0}}}}
transformations:
  told:
    type: python
    inputs: [rows]
    config: {function: "telling:tell", schema: {id: int64, again: bool}}
destinations:
  out: {type: file, inputs: [told], config: {path: out/rows.csv}}
"""
TELLING = """
import os
from pathlib import Path

import polars as pl

def has_started():
    started = Path(os.environ["DATAFLARE_HOME"]).parent / "started"
    before = started.exists()
    started.touch()
    return before


again = "DATAFLARE_HOME" in os.environ and has_started()


def tell(frame):
    return frame.with_columns(again=pl.lit(again))
"""


@pytest.mark.rotates(3)
@pytest.mark.parametrize("example", ["generated_stream", "clean_csv", "incremental_copy"])
def test_an_example_has_the_same_rows_with_faults(example: str, tmp_path: Path) -> None:
    done = cli("chaos", str(EXAMPLES / f"{example}.yaml"), "--seeds", "3", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["equal"]
    assert [run["seed"] for run in answer["runs"]] == [1, 2, 3]
    assert sum(run["happened"] for run in answer["runs"]) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.rotates(2)
def test_a_workflow_whose_rows_depend_on_a_restart_is_found(tmp_path: Path) -> None:
    write(tmp_path, "wrong.yaml", WRONG)
    write(tmp_path, "telling.py", TELLING)
    faults = "clock@1:5, kill@3; slow@1:0.01"
    done = cli("chaos", "wrong.yaml", "--faults", faults, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    line, again = done.stdout.splitlines()
    assert line.startswith("seed 1: clock@1:5, kill@3; slow@1:0.01: ")
    assert "out: " in line
    assert "missing" in line
    assert again.endswith("dataflare chaos wrong.yaml --seed 1 --faults kill@3")


def test_what_differs_between_undisturbed_runs_is_told_and_not_compared(tmp_path: Path) -> None:
    text = WRONG.replace('{function: "telling:tell", schema: {id: int64, again: bool}}',
                         "{derive: {at: 'now()'}}").replace("type: python", "type: map")  # fmt: skip
    write(tmp_path, "clock.yaml", text)
    done = cli("chaos", "clock.yaml", "--faults", "kill@3", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(json.loads(done.stdout)["not_compared"]) == ["out.at"]


NUMBERED = """\
name: numbered
settings: {run_column: _run}
sources:
  rows: {type: generate, config: {rows: 100, seed: 1, columns: {id: {sequence: 0}}}}
destinations:
  text: {type: file, inputs: [rows], config: {path: rows.csv}}
  table: {type: sqlite, inputs: [rows], config: {path: rows.db, table: rows}}
  kept: {type: file, inputs: [rows], config: {path: rows.parquet}}
"""


@pytest.mark.rotates(2)
def test_destinations_with_the_column_of_the_run_are_compared(tmp_path: Path) -> None:
    write(tmp_path, "numbered.yaml", NUMBERED)
    done = cli("chaos", "numbered.yaml", "--faults", "kill@3", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["compared"] == ["text", "table", "kept"]
    assert sorted(answer["not_compared"]) == ["kept._run", "table._run", "text._run"]


@pytest.mark.rotates(2)
def test_rows_that_differ_are_found_beside_the_column_of_the_run(tmp_path: Path) -> None:
    write(tmp_path, "wrong.yaml", WRONG + "settings: {run_column: _run}\n")
    write(tmp_path, "telling.py", TELLING)
    done = cli("chaos", "wrong.yaml", "--faults", "kill@3; slow@1:0.01", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "out: " in done.stdout.splitlines()[0]


@pytest.mark.rotates(2)
def test_it_does_not_pass_where_nothing_is_compared(tmp_path: Path) -> None:
    text = NUMBERED[: NUMBERED.index("  text:")]
    write(tmp_path, "blind.yaml", text + "  out: {type: blackhole, inputs: [rows]}\n")
    done = cli("chaos", "blind.yaml", "--faults", "kill@3", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no destination can be compared" in done.stdout
    write(tmp_path, "half.yaml", NUMBERED + "  out: {type: blackhole, inputs: [rows]}\n")
    done = cli("chaos", "half.yaml", "--faults", "kill@3", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("what is not compared: text._run, table._run, kept._run, out")  # fmt: skip


def test_a_workflow_that_fails_without_faults_says_so(tmp_path: Path) -> None:
    write(tmp_path, "telling.py", "def tell(frame):\n    raise ValueError('no')\n")
    write(tmp_path, "wrong.yaml", WRONG)
    done = cli("chaos", "wrong.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error[E0822]: the workflow fails without faults, with status 1")
    assert "ValueError" in done.stderr


def test_a_wrong_fault_is_named(tmp_path: Path) -> None:
    write(tmp_path, "wrong.yaml", WRONG)
    write(tmp_path, "telling.py", "def tell(frame):\n    return frame\n")
    done = cli("chaos", "wrong.yaml", "--faults", "burn@3", cwd=tmp_path)
    assert done.returncode == 2
    assert "'burn@3' is not a fault" in done.stderr


def test_no_time_at_all_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "wrong.yaml", WRONG)
    done = cli("chaos", "wrong.yaml", "--for", "0s", cwd=tmp_path)
    assert done.returncode == 2
    assert "--for takes a time above 0, not '0s'" in done.stderr
