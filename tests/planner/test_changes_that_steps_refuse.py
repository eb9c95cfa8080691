"""Which step is named before the run where a TRUNCATE, or an update without its large values, would be wrong behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataflare.operators.primitives import Select
from dataflare.planner import plan, unchanged
from dataflare.planner.graph import SourceNode
from dataflare.workflow.load import load_text

SOURCE = "{type: inline, config: {changelog: columns, rows: [{_op: insert, id: 1, body: a}]}}"
OUT = "{type: sqlite, inputs: [%s], config: {path: out.db, table: t, mode: mirror, key: [id]}}"


def sources(tmp_path: Path, steps: str, inputs: str) -> dict[str, Any]:
    text = f"""\
name: shop
sources: {{a: {SOURCE}, b: {SOURCE}}}
transformations: {{{steps}}}
destinations:
  out: {OUT % inputs}
  other: {{type: stdout, inputs: [b]}}
"""
    graph = plan(load_text(text, base=tmp_path), home=tmp_path).written
    return {node.id: node.connector for node in graph if isinstance(node, SourceNode)}


@pytest.mark.parametrize(
    ("steps", "inputs", "refusing"),
    [
        ("", "a", {}),
        ("both: {type: union, inputs: [a, b]}", "both", {None: "both"}),
        ("", "a, b", {None: "out"}),
    ],
)
def test_a_truncate_would_take_the_rows_of_other_inputs(
    tmp_path: Path, steps: str, inputs: str, refusing: dict[str | None, str]
) -> None:
    assert sources(tmp_path, steps, inputs)["a"].not_truncated == refusing


def test_a_value_that_is_not_there_has_one_column() -> None:
    once = Select("s", (("id", "id"), ("text", "body")))
    twice = Select("s", (("id", "id"), ("text", "body"), ("body", "body")))
    assert unchanged._through((once,), "body") == (None, "text")
    assert unchanged._through((twice,), "body") == ("s", None)
