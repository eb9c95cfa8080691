"""`plan`, `preview`, `connectors`, `functions`, `schema`: what they print."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command_line import ORDERS, cli, write

from dataflare.operators.registry import step_types
from dataflare.sdk.registry import destination_types, source_types


@pytest.mark.parametrize(
    ("format_", "begins"),
    [
        ("text", "orders: batch"),
        ("mermaid", "---\ntitle:"),
        ("dot", 'digraph "orders" {'),
        ("svg", "<svg "),
        ("json", "{"),
    ],
)
def test_a_plan_in_every_format(format_: str, begins: str, tmp_path: Path) -> None:
    write(tmp_path, "orders.yaml", ORDERS)
    done = cli("plan", "orders.yaml", "--format", format_, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith(begins)
    for step in ("rows", "dear", "out"):
        assert step in done.stdout
    if format_ == "svg":
        ElementTree.fromstring(done.stdout)
    if format_ == "json":
        assert json.loads(done.stdout)["workflow"] == "orders"


def test_a_plan_says_what_is_promised(tmp_path: Path) -> None:
    write(tmp_path, "orders.yaml", ORDERS)
    done = cli("plan", "orders.yaml", cwd=tmp_path)
    after = done.stdout.partition("\ndelivery, committed with each checkpoint\n")[2]
    assert after.lstrip().startswith("out  exactly once")


def test_a_plan_counts_the_splits_that_were_asked_for(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.execute("create table orders (id integer primary key, created_at timestamp)")
        db.execute(
            "insert into orders values (1, '2026-01-05 10:00:00'), (2, '2026-12-31 00:00:00'), (3, null)"
        )
        db.commit()
    write(
        tmp_path,
        "cut.yaml",
        """
name: cut
sources:
  rows:
    type: sqlite
    config:
      path: shop.db
      table: orders
      sharding: {by: time, column: created_at, every: month}
destinations:
  out: {type: blackhole, inputs: [rows]}
""",
    )
    done = cli("plan", "cut.yaml", cwd=tmp_path)
    assert "12 splits by month of created_at" in done.stdout, done.stderr
    found = json.loads(cli("plan", "cut.yaml", "--format", "json", cwd=tmp_path).stdout)
    (rows,) = [node for node in found["nodes"] if node["id"] == "rows"]
    assert rows["splits"] == {"count": 12, "by": "month of created_at"}
    done = cli("run", "cut.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_preview_shows_rows_and_types_and_writes_nothing(tmp_path: Path) -> None:
    write(tmp_path, "orders.yaml", ORDERS)
    done = cli("preview", "orders.yaml", "dear", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["id", "country", "amount"]
    assert lines[1].split() == ["int64", "string", "int64"]
    assert set(lines[2]) == {"─"}
    assert lines[3].split() == ["2", "FR", "20"]
    assert lines[-1] == "2 rows"
    assert {path.name for path in tmp_path.iterdir()} == {"orders.yaml"}


def test_a_preview_as_ndjson_and_no_more_than_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "orders.yaml", ORDERS)
    done = cli("preview", "orders.yaml", "rows", "--rows", "1", "--json", cwd=tmp_path)
    assert done.stdout == '{"id":1,"country":"DE","amount":5}\n'


SECRETS = """
name: kept
sources:
  rows: {type: inline, config: {rows: [{id: 4711, note: "with ${secret:HOOK}", brk: "password='x", end: "y' z\\x9b"}]}}
destinations: {out: {type: blackhole, inputs: [rows]}}
"""


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_preview_shows_no_secret_and_the_rest_as_it_is(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    write(tmp_path, "kept.yaml", SECRETS)
    done = cli("preview", "kept.yaml", "rows", *options, cwd=tmp_path, HOOK="verysecret")
    assert done.returncode == 0, done.stderr
    assert "verysecret" not in done.stdout
    assert "\x9b" not in done.stdout
    if options:
        row = {"id": 4711, "note": "with ***", "brk": "password='x", "end": "y' z\x9b"}
        assert json.loads(done.stdout) == row


def test_the_list_of_connectors_has_each_with_its_roles(tmp_path: Path) -> None:
    listed = {line.split()[0]: line for line in cli("connectors", cwd=tmp_path).stdout.splitlines()}
    for name in {*source_types(), *destination_types()}:
        assert ("source" in listed[name]) >= (name in source_types())
        assert ("destination" in listed[name]) >= (name in destination_types())


def test_one_connector_is_documented_from_its_config(tmp_path: Path) -> None:
    said = cli("connectors", "file", cwd=tmp_path).stdout
    assert "file (source)" in said
    assert "file (destination)" in said
    rows = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert "required" in rows["path"]
    assert "sources:\n  " in said


PLUGIN = """
from pydantic import BaseModel, Field
from dataflare import Processor

class Config(BaseModel):
    by: str = Field(description="Rows with the same value here meet.")

class Sessions(Processor):
    type = "sessions"
    Config = Config
    summary = "Cuts rows into sessions"
    example = "type: sessions\\ninputs: [clicks]\\nconfig: {by: visitor}\\n"
"""


def test_an_installed_processor_is_listed_and_documented(tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    write(installed, "own_steps.py", PLUGIN)
    about = installed / "own_steps-1.0.dist-info"
    write(about, "METADATA", "Metadata-Version: 2.1\nName: own-steps\nVersion: 1.0\n")
    write(about, "entry_points.txt", "[dataflare.processors]\nsessions = own_steps:Sessions\n")
    paths = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))

    listed = cli("connectors", cwd=tmp_path, PYTHONPATH=paths).stdout
    line = next(line for line in listed.splitlines() if line.startswith("sessions "))
    assert line.split(maxsplit=2)[1:] == ["processor", "Cuts rows into sessions"]

    said = cli("connectors", "sessions", cwd=tmp_path, PYTHONPATH=paths).stdout
    assert said.startswith("sessions (processor)\n")
    rows = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert "required" in rows["by"]
    assert "transformations:\n  my_processor:\n    type: sessions\n" in said

    write(about, "entry_points.txt", "[dataflare.processors]\nsessions = own_steps:Session\n")
    broken = cli("connectors", cwd=tmp_path, PYTHONPATH=paths).stdout
    assert "installed as 'own_steps:Session', where there is no such class" in broken
    assert "blackhole" in broken

    wrong = cli("connectors", "sesions", cwd=tmp_path, PYTHONPATH=paths)
    assert "did you mean 'sessions'?" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_functions_are_listed_by_group_and_documented_by_name(tmp_path: Path) -> None:
    listed = cli("functions", cwd=tmp_path).stdout
    assert "\nstring\n" in listed
    assert "substr(" in listed
    one = cli("functions", "SUBSTR", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    assert one.stdout.startswith("substr\nsubstr(")
    assert "pushed down" in one.stdout
    assert "duckdb" in one.stdout


def test_the_schema_knows_every_type(tmp_path: Path) -> None:
    done = cli("schema", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    defs = json.loads(done.stdout)["$defs"]
    assert {f"transformation.{name}" for name in step_types()} <= defs.keys()
    assert {"source.file", "destination.file"} <= defs.keys()
