"""`parse.errors`: rows that cannot be read leave there, whole, and the others are as without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataflare import Workflow

TEXTS = [
    '{"a": 1, "b": "x"}', "no", '{"a": "zz", "b": "y"}', None, "[1]", '{"b": null}',
    "1,x", "2", "3,y,z", "zz,w", "a=1 b=x", "a=q b=y",
]  # fmt: skip
ROWS = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
WAYS: dict[str, dict[str, Any]] = {
    "json": {"format": "json", "schema": {"a": "int64", "b": "string"}},
    "csv": {"format": "csv", "schema": {"a": "int64", "b": "string"}},
    "regex": {
        "format": "regex",
        "pattern": r"^a=(?P<a>\w+) b=(?P<b>\w+)$",
        "schema": {"a": "int64"},
    },
}


def run(tmp_path: Path, way: str, *, errors: bool) -> dict[str, list[dict[str, Any]]]:
    wf = Workflow(f"parse_{way}", parallelism=1)
    read = wf.source("rows", "inline", rows=ROWS).parse(
        "read", "text", on_error="skip", **WAYS[way]
    )
    read.to("good", "memory", config={"name": f"{tmp_path}good"})
    if errors:
        read["errors"].to("bad", "memory", config={"name": f"{tmp_path}bad"})
    outcome = wf.run(home=tmp_path / f"home-{errors}")
    return {name: outcome.frame(name).to_dicts() for name in ("good", *(["bad"] if errors else []))}


@pytest.mark.parametrize("way", WAYS)
def test_each_row_is_read_or_leaves_whole(way: str, tmp_path: Path) -> None:
    both = run(tmp_path, way, errors=True)
    assert {row["id"] for row in both["good"]} ^ {row["id"] for row in both["bad"]} == set(
        range(12)
    )
    assert all(row == ROWS[row["id"]] for row in both["bad"])
    assert both["good"] == run(tmp_path, way, errors=False)["good"]
    assert len(both["good"]) >= 2


def test_columns_that_are_replaced_are_left_out(tmp_path: Path) -> None:
    wf = Workflow("replaced")
    rows = [{"id": 1, "doc": '{"id": 7}'}, {"id": 2, "doc": "broken"}]
    read = wf.source("rows", "inline", rows=rows).parse("read", "doc", schema={"id": "int64"})
    read["errors"].to("bad", "memory", config={"name": f"{tmp_path}bad"})
    assert wf.run(home=tmp_path).frame("bad").to_dicts() == [{"doc": "broken"}]
