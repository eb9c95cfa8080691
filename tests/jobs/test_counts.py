"""Counts tell what is true now: rows that were committed, once, however often the run began again."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path

import flaky
import pytest

from dataflare import RunOptions, run
from dataflare.errors import DataError, Retry
from dataflare.workflow.load import load_text

WORKFLOW = """\
name: counted
settings: {parallelism: 1, checkpoint: {interval: 2ms}, restart: {attempts: 3, delay: 1ms}}
sources:
  numbers: {type: flaky, config: {rows: 1000}}
transformations:
  even: {type: filter, inputs: [numbers], config: {condition: "n % 2 = 0"}}
destinations:
  parts: {type: file, inputs: [even], config: {path: parts/, format: csv}}
  whole: {type: file, inputs: [even], config: {path: whole.csv}}
"""


@pytest.fixture(autouse=True)
def no_failures_left() -> object:
    yield
    flaky.FAILURES.clear()
    flaky.MADE.clear()
    flaky.GATES.clear()


def has_parts(folder: Path) -> bool:
    """Whether an epoch with rows was committed."""
    return any((folder / "parts").glob("*.csv"))


def start(folder: Path) -> object:
    return run(load_text(WORKFLOW, base=folder), RunOptions(home=folder / "home"))


def test_rows_of_abandoned_attempts_are_not_counted(tmp_path: Path) -> None:
    flaky.GATES.append((300, partial(has_parts, tmp_path)))
    flaky.FAILURES.extend((row, DataError("lost", retry=Retry.LATER)) for row in (400, 700, 900))
    result = start(tmp_path)
    assert result.error is None
    counts = {name: (s["rows_in"], s["rows_out"]) for name, s in result.steps.items()}
    assert counts["numbers"] == (0, 1000)
    assert counts["even"] == (1000, 500)
    assert counts["parts"] == counts["whole"] == (500, 500)


def test_a_failed_run_counts_what_was_committed_and_says_what_is_visible(tmp_path: Path) -> None:
    flaky.GATES.append((300, partial(has_parts, tmp_path)))
    flaky.FAILURES.append((700, DataError("broken")))
    result = start(tmp_path)
    assert result.status == "failed"
    lines = [p.read_text().splitlines()[1:] for p in (tmp_path / "parts").glob("*.csv")]
    visible = sum(map(len, lines))
    assert result.steps["parts"]["rows_out"] == visible
    assert result.steps["numbers"]["rows_out"] < 700
    assert any("'parts'" in w and "of this run" in w for w in result.warnings)
    assert any("'whole' shows nothing" in w for w in result.warnings)
    assert not (tmp_path / "whole.csv").exists()


def test_the_warnings_of_a_source_are_those_of_the_run(tmp_path):
    with sqlite3.connect(tmp_path / "s.db") as db:
        db.execute("create table t (id integer, v integer)")
        db.executemany("insert into t values (?, ?)", [(1, 1), (2, None), (3, None)])
    text = """
name: nulls
version: "1.0"
sources: {s: {type: sqlite, config: {path: s.db, table: t, incremental: {column: v}}}}
destinations: {o: {type: blackhole, inputs: [s]}}
"""
    for _ in range(2):
        result = run(load_text(text, base=tmp_path), RunOptions(home=tmp_path / "home"))
        (warning,) = result.warnings
        assert warning.startswith("step 's': column 'v' is NULL")
        assert warning.endswith("in 2 rows")
