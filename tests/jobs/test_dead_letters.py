"""Rows that fail: the run fails, they are skipped, or they become dead letters, once each."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow.load import load_text

TEXT = """\
name: letters
settings: {{parallelism: 1, error_handling: {{on_error: {on_error}{more}}}}}
sources:
  raw: {{type: file, config: {{path: raw.csv}}, schema: {{id: int64, amount: string}}}}
transformations:
  typed: {{type: map, inputs: [raw], config: {{cast: {{amount: int64}}}}}}
destinations:
  out: {{type: file, inputs: [typed], config: {{path: out.csv}}}}
"""


def start(folder: Path, on_error: str, more: str = "") -> RunResult:
    rows = [f"{i},{'many' if i % 100 == 7 else i}" for i in range(1_000)]
    (folder / "raw.csv").write_text("id,amount\n" + "\n".join(rows) + "\n")
    workflow = load_text(TEXT.format(on_error=on_error, more=more), base=folder)
    return run(workflow, RunOptions(folder / "home"))


def letters(folder: Path) -> list[dict[str, object]]:
    lines = [p.read_text() for p in sorted(folder.glob("*.ndjson"))]
    return [json.loads(line) for text in lines for line in text.splitlines()]


def test_the_first_bad_row_fails_the_run_and_is_named(tmp_path: Path) -> None:
    result = start(tmp_path, "fail")
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.step == "typed"
    assert "raw.csv line 9" in result.error.message
    assert "id=7, amount='many'" in result.error.notes[0]
    assert not (tmp_path / "out.csv").exists()


def test_skipped_rows_are_counted_and_the_others_arrive(tmp_path: Path) -> None:
    result = start(tmp_path, "skip")
    assert result.status == "finished"
    assert result.steps["typed"]["errors"] == 10
    assert result.steps["typed"]["dead_letters"] == 0
    assert pl.read_csv(tmp_path / "out.csv").height == 990
    assert any(w.startswith("step 'typed': 10 rows failed and") for w in result.warnings)


def test_dead_letters_hold_the_original_row_and_why(tmp_path: Path) -> None:
    result = start(tmp_path, "dead_letter")
    assert result.status == "finished"
    assert result.steps["typed"]["dead_letters"] == 10
    assert "dead_letters" not in result.steps
    found = letters(tmp_path / "home" / "letters" / "dead_letters")
    assert [json.loads(str(each["row"])) for each in found] == [
        {"id": i, "amount": "many"} for i in range(7, 1_000, 100)
    ]
    first = found[0]
    assert first["step"] == "typed"
    assert first["run_id"] == result.run_id
    assert first["position"] == "raw.csv line 9"
    assert first["attempts"] == 1
    assert str(first["code"]).startswith("E05")
    assert first["message"]
    assert first["failed_at"]
    assert len({each["id"] for each in found}) == 10


def test_dead_letters_go_where_the_workflow_says(tmp_path: Path) -> None:
    start(tmp_path, "dead_letter", ", dead_letter: {path: ./dead}")
    assert len(letters(tmp_path / "dead")) == 10


def test_any_destination_takes_dead_letters(tmp_path: Path) -> None:
    import sqlite3

    spec = ", dead_letter: {type: sqlite, config: {path: dead.db, table: letters}}"
    assert start(tmp_path, "dead_letter", spec).status == "finished"
    with sqlite3.connect(tmp_path / "dead.db") as database:
        assert database.execute("select count(*) from letters").fetchone() == (10,)


@pytest.mark.parametrize(
    ("most", "status"),
    [("9", "failed"), ("10", "finished"), ("0.9%", "failed"), ("1%", "finished")],
)
def test_more_failed_rows_than_allowed_fail_the_run(tmp_path: Path, most: str, status: str) -> None:
    result = start(tmp_path, "skip", f", max_errors: {most}")
    assert result.status == status
    if result.error is not None:
        assert result.error.code == "E0530"
        assert not (tmp_path / "out.csv").exists()


def test_a_source_of_which_every_row_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "days.csv").write_text("id,day\n1,today\n2,tomorrow\n")
    text = """\
name: none
sources:
  days: {type: file, config: {path: days.csv}, schema: {day: date}, error_handling: {on_error: skip}}
destinations: {out: {type: blackhole, inputs: [days]}}
"""
    result = run(load_text(text, base=tmp_path), RunOptions(home=tmp_path / "home"))
    assert result.exit_status == 0
    assert any("all 2 rows failed" in warning for warning in result.warnings)
