"""`mode: mirror`: at the end of a run that read its source whole, the table has what the source has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from databases import Step, batch, execute, rows, run

from dataflare.errors import DataError
from dataflare.model.types import INT64, STRING, Schema

pytestmark = pytest.mark.rotates(2)

SCHEMA = Schema.of({"id": INT64, "v": STRING})
MIRROR: dict[str, Any] = {"mode": "mirror", "key": "id", "delete_max": "100%"}
INSERT, BEFORE, AFTER, DELETE = 0, 1, 2, 3


def some(*ids: int, v: str = "new") -> Any:
    return batch([{"id": i, "v": v} for i in ids], id=INT64.to_polars(), v=STRING.to_polars())


def filled(kind: str, folder: Path, count: int = 10) -> None:
    execute(kind, folder / "data.db", "create table t (id bigint primary key, v varchar)",
            "insert into t values " + ", ".join(f"({i}, 'old')" for i in range(1, count + 1)))  # fmt: skip


def ids(kind: str, folder: Path) -> list[int]:
    return [i for (i,) in rows(kind, folder / "data.db", "select id from t order by id")]


def tables(kind: str, folder: Path) -> list[str]:
    sql = "select name from sqlite_master where type = 'table'"
    if kind == "duckdb":
        sql = "select table_name from duckdb_tables()"
    return [name for (name,) in rows(kind, folder / "data.db", sql) if "seen" in name]


def step(kind: str, folder: Path, **more: Any) -> Step:
    return Step(kind, folder, SCHEMA, **(MIRROR | {"complete": True} | more))


def test_rows_that_are_gone_are_deleted_with_the_last_epoch(kind, tmp_path):
    filled(kind, tmp_path)

    async def go() -> None:
        out = await step(kind, tmp_path).start()
        await out.epoch(1, some(2, 3), some(3, 4))
        assert len(ids(kind, tmp_path)) == 10
        await out.epoch(2, some(11, 2))
        await out.epoch(3, final=True)
        await out.close()

    run(go())
    assert ids(kind, tmp_path) == [2, 3, 4, 11]
    assert tables(kind, tmp_path) == []


def test_a_run_that_does_not_read_all_deletes_nothing(kind, tmp_path):
    filled(kind, tmp_path)

    async def go() -> None:
        out = await step(kind, tmp_path, complete=False).start()
        await out.epoch(1, some(2), final=True)
        await out.close()

    run(go())
    assert ids(kind, tmp_path) == list(range(1, 11))


@pytest.mark.parametrize(
    ("delete_max", "gone", "is_deleted"),
    [
        ("20%", 2, True),
        ("20%", 3, False),
        (3, 3, True),
        (3, 4, False),
        (0, 1, False),
        ("5%", 1, True),
    ],
)
def test_more_than_delete_max_is_an_error_and_none_is_deleted(
    kind, tmp_path, delete_max, gone, is_deleted
):
    filled(kind, tmp_path)

    async def go() -> None:
        out = await step(kind, tmp_path, delete_max=delete_max).start()
        try:
            await out.epoch(1, some(*range(gone + 1, 11)), final=True)
        finally:
            await out.close()

    if is_deleted:
        run(go())
        assert len(ids(kind, tmp_path)) == 10 - gone
        return
    with pytest.raises(DataError) as caught:
        run(go())
    assert caught.value.code == "E0512"
    assert f"{gone} of 10 rows" in caught.value.message
    assert len(ids(kind, tmp_path)) == 10


@pytest.mark.parametrize("value", ["101%", "x", -1, 1.5, True])
def test_delete_max_is_a_share_or_a_count(kind, tmp_path, value):
    with pytest.raises(ValueError, match="expected a share"):
        step(kind, tmp_path, delete_max=value)


def test_a_resumed_run_knows_the_keys_of_its_committed_epochs(kind, tmp_path):
    filled(kind, tmp_path)

    async def go() -> None:
        first = await step(kind, tmp_path).start()
        await first.epoch(1, some(1, 2))
        second = await first.prepare(2, some(3))
        await first.prepare(3, some(9))
        first.die()
        # The manifest of epoch 2 was published; what epoch 3 had is read again, and has changed.
        out = await step(kind, tmp_path, attempt=2).start(2, [second])
        await out.epoch(3, some(4), final=True)
        await out.close()

    run(go())
    assert ids(kind, tmp_path) == [1, 2, 3, 4]


def test_the_keys_of_one_run_are_not_those_of_the_next(kind, tmp_path):
    async def go() -> None:
        out = await step(kind, tmp_path).start()
        await out.epoch(1, some(1, 2, 3))
        # Not finished: taken up with nothing kept, as with --fresh, and then finished.
        out = await step(kind, tmp_path, attempt=2).start(1)
        await out.epoch(2, some(3, 4), final=True)
        out = await step(kind, tmp_path, attempt=3).start(2)
        await out.epoch(3, some(4, 5), final=True)
        await out.close()

    run(go())
    assert ids(kind, tmp_path) == [4, 5]


def test_an_empty_source_empties_the_table_if_that_is_allowed(kind, tmp_path):
    filled(kind, tmp_path)

    async def go() -> None:
        out = await step(kind, tmp_path).start()
        await out.epoch(1, final=True)
        await out.close()

    run(go())
    assert ids(kind, tmp_path) == []


def test_deletes_that_arrive_and_keys_that_change_are_gone_too(kind, tmp_path):
    async def go() -> None:
        out = await step(kind, tmp_path, is_changelog=True).start()
        changes = [{"id": i, "v": "x"} for i in (1, 2, 3)]
        await out.epoch(1, batch(changes, [INSERT] * 3, **SCHEMA.to_polars()))
        changes = [{"id": i, "v": "y"} for i in (1, 2, 4, 3, 3)]
        kinds = [DELETE, BEFORE, AFTER, BEFORE, AFTER]
        await out.epoch(2, batch(changes, kinds, **SCHEMA.to_polars()))
        await out.epoch(3, final=True)
        await out.close()

    run(go())
    assert ids(kind, tmp_path) == [3, 4]


def test_what_the_table_holds_of_a_refused_row_stays(kind, tmp_path):
    execute(kind, tmp_path / "data.db",
            "create table t (id bigint primary key, v varchar check (v <> 'bad'))",
            "insert into t values (1, 'old'), (2, 'old'), (3, 'old')")  # fmt: skip

    async def go() -> None:
        out = await step(kind, tmp_path, sift=True).start()
        await out.writer.write_batch(some(1))
        await out.writer.write_batch(some(2, v="bad"))
        assert [row.row["id"] for row in await out.writer.settle()] == [2]
        await out.epoch(1, final=True)
        await out.close()

    run(go())
    assert rows(kind, tmp_path / "data.db", "select * from t order by id") == [
        (1, "new"),
        (2, "old"),
    ]


def test_a_row_without_a_key_is_refused_and_nothing_is_deleted(kind, tmp_path):
    filled(kind, tmp_path)

    async def go() -> None:
        out = await step(kind, tmp_path).start()
        nameless = batch([{"id": None, "v": "x"}], **SCHEMA.to_polars())
        try:
            await out.epoch(1, nameless, final=True)
        finally:
            await out.close()

    with pytest.raises(DataError) as caught:
        run(go())
    assert caught.value.code == "E0510"
    assert len(ids(kind, tmp_path)) == 10


@pytest.mark.parametrize("is_lost", [False, True])
def test_where_rows_failed_before_it_nothing_is_deleted(kind, tmp_path, is_lost):
    filled(kind, tmp_path)
    failed = {"cast": 2, "another": 7}

    async def go() -> Any:
        out = await step(kind, tmp_path, before=["in", "cast"]).start()
        await out.epoch(1, some(1, 2))
        out.writer.note_left_out(failed)
        share = await out.prepare(2, some(11), final=True)
        if is_lost:
            out.die()  # and the epoch is applied from its redo file
        await out.commit(2, [share], final=True)
        published = await out.committer.published()
        await out.close()
        return published

    published = run(go())
    assert ids(kind, tmp_path) == [*range(1, 11), 11]
    assert (published["deleted"], published["not_deleted"]) == (0, 8)
    assert tables(kind, tmp_path) == []


def test_rows_that_failed_elsewhere_do_not_hold_the_deletes_back(kind, tmp_path):
    filled(kind, tmp_path)

    async def go() -> Any:
        out = await step(kind, tmp_path, before=["in"]).start()
        out.writer.note_left_out({"another": 7})
        await out.epoch(1, some(1, 2), final=True)
        published = await out.committer.published()
        await out.close()
        return published

    published = run(go())
    assert ids(kind, tmp_path) == [1, 2]
    assert published["deleted"] == 8
    assert "not_deleted" not in published
