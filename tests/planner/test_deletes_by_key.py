"""Deletes that have the key of a row alone go straight to a destination. In front of a step that needs the row, the rows of
each key are kept; without a known key, or with an event time, such a step is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from dataflare.connectors.inline import InlineSource
from dataflare.errors import PlanError
from dataflare.operators.whole_changes import WholeChanges
from dataflare.planner import Plan, plan
from dataflare.planner.graph import StatefulNode
from dataflare.workflow.load import load_text

CAPABILITIES = InlineSource.capabilities


def know(monkeypatch: pytest.MonkeyPatch, *, key: tuple[str, ...]) -> None:
    monkeypatch.setattr(
        InlineSource,
        "capabilities",
        lambda source: replace(CAPABILITIES(source), deletes_by_key=True, key=key),
    )


@pytest.fixture(autouse=True)
def _a_source_that_deletes_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, key=())


ID = ("id",)


def planned(step: str, tmp_path: Path, *, event_time: str = "", key: str = "id") -> Plan:
    text = f"""
name: topic
sources:
  topic:
    type: inline
    config: {{changelog: columns, rows: [{{_op: insert, id: 1, amount: 1, at: 2026-11-29T10:00:00Z}}]}}
    {event_time}
transformations: {{s: {step}}}
destinations: {{out: {{type: sqlite, inputs: [s], config: {{path: out.db, table: t, mode: mirror, key: [{key}]}}}}}}
"""
    return plan(load_text(text, base=tmp_path))


def kept_rows(made: Plan) -> list[WholeChanges]:
    operators = (node.operator for node in made.graph if isinstance(node, StatefulNode))
    return [operator for operator in operators if isinstance(operator, WholeChanges)]


needing_rows = pytest.mark.parametrize(
    "step",
    [
        "{type: filter, inputs: [topic], config: {condition: amount > 10}}",
        "{type: aggregate, inputs: [topic], config: {group_by: [id], measures: {n: count(*)}, emit: updates}}",
        "{type: deduplicate, inputs: [topic], config: {key: [id]}}",
    ],
)


@needing_rows
def test_a_step_that_needs_the_row_gets_it(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, key=ID)
    made = planned(step, tmp_path)
    assert kept_rows(made) == [WholeChanges("topic--changes", ID, "topic")]
    [topic] = [node for node in made.view()["nodes"] if node["id"] == "topic"]
    assert any("the newest row of each id is kept" in note for note in topic["notes"])


@needing_rows
def test_a_step_that_needs_the_row_is_refused_without_a_key(step: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="by which columns the rows of 'topic' differ") as refused:
        planned(step, tmp_path)
    assert refused.value.code == "E0315"


def test_a_step_that_needs_the_row_is_refused_behind_event_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, key=ID)
    step = "{type: filter, inputs: [topic], config: {condition: amount > 10}}"
    with pytest.raises(PlanError, match="a delete of 'topic' has no event time"):
        planned(step, tmp_path, event_time="event_time: {column: at}")


def test_a_map_keeps_nothing(tmp_path: Path) -> None:
    step = "{type: map, inputs: [topic], config: {derive: {double: amount * 2}}}"
    assert not kept_rows(planned(step, tmp_path))


@pytest.mark.parametrize(("key", "keeps"), [("id", False), ("id, amount", True), ("amount", True)])
def test_a_mirror_by_other_columns_gets_the_row(
    key: str, keeps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update of the amount must take the row with the old one away."""
    know(monkeypatch, key=ID)
    monkeypatch.setattr(InlineSource, "changes_by", lambda source, columns: columns >= {"id"})
    step = "{type: map, inputs: [topic], config: {derive: {double: amount * 2}}}"
    made = planned(step, tmp_path, key=key)
    assert bool(kept_rows(made)) == keeps
