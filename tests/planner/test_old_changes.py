"""A step that gives its results when a run ends is refused behind changes that go on over runs."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from dataflare.errors import PlanError
from dataflare.jobs import RunOptions, run
from dataflare.planner import check, plan
from dataflare.workflow.load import load_text

WORKFLOW = """
name: twice
sources:
  orders: {{type: sqlite, config: {{path: in.db, table: orders{incremental}}}}}
transformations:
  sums: {{type: aggregate, inputs: [orders], config: {{group_by: [k], measures: {{n: count(*)}}, emit: updates}}}}
  sizes: {{type: {last}}}
destinations:
  out: {{type: sqlite, inputs: [sizes], config: {{path: out.db, table: t, mode: {mode}, key: [n]}}}}
"""
FINAL = (
    "aggregate, inputs: [sums], config: {group_by: [n], measures: {groups: count(*)}, emit: final}"
)
UPDATES = FINAL.replace("final", "updates")
SORTED = "sort, inputs: [sums], config: {by: [n]}"
INCREMENTAL = ", incremental: {column: id}"


def workflow(folder: Path, last: str, incremental: str, mode: str = "upsert") -> object:
    with sqlite3.connect(folder / "in.db") as db:
        db.execute("create table if not exists orders (id integer primary key, k integer)")
    db.close()
    text = WORKFLOW.format(last=last, incremental=incremental, mode=mode)
    return load_text(text, base=folder)


@pytest.mark.parametrize("last", [FINAL, SORTED])
def test_it_is_refused_before_the_first_run(tmp_path: Path, last: str) -> None:
    for refused in (plan, lambda w: check(w, inputs=False)):
        with pytest.raises(PlanError, match="'sums' goes on from the run before") as caught:
            refused(workflow(tmp_path, last, INCREMENTAL))
        assert (caught.value.code, caught.value.step) == ("E0334", "sizes")
    plan(workflow(tmp_path, last, ""))  # each run reads all rows


def test_what_goes_on_too_is_exact_over_runs(tmp_path: Path) -> None:
    """A group of two rows that becomes one of three, and another one of two."""
    flow = workflow(tmp_path, UPDATES, INCREMENTAL, mode="mirror")
    for rows in ([(1, 1), (2, 1)], [(3, 1), (4, 2), (5, 2)]):
        with sqlite3.connect(tmp_path / "in.db") as db:
            db.executemany("insert into orders values (?, ?)", rows)
        db.close()
        result = run(flow, RunOptions(home=tmp_path / "home"))
        assert result.error is None, result.error
    with sqlite3.connect(tmp_path / "out.db") as db:
        assert db.execute("select n, groups from t order by n").fetchall() == [(2, 1), (3, 1)]
    db.close()
