"""A destination knows who wrote it: a lost or second home never doubles rows, and can take over."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from dataflare import RunOptions, RunResult, load, run
from dataflare.errors import DataFlareError
from dataflare.observability.door import DOOR

pytestmark = pytest.mark.rotates(2)

WORKFLOW = """\
name: load
version: "1.0"
settings: {parallelism: 1, checkpoint: {interval: 20ms}}
sources:
  numbers: {type: sqlite, config: {path: in.db, table: t, incremental: {column: id}, batch_size: 50}}
destinations:
  out: {type: TYPE, inputs: [numbers], config: CONFIG}
"""
HELD = """\
  numbers: {type: python, config: {function: "held:rows"}}"""
HELD_ROWS = """\
import os
import threading
import time
from pathlib import Path

import polars as pl

MANIFESTS = "load/*/manifest-*.json"


def newest():
    names = Path(os.environ["DATAFLARE_HOME"]).glob(MANIFESTS)
    return max((path.name for path in names), default="")


def rows(start):
    for first in range(start or 0, 300, 20):
        before = newest() if "DATAFLARE_CRASH_AT" in os.environ else None
        yield pl.DataFrame({"id": range(first, first + 20)}), first + 20
        if before is None:
            continue
        while newest() == before:
            time.sleep(0.002)  # a checkpoint follows, because there are new rows
        if first == 180:
            threading.Event().wait()  # for the kill: the input has not ended at any checkpoint
"""
PLACES = {
    "sqlite": "{path: out.db, table: t}",
    "duckdb": "{path: out.duckdb, table: t}",
    "parts": "{path: parts/, format: ndjson}",
    "lines": "{path: lines.ndjson, mode: append}",
}


@pytest.fixture(params=PLACES)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind = request.param if request.param in ("sqlite", "duckdb") else "file"
    text = WORKFLOW.replace("TYPE", kind).replace("CONFIG", PLACES[request.param])
    (tmp_path / "w.yaml").write_text(text)
    add_rows(tmp_path, 0, 300)
    return tmp_path


def add_rows(folder: Path, first: int, end: int) -> None:
    with sqlite3.connect(folder / "in.db") as db:
        db.execute("create table if not exists t (id integer primary key)")
        db.executemany("insert into t values (?)", [(n,) for n in range(first, end)])


def written(folder: Path) -> Counter[int]:
    """How often each id is there."""
    if (folder / "out.db").exists():
        with sqlite3.connect(folder / "out.db") as db:
            return Counter(n for (n,) in db.execute("select id from t"))
    if (folder / "out.duckdb").exists():
        with duckdb.connect(str(folder / "out.duckdb"), read_only=True) as db:
            return Counter(n for (n,) in db.execute("select id from t").fetchall())
    files = [*(folder / "parts").glob("*.ndjson"), *folder.glob("lines.ndjson")]
    lines = [line for file in files for line in file.read_text().splitlines()]
    return Counter(int(line.removeprefix('{"id":').rstrip("}")) for line in lines)


def take_away(folder: Path) -> None:
    """Drop the table, or move the files: what tells of the rows stays."""
    if (folder / "out.db").exists():
        with sqlite3.connect(folder / "out.db") as db:
            db.execute("drop table t")
    if (folder / "out.duckdb").exists():
        with duckdb.connect(str(folder / "out.duckdb")) as db:
            db.execute("drop table t")
    for file in [*(folder / "parts").glob("*.ndjson"), *folder.glob("lines.ndjson")]:
        file.rename(folder / f"{file.name}.moved")


def once(end: int) -> Counter[int]:
    return Counter(range(end))


def go(folder: Path, home: str, **options: bool) -> RunResult:
    return run(load(folder / "w.yaml"), RunOptions(home=folder / home, **options))


def code_of(folder: Path, home: str, **options: bool) -> str:
    try:
        error = go(folder, home, **options).error
    except DataFlareError as raised:
        error = raised
    assert error is not None
    assert error.exit_status == (2 if error.code in ("E0806", "E0807") else 1)
    return error.code


def kill(folder: Path, home: str, point: str) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    environ |= {"DATAFLARE_CRASH_AT": point, "DATAFLARE_HOME": str(folder / home)}
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "--quiet"]
    assert subprocess.run(command, cwd=folder, env=environ).returncode == -signal.SIGKILL


def test_a_second_home_is_refused_and_goes_on_when_it_adopts(project: Path) -> None:
    assert go(project, "one").status == "finished"
    add_rows(project, 300, 310)
    assert code_of(project, "two") == "E0806"
    assert code_of(project, "two") == "E0806", "a second try is refused like the first"
    assert written(project) == once(300)
    adopted = go(project, "two", adopt=True)
    assert adopted.error is None
    assert adopted.steps["out"]["rows_in"] == 10
    assert written(project) == once(310)
    add_rows(project, 310, 320)
    assert go(project, "two").error is None
    assert written(project) == once(320)


@pytest.mark.parametrize("options", [{}, {"adopt": True}], ids=["plain", "adopt"])
@pytest.mark.parametrize("project", ["sqlite", "duckdb"], indirect=True)
def test_a_table_that_was_dropped_is_made_again(project: Path, options: dict[str, bool]) -> None:
    assert go(project, "one").error is None
    take_away(project)
    assert go(project, "two", **options).error is None
    assert written(project) == once(300)
    add_rows(project, 300, 310)
    assert code_of(project, "three") == "E0806"
    assert go(project, "two").error is None
    assert written(project) == once(310)


@pytest.mark.parametrize("project", ["parts", "lines"], indirect=True)
def test_rows_of_files_that_were_moved_still_count(project: Path) -> None:
    assert go(project, "one").error is None
    take_away(project)
    add_rows(project, 300, 310)
    assert code_of(project, "two") == "E0806"
    assert go(project, "two", adopt=True).error is None
    assert written(project) == Counter(range(300, 310))


def test_adopt_auto_in_the_settings_makes_a_home_needless(project: Path) -> None:
    file = project / "w.yaml"
    file.write_text(file.read_text().replace("settings: {", "settings: {state: {adopt: auto}, "))
    for turn in range(4):
        assert go(project, f"home{turn}").error is None
        assert written(project) == once(300 + 10 * turn)
        add_rows(project, 300 + 10 * turn, 310 + 10 * turn)


def test_the_first_home_is_fenced_once_another_has_adopted(project: Path) -> None:
    go(project, "one")
    add_rows(project, 300, 310)
    assert go(project, "two", adopt=True).error is None
    add_rows(project, 310, 320)
    for _ in range(3):
        try:
            go(project, "one")
        except DataFlareError:
            continue
    assert set(written(project).values()) == {1}


def test_fresh_takes_the_place_over_and_the_old_home_is_refused(project: Path) -> None:
    go(project, "one")
    assert go(project, "two", fresh=True).error is None
    assert written(project) == Counter(dict.fromkeys(range(300), 2))
    add_rows(project, 300, 310)
    assert code_of(project, "one") in ("E0806", "E0807")
    assert max(written(project)) == 299


@pytest.mark.parametrize("point", ["engine.after_commit:2", "engine.before_manifest:3"])
def test_an_unfinished_run_is_adopted_where_it_stopped(project: Path, point: str) -> None:
    file = project / "w.yaml"
    before, _, after = file.read_text().partition("  numbers:")
    file.write_text(before + HELD + after[after.index("\ndestinations") :])
    (project / "held.py").write_text(HELD_ROWS)
    kill(project, "one", point)
    assert written(project) <= once(200)
    result = go(project, "two", adopt=True)
    assert result.error is None
    assert written(project) == once(300)


def test_a_run_killed_after_its_last_commit_counts_as_finished_where_it_is_adopted(
    project: Path,
) -> None:
    file = project / "w.yaml"
    file.write_text(file.read_text().replace("interval: 20ms", "interval: 1h"))
    kill(project, "one", "engine.after_commit:1")
    add_rows(project, 300, 310)
    assert go(project, "two", adopt=True).error is None
    assert written(project) == once(310)


def test_the_next_run_does_not_need_the_checkpoints_of_a_finished_one(project: Path) -> None:
    assert go(project, "one").error is None
    for manifest in (project / "one").rglob("manifest-*.json"):
        manifest.unlink()
    add_rows(project, 300, 310)
    assert go(project, "one").error is None
    assert written(project) == once(310)


def test_two_copies_of_one_state_folder_never_both_write(project: Path) -> None:
    go(project, "one")
    shutil.copytree(project / "one", project / "two", ignore=shutil.ignore_patterns(DOOR))
    add_rows(project, 300, 310)
    assert go(project, "one").error is None
    for _ in range(3):
        try:
            go(project, "two")
        except DataFlareError:
            continue
    assert written(project) == once(310)


def test_a_run_from_another_home_while_one_is_writing_ends_one_of_them(project: Path) -> None:
    kill(project, "one", "engine.after_manifest:2")
    shutil.copytree(project / "one", project / "two", ignore=shutil.ignore_patterns(DOOR))
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "--quiet"]
    runs = [
        subprocess.Popen(
            command,
            cwd=project,
            env=environ | {"DATAFLARE_HOME": str(project / home)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for home in ("one", "two")
    ]
    told = [each.communicate()[1] for each in runs]
    assert all(each.returncode in (0, 1) for each in runs), told
    assert not any("E0900" in text for text in told), told
    assert set(written(project).values()) <= {1}
    assert set(written(project)) <= set(range(300))


def test_lost_dead_letters_do_not_stand_in_the_way_of_adoption(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "w.yaml").write_text("""\
name: letters
settings: {error_handling: {on_error: dead_letter}}
sources: {rows: {type: file, config: {path: "in/*.ndjson"}}}
destinations: {out: {type: sqlite, inputs: [rows], config: {path: out.db, table: t}}}
""")
    (tmp_path / "in" / "a.ndjson").write_text('{"id":1}\n{"id":\n')
    assert go(tmp_path, "one").steps["rows"]["dead_letters"] == 1
    (tmp_path / "in" / "b.ndjson").write_text('{"id":2}\n{"id":\n')
    adopted = go(tmp_path, "two", adopt=True)
    assert adopted.error is None
    assert any("dead letters" in each and "lost" in each for each in adopted.warnings)
    assert written(tmp_path) == Counter([1, 2])
    assert len(list((tmp_path / "two" / "letters" / "dead_letters").glob("part-*"))) == 1
    again = go(tmp_path, "two")
    assert again.error is None
    assert not again.warnings
