"""`schema history`: with which columns a destination was written, and since when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl

from dataflare import Workflow
from dataflare.jobs.schema_history import (
    FILE,
    VERSIONS_MAX,
    SchemaVersion,
    differences,
    note_schemas,
    schema_history,
)
from dataflare.planner import plan


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
