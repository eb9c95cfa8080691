"""Which destinations get every row there is: only these delete, under mode mirror, what did not come."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from dataflare import plan
from dataflare.workflow.load import load

WORKFLOW = """\
name: copy
version: "1.0"
sources:
  a: {source}
  b: {{type: inline, config: {{rows: [{{id: 9, v: 1}}]}}}}
transformations:
  kept: {step}
destinations:
  out: {{type: sqlite, inputs: [kept], config: {{path: out.db, table: t, mode: mirror, key: [id]}}}}
  other: {{type: blackhole, inputs: [b]}}
"""
WHOLE = "{type: sqlite, config: {path: in.db, table: t}}"
FILTER = '{type: filter, inputs: [a], config: {condition: "v > 0"}}'


@pytest.mark.parametrize(
    ("source", "step", "is_complete"),
    [
        (WHOLE, FILTER, True),
        ("{type: file, config: {path: in.csv}}", FILTER, True),
        (WHOLE, "{type: limit, inputs: [a], config: {rows: 5}}", False),
        (WHOLE, "{type: sample, inputs: [a], config: {fraction: 0.5}}", False),
        ("{type: sqlite, config: {path: in.db, table: t, incremental: {column: v}}}", FILTER, False),
        (WHOLE, "{type: union, inputs: [a, b]}", True),
        ("{type: sqlite, config: {path: in.db, table: t, incremental: {column: v}}}",
         "{type: union, inputs: [a, b]}", False),
    ],
)  # fmt: skip
def test_a_run_that_leaves_rows_out_is_not_complete(
    tmp_path: Path, source: str, step: str, is_complete: bool
):
    with sqlite3.connect(tmp_path / "in.db") as db:
        db.execute("create table t (id integer primary key, v int)")
    (tmp_path / "in.csv").write_text("id,v\n1,1\n")
    file = tmp_path / "w.yaml"
    file.write_text(WORKFLOW.format(source=source, step=step))
    found = plan(load(file)).stages.complete
    assert set(found) == {"other"} | ({"out"} if is_complete else set())
    assert found["other"] == {"b", "other"}
    if is_complete:
        assert found["out"] == {"a", "kept", "out"} | ({"b"} if "union" in step else set())
