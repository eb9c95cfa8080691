"""The Nexmark queries give what DuckDB gives for the same events. `python -m benchmarks.nexmark` measures them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dataflare.jobs import RunOptions, run
from dataflare.workflow.load import load_text

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.nexmark.check import difference, expected, last_step
from benchmarks.nexmark.generate import generate
from benchmarks.nexmark.queries import QUERIES, workflow


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nexmark")
    generate(folder, events=50_000, rate=1_000)
    return folder


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_gives_the_rows_that_duckdb_gives(name: str, events: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    target = f"{{type: file, inputs: [{last_step(name)}], config: {{path: '{out}'}}}}"
    text = workflow(name, str(events), target, checkpoint="50ms")
    result = run(load_text(text), RunOptions(home=tmp_path / "home"))
    assert result.status == "finished", result.error
    rows = expected(name, str(events))
    assert rows.height > 0
    assert difference(name, out, rows) is None
