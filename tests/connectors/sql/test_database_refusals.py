"""Rows that a database refuses are left out and given back; the good ones of the batch stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from databases import Step, batch, execute, rows, run

from dataflare.errors import DataError
from dataflare.model.types import Schema

pytestmark = pytest.mark.rotates(2)

SCHEMA = Schema.of({"id": "int64", "v": "string", "n": "int64"})
DDL = (
    "create table t (id bigint primary key, v varchar not null, n bigint check (n > 0), "
    "u bigint unique default null)"
)
GOOD = {"v": "x", "n": 1}
INSERT, BEFORE, AFTER, DELETE = 0, 1, 2, 3


def given(*changed: dict[str, Any], count: int = 3_000) -> pl.DataFrame:
    """Rows 0 to count, except for changes in some rows."""
    made = [{"id": i, **GOOD} for i in range(count)]
    for row in changed:
        made[row["at"]] |= {name: value for name, value in row.items() if name != "at"}
    return pl.DataFrame(made, schema=SCHEMA.to_polars())


def stored(kind: str, folder: Path) -> list[Any]:
    return rows(kind, folder / "data.db", "select id, v, n from t order by id, v")


async def settled(step: Step, *batches: Any) -> list[Any]:
    for each in batches:
        await step.writer.write_batch(each)
    return list(await step.writer.settle())


MODES = [{"mode": "append"}, {"mode": "upsert", "key": ["id"]}, {"mode": "mirror", "key": ["id"]}]
BAD = [{"at": 0, "n": 0}, {"at": 17, "v": None}, {"at": 18, "n": -5}, {"at": 2_999, "v": None}]


@pytest.mark.parametrize("config", MODES, ids=lambda c: c["mode"])
@pytest.mark.parametrize("lost", [False, True], ids=["commit", "redo"])
def test_just_the_bad_rows_are_left_out(kind, tmp_path, config, lost):
    frame = given(*BAD)
    bad = frame.filter(pl.col("v").is_null() | (pl.col("n") <= 0))
    good = frame.join(bad.select("id"), on="id", how="anti")

    async def go():
        execute(kind, tmp_path / "data.db", DDL)
        step = await Step(kind, tmp_path, SCHEMA, sift=True, **config).start()
        refused = await settled(step, *(batch(part.to_dicts(), **SCHEMA.to_polars())
                                        for part in frame.iter_slices(1_000)))  # fmt: skip
        assert [row.row for row in refused] == bad.to_dicts()
        assert {row.code for row in refused} == {"E0510"}
        assert all("table 't' refuses a row" in row.message for row in refused)
        made = await step.prepare(1)
        assert (made.data["rows"], made.data["refused"]) == (good.height, 4)
        if lost:  # as after a crash: from the redo file
            step.die()
        await step.commit(1, [made])
        assert stored(kind, tmp_path) == good.rows()
        # The next epoch has bad rows of its own.
        refused = await settled(
            step, batch([{"id": 5_000, **GOOD}, {"id": 5_001, "v": "y", "n": 0}])
        )
        assert [row.row["id"] for row in refused] == [5_001]
        await step.commit(2, [await step.prepare(2)])
        assert len(stored(kind, tmp_path)) == good.height + 1
        await step.close()

    run(go())


def test_what_was_settled_is_applied_again_when_others_had_to_write(kind, tmp_path):
    async def go():
        execute(kind, tmp_path / "data.db", DDL)
        step = await Step(kind, tmp_path, SCHEMA, sift=True).start()
        assert (
            len(await settled(step, batch([{"id": 1, **GOOD}, {"id": 2, "v": None, "n": 1}]))) == 1
        )
        step.writer.session.let_go(step.writer._target)
        execute(kind, tmp_path / "data.db", "insert into t values (9, 'other', 1, null)")
        await step.commit(1, [await step.prepare(1)])
        assert stored(kind, tmp_path) == [(1, "x", 1), (9, "other", 1)]
        await step.close()

    run(go())


def test_a_key_that_is_there_already_is_refused_by_append(kind, tmp_path):
    async def go():
        execute(kind, tmp_path / "data.db", DDL, "insert into t values (7, 'old', 1, null)")
        step = await Step(kind, tmp_path, SCHEMA, sift=True).start()
        made = [{"id": i, "v": str(n), "n": 1} for n, i in enumerate([1, 7, 2, 1, 3])]
        refused = await settled(step, batch(made))
        assert [row.row for row in refused] == [made[1], made[3]]
        await step.commit(1, [await step.prepare(1)])
        assert stored(kind, tmp_path) == [(1, "0", 1), (2, "2", 1), (3, "4", 1), (7, "old", 1)]
        await step.close()

    run(go())


@pytest.mark.parametrize("lost", [False, True], ids=["commit", "redo"])
@pytest.mark.parametrize("mode", ["upsert", "mirror"])
def test_the_last_good_row_of_a_key_stays(kind, tmp_path, mode, lost):
    async def go():
        execute(kind, tmp_path / "data.db", DDL, "insert into t values (1, 'old', 1, null)")
        step = await Step(
            kind, tmp_path, SCHEMA, sift=True, mode=mode, key=["id"], is_changelog=True
        ).start()
        changes = [
            (1, "old", 1, BEFORE), (1, "new", 2, AFTER), (1, "new", 2, BEFORE), (1, "bad", 0, AFTER),
            (2, "in", 1, INSERT), (None, "keyless", 1, INSERT),
        ]  # fmt: skip
        made = [dict(zip(("id", "v", "n"), row, strict=False)) for row in changes]
        kinds = [row[3] for row in changes]
        refused = await settled(step, batch(made, kinds, **SCHEMA.to_polars()))
        assert [row.row for row in refused] == [made[3], made[5]]
        prepared = await step.prepare(1)
        if lost:
            step.die()
        await step.commit(1, [prepared])
        assert stored(kind, tmp_path) == [(1, "new", 2), (2, "in", 1)]
        await step.close()

    run(go())


def test_a_row_that_takes_another_rows_unique_value_is_refused_by_upsert(kind, tmp_path):
    schema = Schema.of({"id": "int64", "u": "int64"})

    async def go():
        execute(kind, tmp_path / "data.db", "create table t (id bigint primary key, u bigint unique)",
                "insert into t values (1, 10)")  # fmt: skip
        step = await Step(kind, tmp_path, schema, sift=True, mode="upsert", key=["id"]).start()
        made = [
            {"id": i, "u": u} for i, u in [(1, 10), (2, 10), (3, 30), (4, 30), (3, 30), (5, None)]
        ]
        refused = await settled(step, batch(made))
        assert [row.row for row in refused] == [made[1], made[3]]
        await step.commit(1, [await step.prepare(1)])
        assert rows(kind, tmp_path / "data.db", "select * from t order by id") == [
            (1, 10), (3, 30), (5, None)]  # fmt: skip
        await step.close()

    run(go())


def test_all_rows_may_be_refused(kind, tmp_path):
    async def go():
        execute(kind, tmp_path / "data.db", DDL)
        step = await Step(kind, tmp_path, SCHEMA, sift=True).start()
        refused = await settled(step, batch([{"id": i, "v": "x", "n": 0} for i in range(600)]))
        assert len(refused) == 600
        await step.commit(1, [await step.prepare(1, final=True)], final=True)
        assert stored(kind, tmp_path) == []
        await step.close()

    run(go())


def test_more_kinds_of_rules_of_duckdb(tmp_path):
    schema = Schema.of({"id": "int64", "mood": "string", "p": "int64", "small": "int64"})

    async def go():
        execute(
            "duckdb", tmp_path / "data.db", "create type mood as enum ('good', 'bad')",
            "create table parent (p bigint primary key)", "insert into parent values (1)",
            "create table t (id bigint, mood mood, p bigint references parent (p), small tinyint, "
            "d bigint default 3 check (d > id), doubled bigint generated always as (id * 2))",
            "create unique index every on t (lower(mood::varchar), id)",
        )  # fmt: skip
        step = await Step("duckdb", tmp_path, schema, sift=True).start()
        made = [
            dict(zip(schema.names, row, strict=True))
            for row in [
                (1, "good", 1, 5), (1, "ugly", 1, 5), (1, "bad", 2, 5), (1, "bad", None, 500),
                (1, "bad", 1, None), (1, "good", None, 1), (4, None, None, None), (2, None, None, None),
            ]
        ]  # fmt: skip
        refused = await settled(step, batch(made, **schema.to_polars()))
        assert [row.row for row in refused] == [made[1], made[2], made[3], made[5], made[6]]
        assert [row.code for row in refused] == ["E0511", "E0510", "E0511", "E0510", "E0510"]
        await step.commit(1, [await step.prepare(1)])
        await step.close()
        assert rows("duckdb", tmp_path / "data.db", "select id, mood, small from t order by all") == [
            (1, "good", 5), (1, "bad", None), (2, None, None)]  # fmt: skip

    run(go())


def test_a_delete_that_is_refused_is_no_dead_letter(tmp_path):
    schema = Schema.of({"id": "int64"})

    async def go():
        execute(
            "sqlite", tmp_path / "data.db", "create table t (id integer primary key)",
            "insert into t values (1), (2)",
            "create trigger kept before delete on t when old.id = 1 begin "
            "select raise(abort, 'CHECK constraint failed: kept'); end",
        )  # fmt: skip
        step = await Step(
            "sqlite", tmp_path, schema, sift=True, mode="mirror", key=["id"], is_changelog=True
        ).start()
        with pytest.raises(DataError, match="kept") as caught:
            await settled(step, batch([{"id": 2}, {"id": 1}], [DELETE, DELETE]))
        assert caught.value.notes == ["the row: id = 1"]
        await step.close()
        assert rows("sqlite", tmp_path / "data.db", "select id from t order by 1") == [(1,), (2,)]

    run(go())
