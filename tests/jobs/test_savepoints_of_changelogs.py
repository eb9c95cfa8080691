"""A run from a savepoint goes on with the rows that joins keep, and with those in front of a destination."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from dataflare import RunOptions, RunResult, load, run
from dataflare.jobs.savepoint_requests import savepoint

WORKFLOW = """\
name: moves
settings: {parallelism: PARALLELISM, checkpoint: {interval: 50ms}, batch: {initial: 100, min: 100, max: 300}}
sources:
  clock:
    type: generate
    config: {rows: 1500, rate: RATE, seed: 3, columns: {n: {sequence: 0}, key: {int: [1, 9]}, group: {int: [1, 4]}}}
transformations:
  sums: {type: aggregate, inputs: [clock], config: {emit: updates, group_by: [key], measures: {total: sum(n), group: max(key) % 4 + 1}}}
  counts: {type: aggregate, inputs: [clock], config: {emit: updates, group_by: [group], measures: {rows: count(*)}}}
  both: {type: join, inputs: [sums, counts], config: {kind: left, on: [group]}}
  sides: {type: route, inputs: [both], config: {routes: {even: total % 2 = 0}, default: odd}}
  all: {type: union, inputs: [sides.even, sides.odd]}
  few: {type: filter, inputs: [all], config: {condition: rows < 375}}  # deletes, of some keys, behind the savepoint
destinations:
  out: {type: sqlite, inputs: [few], config: {path: out.db, table: t, mode: mirror, key: [key]}}
"""


def go(folder: Path, rate: str, parallelism: int, **options: Any) -> RunResult:
    folder.mkdir(exist_ok=True)
    text = WORKFLOW.replace("RATE", rate).replace("PARALLELISM", str(parallelism))
    (folder / "w.yaml").write_text(text)
    return run(load(folder / "w.yaml"), RunOptions(home=folder / "home", **options))


def rows(folder: Path) -> list[Any]:
    with closing(sqlite3.connect(folder / "out.db")) as database:
        return database.execute("SELECT * FROM t ORDER BY key").fetchall()


def test_a_run_from_a_savepoint_takes_back_what_was_given_before_it(tmp_path: Path) -> None:
    assert go(tmp_path / "whole", "1000000/s", 2).error is None
    assert go(tmp_path / "parts", "200/s", 2, for_s=1.0).status == "stopped"
    savepoint(tmp_path / "parts" / "home" / "moves", "one")
    result = go(tmp_path / "parts", "1000000/s", 3, savepoint="one")
    assert result.error is None
    assert 0 < len(rows(tmp_path / "whole")) < 9
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
