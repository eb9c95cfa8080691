"""Rows of a looked-up table that cannot be read, as `on_error` of the table's source says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dataflare import Workflow
from dataflare.errors import DataError

ROWS = 40_000  # more rows than are read to find the types


def workflow(folder: Path, on_error: str, *, named: bool) -> Workflow:
    grades = [f"{n},{n % 10}" for n in range(1, ROWS + 1)]
    grades[-2] = f"{ROWS - 1},many"
    (folder / "names.csv").write_text("\n".join(["id,grade", *grades]))
    table = {"path": "names.csv"}
    wf = Workflow("tables", base=folder)
    rows = wf.frame("rows", pl.DataFrame({"id": [ROWS - 2, ROWS - 1, ROWS]}))
    source: Any = {"type": "file", **table}
    step: dict[str, Any] = {"on_error": on_error}
    if named:
        source, step = wf.source("names", "file", on_error=on_error, **table), {}
    rows.lookup("found", source, key="id", fields=["grade"], **step).to("out", "memory")
    return wf


@pytest.mark.parametrize("named", [True, False])
def test_skip_leaves_them_out_and_counts_them(named: bool, tmp_path: Path):
    result = workflow(tmp_path, "skip", named=named).run(home=tmp_path)
    assert result.frame("out").sort("id")["grade"].to_list() == [8, None, 0]
    assert result.errors == {"names" if named else "found": 1}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("on_error", ["fail", "dead_letter"])
def test_else_the_run_fails_with_the_line(on_error: str, named: bool, tmp_path: Path):
    with pytest.raises(DataError) as caught:
        workflow(tmp_path, on_error, named=named).run(home=tmp_path)
    assert caught.value.code == "E0501"
    assert f"names.csv line {ROWS}: column 'grade': 'many' is not an int64" in caught.value.message
    assert "on_error: skip" in str(caught.value.help)
