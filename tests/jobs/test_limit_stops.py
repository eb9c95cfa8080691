"""A step that needs no more rows stops its sources: nothing is read that no step needs."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dataflare import Workflow
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.testing import Checkpoint, Crash, Lab, Pause, ScriptedSource, rows
from dataflare.workflow.load import load_text


def start(folder: Path, text: str, **options: Any) -> RunResult:
    return run(load_text(text, base=folder), RunOptions(folder / "home", **options))


def written(folder: Path, name: str = "out.ndjson") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


ENDLESS = """\
name: first-rows
settings: {{parallelism: {parallelism}}}
sources:
  numbers: {{type: generate, config: {{{config}}}}}
transformations:
  even: {{type: filter, inputs: [numbers], config: {{condition: "n % 2 = 0"}}}}
  some: {{type: limit, inputs: [even], config: {{rows: {rows}}}}}
destinations:
  out: {{type: file, inputs: [some], config: {{path: out.ndjson}}}}
"""
COLUMNS = "columns: {n: {sequence: 0}}"


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("limit", [0, 10])
def test_an_endless_input_becomes_finite(tmp_path: Path, parallelism: int, limit: int) -> None:
    text = ENDLESS.format(parallelism=parallelism, config=COLUMNS, rows=limit)
    result = start(tmp_path, text)
    assert (result.status, result.error) == ("finished", None)
    assert len(written(tmp_path)) == limit
    assert result.steps["numbers"]["rows_out"] < 2_000_000


def test_a_source_that_waits_for_rows_is_stopped_in_its_wait(tmp_path: Path) -> None:
    lab, flow = Lab(tmp_path), Workflow("few")
    source = ScriptedSource([*rows(0, 3), Pause(), *rows(3, 5)])
    source.add_to(flow, "in").limit("some", rows=3).to("out", "memory")
    assert lab.run(flow).status == "finished"
    assert len(lab.rows("out")) == 3


def test_another_reader_of_the_source_gets_all_its_rows(tmp_path: Path) -> None:
    text = ENDLESS.format(parallelism=2, config=f"{COLUMNS}, rows: 50000", rows=10)
    text += "  all: {type: file, inputs: [numbers], config: {path: all.ndjson}}\n"
    assert start(tmp_path, text).status == "finished"
    assert len(written(tmp_path)) == 10
    assert len(written(tmp_path, "all.ndjson")) == 50_000


def test_a_source_that_the_next_run_goes_on_from_is_read_to_its_end(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "in.db") as db:
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        db.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(300_000)])
    text = """\
name: newest
sources:
  t: {type: sqlite, config: {path: in.db, table: t, incremental: {column: id}}}
transformations:
  some: {type: limit, inputs: [t], config: {rows: 10}}
destinations:
  out: {type: file, inputs: [some], config: {path: out, format: ndjson, mode: append}}
"""
    assert start(tmp_path, text).steps["t"]["rows_out"] == 300_000
    with sqlite3.connect(tmp_path / "in.db") as db:
        db.execute("INSERT INTO t VALUES (300001)")
    result = start(tmp_path, text)
    assert (result.steps["t"]["rows_out"], result.steps["out"]["rows_in"]) == (1, 1)


def test_a_resumed_run_that_has_its_rows_reads_no_more(tmp_path: Path) -> None:
    lab, flow = Lab(tmp_path), Workflow("few")
    source = ScriptedSource([*rows(0, 3), Checkpoint(), Crash(), *rows(3, 5)])
    limited = source.add_to(flow, "in").limit("some", rows=4)
    limited.to("out", "memory")
    lab.run_until_crash(flow)
    assert lab.run(flow).status == "finished"
    assert [row["n"] for row in lab.rows("out")] == [0, 1, 2, 3]
