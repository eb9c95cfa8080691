"""`mode: mirror` into a server: at the end of a run that read its source whole, the table has what the
source has."""

from __future__ import annotations

from typing import Any

import pytest
from server_databases import ServerDatabase, Step, batch, run

from dataflare.errors import DataError
from dataflare.model.types import INT64, STRING, Schema

SCHEMA = Schema.of({"id": INT64, "v": STRING})
BEFORE, AFTER, DELETE = 1, 2, 3


def some(*ids: int, v: str = "new") -> Any:
    return batch([{"id": i, "v": v} for i in ids], **SCHEMA.to_polars())


def filled(database: ServerDatabase) -> None:
    rows = ", ".join(f"({i}, 'old')" for i in range(1, 11))
    database.execute("create table t (id bigint primary key, v text check (v <> 'bad'))",
                     f"insert into t values {rows}")  # fmt: skip


def step(database: ServerDatabase, **more: Any) -> Step:
    config = {"mode": "mirror", "key": "id", "delete_max": "100%", "complete": True}
    return Step(database, SCHEMA, **(config | more))


def test_rows_that_are_gone_are_deleted_with_the_last_epoch(database):
    filled(database)

    async def go() -> None:
        out = await step(database).start()
        await out.epoch(1, some(2, 3), some(3, 4))
        assert len(database.ids()) == 10
        await out.epoch(2, some(11, 2))
        await out.epoch(3, final=True)
        await out.close()

    run(go())
    assert database.ids() == [2, 3, 4, 11]
    assert database.own_tables() == []


@pytest.mark.parametrize(("complete", "delete_max"), [(False, "100%"), (True, "20%"), (True, 8)])
def test_a_partial_run_deletes_nothing_and_too_many_are_an_error(database, complete, delete_max):
    filled(database)

    async def go() -> None:
        out = await step(database, complete=complete, delete_max=delete_max).start()
        try:
            await out.epoch(1, some(2), final=True)
        finally:
            await out.close()

    if complete:
        with pytest.raises(DataError, match="9 of 10 rows") as caught:
            run(go())
        assert caught.value.code == "E0512"
    else:
        run(go())
    assert len(database.ids()) == 10


@pytest.mark.parametrize("dies", ["before", "after"])
def test_a_resumed_run_knows_the_keys_of_its_committed_epochs(database, dies):
    filled(database)

    async def go() -> None:
        first = await step(database).start()
        await first.epoch(1, some(1, 2))
        second = await first.prepare(2, some(3))
        if dies == "after":
            await first.commit(2, [second])
        first.die()
        out = await step(database, attempt=2).start(2, [second])
        await out.epoch(3, some(4), final=True)
        await out.close()
        # The next run knows nothing of the keys of this one.
        out = await step(database, attempt=3).start(3)
        await out.epoch(4, some(4, 5), final=True)
        await out.close()

    run(go())
    assert database.ids() == [4, 5]


def test_deletes_that_arrive_and_keys_that_change_are_gone_too(database):
    filled(database)

    async def go() -> None:
        out = await step(database, is_changelog=True).start()
        changes = [{"id": i, "v": "y"} for i in (1, 2, 3, 4, 5, 5, 3)]
        kinds = [0, 0, 0, BEFORE, AFTER, DELETE, DELETE]
        await out.epoch(1, batch(changes, kinds, **SCHEMA.to_polars()))
        await out.epoch(2, final=True)
        await out.close()

    run(go())
    assert database.ids() == [1, 2]


def test_what_the_table_holds_of_a_refused_row_stays(database):
    filled(database)

    async def go() -> None:
        out = await step(database, sift=True).start()
        assert [row.row["id"] for row in await out.settle(some(1), some(2, v="bad"))] == [2]
        await out.epoch(1, final=True)
        await out.close()

    run(go())
    assert database.rows("select * from t order by id") == [(1, "new"), (2, "old")]


@pytest.mark.parametrize("is_lost", [False, True])
def test_where_rows_failed_before_it_nothing_is_deleted(database, is_lost):
    filled(database)

    async def go() -> Any:
        out = await step(database, before=["in", "cast"]).start()
        await out.epoch(1, some(1, 2))
        out.writer.note_left_out({"cast": 2, "another": 7})
        share = await out.prepare(2, some(11), final=True)
        if is_lost:
            out.die()  # and the epoch is applied from its redo file
        await out.commit(2, [share], final=True)
        published = await out.committer.published()
        await out.close()
        return published

    published = run(go())
    assert database.ids() == [*range(1, 12)]
    assert (published["deleted"], published["not_deleted"]) == (0, 8)
    assert database.own_tables() == []
