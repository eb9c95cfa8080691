"""`settings.run_column`: which run wrote a row."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dataflare import Workflow
from dataflare.checkpoint.runs import RunLog
from dataflare.errors import PlanError, WorkflowError
from dataflare.workflow import load_text

ROWS = pl.DataFrame({"id": [1, 2], "name": ["a", "b"]})


def workflow(kind: str, config: dict[str, Any], base: Path, rows: pl.DataFrame = ROWS) -> Workflow:
    wf = Workflow("marked", settings={"run_column": "_run"}, base=base)
    wf.frame("rows", rows).to("out", kind, **config)
    return wf


@pytest.mark.parametrize("name", ["out.csv", "out.ndjson", "out.json", "out.parquet", "out.arrow"])
def test_files_have_the_id_of_the_run_behind_their_columns(name: str, tmp_path: Path):
    result = workflow("file", {"path": name}, tmp_path).run()
    read = {
        ".csv": pl.read_csv,
        ".ndjson": pl.read_ndjson,
        ".json": pl.read_json,
        ".parquet": pl.read_parquet,
        ".arrow": pl.read_ipc,
    }[Path(name).suffix]
    made: pl.DataFrame = read(tmp_path / name)  # type: ignore[operator]
    assert made.rows() == [(1, "a", result.run_id), (2, "b", result.run_id)]
    assert made.columns == ["id", "name", "_run"]


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_rows_that_are_added_later_name_the_later_run(kind: str, tmp_path: Path):
    config = {"path": "out.db", "table": "t"}
    first = workflow(kind, config, tmp_path).run()
    second = workflow(kind, config, tmp_path).run()
    assert first.run_id != second.run_id
    assert sorted(rows_of(kind, tmp_path / "out.db")) == sorted(
        (id_, run.run_id) for run in (first, second) for id_ in (1, 2)
    )


def test_a_table_without_the_column_gets_it(tmp_path: Path):
    with sqlite3.connect(tmp_path / "out.db") as db:
        db.execute("create table t (id int, name text)")
        db.execute("insert into t values (0, 'before')")
    result = workflow("sqlite", {"path": "out.db", "table": "t"}, tmp_path).run()
    assert rows_of("sqlite", tmp_path / "out.db") == [
        (0, None),
        (1, result.run_id),
        (2, result.run_id),
    ]


def test_lakes_have_it_also_in_a_table_that_was_there(tmp_path: Path):
    import deltalake

    wf = Workflow("before", base=tmp_path)
    wf.frame("rows", ROWS.head(1)).to("out", "delta", path="lake")
    wf.run()
    result = workflow("delta", {"path": "lake"}, tmp_path).run()
    found = pl.DataFrame(deltalake.DeltaTable(tmp_path / "lake").to_pyarrow_table())
    assert sorted(found.select("id", "_run").rows(), key=str) == [
        (1, result.run_id),
        (1, None),
        (2, result.run_id),
    ]


@pytest.mark.parametrize("mode", ["upsert", "mirror"])
def test_a_row_that_is_written_again_names_the_run_that_wrote_it_last(mode: str, tmp_path: Path):
    config = {"path": "out.db", "table": "t", "mode": mode, "key": ["id"], "delete_max": "100%"}
    if mode == "upsert":
        del config["delete_max"]
    first = workflow("sqlite", config, tmp_path).run()
    second = workflow("sqlite", config, tmp_path, ROWS.head(1)).run()
    kept = [] if mode == "mirror" else [(2, first.run_id)]
    assert rows_of("sqlite", tmp_path / "out.db") == [(1, second.run_id), *kept]


def test_changes_have_it_too(tmp_path: Path):
    wf = Workflow("totals", settings={"run_column": "_run"}, base=tmp_path)
    rows = wf.frame("rows", pl.DataFrame({"k": ["a", "b", "a"], "v": [1, 2, 3]}))
    totals = rows.aggregate("totals", group_by=["k"], measures={"v": "sum(v)"}, emit="updates")
    totals.to("kept", "sqlite", path="kept.db", table="t", mode="mirror", key=["k"])
    totals.to("log", "file", path="log.ndjson", changelog="columns")
    result = wf.run()
    with sqlite3.connect(tmp_path / "kept.db") as db:
        found = db.execute("select k, v, _run from t order by k").fetchall()
    assert found == [("a", 4, result.run_id), ("b", 2, result.run_id)]
    log = [json.loads(line) for line in (tmp_path / "log.ndjson").read_text().splitlines()]
    assert {row["_run"] for row in log} == {result.run_id}
    assert all("_op" in row for row in log)


def test_rows_that_have_such_a_column_are_refused(tmp_path: Path):
    rows = ROWS.with_columns(pl.lit("x").alias("_RUN"))
    with pytest.raises(PlanError) as caught:
        workflow("sqlite", {"path": "out.db", "table": "t"}, tmp_path, rows).run()
    assert (caught.value.code, caught.value.step) == ("E0311", "out")


def test_it_is_no_key(tmp_path: Path):
    config = {"path": "out.db", "table": "t", "mode": "upsert", "key": ["_run"]}
    with pytest.raises(PlanError) as caught:
        workflow("sqlite", config, tmp_path).run()
    assert caught.value.code == "E0325"


@pytest.mark.parametrize("change", ["ignore", "fail", "dead_letter"])
def test_a_table_that_must_not_change_is_refused(change: str, tmp_path: Path):
    with sqlite3.connect(tmp_path / "out.db") as db:
        db.execute("create table t (id int, name text)")
    wf = Workflow("marked", settings={"run_column": "_run", "schema_change": change}, base=tmp_path)
    wf.frame("rows", ROWS).to("out", "sqlite", path="out.db", table="t")
    with pytest.raises(PlanError) as caught:
        wf.run()
    assert caught.value.code == "E0323"
    assert "'_run'" in caught.value.message


def test_a_reserved_name_is_refused():
    with pytest.raises(WorkflowError) as caught:
        load_text(WORKFLOW.replace("_run", "__dataflare_run"))
    assert caught.value.code == "E0105"


WORKFLOW = """\
name: orders
settings: {run_column: _run, error_handling: {on_error: dead_letter}}
sources: {rows: {type: inline, config: {rows: [{id: 1}, {id: 2}, {id: 3}]}}}
transformations: {checked: {type: map, inputs: [rows], config: {derive: {n: "10 / (id - 3)"}}}}
destinations:
  out: {type: sqlite, inputs: [checked], config: {path: out.db, table: t}}
"""


def dataflare(folder: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DATAFLARE")}
    done = subprocess.run([sys.executable, "-m", "dataflare", *arguments], cwd=folder, text=True,
                          capture_output=True, env=environment, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_letters_lack_it_and_a_replay_writes_its_own(tmp_path: Path):
    text = WORKFLOW.replace("{id: 3}", "{id: 4}")
    (tmp_path / "w.yaml").write_text(text)
    with sqlite3.connect(tmp_path / "out.db") as db:
        db.execute("create table t (id int check (id <> 2), n real, _run text)")
    run_id = json.loads(dataflare(tmp_path, "run", "w.yaml", "--json"))["run_id"]
    assert rows_of("sqlite", tmp_path / "out.db") == [(1, run_id), (4, run_id)]
    folder = tmp_path / ".dataflare" / "orders" / "dead_letters"
    (letter,) = [json.loads(line) for path in folder.iterdir() for line in path.open()]
    assert set(json.loads(letter["row"])) == {"id", "n"}
    with sqlite3.connect(tmp_path / "out.db") as db:
        db.execute("alter table t rename to old")
        db.execute("create table t as select * from old")
    dataflare(tmp_path, "dlq", "replay", "orders")
    found = dict(rows_of("sqlite", tmp_path / "out.db"))
    assert sorted(found) == [1, 2, 4]
    assert found[1] == found[4] == run_id
    assert found[2] not in (None, run_id)
    assert len(found[2]) == len(run_id)


def test_plan_and_lineage_show_it(tmp_path: Path):
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    plan = json.loads(dataflare(tmp_path, "plan", "w.yaml", "--format", "json"))
    (out,) = [node for node in plan["nodes"] if node["id"] == "out"]
    assert out["schema"]["_run"] == "string"
    assert "column _run: the run's id" in out["notes"]
    assert not any("_run" in node["schema"] for node in plan["nodes"] if node["id"] != "out")
    lineage = json.loads(dataflare(tmp_path, "lineage", "w.yaml", "--json"))
    assert lineage["columns"]["out"]["_run"] == {"values": [], "conditions": []}


def test_a_run_that_resumes_is_refused_with_another_column(tmp_path: Path):
    (tmp_path / "w.yaml").write_text(
        "name: numbers\nsettings: {run_column: _run, checkpoint: {interval: 50ms}}\n"
        "sources: {n: {type: generate, config: {columns: {id: {sequence: 0}}, rate: 1000/s}}}\n"
        "destinations: {out: {type: file, inputs: [n], config: {path: parts, format: ndjson}}}\n"
    )
    dataflare(tmp_path, "run", "w.yaml", "--for", "400ms")
    changed = ("run", "w.yaml", "--for", "200ms", "--set", "settings.run_column=_by")
    with pytest.raises(AssertionError, match="step 'out'"):
        dataflare(tmp_path, *changed)
    dataflare(tmp_path, "run", "w.yaml", "--for", "300ms")
    rows = [
        json.loads(line) for part in (tmp_path / "parts").glob("part-*") for line in part.open()
    ]
    runs = [record.run_id for record in RunLog(tmp_path / ".dataflare" / "numbers").list()]
    assert {row["_run"] for row in rows} == {
        run for run in runs if any(row["_run"] == run for row in rows)
    }
    assert len({row["_run"] for row in rows}) == 2
    assert sorted(row["id"] for row in rows) == list(range(len(rows)))


def rows_of(kind: str, path: Path) -> list[tuple[Any, Any]]:
    query = "select id, _run from t order by id"
    if kind == "sqlite":
        with sqlite3.connect(path) as lite:
            return lite.execute(query).fetchall()
    import duckdb

    with duckdb.connect(str(path), read_only=True) as duck:
        return duck.execute(query).fetchall()
