"""`before_sql`, `after_sql` and missing schemas of the destination `postgres`."""

from __future__ import annotations

import pytest
from postgres_kit import Step, batch, run

from dataflare.errors import ConfigError
from dataflare.model.types import INT64, Schema

SCHEMA = Schema.of({"id": INT64})


def test_statements_run_around_a_run_also_those_that_take_no_transaction(database):
    database.execute("create table log (what text)")

    async def go() -> None:
        out = await Step(
            database, SCHEMA, before_sql="insert into log values ('100%')",
            after_sql=["vacuum t", "create index concurrently on t (id)"],
        ).start()  # fmt: skip
        await out.committer.begin(0)
        await out.epoch(1, batch([{"id": 1}]), final=True)
        await out.close()

    run(go())
    assert database.rows("select * from log") == [("100%",)]
    assert len(database.rows("select 1 from pg_indexes where tablename = 't'")) == 1


def test_a_statement_that_is_refused_is_named(database):
    async def go() -> None:
        out = await Step(
            database, SCHEMA, before_sql=["create table a (b int)", "drop table c"]
        ).start()
        try:
            await out.committer.begin(0)
        finally:
            await out.close()

    with pytest.raises(ConfigError, match="before_sql") as caught:
        run(go())
    assert caught.value.code == "E0412"
    assert database.rows("select 1 from pg_tables where tablename = 'a'") == []


@pytest.mark.parametrize("mode", ["append", "overwrite", "mirror"])
def test_a_missing_schema_is_made_with_the_table(database, mode):
    async def go() -> None:
        key = {"key": "id"} if mode == "mirror" else {}
        destination = database.destination(table="fresh.t", mode=mode, **key)
        await destination.validate(SCHEMA)
        out = await Step(database, SCHEMA, table="fresh.t", mode=mode, complete=True, **key).start()
        await out.epoch(1, batch([{"id": 1}]), final=True)
        await out.close()

    run(go())
    assert database.rows("select * from fresh.t") == [(1,)]
