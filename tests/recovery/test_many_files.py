"""A source with many splits: its listing is a chunk, markers do not have it, and each row comes once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from dataflare import RunOptions, RunResult, load, run

pytestmark = pytest.mark.rotates(3)

FILES, ROWS = 300, 4
WORKFLOW = """\
name: many
settings:
  parallelism: 2
  checkpoint: {interval: 20ms, STORAGE}
sources:
  lines: {type: file, config: {path: "in/*.csv", OPTIONS}}
  held: {type: python, config: {function: "held:rows"}}
destinations:
  out: {type: sqlite, inputs: [lines], config: {path: out.db, table: t}}
  ticks: {type: sqlite, inputs: [held], config: {path: out.db, table: ticks}}
"""
HELD = """\
import os
import threading

import polars as pl


def rows(start):
    for first in range(start or 0, 60, 20):
        if first == 40 and "DATAFLARE_CRASH_AT" in os.environ:
            threading.Event().wait()  # for the kill: the input has not ended at any checkpoint
        yield pl.DataFrame({"id": range(first, first + 20)}), first + 20
"""
STORED = 'storage: "kept"'


def project(folder: Path, *, storage: str = "retain: 3", options: str = "new_only: true") -> Path:
    (folder / "in").mkdir()
    for number in range(FILES):
        add_file(folder, number)
    text = WORKFLOW.replace("STORAGE", storage).replace("OPTIONS", options)
    (folder / "w.yaml").write_text(text)
    (folder / "held.py").write_text(HELD)
    return folder


def add_file(folder: Path, number: int) -> None:
    ids = range(number * ROWS, (number + 1) * ROWS)
    (folder / "in" / f"{number:04}.csv").write_text("id\n" + "".join(f"{id_}\n" for id_ in ids))


def go(folder: Path, home: str = "one", **options: bool) -> RunResult:
    return run(load(folder / "w.yaml"), RunOptions(home=folder / home, **options))


def kill(folder: Path, point: str, home: str = "one") -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    environ |= {"DATAFLARE_CRASH_AT": point, "DATAFLARE_HOME": str(folder / home)}
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "--quiet"]
    killed = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def written(folder: Path, table: str = "t") -> Counter[int]:
    with sqlite3.connect(folder / "out.db") as db:
        return Counter(id_ for (id_,) in db.execute(f"select id from {table}"))


def marker(folder: Path) -> str:
    """The manifest beside the rows."""
    with sqlite3.connect(folder / "out.db") as db:
        query = "select manifest from _dataflare_epochs order by epoch desc"
        (text,) = db.execute(query).fetchone()
    return str(text)


def all_rows(files: int = FILES) -> Counter[int]:
    return Counter(range(files * ROWS))


@pytest.mark.parametrize(
    "point",
    [
        "source.after_listing:1",
        "source.after_done:1",
        "source.after_done:2",
        "engine.before_manifest:1",
        "checkpoint.before_rename:2",
        "engine.after_manifest:1",
        "engine.after_commit:1",
    ],
)
def test_a_run_that_dies_between_two_writes_goes_on_with_each_row_once(
    point: str, tmp_path: Path
) -> None:
    folder = project(tmp_path)
    kill(folder, point)
    result = go(folder)
    assert result.error is None
    assert written(folder) == all_rows()
    assert written(folder, "ticks") == Counter(range(60))
    add_file(folder, FILES)
    assert go(folder).steps["lines"]["rows_out"] == ROWS, "the others are known"
    assert written(folder) == all_rows(FILES + 1)
    (chunks,) = (folder / "one" / "many").glob("*/chunks")
    names = {name for text in (folder / "one").rglob("manifest-*") for name in _names(text)}
    assert {path.name for path in chunks.iterdir()} == names, "no chunk is left behind"


def _names(path: Path) -> set[str]:
    stored = json.loads(path.read_text())["body"]["sources"]["lines"].get("stored") or {}
    chunks = [stored.get("listing"), *stored.get("done", ()), stored.get("carried")]
    return {chunk["name"] for chunk in chunks if chunk}


def test_a_manifest_and_a_marker_are_small(tmp_path: Path) -> None:
    folder = project(tmp_path)
    assert go(folder).error is None
    sizes = [path.stat().st_size for path in folder.rglob("manifest-*.json")]
    assert max(sizes) < 20_000
    assert len(marker(folder)) < 20_000
    # Only what was read since the last piece was stored is named.
    assert marker(folder).count(".csv") < FILES // 4


@pytest.mark.parametrize("point", ["engine.after_commit:4", "engine.before_manifest:4"])
@pytest.mark.parametrize("options", ["new_only: true", "new_only: false"])
@pytest.mark.parametrize("storage", ["retain: 3", STORED], ids=["lost", "reachable"])
def test_an_unfinished_run_is_adopted_from_storage_or_from_the_source(
    storage: str, options: str, point: str, tmp_path: Path
) -> None:
    folder = project(tmp_path, storage=storage, options=options)
    kill(folder, point)
    shutil.rmtree(folder / "one")
    result = go(folder, "two", adopt=True)
    assert result.error is None
    assert written(folder) == all_rows()
    assert written(folder, "ticks") == Counter(range(60))
    if options == "new_only: true":
        add_file(folder, FILES)
        assert go(folder, "two").steps["lines"]["rows_out"] == ROWS
        assert written(folder) == all_rows(FILES + 1)


def test_without_the_storage_a_source_that_lists_other_files_cannot_be_adopted(
    tmp_path: Path,
) -> None:
    folder = project(tmp_path)
    kill(folder, "engine.after_commit:4")
    shutil.rmtree(folder / "one")
    add_file(folder, FILES)
    error = go(folder, "two", adopt=True).error
    assert error is not None
    assert error.code == "E0806"
    assert "300 splits of source 'lines'" in error.message
    assert "lists others now" in error.message
    (folder / "in" / f"{FILES:04}.csv").unlink()
    assert go(folder, "two", adopt=True).error is None
    assert written(folder) == all_rows()


def test_with_the_storage_it_can(tmp_path: Path) -> None:
    folder = project(tmp_path, storage=STORED)
    kill(folder, "engine.after_commit:4")
    shutil.rmtree(folder / "one")
    add_file(folder, FILES)
    assert go(folder, "two", adopt=True).error is None
    assert go(folder, "two").error is None
    assert written(folder) == all_rows(FILES + 1)


@pytest.mark.parametrize("storage", ["retain: 3", STORED], ids=["lost", "reachable"])
def test_a_finished_run_is_adopted_and_the_next_reads_new_files_only(
    storage: str, tmp_path: Path
) -> None:
    folder = project(tmp_path, storage=storage)
    assert go(folder).error is None
    shutil.rmtree(folder / "one")
    if storage == STORED:
        add_file(folder, FILES)
    result = go(folder, "two", adopt=True)
    assert result.error is None
    assert result.steps["lines"]["rows_out"] == (ROWS if storage == STORED else 0)
    assert set(written(folder).values()) == {1}


def test_a_damaged_listing_is_found_and_an_older_checkpoint_does_not_hide_it(
    tmp_path: Path,
) -> None:
    folder = project(tmp_path)
    kill(folder, "engine.after_commit:4")
    (listing,) = folder.rglob("chunks/lines-listing-*")
    data = bytearray(listing.read_bytes())
    data[len(data) // 2] ^= 1
    listing.write_bytes(data)
    result = go(folder)
    assert result.error is not None
    assert result.error.code == "E0701"
    assert any("listing" in note for note in result.error.notes)
    assert set(written(folder).values()) == {1}
