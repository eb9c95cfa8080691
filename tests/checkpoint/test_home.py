"""Where state lies: beside the workflow file, whatever the working directory is."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dataflare.checkpoint.files import make_state_folder
from dataflare.checkpoint.home import home_of
from dataflare.errors import SystemError_

WORKFLOW = """\
name: load
version: "1.0"
sources:
  orders: {type: sqlite, config: {path: shop.db, table: orders, incremental: {column: id}}}
destinations:
  out: {type: sqlite, inputs: [orders], config: {path: out.db, table: orders}}
"""


def dataflare(
    cwd: Path, *arguments: str, status: int = 0, umask: int = -1
) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    command = [sys.executable, "-m", "dataflare", *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, umask=umask
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "etl" / "flows"
    folder.mkdir(parents=True)
    (folder / "load.yaml").write_text(WORKFLOW)
    with sqlite3.connect(folder / "shop.db") as db:
        db.execute("create table orders (id integer primary key, amount real)")
        db.executemany("insert into orders values (?, ?)", [(n, n / 2) for n in range(10)])
    return folder


def rows(project: Path) -> int:
    with sqlite3.connect(project / "out.db") as db:
        return int(db.execute("select count(*) from orders").fetchone()[0])


def test_one_file_run_from_three_folders_has_one_state(project: Path, tmp_path: Path) -> None:
    for cwd in (project, tmp_path, Path("/")):
        dataflare(cwd, "run", str(project / "load.yaml"), "--quiet")
    assert rows(project) == 10
    assert (project / ".dataflare/load/current.json").is_file()
    assert not (tmp_path / ".dataflare").exists()
    found = json.loads(dataflare(project, "runs", "load", "--json").stdout)
    assert len(found) == 3


def test_commands_without_a_file_look_in_the_parents_too(project: Path) -> None:
    dataflare(project, "run", "load.yaml", "--quiet")
    inside = project / "deep" / "er"
    inside.mkdir(parents=True)
    for command in (["runs"], ["runs", "load"], ["checkpoints"], ["checkpoints", "load"]):
        assert "nothing has run" not in dataflare(inside, *command).stdout
    assert "nothing has run here" in dataflare(project.parent, "runs").stdout
    refused = dataflare(project.parent, "runs", "load", status=2).stderr
    assert "E0121" in refused
    assert "folder of the workflow's file" in refused


def test_a_nearer_home_that_does_not_know_the_workflow_is_passed_over(project: Path) -> None:
    dataflare(project, "run", "load.yaml", "--quiet")
    inside = project / "sub"
    (inside / ".dataflare").mkdir(parents=True)
    assert len(json.loads(dataflare(inside, "runs", "load", "--json").stdout)) == 1


def test_state_that_an_earlier_version_left_in_the_working_directory_moves_once(
    project: Path, tmp_path: Path
) -> None:
    dataflare(project, "run", "load.yaml", "--quiet")
    shutil.move(project / ".dataflare", tmp_path / ".dataflare")
    moved = dataflare(tmp_path, "run", "etl/flows/load.yaml", "--quiet")
    assert "was moved to" in moved.stderr
    assert ".dataflare/load" in moved.stderr
    assert rows(project) == 10
    again = dataflare(tmp_path, "run", "etl/flows/load.yaml", "--quiet")
    assert again.stderr == ""


def test_state_of_another_file_of_the_same_name_stays_where_it_is(
    project: Path, tmp_path: Path
) -> None:
    shutil.copy(project / "load.yaml", tmp_path)
    shutil.copy(project / "shop.db", tmp_path)
    dataflare(tmp_path, "run", "load.yaml", "--quiet")
    assert dataflare(tmp_path, "run", "etl/flows/load.yaml", "--quiet").stderr == ""
    assert (tmp_path / ".dataflare/load").is_dir()
    assert rows(project) == 10


def test_where_both_places_have_state_the_old_one_is_named(project: Path, tmp_path: Path) -> None:
    dataflare(project, "run", "load.yaml", "--quiet")
    shutil.copytree(project / ".dataflare", tmp_path / ".dataflare")
    told = dataflare(tmp_path, "run", "etl/flows/load.yaml", "--quiet").stderr
    assert "holds older state" in told
    assert str(tmp_path / ".dataflare") in told


def test_a_link_to_the_file_has_the_state_beside_the_link(project: Path, tmp_path: Path) -> None:
    for name in ("load.yaml", "shop.db"):
        (tmp_path / name).symlink_to(project / name)
    dataflare(tmp_path, "run", "load.yaml", "--quiet")
    assert (tmp_path / ".dataflare/load").is_dir()
    assert not (project / ".dataflare").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_folder_that_cannot_be_written_is_refused_by_name(project: Path) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(SystemError_) as refused:
            make_state_folder(home_of(project / "load.yaml") / "load")
    finally:
        os.seteuid(0)
    assert refused.value.code == "E0602"
    assert "DATAFLARE_HOME" in refused.value.help


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_state_is_for_its_owner_alone_whatever_the_umask(project: Path, umask: int) -> None:
    workflow = WORKFLOW + "settings: {checkpoint: {interval: 20ms}}\n"
    workflow = workflow.replace(
        "type: sqlite, config: {path: shop.db, table: orders, incremental: {column: id}}",
        "type: generate, config: {rows: 400, rate: 2000/s, columns: {id: {sequence: 0}, c: {choice: ['1', 'x']}}}, "
        "error_handling: {on_error: dead_letter}",
    )
    workflow = workflow.replace("inputs: [orders]", "inputs: [sums]").replace(
        "table: orders", "table: sums"
    )
    workflow += (
        "transformations:\n"
        "  typed: {type: map, inputs: [orders], config: {cast: {c: int64}}, error_handling: {on_error: dead_letter}}\n"
        "  sums: {type: aggregate, inputs: [typed], config: {group_by: [id], measures: {n: 'count(*)'}}}\n"
    )
    (project / "load.yaml").write_text(workflow)
    dataflare(project, "run", "load.yaml", "--quiet", umask=umask)
    home = project / ".dataflare"
    seen = {path: stat.S_IMODE(path.lstat().st_mode) for path in (home, *home.rglob("*"))}
    kinds = {path.name.partition("-")[0] for path in seen}
    assert {"lock", "current.json", "runs", "dead_letters", "chunks", "redo"} <= kinds
    for path, mode in seen.items():
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path}: {mode:o}"
