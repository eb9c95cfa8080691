"""Pieces of batches behind exchanges are joined again, so that batches stay large through many of them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from dataflare import RunOptions, run
from dataflare.engine.operating import Operating
from dataflare.workflow.load import load_text

STEPS, WAYS, ROWS = 8, 16, 2_000


def workflow() -> str:
    lines = [
        "name: pieces",
        f"settings: {{parallelism: {WAYS}, checkpoint: {{interval: 1h}}}}",
        "sources:",
        f"  rows: {{type: generate, config: {{columns: {{id: {{sequence: 0}}, g: {{int: [0, 9]}}}}, rows: {ROWS}}}}}",
        "transformations:",
    ]
    before = "rows"
    for step in range(STEPS):
        key = "[id]" if step % 2 else "[id, g]"
        lines.append(
            f"  s{step}: {{type: deduplicate, inputs: [{before}], config: {{key: {key}}}}}"
        )
        before = f"s{step}"
    return "\n".join(
        [
            *lines,
            "destinations:",
            f"  out: {{type: file, inputs: [{before}], config: {{path: out.parquet}}}}",
        ]
    )


def test_batches_stay_large_through_many_exchanges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    process = Operating._process

    def counted(body: Operating, port: int, frame: pl.DataFrame) -> object:
        sizes.append(frame.height)
        return process(body, port, frame)

    monkeypatch.setattr(Operating, "_process", counted)
    result = run(load_text(workflow(), base=tmp_path), RunOptions(tmp_path / "home"))
    assert result.error is None
    found = pl.read_parquet(tmp_path / "out.parquet")["id"].sort().to_list()
    assert found == list(range(ROWS))
    assert sum(sizes) == STEPS * ROWS
    assert len(sizes) < sum(sizes) / 10, "batches of a few rows"
