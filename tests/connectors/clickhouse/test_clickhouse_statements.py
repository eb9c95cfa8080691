"""Statements before and after a run, and the example."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from clickhouse_kit import Database, batch, run

from dataflare.errors import ConfigError
from dataflare.jobs import RunOptions
from dataflare.jobs import run as run_workflow
from dataflare.model.types import Schema
from dataflare.workflow.load import load


def test_statements_run_before_and_after_a_run_once_each(database: Database):
    database.execute(
        "create table t (id Int64) engine = MergeTree order by id "
        "settings non_replicated_deduplication_window = 100", "insert into t values (9)",
        "create table log (text String) engine = MergeTree order by tuple()",
    )  # fmt: skip
    options = {
        "before_sql": ["truncate table t", "insert into log values ('before')"],
        "after_sql": "insert into log select concat('after ', toString(count())) from t",
    }

    async def go() -> None:
        step = await database.step(Schema.of({"id": "int64"}), **options).start()
        await step.committer.begin(0)
        await step.epoch(1, batch([{"id": 1}, {"id": 2}]))
        assert database.rows("select text from log") == [["before"]]
        made = await step.prepare(2, batch([{"id": 3}]), final=True)
        await step.commit(2, [made], final=True)
        await step.close()

    run(go())
    assert database.rows("select id from t order by id") == [[1], [2], [3]]
    assert database.rows("select text from log order by text") == [["after 3"], ["before"]]
    assert len(database.destination(**options).effects()) == 2


def test_a_statement_that_is_refused_is_named(database: Database):
    async def go() -> None:
        step = await database.step(Schema.of({"id": "int64"}), before_sql="truncate tables").start()
        await step.committer.begin(0)

    with pytest.raises(ConfigError, match="'before_sql' is refused") as caught:
        run(go())
    assert caught.value.code == "E0412"


def test_the_example_runs_as_it_stands(database: Database, tmp_path, monkeypatch):
    monkeypatch.setenv("CLICKHOUSE", database.dsn)
    examples = Path(__file__).parents[3] / "examples"
    workflow = load(examples / "clickhouse" / "orders.yaml")
    for _ in range(2):
        result = run_workflow(workflow, RunOptions(tmp_path / "home"))
        assert result.error is None
    orders = pl.read_csv(examples / "data" / "orders.csv")["order_id"].n_unique()
    assert database.rows("select count() from orders final") == [[orders]]
    assert database.rows("select orders from totals final") == [[orders]]
