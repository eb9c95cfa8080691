"""A project's folder may be moved while a run of it is unfinished."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow.load import load_text

FLOW = """\
name: moved
settings: {parallelism: 1, checkpoint: {interval: 10ms}, batch: {initial: 100, min: 100, max: 100}}
sources:
  rows: {type: file, config: {path: "data/*.csv"}}
transformations:
  slow: {type: python, inputs: [rows], config: {function: "steps:slow"}}
destinations:
  all: {type: file, inputs: [slow], config: {path: out/all.csv}}
  parts: {type: file, inputs: [slow], config: {path: out/parts}}
"""
SLOW = "import time\n\n\ndef slow(frame):\n    time.sleep(0.1)\n    return frame\n"


def start(folder: Path, for_s: float | None = None) -> RunResult:
    workflow = load_text(FLOW, file=str(folder / "w.yaml"), base=folder)
    return run(workflow, RunOptions(home=folder / ".dataflare", for_s=for_s))


def test_a_run_goes_on_where_its_folder_was_moved_to(tmp_path: Path):
    before, after = tmp_path / "before", tmp_path / "after"
    (before / "data").mkdir(parents=True)
    (before / "steps.py").write_text(SLOW)
    for number in range(20):
        frame = pl.DataFrame({"id": range(number * 400, (number + 1) * 400)})
        frame.write_csv(before / f"data/{number:02}.csv")
    assert start(before, for_s=0.5).status == "stopped"
    manifests = list((before / ".dataflare").rglob("manifest-*.json"))
    assert manifests
    assert not [path for path in manifests if str(tmp_path) in path.read_text()]
    os.rename(before, after)
    ended = start(after)
    assert ended.status == "finished", ended.error
    assert ended.resumed_from is not None
    for found in (
        pl.read_csv(after / "out/all.csv"),
        pl.read_parquet(after / "out/parts/*.parquet"),
    ):
        assert found["id"].sort().to_list() == list(range(8_000))
