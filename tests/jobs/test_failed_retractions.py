"""A row that failed is told once, also when a changelog takes it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.jobs.letters import LetterBox
from dataflare.workflow.load import load_text

WORKFLOW = """
name: taken
settings: {{error_handling: {{on_error: {on_error}}}}}
sources:
  rows:
    type: inline
    config:
      changelog: columns
      rows:
        - {{_op: insert, id: 1, n: x}}
        - {{_op: insert, id: 2, n: "2"}}
        - {{_op: update_before, id: 1, n: x}}
        - {{_op: update_after, id: 1, n: "1"}}
        - {{_op: insert, id: 3, n: y}}
        - {{_op: delete, id: 3, n: y}}
    schema: {{id: int64, n: string}}
transformations:
  typed: {{type: map, inputs: [rows], config: {{derive: {{v: "cast(n as int64)"}}}}}}
destinations:
  out: {{type: sqlite, inputs: [typed], config: {{path: out.db, table: t, mode: mirror, key: [id]}}}}
"""


def go(folder: Path, on_error: str) -> RunResult:
    text = WORKFLOW.format(on_error=on_error)
    return run(load_text(text, base=folder), RunOptions(home=folder / "home"))


def test_a_row_that_failed_is_not_counted_again_when_it_is_taken_back(tmp_path: Path) -> None:
    result = go(tmp_path, "dead_letter")
    assert result.error is None, result.error
    letters = LetterBox(tmp_path / "home" / "taken").letters()
    assert sorted(str(letter.row["id"]) for letter in letters) == ["1", "3"]
    assert result.steps["typed"]["errors"] == 2
    assert result.steps["typed"]["dead_letters"] == 2


@pytest.mark.parametrize("on_error", ["skip", "fail"])
def test_rows_that_fail_first_follow_the_policy(tmp_path: Path, on_error: str) -> None:
    result = go(tmp_path, on_error)
    if on_error == "fail":
        assert result.error is not None
    else:
        assert result.steps["typed"]["errors"] == 2
