"""A run resumed after its columns changed: each value is under its own column, or the run is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import duckdb
import flaky
import polars as pl
import pytest

from dataflare.errors import DataError
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow.load import load_text

TEXT = """\
name: columns
settings: {{parallelism: 1, checkpoint: {{interval: 2ms}}}}
sources:
  numbers: {{type: flaky, config: {{rows: 1000}}}}
transformations:
  chosen: {{type: map, inputs: [numbers], config: {{derive: {{a: "n + 10000", b: "n + 20000"}}, select: [{columns}]}}}}
destinations:
  out: {{inputs: [chosen], {destination}}}
"""

DESTINATIONS = {
    "csv": "type: file, config: {path: o.csv}",
    "parts": "type: file, config: {path: o/, format: csv}",
    "sqlite": "type: sqlite, config: {path: o.db, table: t}",
    "sqlite overwrite": "type: sqlite, config: {path: o.db, table: t, mode: overwrite}",
    "duckdb": "type: duckdb, config: {path: o.duck, table: t}",
    "duckdb overwrite": "type: duckdb, config: {path: o.duck, table: t, mode: overwrite}",
}


@pytest.fixture(autouse=True)
def no_failures_left():
    yield
    flaky.FAILURES.clear()
    flaky.MADE.clear()
    flaky.GATES.clear()


def start(folder: Path, kind: str, columns: str, **options: bool) -> RunResult:
    text = TEXT.format(columns=columns, destination=DESTINATIONS[kind])
    return run(load_text(text, base=folder), RunOptions(folder / "home", **options))


def unfinished(folder: Path, kind: str) -> None:
    """Leave a run behind with a checkpoint after some of its rows."""

    def is_kept() -> bool:
        return bool(list((folder / "home" / "columns").glob("*/manifest-*")))

    flaky.GATES.append((500, is_kept))
    flaky.FAILURES.append((1_000, DataError("at the end")))
    assert start(folder, kind, "n, a, b").status == "failed"


def held(folder: Path, kind: str) -> list[dict[str, int]]:
    if kind == "csv":
        return pl.read_csv(folder / "o.csv").rows(named=True)
    if kind == "parts":
        return [
            row
            for path in (folder / "o").glob("*.csv")
            for row in pl.read_csv(path).rows(named=True)
        ]
    if kind.startswith("sqlite"):
        with sqlite3.connect(folder / "o.db") as lite:
            return named(lite.execute("select * from t"))
    with duckdb.connect(str(folder / "o.duck")) as duck:
        return named(duck.execute("select * from t"))


def named(cursor: Any) -> list[dict[str, int]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def test_one_file_is_refused_and_goes_on_once_the_change_is_undone(tmp_path: Path) -> None:
    unfinished(tmp_path, "csv")
    refused = start(tmp_path, "csv", "n, b, a", accept_changes=True)
    assert refused.status == "failed"
    assert refused.error is not None
    assert (refused.error.code, refused.error.step) == ("E0803", "out")
    assert refused.exit_status == 2
    assert start(tmp_path, "csv", "n, a, b").status == "finished"
    rows = held(tmp_path, "csv")
    assert sorted(row["n"] for row in rows) == list(range(1000))
    assert all(row["a"] == row["n"] + 10_000 and row["b"] == row["n"] + 20_000 for row in rows)


@pytest.mark.parametrize("columns", ["n, b, a", "b, n", "b, n, a"])
@pytest.mark.parametrize("kind", [kind for kind in DESTINATIONS if kind != "csv"])
def test_elsewhere_each_value_is_under_its_column(tmp_path: Path, kind: str, columns: str) -> None:
    unfinished(tmp_path, kind)
    assert start(tmp_path, kind, columns, accept_changes=True).status == "finished"
    rows = held(tmp_path, kind)
    assert sorted(row["n"] for row in rows) == list(range(1000))
    for row in rows:
        assert row.get("a") in (None, row["n"] + 10_000)
        assert row["b"] == row["n"] + 20_000
