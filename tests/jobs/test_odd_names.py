"""Columns may have any name: also those that look like names a program keeps to itself."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import polars as pl
import pytest

from dataflare.jobs import RunOptions, preview, run
from dataflare.jobs.workflow_test import run_test
from dataflare.workflow.load import load_text

OURS = ("__kind", "__row", "__now", "__rowkey", "__error", "__h", "__k0", "__index_level_0__", "__")
"""What internal columns could be called, and what other tools call theirs."""

FLOW = """\
name: odd
settings: {parallelism: 2}
sources:
  rows: {type: file, config: {path: in.csv}}
  names: {type: file, config: {path: names.csv}}
transformations:
  kept: {type: filter, inputs: [rows], config: {condition: __row > 0}}
  made: {type: map, inputs: [kept], config: {derive: {__n: __row * 2}, cast: {__k0: string}}}
  named: {type: lookup, inputs: [made],
    config: {source: names, mapping: {key: __kind, remote_key: __kind, fields: {__hit: __v0}}}}
  sure: {type: validate, inputs: [named], config: {rules: [{name: r, expect: __h > 0, on_fail: drop}]}}
  sums: {type: aggregate, inputs: [sure],
    config: {group_by: [__kind], measures: {__s0: sum(__n), __m0: count(*)}}}
destinations:
  all: {type: file, inputs: [sure], config: {path: all.parquet}}
  base: {type: sqlite, inputs: [sure], config: {path: all.db, table: t, mode: upsert, key: [__row]}}
  totals: {type: file, inputs: [sums], config: {path: totals.csv}}
"""


def test_columns_with_leading_underscores_pass_through_every_kind_of_step(tmp_path: Path):
    rows = [dict.fromkeys(OURS, row) | {"__kind": row % 3} for row in range(7)]
    pl.DataFrame(rows).write_csv(tmp_path / "in.csv")
    (tmp_path / "names.csv").write_text("__kind,__v0\n0,none\n1,one\n2,two\n")
    workflow = load_text(FLOW, file="odd.yaml", base=tmp_path)
    result = run(workflow, RunOptions(home=tmp_path / "home"))
    assert result.error is None, result.error
    found = pl.read_parquet(tmp_path / "all.parquet").sort("__row")
    assert found.columns == [*OURS, "__n", "__hit"]
    assert found["__n"].to_list() == [2, 4, 6, 8, 10, 12]
    assert found["__hit"].to_list() == ["one", "two", "none", "one", "two", "none"]
    with sqlite3.connect(tmp_path / "all.db") as base:
        assert base.execute("SELECT __row, __kind, __hit FROM t ORDER BY __row").fetchall() == (
            found.select("__row", "__kind", "__hit").rows()
        )
    totals = pl.read_csv(tmp_path / "totals.csv").sort("__kind")
    assert totals.rows() == [(0, 18, 2), (1, 10, 2), (2, 14, 2)]


NAMES = (
    *(
        "dead_letters",
        "dead_letters_2",
        "preview",
        "_preview",
        "_replay",
        "_expected_0",
        "_given_0",
    ),
    *(
        "_table_0",
        "_letters",
        "in",
        "rows",
        "name",
        "type",
        "None",
        "runs",
        "chunks",
        "current-json",
    ),
)
"""What internal steps, files of the state and keys are called or could be called."""


@pytest.mark.parametrize("name", NAMES)
def test_a_step_may_have_any_name_that_the_format_allows(name: str, tmp_path: Path):
    text = f"""\
name: odd
settings: {{error_handling: {{on_error: dead_letter}}, parallelism: 1}}
sources:
  first: {{type: inline, config: {{rows: [{{id: x}}, {{id: "1"}}, {{id: "2"}}]}}}}
transformations:
  {name}_t: {{type: map, inputs: [first], config: {{derive: {{v: "CAST(id AS int64)"}}}}}}
destinations:
  {name}: {{type: sqlite, inputs: [{name}_t], config: {{path: x.db, table: t}}}}
tests:
  - {{name: one, given: {{first: [{{id: "7"}}]}}, expect: {{{name}_t: [{{id: "7", v: 7}}]}}}}
"""
    for written in (text, text.replace(f"{name}_t", "second"), _swapped(text, name)):
        flow = load_text(written, base=tmp_path)
        (test,) = flow.tests
        assert run_test(flow, test).passed
        last = next(iter(flow.transformations))
        assert preview(flow, last).height == 2
        result = run(flow, RunOptions(tmp_path / "home", fresh=True))
        assert result.status == "finished"
        assert sum(step["dead_letters"] or 0 for step in result.steps.values()) == 1


def _swapped(text: str, name: str) -> str:
    """The transformation has the name."""
    return text.replace(f"  {name}: {{", "  end: {").replace(f"{name}_t", name)
