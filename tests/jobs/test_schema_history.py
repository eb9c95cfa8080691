"""`schema history`: with which columns a destination was written, and since when."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl

from dataflare import Workflow
from dataflare.jobs import RunOptions, run
from dataflare.jobs.schema_history import (
    FILE,
    VERSIONS_MAX,
    SchemaVersion,
    differences,
    note_schemas,
    schema_history,
)
from dataflare.planner import plan
from dataflare.workflow import load_text


def write(folder: Path, rows: pl.DataFrame, table: str = "t") -> str:
    wf = Workflow("shop", base=folder)
    wf.frame("rows", rows).to("out", "sqlite", path="out.db", table=table)
    return wf.run(home=folder / "home").run_id


def kept(folder: Path) -> list[SchemaVersion]:
    return [*schema_history(folder / "home" / "shop")["out"]]


def cli(folder: Path, *arguments: str, status: int = 0) -> str:
    environment = {**os.environ, "DATAFLARE_HOME": str(folder / "home")}
    done = subprocess.run([sys.executable, "-m", "dataflare", *arguments], cwd=folder, text=True,
                          capture_output=True, env=environment, timeout=120)  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout or done.stderr


def test_a_version_is_added_only_where_something_changed(tmp_path: Path):
    first = write(tmp_path, pl.DataFrame({"id": [1], "n": [1]}))
    write(tmp_path, pl.DataFrame({"id": [2], "n": [2]}))
    third = write(tmp_path, pl.DataFrame({"id": [3], "n": [3], "name": ["c"]}))
    assert [version.run_id for version in kept(tmp_path)] == [first, third]
    before, now = kept(tmp_path)
    assert [*differences(None, before)] == ["first seen"]
    assert [*differences(before, now)] == ["+ name string"]


STEPS = """\
import sqlite3
from contextlib import closing

def checked(rows):
    with closing(sqlite3.connect({db!r})) as db:
        if db.execute("select count(*) from t").fetchone()[0] > {most}:
            raise ValueError
    return rows
"""
FAILING = """\
name: shop
settings: {checkpoint: {interval: 20ms}, restart: {attempts: 0}}
sources:
  rows: {type: generate, config: {rate: 200/s, rows: 10000, columns: {id: {sequence: 0}, n: {sequence: 0}}}}
transformations:
  checked: {type: python, inputs: [rows], config: {function: "steps:checked", schema: {id: int64, n: int64}}}
destinations:
  out: {type: sqlite, inputs: [checked], config: {path: out.db, table: t}}
"""


def test_a_run_that_fails_before_its_first_checkpoint_is_not_in_it(tmp_path: Path):
    first = write(tmp_path, pl.DataFrame({"id": [1]}))
    with closing(sqlite3.connect(tmp_path / "out.db")) as db:
        db.execute("alter table t add column n integer")

    def fail_at_more_than(most: int) -> str:
        (tmp_path / "steps.py").write_text(STEPS.format(db=str(tmp_path / "out.db"), most=most))
        options = RunOptions(tmp_path / "home", fresh=True)
        outcome = run(load_text(FAILING, base=tmp_path), options)
        assert (outcome.status, outcome.error and outcome.error.step) == ("failed", "checked")
        return outcome.run_id

    fail_at_more_than(0)
    assert [version.run_id for version in kept(tmp_path)] == [first]
    later = fail_at_more_than(1)
    assert [version.run_id for version in kept(tmp_path)] == [first, later], "it has written rows"


def test_the_command_tells_when_and_what(tmp_path: Path):
    write(tmp_path, pl.DataFrame({"id": [1], "n": [1]}))
    last = write(tmp_path, pl.DataFrame({"id": [1], "n": ["x"]}), table="u")
    found = json.loads(cli(tmp_path, "schema", "history", "shop", "--json"))
    assert [each["changes"] for each in found][1] == [
        "writes to the table u in " + str(tmp_path / "out.db"),
        "n: int64 → string",
    ]
    assert found[1]["run_id"] == last
    assert found[1]["columns"] == {"id": "int64", "n": "string"}
    text = cli(tmp_path, "schema", "history", "shop", "out")
    assert "first seen" in text
    assert last in text
    assert "E0108" in cli(tmp_path, "schema", "history", "shop", "outt", status=2)
    assert "E0121" in cli(tmp_path, "schema", "history", "shopp", status=2)


def test_schema_alone_still_prints_the_json_schema(tmp_path: Path):
    found: dict[str, Any] = json.loads(cli(tmp_path, "schema"))
    assert "properties" in found


def test_what_changed_is_said_of_each_column():
    def version(**columns: str) -> SchemaVersion:
        return SchemaVersion("r", "t", columns, "p")

    before = version(a="int64", b="string", c="bool")
    now = version(c="bool", a="float64", d="date")
    assert [*differences(before, now)] == [
        "a: int64 → float64",
        "+ d date",
        "- b",
        "another order of columns",
    ]


def test_the_file_stays_small(tmp_path: Path):
    folder = tmp_path / "home" / "shop"
    folder.mkdir(parents=True)
    plans = []
    for name in ("a", "b"):
        wf = Workflow("shop", base=tmp_path)
        wf.frame("rows", pl.DataFrame({name: [1]})).to("out", "blackhole")
        plans.append(plan(wf.build()))
    for number in range(VERSIONS_MAX + 20):
        note_schemas(folder, plans[number % 2], f"run{number}", 0.0)
    versions = schema_history(folder)["out"]
    assert len(versions) == VERSIONS_MAX
    assert (versions[0].run_id, versions[-1].run_id) == ("run0", f"run{VERSIONS_MAX + 19}")


def test_a_file_that_cannot_be_read_is_told_and_left_alone(tmp_path: Path):
    write(tmp_path, pl.DataFrame({"id": [1]}))
    place = tmp_path / "home" / "shop" / FILE
    place.write_text("{broken")
    wf = Workflow("shop", base=tmp_path)
    wf.frame("rows", pl.DataFrame({"id": [1]})).to("out", "sqlite", path="out.db", table="t")
    outcome = wf.run(home=tmp_path / "home")
    assert outcome.status == "finished"
    assert any("schemas of destinations are not kept" in each for each in outcome.warnings)
    assert place.read_text() == "{broken"
