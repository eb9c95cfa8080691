"""`dataflare check`: a line for each system, and what cannot be reached."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest
from command_line import answer, cli, write

from dataflare.connectors.inline import InlineSource
from dataflare.jobs.inspect import inspect
from dataflare.workflow.load import load_text

CHECKED = """\
name: checked
sources:
  rows: {type: file, config: {path: rows.csv}}
transformations:
  named:
    type: lookup
    inputs: [rows]
    config: {source: {type: sqlite, path: names.db, table: names}, mapping: {key: id, fields: [name]}}
destinations:
  out: {type: file, inputs: [named], config: {path: out/all.csv}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "rows.csv", "id\n1\n")
    with sqlite3.connect(tmp_path / "names.db") as database:
        database.execute("create table names (id integer, name text)")
    write(tmp_path, "w.yaml", CHECKED)
    return tmp_path


def test_every_system_has_a_line_and_nothing_is_written(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    done = cli("check", "w.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = [line.split()[:4] for line in done.stdout.splitlines()[2:]]
    assert lines == [
        ["ok", "rows", "source", "file"],
        ["ok", "named", "lookup", "sqlite"],
        ["ok", "out", "destination", "file"],
    ]
    assert "columns: 2 (id, name)" in done.stdout
    assert sorted(folder.rglob("*")) == before


def test_what_cannot_be_reached_is_status_3_and_the_others_are_tried(folder: Path) -> None:
    (folder / "rows.csv").unlink()
    (folder / "out").write_text("a file")
    done = cli("check", "w.yaml", "--json", cwd=folder)
    assert done.returncode == 3
    reached = {step["step"]: step["reached"] for step in answer(done)["steps"]}
    assert reached["rows"] is False
    assert reached["named"] is True
    assert "error[E06" in done.stderr
    assert "--> w.yaml:3" in done.stderr


def test_a_destination_that_cannot_be_written_is_found(folder: Path) -> None:
    (folder / "out").write_text("a file")
    done = cli("check", "w.yaml", cwd=folder)
    assert done.returncode == 3
    assert "is not a folder" in done.stdout


def test_a_wrong_config_is_status_2_and_nothing_is_asked(folder: Path) -> None:
    write(folder, "w.yaml", CHECKED.replace("path: rows.csv", "paht: rows.csv"))
    done = cli("check", "w.yaml", cwd=folder)
    assert done.returncode == 2
    assert done.stdout == ""


@pytest.mark.parametrize("blocking", [False, True])
def test_a_system_that_is_silent_takes_no_more_than_its_time(
    blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    async def validate(source: InlineSource) -> None:
        if blocking:
            answered.wait(60)
        else:
            await asyncio.Event().wait()

    monkeypatch.setattr(InlineSource, "validate", validate)
    text = "name: w\nsources: {a: {type: inline, config: {rows: [{x: 1}]}}}\n"
    text += "destinations: {b: {type: blackhole, inputs: [a]}}\n"
    first, second = inspect(load_text(text), timeout_s=0.05)
    answered.set()
    assert first.error is not None
    assert first.error.code == "E0610"
    assert second.reached
