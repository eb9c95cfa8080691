"""Tests in a workflow file work with event time: rows have times, watermarks move, late rows are expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataflare.errors import DataFlareError
from dataflare.jobs.workflow_test import CaseResult, run_test
from dataflare.workflow.load import load_text
from dataflare.workflow.model import WorkflowTest
from dataflare.workflow.nodes import SpotMap

WORKFLOW = """\
name: hourly
sources:
  clicks:
    type: generate
    config: {{{rows} columns: {{id: {{sequence: 0}}, user: {{int: [1, 5]}}, at: {{time: {{start: "2026-01-01T00:00:00Z"}}}}}}}}
    event_time: {{column: at, out_of_orderness: 5m}}
transformations:
  real: {{type: filter, inputs: [clicks], config: {{condition: "user > 0"}}}}
  perhour:
    type: window
    inputs: [real]
    config: {{kind: tumbling, size: 1h, group_by: [user], measures: {{n: "count(*)"}}}}
destinations:
  out: {{type: blackhole, inputs: [perhour]}}
"""
ENDLESS, BOUNDED = WORKFLOW.format(rows=""), WORKFLOW.format(rows="rows: 10,")
EARLY = {"id": 1, "user": 1, "at": "2026-01-01T00:10:00Z"}
LATE = {"id": 2, "user": 1, "at": "2026-01-01T00:30:00Z"}
LATER = {"id": 3, "user": 2, "at": "2026-01-01T01:30:00Z"}
MARK = {"_watermark": "2026-01-01T01:00:00Z"}


def case(workflow: str, given: list[dict[str, Any]], expect: Any, at: str = "clicks") -> CaseResult:
    test = WorkflowTest(name="t", given={at: given}, expect=expect, node=SpotMap({}))
    return run_test(load_text(workflow), test)


@pytest.mark.parametrize("at", ["clicks", "real"])
def test_a_watermark_among_the_rows_closes_a_window(at: str) -> None:
    expect = {
        "out": [
            {"user": 1, "window_start": "2026-01-01T00:00:00Z", "n": 1},
            {"user": 2, "window_end": "2026-01-01T02:00:00Z", "n": 1},
        ],
        "perhour.late": [{"id": 2, "user": 1}],
    }
    result = case(BOUNDED, [EARLY, MARK, LATE, LATER], expect, at)
    assert result.passed, result.differences
    assert not case(BOUNDED, [EARLY, LATE, LATER], expect, at).passed


def test_rows_move_time_where_the_real_source_has_no_end() -> None:
    moves = {"id": 4, "user": 5, "at": "2026-01-01T01:05:00Z"}
    late: dict[str, Any] = {"perhour.late": [{"id": 2}]}
    assert case(ENDLESS, [EARLY, moves, LATE], late).passed
    assert case(BOUNDED, [EARLY, moves, LATE], {"perhour.late": []}).passed


@pytest.mark.parametrize("mark", [{"_watermark": "soon"}, {**MARK, "id": 7}])
def test_a_watermark_is_a_time_and_nothing_else(mark: dict[str, Any]) -> None:
    with pytest.raises(DataFlareError) as caught:
        case(BOUNDED, [EARLY, mark], {"out": []})
    assert caught.value.code == "E0405"


def test_a_python_step_over_records_keeps_the_time_of_its_rows(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(
        "def twice(row):\n    return [row, row] if row['user'] == 1 else row if row['id'] == 3 else None\n"
    )
    python = "python, config: {{function: 'steps:twice', mode: record}}"
    text = WORKFLOW.replace('filter, inputs: [clicks], config: {{condition: "user > 0"}}', "X")
    text = text.replace("X", python.replace("python,", "python, inputs: [clicks],"))
    test = WorkflowTest(
        name="t",
        given={"clicks": [EARLY, MARK, LATE, LATER]},
        expect={"out": [{"user": 1, "n": 2}, {"user": 2, "n": 1}], "perhour.late": [LATE, LATE]},
        node=SpotMap({}),
    )
    result = run_test(load_text(text.format(rows="rows: 10,"), base=tmp_path), test)
    assert result.passed, (result.error, result.differences)
