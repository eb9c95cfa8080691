"""Upsert and mirror against a plain dictionary; what a destination makes, widens and refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import polars as pl
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_kit import Database, batch, run

from dataflare.errors import ConfigError, DataError, SystemError_
from dataflare.model.batch import KIND_COLUMN, SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.sql import session

SCHEMA = Schema.of({"id": "int64", "name": "string", "v": "int64"})
INSERT, BEFORE, AFTER, DELETE = range(4)


@pytest.fixture(scope="module")
def lasting(server, tmp_path_factory) -> Database:
    Database(server, "postgres", tmp_path_factory.mktemp("x")).execute("create database changes")
    return Database(server, "changes", tmp_path_factory.mktemp("changes"))


@st.composite
def histories(draw: Any) -> list[list[list[tuple[int, int, str, int]]]]:
    """Epochs of batches of (kind, id, name, v): updates come in pairs that stand together."""
    epochs = []
    for _ in range(draw(st.integers(1, 3))):
        batches = []
        for _ in range(draw(st.integers(0, 3))):
            rows: list[tuple[int, int, str, int]] = []
            for _ in range(draw(st.integers(0, 6))):
                id_, v = draw(st.integers(0, 4)), draw(st.integers(0, 99))
                name = draw(st.sampled_from(["a", "b", ""]))
                match draw(st.sampled_from(["insert", "update", "move", "delete"])):
                    case "insert":
                        rows.append((INSERT, id_, name, v))
                    case "update":
                        rows += [(BEFORE, id_, name, 0), (AFTER, id_, name, v)]
                    case "move":
                        rows += [(BEFORE, id_, name, 0), (AFTER, draw(st.integers(0, 4)), name, v)]
                    case "delete":
                        rows.append((DELETE, id_, name, 0))
            batches.append(rows)
        epochs.append(batches)
    return epochs


def frame_of(rows: list[tuple[int, int, str, int]]) -> SharedDataBatch:
    columns = {KIND_COLUMN: pl.UInt8, "id": pl.Int64, "name": pl.String, "v": pl.Int64}
    return SharedDataBatch(pl.DataFrame(rows, schema=columns, orient="row"))


@pytest.mark.parametrize("mode", ["upsert", "mirror"])
@pytest.mark.parametrize("copy_rows", [1, 50_000])
@pytest.mark.parametrize("key", [["id"], ["id", "name"]])
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=histories())
def test_the_table_is_what_a_dictionary_would_be(lasting, mode, copy_rows, key, history):
    wanted: dict[Any, tuple[int, str, int]] = {}
    for kind, *row in (row for epoch in history for rows in epoch for row in rows):
        id_, name, v = row
        place = tuple(row[: len(key)])
        if kind in (INSERT, AFTER):
            wanted[place] = (id_, name, v)
        elif mode == "mirror":
            wanted.pop(place, None)
    lasting.execute("drop table if exists t", "drop table if exists _dataflare_epochs")
    before, session._WRITE_ROWS = session._WRITE_ROWS, copy_rows

    async def go():
        step = await lasting.step(SCHEMA, mode=mode, key=key, is_changelog=True).start()
        for number, batches in enumerate(history, 1):
            await step.epoch(number, *map(frame_of, batches), final=number == len(history))
        await step.close()

    try:
        run(go())
    finally:
        session._WRITE_ROWS = before
    found = lasting.rows("select id, name, v from t order by id, name")
    assert found == sorted(wanted.values())


@pytest.mark.parametrize("copy_rows", [1, 50_000])
def test_a_row_is_applied_only_if_it_is_newer(database, copy_rows, monkeypatch):
    monkeypatch.setattr(session, "_WRITE_ROWS", copy_rows)
    schema = Schema.of({"id": "int64", "v": "string", "n": "int64"})

    def rows(*given: tuple[int, str, int | None]) -> SharedDataBatch:
        return SharedDataBatch(pl.DataFrame(given, schema=schema.to_polars(), orient="row"))

    async def go():
        step = await database.step(schema, mode="upsert", key=["id"], sequence="n").start()
        await step.epoch(1, rows((1, "a", 5), (2, "a", 1)), rows((1, "old", 3), (2, "b", 2)))
        assert database.rows("select * from t order by id") == [(1, "a", 5), (2, "b", 2)]
        await step.epoch(2, rows((1, "old", 4), (2, "c", 3)), rows((1, "same", 5), (3, "x", None)))
        assert database.rows("select * from t order by id") == [
            (1, "a", 5), (2, "c", 3), (3, "x", None)]  # fmt: skip
        await step.epoch(3, rows((3, "y", 1)), final=True)
        assert database.rows("select * from t where id = 3") == [(3, "y", 1)]
        await step.close()

    run(go())


def test_a_newer_delete_counts_and_an_older_one_does_not(database):
    schema = Schema.of({"id": "int64", "n": "int64"})

    def rows(*given: tuple[int, int, int]) -> SharedDataBatch:
        columns = {KIND_COLUMN: pl.UInt8, "id": pl.Int64, "n": pl.Int64}
        return SharedDataBatch(pl.DataFrame(given, schema=columns, orient="row"))

    async def go():
        config = {"mode": "mirror", "key": ["id"], "sequence": "n", "is_changelog": True}
        step = await database.step(schema, **config).start()
        await step.epoch(1, rows((INSERT, 1, 5), (INSERT, 2, 5)))
        await step.epoch(2, rows((DELETE, 1, 4), (DELETE, 2, 6)))
        assert database.rows("select * from t") == [(1, 5)]
        await step.epoch(3, rows((BEFORE, 1, 5), (AFTER, 1, 7), (DELETE, 1, 6)), final=True)
        assert database.rows("select * from t") == [(1, 7)]
        await step.close()

    run(go())


@pytest.mark.parametrize("copy_rows", [1, 50_000])
def test_a_unique_value_moves_from_a_deleted_row_to_a_new_one(database, copy_rows, monkeypatch):
    monkeypatch.setattr(session, "_WRITE_ROWS", copy_rows)
    database.execute("create table t (id bigint primary key, name text unique, v bigint)")

    async def go():
        step = await database.step(SCHEMA, mode="mirror", key=["id"], is_changelog=True).start()
        await step.epoch(1, frame_of([(INSERT, 1, "a", 1)]))
        await step.epoch(2, frame_of([(DELETE, 1, "a", 1), (INSERT, 2, "a", 2)]), final=True)
        assert database.rows("select id, name from t") == [(2, "a")]
        await step.close()

    run(go())


def test_a_commit_waits_for_the_one_whose_answer_was_lost(database):
    """That one may still be on its way on the server, with the same rows."""
    waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock'"

    async def go():
        first = await database.step(SCHEMA).start()
        one = await first.prepare(1, frame_of([(INSERT, 1, "a", 1)]))
        await first.commit(1, [one])
        two = await first.prepare(2, frame_of([(INSERT, 2, "b", 2)]))
        await first.close()
        step = await database.step(SCHEMA, attempt=2).start(1, [one])
        with psycopg.connect(database.dsn) as lost:
            lost.execute("insert into t values (2, 'b', 2)")
            lost.execute("update _dataflare_epochs set epoch = 2")
            committing = asyncio.ensure_future(step.commit(2, [two]))
            while not committing.done() and not database.rows(waiting):
                await asyncio.sleep(0)
            lost.commit()
        await committing
        assert database.rows("select id from t order by id") == [(1,), (2,)]
        await step.close()

    run(go())


def test_rows_without_a_key_are_refused(database):
    async def go():
        for sequence in (None, "v"):
            step = await database.step(SCHEMA, mode="upsert", key=["id"], sequence=sequence).start()
            with pytest.raises(DataError) as caught:
                await step.prepare(
                    1, batch([{"id": None, "name": "a", "v": 1}], **SCHEMA.to_polars())
                )
            assert caught.value.code == "E0510"
            assert caught.value.message == "1 row has no key: id is NULL"
            step.die()

    run(go())


def test_a_missing_unique_index_is_made_and_a_present_one_is_used(database):
    database.execute("create table t (id bigint, name text, v bigint)",
                     "create table u (id bigint primary key, name text, v bigint)")  # fmt: skip

    async def go():
        for table in ("t", "u"):
            step = await database.step(
                SCHEMA, step=table, table=table, mode="upsert", key=["id"]
            ).start()
            await step.epoch(1, batch([{"id": 1, "name": "a", "v": 1}]), final=True)
            await step.close()

    run(go())
    assert database.rows(
        "select indexname from pg_indexes where tablename in ('t', 'u') order by tablename"
    ) == [("_dataflare_key_t",), ("u_pkey",)]


def test_a_table_with_several_rows_for_a_key_is_refused(database):
    database.execute("create table t (id bigint, name text, v bigint)",
                     "insert into t values (1, 'a', 1), (1, 'b', 2)")  # fmt: skip

    async def go():
        step = await database.step(SCHEMA, mode="upsert", key=["id"]).start()
        with pytest.raises(DataError) as caught:
            await step.prepare(1, batch([{"id": 1, "name": "a", "v": 1}]))
        assert caught.value.code == "E0510"
        assert caught.value.message == (
            "table 't' has several rows for one key (id), so mode 'upsert' cannot distinguish them"
        )

    run(go())


def test_a_row_that_breaks_a_rule_is_named_by_its_key(database):
    database.execute(
        "create table t (id bigint primary key, name text not null, v bigint check (v < 100))"
    )

    async def go():
        rows = [{"id": i, "name": "x", "v": i} for i in range(300)]
        for mode, key in (("append", []), ("upsert", ["id"])):
            step = await database.step(SCHEMA, mode=mode, key=key, lineage=mode + "0" * 20).start()
            with pytest.raises(DataError) as caught:
                await step.prepare(1, batch(rows))
            assert caught.value.code == "E0510"
            assert 'violates check constraint "t_v_check"' in caught.value.message
            shown = {"append": "id = 100, name = 'x', v = 100", "upsert": "id = '100'"}[mode]
            assert caught.value.notes[0] == f"the row: {shown}"
            step.die()

    run(go())
    assert database.rows("select * from t") == []


def test_new_columns_are_added_also_in_the_middle_of_a_run(database):
    wider = {"id": pl.Int64, "name": pl.String, "v": pl.Int64, "more": pl.List(pl.String)}
    rows = [{"id": 2, "name": "b", "v": 2, "more": ["x"]}]

    async def go():
        for mode, key in (("append", []), ("upsert", ["id"]), ("overwrite", [])):
            step = await database.step(SCHEMA, step=mode, table=mode, mode=mode, key=key).start()
            one = batch([{"id": 1, "name": "a", "v": 1}])
            await step.epoch(1, one, batch(rows, **wider))
            await step.epoch(2, final=True)
            await step.close()
            assert database.rows(f"select id, more from {mode} order by id") == [
                (1, None),
                (2, ["x"]),
            ]

    run(go())


def test_a_table_that_may_not_grow_is_left_alone(database):
    database.execute("create table t (id bigint)")

    async def go():
        with pytest.raises(SystemError_) as caught:
            await database.destination(create_table=False).validate(SCHEMA)
        assert caught.value.code == "E0604"
        assert "has no column 'name', 'v'" in caught.value.message
        with pytest.raises(SystemError_) as caught:
            await database.destination(create_table=False, table="tt").validate(SCHEMA)
        assert caught.value.code == "E0604"
        assert caught.value.help == "did you mean 't'?"
        with pytest.raises(SystemError_) as caught:
            await database.destination(create_table=False, table="nowhere.t").validate(SCHEMA)
        assert caught.value.message.startswith("no table 'nowhere.t' in 127.0.0.1:")

    run(go())


def test_overwrite_keeps_what_hangs_on_the_table(database):
    database.execute(
        "create table t (id bigint primary key, name text default 'none', made serial, old text)",
        "create index by_name on t (name)",
        "create view over_t as select id from t",
        "insert into t values (9, 'gone')",
        "grant select on t to pg_monitor",
    )

    async def go():
        schema = Schema.of({"id": "int64", "v": "string"})
        step = await database.step(schema, mode="overwrite").start()
        await step.epoch(1, batch([{"id": 1, "v": "x"}]))
        assert database.rows("select id from t") == [(9,)]
        await step.epoch(2, batch([{"id": 2, "v": "y"}]))
        await step.epoch(3, final=True)
        await step.close()
        assert database.rows("select id, name, v from t order by id") == [
            (1, "none", "x"), (2, "none", "y")]  # fmt: skip
        assert database.rows("select id from over_t order by id") == [(1,), (2,)]
        assert len(database.rows("select 1 from pg_indexes where tablename = 't'")) == 2

    run(go())


def test_overwrite_of_a_table_that_others_refer_to(database):
    database.execute("create table t (id bigint primary key)",
                     "create table child (id bigint references t on delete cascade)",
                     "insert into t values (9)", "insert into child values (9)")  # fmt: skip

    async def go():
        step = await database.step(Schema.of({"id": "int64"}), mode="overwrite").start()
        await step.epoch(1, batch([{"id": 1}]), final=True)
        await step.close()
        assert database.rows("select id from t") == [(1,)]

    run(go())


def test_overwrite_with_no_rows_empties_the_table(database):
    database.execute("create table t (id bigint)", "insert into t values (9)")

    async def go():
        step = await database.step(Schema.of({"id": "int64"}), mode="overwrite").start()
        await step.epoch(1, final=True)
        await step.close()
        assert database.rows("select id from t") == []

    run(go())


def test_kinds_go_into_a_column_where_that_is_asked_for(database):
    async def go():
        step = await database.step(SCHEMA, changelog="columns", is_changelog=True).start()
        rows = [(BEFORE, 1, "a", 0), (AFTER, 1, "a", 1), (DELETE, 1, "a", 1)]
        await step.epoch(1, frame_of(rows), batch([{"id": 2, "name": "b", "v": 2}]), final=True)
        await step.close()
        assert [op for (op,) in database.rows("select _op from t")] == [
            "update_before", "update_after", "delete", "insert"]  # fmt: skip

    run(go())


def test_columns_that_do_not_arrive_are_named(database):
    async def go():
        with pytest.raises(ConfigError) as caught:
            await database.destination(mode="upsert", key=["idd"]).validate(SCHEMA)
        assert caught.value.code == "E0411"
        assert caught.value.help == "did you mean 'id'?"

    run(go())


def test_names_are_taken_as_they_are(database):
    database.execute('create schema "My Schema"')
    schema = Schema.of({'a "b" {c}': "int64", "select": "string", "%s": "bool"})
    row = {'a "b" {c}': 1, "select": "x", "%s": True}

    async def go():
        for mode, key in (("append", []), ("upsert", ['a "b" {c}']), ("overwrite", [])):
            table = f"My Schema.T {mode}%"
            step = await database.step(schema, step=mode, table=table, mode=mode, key=key).start()
            await step.epoch(1, batch([row]), final=True)
            await step.close()
            found, _ = await database.read(table=table)
            assert found.rows() == [(1, "x", True)]

    run(go())


def test_policies_on_rows_hold_for_us_too(database):
    database.execute(
        "create table t (id bigint, name text, v bigint)",
        "alter table t enable row level security",
        "create policy p on t using (v < 10) with check (v < 10)",
        "drop role if exists limited", "create role limited login password 'x'",
        "grant all on schema public to limited", "grant all on t to limited",
    )  # fmt: skip
    dsn = database.server.dsn(database.name, user="limited").replace("s3cret-Pass%2Fw0rd", "x")

    async def go():
        step = await database.step(SCHEMA, connection_string=dsn).start()
        await step.epoch(1, batch([{"id": 1, "name": "a", "v": 1}]))
        with pytest.raises(SystemError_) as caught:
            await step.prepare(2, batch([{"id": 1, "name": "a", "v": 99}]))
        assert caught.value.code == "E0602"
        step.die()
        assert database.rows("select v from t") == [(1,)]

    try:
        run(go())
    finally:
        database.execute("drop owned by limited", "drop role limited")
