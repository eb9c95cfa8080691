"""Every half-done order of prepare, commit and recover ends with each row once, on each server."""

from __future__ import annotations

import random

import polars as pl
import pytest
from msgspec.structs import replace
from server_databases import LINEAGE, ServerDatabase, batch, run

from dataflare.errors import CheckpointError, DataError, RunError
from dataflare.model.types import Schema
from dataflare.sdk.destination import Committable

SCHEMA = Schema.of({"id": "int64", "v": "string"})
ONE, TWO, THREE, FOUR = (batch([{"id": i, "v": f"v{i}"}]) for i in (1, 2, 3, 4))
MANY, MORE = (batch([{"id": i, "v": random.Random(i).randbytes(20_000).hex()}]) for i in (1, 2))
"""Too long for the checkpoint: they make redo files."""


def marker(database: ServerDatabase, step: str = "out") -> tuple[int, int, int]:
    [found] = database.rows(
        f"select attempt, epoch, rows_total from _dataflare_epochs where step = '{step}'"
    )
    return found


def test_rows_are_invisible_until_commit_and_there_once_after(database):
    async def go():
        step = await database.step(SCHEMA).start()
        made = await step.prepare(1, ONE, TWO)
        assert made.data["rows"] == 2
        assert database.ids() == []
        await step.commit(1, [made])
        await step.commit(1, [made])
        assert database.ids() == [1, 2]
        found = await step.committer.marker()
        assert (found.epoch, found.attempt, found.manifest) == (1, 1, '{"epoch": 1}')
        assert not found.can_rewind
        published = await step.committer.published()
        assert published == {"database": f"127.0.0.1:{database.server.port}/{database.name}",
                             "table": "t", "rows": 2}  # fmt: skip
        await step.close()

    run(go())


@pytest.mark.parametrize("lost", ["nothing", "connection", "transaction", "process"])
@pytest.mark.parametrize("mode", ["append", "upsert", "mirror", "overwrite"])
def test_an_epoch_whose_manifest_stands_is_committed_after_a_crash(database, mode, lost):
    config = {"mode": mode, "key": ["id"] if mode in ("upsert", "mirror") else []}

    async def go():
        step = await database.step(SCHEMA, **config).start()
        first = await step.epoch(1, ONE)
        second = await step.prepare(2, TWO)
        if lost == "connection":
            step.lose_connection()
        elif lost != "nothing":
            step.die()
        if lost == "process":
            step = await database.step(SCHEMA, attempt=2, **config).start(2, [second])
        else:
            await step.commit(2, [second])
        await step.commit(2, [second])
        await step.epoch(3, THREE, final=True)
        await step.close()
        assert database.ids() == [1, 2, 3]
        assert first.data["rows_total"] == 1
        assert marker(database)[1:] == (3, 3)
        assert not list((database.folder / "redo-out").iterdir())
        assert database.own_tables() == []

    run(go())


@pytest.mark.parametrize("mode", ["append", "upsert", "overwrite"])
def test_an_epoch_without_a_manifest_is_forgotten(database, mode):
    config = {"mode": mode, "key": ["id"] if mode == "upsert" else []}

    async def go():
        step = await database.step(SCHEMA, **config).start()
        first = await step.epoch(1, MANY)
        await step.prepare(2, MORE)
        await step.writer.write_batch(THREE)
        step.die()
        again = await database.step(SCHEMA, attempt=2, **config).start(1, [first])
        assert sorted(p.name for p in (database.folder / "redo-out").iterdir()) == ["1-1-0.arrow"]
        made = await again.epoch(2, FOUR, final=True)
        assert made.data["rows_total"] == 2
        await again.close()
        assert database.ids() == [1, 4]

    run(go())


def test_rows_that_come_between_prepare_and_commit_wait_for_the_next_epoch(database):
    async def go():
        step = await database.step(SCHEMA).start()
        first = await step.prepare(1, ONE)
        await step.writer.write_batch(TWO)
        await step.commit(1, [first])
        assert database.ids() == [1]
        second = await step.prepare(2, THREE)
        await step.commit(2, [second])
        assert database.ids() == [1, 2, 3]
        await step.close()

    run(go())


def test_too_many_waiting_rows_are_left_to_the_redo_file(database, monkeypatch):
    monkeypatch.setattr("dataflare.sdk.sql.session._WAITING_BYTES", 10)

    async def go():
        step = await database.step(SCHEMA).start()
        first = await step.prepare(1, ONE)
        await step.writer.write_batch(TWO)
        await step.writer.write_batch(THREE)
        await step.commit(1, [first])
        await step.writer.write_batch(FOUR)
        await step.epoch(2, final=True)
        await step.close()
        assert database.ids() == [1, 2, 3, 4]

    run(go())


def test_two_epochs_prepared_before_one_is_committed(database):
    async def go():
        step = await database.step(SCHEMA).start()
        first = await step.prepare(1, ONE)
        second = await step.prepare(2, TWO)
        assert database.ids() == []
        await step.commit(1, [first])
        assert database.ids() == [1]
        await step.commit(2, [second])
        await step.epoch(3, THREE)
        await step.close()
        assert database.ids() == [1, 2, 3]

    run(go())


@pytest.mark.parametrize("when", ["before write", "between writes", "before prepare"])
def test_a_connection_lost_inside_an_epoch_costs_nothing(database, when, monkeypatch):
    monkeypatch.setattr("dataflare.sdk.sql.session._WRITE_ROWS", 1)

    async def go():
        step = await database.step(SCHEMA).start()
        await step.epoch(1, ONE)
        if when == "before write":
            step.lose_connection()
        await step.write(TWO)
        if when == "between writes":
            step.lose_connection()
        await step.write(THREE)
        if when == "before prepare":
            step.lose_connection()
        await step.epoch(2)
        await step.epoch(3, FOUR, final=True)
        await step.close()
        assert database.ids() == [1, 2, 3, 4]

    run(go())


def test_an_epoch_without_rows_changes_nothing(database):
    async def go():
        step = await database.step(SCHEMA).start()
        await step.epoch(1)
        assert database.ids() == []
        await step.epoch(2, final=True)
        await step.close()
        assert database.ids() == []

    run(go())


def test_a_writer_left_over_from_an_older_attempt_is_fenced(database):
    async def go():
        old = await database.step(SCHEMA).start()
        first = await old.epoch(1, ONE)
        new = await database.step(SCHEMA, attempt=2).start(1, [first])
        with pytest.raises(RunError) as caught:
            await old.prepare(2, TWO)
        assert caught.value.code == "E0804"
        await new.epoch(2, THREE)
        with pytest.raises(RunError):
            await old.prepare(3, TWO)
        await new.close()
        assert database.ids() == [1, 3]

    run(go())


def test_a_transaction_left_over_from_an_older_attempt_is_ended(database):
    config = {"mode": "upsert", "key": ["id"]}

    async def go():
        old = await database.step(SCHEMA, **config).start()
        first = await old.epoch(1, ONE)
        second = await old.prepare(2, ONE)  # holds the lock on row 1
        new = await database.step(SCHEMA, attempt=2, **config).start(1, [first])
        await new.epoch(2, ONE, TWO)
        with pytest.raises(RunError) as caught:
            await old.commit(2, [second])
        assert caught.value.code == "E0804"
        await new.close()
        assert database.ids() == [1, 2]

    run(go())


def test_a_damaged_or_missing_redo_file_is_never_applied(database):
    async def go():
        step = await database.step(SCHEMA).start()
        made = await step.prepare(1, MANY)
        step.die()
        path = database.folder / "redo-out" / made.data["file"]
        content = bytearray(path.read_bytes())
        content[-3] ^= 0x40
        path.write_bytes(content)
        for _ in range(2):
            with pytest.raises(CheckpointError) as caught:
                await step.commit(1, [made])
            assert caught.value.code == "E0703"
            path.unlink(missing_ok=True)

    run(go())


def test_damaged_or_missing_rows_of_the_checkpoint_are_never_applied(database):
    async def go():
        step = await database.step(SCHEMA).start()
        made = await step.prepare(1, ONE)
        assert made.content
        assert not list((database.folder / "redo-out").iterdir())
        step.die()
        for content in (made.content[:-3] + b"abc", b""):
            with pytest.raises(CheckpointError) as caught:
                await step.commit(1, [replace(made, content=content)])
            assert caught.value.code == "E0703"
        await step.commit(1, [made])
        assert database.ids() == [1]

    run(go())


def test_appended_rows_cannot_be_taken_back(database):
    async def go():
        step = await database.step(SCHEMA).start()
        first = await step.epoch(1, ONE)
        await step.epoch(2, TWO)
        again = database.step(SCHEMA, attempt=2)
        with pytest.raises(CheckpointError) as caught:
            await again.start(1, [first])
        assert caught.value.code == "E0705"

    run(go())


@pytest.mark.parametrize("mode", ["overwrite", "upsert"])
def test_an_older_epoch_can_be_gone_back_to_where_rows_can_be_told_apart(database, mode):
    config = {"mode": mode, "key": ["id"] if mode == "upsert" else []}

    async def go():
        step = await database.step(SCHEMA, **config).start()
        first = await step.epoch(1, ONE, TWO)
        await step.epoch(2, THREE)
        again = await database.step(SCHEMA, attempt=2, **config).start(1, [first])
        assert marker(database) == (2, 1, 2)
        await again.epoch(2, FOUR)
        await again.epoch(3, final=True)
        await again.close()
        assert database.ids() == ([1, 2, 4] if mode == "overwrite" else [1, 2, 3, 4])

    run(go())


def test_a_database_that_went_back_in_time_is_noticed(database):
    async def go():
        step = await database.step(SCHEMA).start()
        await step.epoch(1, ONE)
        await step.epoch(2, TWO)
        database.execute("delete from t where id = 2",
                         "update _dataflare_epochs set epoch = 1, rows_total = 1")  # fmt: skip
        with pytest.raises(CheckpointError) as caught:
            await step.epoch(3, THREE)
        assert caught.value.code == "E0705"
        assert "was reset to an earlier state" in caught.value.message

    run(go())


def test_steps_of_one_run_share_a_transaction(database):
    async def go():
        steps = [await database.step(SCHEMA, step=f"s{i}", table=f"t{i}").start() for i in range(2)]
        shares = [await step.prepare(1, ONE) for step in steps]
        await steps[0].commit(1, [shares[0]])
        assert [database.ids(f"t{i}") for i in range(2)] == [[1], [1]]
        # A crash here: the second step finds its rows committed already.
        for step in steps:
            step.die()
        await steps[1].commit(1, [shares[1]])
        assert database.ids("t1") == [1]

    run(go())


def test_two_steps_may_write_one_table(database):
    async def go():
        steps = [
            await database.step(SCHEMA, step=f"s{i}", mode="upsert", key=["id"]).start()
            for i in range(2)
        ]
        for number in (1, 2):
            shares = [await step.prepare(number, ONE, TWO) for step in steps]
            for step, share in zip(steps, shares, strict=True):
                await step.commit(number, [share])
        for step in steps:
            await step.close()
        assert database.ids() == [1, 2]

    run(go())


def test_one_step_goes_on_while_the_other_is_not_committed(database, monkeypatch):
    monkeypatch.setattr("dataflare.sdk.sql.session._WRITE_ROWS", 1)

    async def go():
        one = await database.step(SCHEMA, step="a", table="a").start()
        two = await database.step(SCHEMA, step="b", table="b").start()
        first = await one.prepare(1, ONE)
        await one.writer.write_batch(TWO)  # of epoch 2, which waits
        second = await two.prepare(1, ONE)
        await one.commit(1, [first])
        await one.writer.write_batch(THREE)  # copied: the transaction is of epoch 2
        await two.commit(1, [second])
        await one.epoch(2, final=True)
        await two.close()
        await one.close()
        assert database.ids("a") == [1, 2, 3]
        assert database.ids("b") == [1]

    run(go())


@pytest.mark.parametrize("first", ["a", "b"])
def test_rows_of_the_next_epoch_are_not_committed_with_another_steps(database, monkeypatch, first):
    """Step a has nothing in epoch 1, and rows of epoch 2 before step b's epoch 1 is committed."""
    monkeypatch.setattr("dataflare.sdk.sql.session._WRITE_ROWS", 1)

    async def go():
        one = await database.step(SCHEMA, step="a", table="a").start()
        two = await database.step(SCHEMA, step="b", table="b").start()
        await one.epoch(1, FOUR)
        await two.epoch(1, FOUR)
        nothing = await one.prepare(2)
        something = await two.prepare(2, ONE)
        if first == "a":
            await one.commit(2, [nothing])
        await one.writer.write_batch(TWO)
        await two.commit(2, [something])
        assert database.ids("a") == [4]
        assert database.ids("b") == [1, 4]
        one.die()
        again = await database.step(SCHEMA, step="a", table="a", attempt=2).start(2, [nothing])
        await again.epoch(3, TWO, final=True)
        await again.close()
        assert database.ids("a") == [2, 4]

    run(go())


def test_a_finished_run_is_followed_by_another(database):
    async def go():
        step = await database.step(SCHEMA).start()
        await step.epoch(1, ONE, TWO)
        await step.epoch(2, final=True)
        await step.close()
        again = await database.step(SCHEMA, attempt=2).start(2, ())
        await again.epoch(3, THREE)
        await again.epoch(4, FOUR, final=True)
        await again.close()
        assert database.ids() == [1, 2, 3, 4]
        assert marker(database) == (2, 4, 4)  # the rows of both runs

    run(go())


def test_a_forgotten_run_leaves_no_staging(database):
    async def go():
        step = await database.step(SCHEMA, mode="overwrite").start()
        await step.epoch(1, ONE)
        step.die()
        again = database.step(SCHEMA, mode="overwrite", attempt=2)
        committer = await again.destination.committer(again.context)
        await committer.recover(1, ())
        await committer.aclose()
        assert database.own_tables() == []

    run(go())


def test_the_frame_that_was_written_is_what_the_redo_file_holds(database):
    async def go():
        step = await database.step(SCHEMA).start()
        made = await step.prepare(1, ONE, TWO)
        from dataflare.sdk.sql import redo

        found = pl.concat(redo.frames(database.folder / "redo-out", redo.RedoFile.of(made)))
        assert found["id"].to_list() == [1, 2]
        assert made == Committable.from_json(made.to_json())
        assert step.context.lineage == LINEAGE
        step.die()

    run(go())


def test_an_error_of_rows_under_way_names_their_row_and_step(database):
    """They are sent while those of another step are encoded, and the other step may get the error
    first."""
    database.execute("create table a (id bigint, check (id <> 7))", "create table b (id bigint)")
    schema = Schema.of({"id": "int64"})

    async def go():
        to_a = await database.step(schema, step="a", table="a", batch_size=1).start()
        to_b = await database.step(schema, step="b", table="b", batch_size=1).start()

        async def write() -> None:
            for first in range(0, 20_000, 2_000):  # fewer would be sent before the next ones
                rows = batch([{"id": first + i} for i in range(2_000)])
                for step in (to_a, to_b):
                    await step.writer.write_batch(rows)

        with pytest.raises(DataError) as caught:
            await write()
        assert caught.value.step == "a"
        assert "the row: id = 7" in caught.value.notes
        to_a.die()

    run(go())
    assert database.rows("select (select count(*) from a), (select count(*) from b)") == [(0, 0)]


def test_a_step_that_may_leave_rows_out_shares_the_connection_with_one_that_may_not(database):
    database.execute(
        "create table a (id bigint, check (id % 50 <> 7))", "create table b (id bigint)"
    )
    schema = Schema.of({"id": "int64"})

    async def go():
        to_a = await database.step(schema, step="a", table="a", batch_size=1, sift=True).start()
        to_b = await database.step(schema, step="b", table="b", batch_size=1).start()
        for first in range(0, 1_000, 50):
            for step in (to_b, to_a):
                await step.writer.write_batch(batch([{"id": first + i} for i in range(50)]))
        assert len(await to_a.writer.settle()) == 20
        made = [await step.prepare(1) for step in (to_a, to_b)]
        for step, each in zip((to_a, to_b), made, strict=True):
            await step.commit(1, [each])
        await to_a.close()
        await to_b.close()

    run(go())
    assert database.rows("select (select count(*) from a), (select count(*) from b)") == [
        (980, 1_000)
    ]
