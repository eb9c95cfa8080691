"""The event time of a changelog: a delete must have the time of its row."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflare import load
from dataflare.errors import PlanError
from dataflare.planner import plan

WORKFLOW = """\
name: w
settings: {mode: streaming}
sources:
  s:
    type: inline
    config: {changelog: columns, rows: [{k: a, at: "2026-01-01T00:00:01Z"}, {k: a, at: "2026-01-01T00:00:01Z", _op: delete}]}
    schema: {k: string, at: "timestamp[us, UTC]"}
    event_time: {column: TIME, max_future: 1h}
transformations:
  w: {type: window, inputs: [s], config: {kind: tumbling, size: 1m, emit: updates, measures: {n: "count(*)"}}}
destinations:
  out: {type: sqlite, inputs: [w], config: {path: o.db, table: t, mode: mirror, key: [window_start]}}
"""


def write(folder: Path, time: str) -> Path:
    (folder / "w.yaml").write_text(WORKFLOW.replace("TIME", time))
    return folder / "w.yaml"


@pytest.mark.parametrize("time", ["at", '"at + interval 1 hour"'])
def test_it_may_be_a_column_or_an_expression_of_the_row(tmp_path: Path, time: str) -> None:
    assert plan(load(write(tmp_path, time))).stages.event_times.keys() == {"s"}


def test_it_is_refused_by_its_name_where_the_clock_decides(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="its event time changes from call to call") as raised:
        plan(load(write(tmp_path, '"greatest(at, now())"')))
    assert raised.value.code == "E0315"
