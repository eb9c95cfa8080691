"""Columns that a destination's table lacks, as `schema_change` says."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from dataflare import Workflow
from dataflare.errors import PlanError

ROWS = pl.DataFrame({"id": [1, 2, 3], "name": ["a", "b", "c"], "note": [None, "new", None]})


def made(kind: str, path: Path, table: str = "create table t (id integer, name text)") -> None:
    if kind == "sqlite":
        with sqlite3.connect(path) as lite:
            lite.execute(table)
    else:
        with duckdb.connect(str(path)) as duck:
            duck.execute(table)


def held(kind: str, path: Path) -> tuple[list[str], list[tuple[Any, ...]]]:
    if kind == "sqlite":
        with sqlite3.connect(path) as lite:
            found = lite.execute("select * from t order by 1")
            return [d[0] for d in found.description], found.fetchall()
    with duckdb.connect(str(path), read_only=True) as duck:
        found = duck.execute("select * from t order by 1")
        return [d[0] for d in found.description], found.fetchall()


def workflow(kind: str, path: Path, change: str, **config: Any) -> Workflow:
    wf = Workflow("changes", settings={"schema_change": change}, base=path.parent)
    wf.frame("rows", ROWS).to("out", kind, path=str(path), table="t", **config)
    return wf


pytestmark = pytest.mark.parametrize("kind", ["sqlite", "duckdb"])


def test_evolve_adds_them(kind: str, tmp_path: Path):
    made(kind, tmp_path / "db")
    workflow(kind, tmp_path / "db", "evolve").run()
    assert held(kind, tmp_path / "db")[0] == ["id", "name", "note"]


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_ignore_leaves_them_out(kind: str, mode: str, tmp_path: Path):
    made(kind, tmp_path / "db")
    workflow(kind, tmp_path / "db", "ignore", mode=mode).run()
    assert held(kind, tmp_path / "db") == (["id", "name"], [(1, "a"), (2, "b"), (3, "c")])


def test_fail_refuses_before_anything_is_written(kind: str, tmp_path: Path):
    made(kind, tmp_path / "db")
    with pytest.raises(PlanError) as caught:
        workflow(kind, tmp_path / "db", "fail").run()
    assert (caught.value.code, caught.value.step) == ("E0323", "out")
    assert "a table without the column 'note'" in caught.value.message
    assert held(kind, tmp_path / "db") == (["id", "name"], [])


def test_rows_with_values_there_become_dead_letters(kind: str, tmp_path: Path):
    made(kind, tmp_path / "db")
    result = workflow(kind, tmp_path / "db", "dead_letter").run(home=tmp_path / "home")
    assert held(kind, tmp_path / "db") == (["id", "name"], [(1, "a"), (3, "c")])
    assert result.errors == {"out": 1}
    folder = tmp_path / "home" / "changes" / "dead_letters"
    (line,) = [line for path in folder.iterdir() for line in path.read_text().splitlines()]
    letter = json.loads(line)
    assert (letter["step"], letter["code"]) == ("out", "E0545")
    assert json.loads(letter["row"]) == {"id": 2, "name": "b", "note": "new"}


@pytest.mark.parametrize("change", ["ignore", "fail", "dead_letter"])
def test_a_table_that_is_not_there_has_all_columns(kind: str, change: str, tmp_path: Path):
    workflow(kind, tmp_path / "db", change).run()
    columns, rows = held(kind, tmp_path / "db")
    assert columns == ["id", "name", "note"]
    assert len(rows) == 3


@pytest.mark.parametrize("change", ["ignore", "fail", "dead_letter"])
def test_nothing_changes_where_nothing_lacks(kind: str, change: str, tmp_path: Path):
    made(kind, tmp_path / "db", "create table t (ID integer, name text, note text, more text)")
    workflow(kind, tmp_path / "db", change).run()
    assert len(held(kind, tmp_path / "db")[1]) == 3
