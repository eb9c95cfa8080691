"""Deletes that have the key of a row alone go straight to a destination, and into no step that needs the row."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from dataflare.connectors.inline import InlineSource
from dataflare.errors import PlanError
from dataflare.planner import check
from dataflare.workflow.load import load_text

CAPABILITIES = InlineSource.capabilities


@pytest.fixture(autouse=True)
def _a_source_that_deletes_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        InlineSource,
        "capabilities",
        lambda source: replace(CAPABILITIES(source), deletes_by_key=True),
    )


def checked(step: str, tmp_path: Path) -> None:
    text = f"""
name: topic
sources: {{topic: {{type: inline, config: {{changelog: columns, rows: [{{_op: insert, id: 1, amount: 1}}]}}}}}}
transformations: {{s: {step}}}
destinations: {{out: {{type: sqlite, inputs: [s], config: {{path: out.db, table: t, mode: mirror, key: [id]}}}}}}
"""
    check(load_text(text, base=tmp_path))


@pytest.mark.parametrize(
    "step",
    [
        "{type: filter, inputs: [topic], config: {condition: amount > 10}}",
        "{type: aggregate, inputs: [topic], config: {group_by: [id], measures: {n: count(*)}, emit: updates}}",
        "{type: deduplicate, inputs: [topic], config: {key: [id]}}",
    ],
)
def test_a_step_that_needs_the_row_is_refused(step: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="have the key of such a row alone") as refused:
        checked(step, tmp_path)
    assert refused.value.code == "E0315"


def test_a_map_goes_on(tmp_path: Path) -> None:
    checked("{type: map, inputs: [topic], config: {derive: {double: amount * 2}}}", tmp_path)
