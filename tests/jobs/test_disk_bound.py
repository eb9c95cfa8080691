"""`resources.disk`: what a run has on disk ends it before the disk is full, and it goes on once the bound is raised."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from dataflare import Workflow
from dataflare.errors import RunError
from dataflare.jobs.letters import LetterBox


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("DATAFLARE_HOME", str(tmp_path / "home"))


def letters(folder: Path, disk: str | None, path: str | None = None) -> Workflow:
    """One of two rows becomes a dead letter."""
    settings = {"checkpoint": {"interval": "100ms"}, "resources": {"disk": disk}}
    wf = Workflow("letters", base=folder, settings=settings, parallelism=1)
    handling = {"on_error": "dead_letter", **({"dead_letter": {"path": path}} if path else {})}
    rows = wf.source("rows", "generate", columns={"n": {"sequence": 0}}, rows=40_000)
    kept = rows.map("cut", derive={"m": "100 % (n % 2)"}, error_handling=handling)
    kept.to("out", "sqlite", path="out.db", table="t")
    return wf


@pytest.mark.parametrize("path", [None, "bad"])
def test_dead_letters_above_the_bound_fail_the_run_which_goes_on_with_a_higher_one(tmp_path, path):
    with pytest.raises(RunError) as raised:
        letters(tmp_path, "1MiB", path).run()
    error = raised.value
    assert error.code == "E0616"
    assert error.exit_status == 1  # something was run
    assert "'resources.disk' allows 1.0 MB" in error.message
    assert "dead letters: " in error.notes[0]
    assert "raise 'resources.disk'" in str(error.help)
    again = letters(tmp_path, "1GiB", path).run()
    assert again.status == "finished"
    assert _count(tmp_path) == 20_000
    folder = tmp_path / "home" / "letters"
    box = LetterBox(folder, [tmp_path / path] if path else [])
    assert len(box.letters()) == 20_000


def test_state_counts(tmp_path):
    settings = {"checkpoint": {"interval": "100ms"}, "resources": {"disk": "200KiB"}}
    wf = Workflow("state", base=tmp_path, settings=settings, parallelism=1)
    rows = wf.source("rows", "generate", columns={"n": {"int": [0, 10**9]}}, rows=200_000)
    rows.deduplicate("once", key=["n"]).to("out", "blackhole")
    with pytest.raises(RunError) as raised:
        wf.run()
    assert raised.value.code == "E0616"
    assert raised.value.notes[0].startswith("state: ")


def test_a_run_below_its_bound_and_one_without_a_bound_finish(tmp_path):
    assert letters(tmp_path, "1GiB").run().status == "finished"
    assert letters(tmp_path, None).run(fresh=True).status == "finished"


def _count(folder: Path) -> int:
    with sqlite3.connect(folder / "out.db") as connection:
        return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])
