"""A rule that only warns is counted and names no row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataflare.jobs import RunOptions, run
from dataflare.workflow.load import load_text

FLOW = """\
name: w
sources: {o: {type: inline, config: {rows: [{a: 1}, {a: -1}, {a: 200}]}}}
transformations:
  c: {type: validate, inputs: [o], config: {rules: [{name: t, expect: "a < 100", on_fail: OTHER}, {name: w, expect: "a > 0", on_fail: warn}]}}
destinations:
  good: {type: file, inputs: [c], config: {path: good.ndjson}}
"""


@pytest.mark.parametrize(("other", "named"), [("tag", [[], [], ["t"]]), ("warn", [None] * 3)])
def test_a_rule_that_warns_is_not_among_the_failed_ones(
    other: str, named: list[object], tmp_path: Path
) -> None:
    flow = load_text(FLOW.replace("OTHER", other), base=tmp_path)
    result = run(flow, RunOptions(tmp_path / "home"))
    rows = [json.loads(line) for line in (tmp_path / "good.ndjson").read_text().splitlines()]
    assert [row.get("failed_rules") for row in rows] == named
    assert any("'w'" in warning and "1 row" in warning for warning in result.warnings)
