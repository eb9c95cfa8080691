"""`before_sql` runs once when a run begins, `after_sql` after its last rows are committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from databases import Step, batch, rows, run

from dataflare.connectors.sqlite.destination import SqliteDestination
from dataflare.connectors.sqlite.store import SqliteStore
from dataflare.errors import ConfigError
from dataflare.model.types import INT64, Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.sql.store import TableStore

SCHEMA = Schema.of({"id": INT64})
BEFORE = ["create table if not exists log (what varchar, n int)",
          "insert into log values ('before', 0)"]  # fmt: skip
AFTER = "insert into log select 'after', count(*) from t"


def log(kind: str, folder: Path) -> list[tuple[Any, ...]]:
    return rows(kind, folder / "data.db", "select * from log")


def some(*ids: int) -> Any:
    return batch([{"id": i} for i in ids], id=INT64.to_polars())


def test_statements_run_around_a_run_and_not_again_when_it_is_resumed(kind, tmp_path):
    async def go() -> None:
        first = await Step(kind, tmp_path, SCHEMA, before_sql=BEFORE, after_sql=AFTER).start()
        await first.committer.begin(0)
        assert log(kind, tmp_path) == [("before", 0)]
        prepared = await first.prepare(1, some(1, 2))
        first.die()
        out = await Step(
            kind, tmp_path, SCHEMA, before_sql=BEFORE, after_sql=AFTER, attempt=2
        ).start(1, [prepared])
        assert log(kind, tmp_path) == [("before", 0)]
        await out.epoch(2, some(3), final=True)
        await out.close()

    run(go())
    assert log(kind, tmp_path) == [("before", 0), ("after", 3)]


def test_a_statement_that_is_refused_is_named_and_leaves_nothing(kind, tmp_path):
    async def go(option: str, statement: list[str]) -> None:
        out = await Step(kind, tmp_path, SCHEMA, step=option, **{option: statement}).start()
        try:
            await out.committer.begin(0)
            await out.epoch(1, some(1), final=True)
        finally:
            await out.close()

    for option in ("before_sql", "after_sql"):
        with pytest.raises(ConfigError, match=option) as caught:
            run(go(option, ["create table made (a int)", "insert into nowhere values (1)"]))
        assert (caught.value.code, caught.value.step) == ("E0412", option)
        sql = "select name from sqlite_master where name = 'made'"
        if kind == "duckdb":
            sql = "select table_name from duckdb_tables() where table_name = 'made'"
        assert len(rows(kind, tmp_path / "data.db", sql)) == (option == "after_sql")


@pytest.mark.parametrize("option", ["before_sql", "after_sql"])
def test_statements_for_a_store_that_runs_none_are_refused_before_a_run(option, tmp_path):
    class Mute(SqliteStore):
        execute = TableStore.execute
        execute_alone = TableStore.execute_alone

    class MuteDestination(SqliteDestination):
        def make_store(self) -> Mute:
            return Mute(self.path, 1.0)

    def validated(**options: Any) -> None:
        config = MuteDestination.Config(path="data.db", table="t", **options)
        run(MuteDestination(config, ConnectorContext("out", tmp_path)).validate(SCHEMA))

    validated()
    with pytest.raises(ConfigError, match=f"'{option}' needs a database that runs") as caught:
        validated(**{option: "select 1"})
    assert (caught.value.code, caught.value.step) == ("E0413", "out")
