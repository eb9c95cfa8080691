"""A workflow with windows and joins that was stopped goes on after an edit, and no advice of an error leads to
another refusal."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dataflare import RunOptions, RunResult, load, run
from dataflare.checkpoint.runs import RunLog
from dataflare.checkpoint.store import LocalStore
from dataflare.errors import DataFlareError
from dataflare.jobs.savepoint_requests import savepoint
from dataflare.jobs.state_rows import state_of
from dataflare.planner import plan

WORKFLOW = """\
name: clicks
settings: {mode: streaming, parallelism: 2, checkpoint: {interval: 20ms}, batch: {initial: 20, min: 20, max: 40}}
sources:
  clicks:
    type: generate
    config: {rows: 600, rate: RATE, seed: 3, columns: {n: {sequence: 0}, user: {choice: [ada, bob]}, at: {time: {start: "2026-01-01T08:00:00Z", step: 1s}}}}
    event_time: {column: at, out_of_orderness: 2s}
  prices:
    type: generate
    config: {rows: 600, rate: RATE, seed: 4, columns: {name: {choice: [ada, bob]}, price: {int: [1, 9]}, since: {time: {start: "2026-01-01T08:00:00Z", step: 1s}}}}
    event_time: {column: since, out_of_orderness: 2s}
transformations:
  minutes: {type: window, inputs: [clicks], config: {kind: tumbling, size: 1m, group_by: [user], measures: {clicks: "count(*)"}, allowed_lateness: 1m}}
  visits: {type: window, inputs: [clicks], config: {kind: session, gap: 10s, group_by: {who: user}, measures: {clicks: "count(*)"}}}
  near: {type: join, inputs: [clicks, prices], config: {on: {user: name}, within: 5s}}
  once: {type: deduplicate, inputs: [clicks], config: {key: user, within: 9s}}
destinations:
  out: {type: sqlite, inputs: [minutes], config: {path: out.db, table: t, mode: upsert, key: [user, window_start]}}
  seen: {type: file, inputs: [visits], config: {path: visits/, format: ndjson}}
  pairs: {type: file, inputs: [near], config: {path: near/, format: ndjson}}
  first: {type: file, inputs: [once], config: {path: once/, format: ndjson}}
"""
LARGER, SMALLER = ("size: 1m", "size: 2m"), ("allowed_lateness: 1m", "allowed_lateness: 3m")


def write(folder: Path, *changes: tuple[str, str], rate: str = "1000000/s") -> None:
    text = WORKFLOW.replace("RATE", rate)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "w.yaml").write_text(text)


def go(folder: Path, **options: Any) -> RunResult:
    return run(load(folder / "w.yaml"), RunOptions(home=folder / "home", **options))


def refused(folder: Path, **options: Any) -> DataFlareError:
    try:
        error = go(folder, **options).error
    except DataFlareError as raised:
        error = raised
    assert error is not None
    return error


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    write(tmp_path, rate="100/s")
    assert go(tmp_path, for_s=1.5).status == "stopped"
    savepoint(tmp_path / "home" / "clicks", "one")
    return tmp_path


def clicks(folder: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "out.db") as db:
        return db.execute("select user, window_start, clicks from t order by 1, 2").fetchall()


@pytest.mark.parametrize("options", [{"savepoint": "one"}, {"accept_changes": True}], ids=str)
def test_a_window_that_may_change_goes_on(stopped: Path, options: dict[str, Any]) -> None:
    write(stopped, SMALLER, ("within: 5s", "within: 7s"), ("within: 9s", "within: 4s"))
    error = refused(stopped)
    assert error.code == "E0803"
    assert "--accept-changes" in error.help
    result = go(stopped, **options)
    assert result.error is None
    assert any("'minutes'" in text and "stay closed" in text for text in result.warnings)
    undisturbed = stopped / "other"
    undisturbed.mkdir()
    write(undisturbed)
    assert go(undisturbed).error is None
    assert clicks(stopped) == clicks(undisturbed)


def test_the_advice_for_a_window_that_cannot_change_leads_to_a_run(stopped: Path) -> None:
    write(stopped, LARGER)
    error = refused(stopped)
    assert error.code == "E0803"
    assert "new names" in error.help
    assert any("larger windows need have been dropped" in note for note in error.notes)
    for options in ({"accept_changes": True}, {"savepoint": "one"}):
        error = refused(stopped, **options)
        assert (error.code, error.step) == ("E0810", "minutes")
    write(stopped, LARGER, ("  minutes: {type", "  pairs_of: {type"), ("[minutes]", "[pairs_of]"))
    assert "--accept-changes to resume" in refused(stopped).help
    assert go(stopped, accept_changes=True).error is None


def test_state_is_shown_as_rows_that_a_user_knows(stopped: Path) -> None:
    folder = stopped / "home" / "clicks"
    current = RunLog(folder).current()
    assert current is not None
    store = LocalStore(folder, current.lineage)
    manifest = store.list_manifests()[0].manifest
    assert manifest is not None
    stages = plan(load(stopped / "w.yaml")).stages

    def shown(step: str) -> dict[str, list[dict[str, Any]]]:
        state = state_of(manifest, store, step, stages)
        assert state.merged
        return {
            n: [r for f in frames for r in f.rows(named=True)] for n, frames in state.tables.items()
        }

    windows = shown("minutes")
    for row in (*windows["windows"], *windows["fired"]):
        assert [*row] == ["user", "window_start", "window_end", "clicks"]
        assert (row["window_end"] - row["window_start"]).total_seconds() == 60
        assert 0 < row["clicks"] <= 60
    assert windows["windows"]
    assert {row["who"] for row in shown("visits")["windows"]} <= {"ada", "bob"}
    near = shown("near")
    assert {"waiting_left", "kept_left", "waiting_right", "kept_right"} == near.keys()
    assert all(
        "event_time" in row and "__" not in "".join(row) for rows in near.values() for row in rows
    )
    assert {*shown("once")} == {"waiting", "stayed"}
