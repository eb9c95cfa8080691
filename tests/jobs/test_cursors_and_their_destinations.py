"""A cursor belongs to the destinations it was written to: another or an emptied one is noticed."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from dataflare import RunOptions, RunResult, load, run
from dataflare.errors import PlanError

WORKFLOW = """\
name: NAME
version: "1.0"
params:
  env: {type: string, default: dev}
sources:
  orders: {type: sqlite, config: {path: shop.db, table: o, incremental: {column: id}}}
transformations:
  doubled: {type: map, inputs: [orders], config: {derive: {twice: "id * 2"}}}
  known: {type: filter, inputs: [doubled], config: {condition: "id >= 0"}}
  priced: {type: map, inputs: [known], config: {derive: {price: "twice + 1"}}}
destinations:
  out: {type: sqlite, inputs: [priced], config: {path: "out_${param:env}.db", table: o, MODE}}
"""


@pytest.fixture(params=["mode: append", "mode: upsert, key: [id]"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    text = WORKFLOW.replace("MODE", request.param).replace("NAME", "load")
    (folder / "w.yaml").write_text(text)
    add_rows(folder, 0, 10)
    return folder


def add_rows(folder: Path, first: int, end: int) -> None:
    with sqlite3.connect(folder / "shop.db") as db:
        db.execute("create table if not exists o (id integer primary key)")
        db.executemany("insert into o values (?)", [(n,) for n in range(first, end)])


def go(folder: Path, env: str = "dev", **options: bool) -> RunResult:
    workflow = load(folder / "w.yaml", params={"env": env})
    return run(workflow, RunOptions(home=folder / ".dataflare", **options))


def rows(folder: Path, env: str = "dev") -> int:
    with sqlite3.connect(folder / f"out_{env}.db") as db:
        return int(db.execute("select count(*) from o").fetchone()[0])


def refused(result: RunResult) -> None:
    assert result.error is not None
    assert (result.error.code, result.error.exit_status) == ("E0807", 2)
    assert result.error.step == "out"
    assert "--fresh" in result.error.help
    assert "--accept-changes" in result.error.help


def test_a_run_into_another_destination_is_refused_until_it_is_said_how(project: Path) -> None:
    assert go(project).error is None
    refused(go(project, "prod"))
    refused(go(project, "prod"))
    assert not (project / "out_prod.db").exists()
    assert go(project, "prod", fresh=True).error is None
    assert rows(project, "prod") == 10


def test_the_first_destination_still_works_after_a_refusal(project: Path) -> None:
    go(project)
    refused(go(project, "prod"))
    add_rows(project, 10, 12)
    assert go(project).error is None
    assert rows(project) == 12


def test_accepted_the_new_destination_gets_new_rows_only(project: Path) -> None:
    go(project)
    add_rows(project, 10, 12)
    assert go(project, "prod", accept_changes=True).error is None
    assert rows(project, "prod") == 2
    add_rows(project, 12, 13)
    assert go(project, "prod").error is None
    assert rows(project, "prod") == 3


def test_a_destination_that_is_new_in_the_file_is_refused_until_it_is_said_how(
    project: Path,
) -> None:
    go(project)
    added = "  copy: {type: sqlite, inputs: [priced], config: {path: copy.db, table: o}}\n"
    file = project / "w.yaml"
    file.write_text(file.read_text() + added)
    error = go(project).error
    assert error is not None
    assert (error.code, error.step) == ("E0807", "copy")
    assert not (project / "copy.db").exists()
    add_rows(project, 10, 12)
    assert go(project, accept_changes=True).error is None
    assert rows(project) == 12


@pytest.mark.parametrize("damage", ["drop table o", "delete from o", None])
def test_a_destination_that_lost_its_rows_is_noticed(project: Path, damage: str | None) -> None:
    go(project)
    if damage is None:
        (project / "out_dev.db").unlink()
    else:
        with sqlite3.connect(project / "out_dev.db") as db:
            db.execute(damage)
    refused(go(project))
    refused(go(project))
    assert go(project, fresh=True).error is None
    assert rows(project) == 10


def test_a_moved_project_has_the_same_destinations(project: Path) -> None:
    go(project)
    moved = project.with_name("moved")
    shutil.move(project, moved)
    add_rows(moved, 10, 11)
    assert go(moved).error is None
    assert rows(moved) == 11


def test_a_name_with_the_environment_in_it_keeps_environments_apart(project: Path) -> None:
    file = project / "w.yaml"
    file.write_text(file.read_text().replace("name: load", 'name: "load_${param:env}"'))
    for env in ("dev", "prod", "dev"):
        assert go(project, env).error is None
        assert rows(project, env) == 10


def test_without_a_cursor_any_destination_will_do(project: Path) -> None:
    file = project / "w.yaml"
    file.write_text(file.read_text().replace(", incremental: {column: id}", ""))
    for env in ("dev", "prod"):
        assert go(project, env).error is None
        assert rows(project, env) == 10


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_table_is_not_replaced_by_the_new_rows_alone(tmp_path: Path, kind: str) -> None:
    add_rows(tmp_path, 0, 3)
    text = WORKFLOW.replace("MODE", "mode: overwrite").replace("NAME", "load")
    (tmp_path / "w.yaml").write_text(text.replace("out: {type: sqlite", f"out: {{type: {kind}"))
    with pytest.raises(PlanError) as caught:
        go(tmp_path)
    assert (caught.value.code, caught.value.step) == ("E0324", "out")
    assert "upsert" in str(caught.value.help)
    assert not (tmp_path / "out_dev.db").exists()


def test_a_file_is_not_replaced_by_the_new_rows_alone(tmp_path: Path) -> None:
    add_rows(tmp_path, 0, 3)
    text = WORKFLOW.replace("NAME", "load")
    out = "out: {type: file, inputs: [priced], config: {path: out.csv}}\n"
    (tmp_path / "w.yaml").write_text(text[: text.index("out:")] + out)
    assert go(tmp_path).error is None
    written = (tmp_path / "out.csv").read_text()
    add_rows(tmp_path, 3, 5)
    for _ in range(2):
        result = go(tmp_path)
        assert result.error is not None
        assert (result.error.code, result.error.step) == ("E0324", "out")
        assert "append" in str(result.error.help)
        assert (tmp_path / "out.csv").read_text() == written
    assert go(tmp_path, fresh=True).error is None
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 5
