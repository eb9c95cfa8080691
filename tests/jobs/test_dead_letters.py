"""Rows that fail: the run fails, they are skipped, or they become dead letters, once each."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.sdk.crashpoints import observed
from dataflare.testing import Lab
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

ORDERED = """\
name: ordered
settings:
  batch: {initial: 1, min: 1, max: 1}
  error_handling: {on_error: dead_letter, dead_letter: {path: dead}}
sources:
  raw: {type: file, config: {path: raw.FORMAT}, schema: {id: int64, zone: string, amount: string}}
transformations:
  typed: {type: map, inputs: [raw], config: {cast: {amount: int64}}}
destinations:
  out: {type: file, inputs: [typed], config: {path: out.csv}}
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
    place = tmp_path / "home" / "letters" / "dead_letters"
    assert f"step 'typed': 10 rows failed and are dead letters in {place}" in result.warnings
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


@pytest.mark.parametrize("format_", ["csv", "ndjson"])
def test_their_rows_have_the_order_of_the_columns_also_in_a_run_that_resumes(
    tmp_path: Path, format_: str
) -> None:
    flow, lab = load_text(ORDERED.replace("FORMAT", format_), base=tmp_path), Lab(tmp_path / "home")
    count = 2_000
    names, rows = ["id", "zone", "amount"], [[i, "z", "x" if i % 50 else 7] for i in range(count)]
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    if format_ == "csv":
        lines = [",".join(names), *(",".join(map(str, row)) for row in rows)]
    (tmp_path / f"raw.{format_}").write_text("\n".join(lines) + "\n")

    def fail(place: str) -> None:
        if place == "engine.after_commit":
            raise RuntimeError

    with observed(fail):
        lab.run_until_crash(flow)
    result = lab.run(flow)
    assert (result.status, result.resumed_from) == ("finished", 1)
    found = letters(tmp_path / "dead")
    assert 2 in {each["attempts"] for each in found}, "the run that resumed wrote some"
    assert {tuple(json.loads(str(each["row"]))) for each in found} == {tuple(names)}
    assert sorted(json.loads(str(each["row"]))["id"] for each in found) == [
        i for i in range(count) if i % 50
    ]


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
