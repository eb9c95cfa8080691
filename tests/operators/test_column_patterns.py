"""Patterns in lists of columns act where they match; a plain name must be there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataflare.errors import DataFlareError
from dataflare.model.types import Schema
from dataflare.operators.names import by_column, expanded
from dataflare.planner import check
from dataflare.testing import Lab
from dataflare.workflow import load_text

SCHEMA = Schema.of(dict.fromkeys(["id", "a_at", "b_at", "odd*", "email"], "string"))
ROW = '{id: 1, email: "ann@x.org", work_email: "bo@x.org", secret_a: s, secret_b: t}'


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["*_at"], ["a_at", "b_at"]),
        (["?_at", "id"], ["a_at", "b_at", "id"]),
        (["*", "id"], ["a_at", "b_at", "odd*", "email", "id"]),
        (["b_at", "*"], ["b_at", "id", "a_at", "odd*", "email"]),
        (["odd*"], ["odd*"]),
        (["ODD*", "x*"], []),
        (["*_at", "a*"], ["a_at", "b_at"]),
        (["id", "id"], ["id", "id"]),
        (["[a-b]_at"], ["[a-b]_at"]),
    ],
)
def test_a_pattern_is_replaced_by_what_no_other_name_is(
    names: list[str], columns: list[str]
) -> None:
    assert expanded(names, SCHEMA, {}) == columns


def test_a_pattern_of_a_mapping_gives_way_to_a_name() -> None:
    matched: dict[str, bool] = {}
    assert by_column({"*_at": 1, "a_at": 2, "x*": 3}, SCHEMA, matched) == {"b_at": 1, "a_at": 2}
    assert matched == {"*_at": True, "x*": False}


def moved(tmp_path: Path, step: str) -> tuple[list[dict[str, Any]], list[str]]:
    text = f"""\
name: patterns
sources: {{in: {{type: inline, config: {{rows: [{ROW}]}}}}}}
transformations: {{step: {{inputs: [in], {step}}}}}
destinations: {{out: {{type: memory, inputs: [step], config: {{name: out}}}}}}
"""
    lab = Lab(tmp_path)
    result = lab.run(load_text(text))
    assert result.status == "finished", result.error
    return lab.rows("out"), result.warnings


def test_columns_are_dropped_selected_and_cast_by_patterns(tmp_path: Path) -> None:
    rows, warnings = moved(
        tmp_path, 'type: map, config: {drop: ["secret_*"], cast: {"i?": string}}'
    )
    assert rows == [{"id": "1", "email": "ann@x.org", "work_email": "bo@x.org"}]
    assert warnings == []
    rows, _ = moved(tmp_path / "b", 'type: map, config: {select: ["*email", id]}')
    assert rows == [{"email": "ann@x.org", "work_email": "bo@x.org", "id": 1}]


def test_columns_are_masked_by_patterns(tmp_path: Path) -> None:
    step = 'type: mask, config: {columns: {"*email*": email, work_email: redact, "secret_*": null}}'
    rows, _ = moved(tmp_path, step)
    assert rows[0]["email"] != "ann@x.org"
    assert rows[0]["email"].endswith("x.org")
    assert (rows[0]["work_email"], rows[0]["secret_a"], rows[0]["id"]) == ("***", None, 1)


def test_a_pattern_that_matches_nothing_is_told(tmp_path: Path) -> None:
    rows, warnings = moved(tmp_path, 'type: mask, config: {columns: {"*emial*": redact}}')
    assert rows[0]["email"] == "ann@x.org"
    assert warnings == ["step 'step': the pattern '*emial*' matches no column"]
    rows, warnings = moved(tmp_path / "b", 'type: map, config: {drop: ["nothing_*"]}')
    assert len(rows[0]) == 5
    assert warnings


def test_a_name_that_is_not_there_is_an_error() -> None:
    text = f"""\
name: patterns
sources: {{in: {{type: inline, config: {{rows: [{ROW}]}}}}}}
transformations: {{step: {{type: map, inputs: [in], config: {{drop: [secret, "secret_*"]}}}}}}
destinations: {{out: {{type: memory, inputs: [step], config: {{name: out}}}}}}
"""
    with pytest.raises(DataFlareError) as refused:
        check(load_text(text))
    assert refused.value.code == "E0203"
