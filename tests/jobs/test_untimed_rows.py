"""Rows without a usable event time become letters of their source, which reads them again in a replay."""

from __future__ import annotations

import datetime
import json
import sqlite3
from pathlib import Path

import polars as pl
import pytest

from dataflare.jobs import RunOptions, run
from dataflare.jobs.letters import LetterBox
from dataflare.jobs.replay import Replayed, replay
from dataflare.workflow.load import load_text
from dataflare.workflow.model import Workflow

GOOD, FAR = "2026-01-01T00:00:00", "2999-01-01T00:00:00"
ROWS: list[tuple[int, str | None]] = [(1, GOOD), (2, None), (3, GOOD), (4, FAR), (5, GOOD)]


def workflow(base: Path, kind: str, event_time: str = "column: ts") -> Workflow:
    return load_text(
        f"""\
name: timed
settings: {{error_handling: {{on_error: dead_letter}}}}
sources:
  v: {{type: file, config: {{path: v.{kind}}}, schema: {{ts: timestamp}}, event_time: {{{event_time}}}}}
transformations:
  whole: {{type: filter, inputs: [v], config: {{condition: "CAST(CASE WHEN n = 100 THEN 'x' ELSE '1' END AS BIGINT) = 1"}}}}
destinations:
  out: {{type: sqlite, inputs: [whole], config: {{path: o.db, table: t, mode: append}}}}
""",
        base=base,
    )


def put(base: Path, kind: str, rows: list[tuple[int, str | None]]) -> None:
    path = base / f"v.{kind}"
    match kind:
        case "csv":
            path.write_text("\n".join(["n,ts", *(f"{n},{ts or ''}" for n, ts in rows), ""]))
        case "ndjson":
            path.write_text("".join(json.dumps({"n": n, "ts": ts}) + "\n" for n, ts in rows))
        case "parquet":
            times = [None if ts is None else datetime.datetime.fromisoformat(ts) for _, ts in rows]
            pl.DataFrame({"n": [n for n, _ in rows], "ts": times}).write_parquet(path)


def box(base: Path) -> LetterBox:
    return LetterBox(base / "home" / "timed")


def again(base: Path, kind: str, event_time: str = "column: ts") -> Replayed:
    return replay(workflow(base, kind, event_time), box(base), lambda letter: True)


def held(base: Path) -> list[int]:
    with sqlite3.connect(base / "o.db") as db:
        return sorted(n for (n,) in db.execute("select n from t"))


def first_run(base: Path, kind: str) -> None:
    put(base, kind, ROWS)
    assert run(workflow(base, kind), RunOptions(base / "home")).status == "finished"
    assert held(base) == [1, 3, 5]


@pytest.mark.parametrize("kind", ["csv", "ndjson", "parquet"])
def test_a_letter_has_the_text_of_its_row_and_its_place(tmp_path: Path, kind: str) -> None:
    first_run(tmp_path, kind)
    letters = {letter.code: letter for letter in box(tmp_path).waiting()}
    assert sorted(letters) == ["E0550", "E0551"]
    for code, n in (("E0550", "2"), ("E0551", "4")):
        assert [*letters[code].row] == ["raw"]
        assert n in letters[code].row["raw"]
        assert letters[code].position
        assert letters[code].neighbours


@pytest.mark.parametrize("kind", ["csv", "ndjson", "parquet"])
def test_what_still_fails_stays_and_says_why(tmp_path: Path, kind: str) -> None:
    first_run(tmp_path, kind)
    outcome = again(tmp_path, kind)
    assert (outcome.rows, len(box(tmp_path).waiting())) == (0, 2)
    why = " ".join(outcome.reasons)
    assert "has no event time" in why
    assert "max_future" in why
    assert held(tmp_path) == [1, 3, 5]


@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_a_row_fixed_in_its_file_comes_in_once(tmp_path: Path, kind: str) -> None:
    first_run(tmp_path, kind)
    put(tmp_path, kind, [(n, GOOD) for n, _ in ROWS])
    assert again(tmp_path, kind).rows == 2
    assert again(tmp_path, kind).rows == 0
    assert held(tmp_path) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", ["csv", "ndjson", "parquet"])
def test_a_row_comes_in_once_the_workflow_allows_its_time(tmp_path: Path, kind: str) -> None:
    first_run(tmp_path, kind)
    outcome = again(tmp_path, kind, "column: ts, max_future: 1000000d")
    assert outcome.rows == 1
    assert held(tmp_path) == [1, 3, 4, 5]
    assert [letter.code for letter in box(tmp_path).waiting()] == ["E0550"]


def test_another_row_that_moved_into_the_place_is_not_taken(tmp_path: Path) -> None:
    first_run(tmp_path, "csv")
    put(tmp_path, "csv", [ROWS[0], *ROWS[2:]])
    assert again(tmp_path, "csv").rows == 0
    assert held(tmp_path) == [1, 3, 5]


def test_a_letter_of_a_step_behind_it_keeps_its_row(tmp_path: Path) -> None:
    put(tmp_path, "csv", [*ROWS, (100, GOOD)])
    run(workflow(tmp_path, "csv"), RunOptions(tmp_path / "home"))
    (letter,) = [letter for letter in box(tmp_path).waiting() if letter.step == "whole"]
    assert letter.row["n"] == 100
    assert letter.position == "v.csv line 7"
    assert letter.neighbours is None


def test_rows_that_cannot_be_read_beside_them_are_not_their_neighbours(tmp_path: Path) -> None:
    put(tmp_path, "csv", ROWS)
    path = tmp_path / "v.csv"
    path.write_text(path.read_text().replace(f"3,{GOOD}", "3,never"))
    run(workflow(tmp_path, "csv"), RunOptions(tmp_path / "home"))
    assert sorted(letter.code for letter in box(tmp_path).waiting()) == ["E0501", "E0550", "E0551"]
    put(tmp_path, "csv", [(n, GOOD) for n, _ in ROWS])
    assert again(tmp_path, "csv").rows == 2
    assert held(tmp_path) == [1, 2, 4, 5]
