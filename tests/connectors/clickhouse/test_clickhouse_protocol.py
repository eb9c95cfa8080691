"""Every half-done order of prepare, insert and commit ends with each row once."""

from __future__ import annotations

import contextlib

import polars as pl
import pytest
from clickhouse_kit import Database, batch, run
from msgspec.structs import replace

from dataflare.connectors.clickhouse.ledger import Doing
from dataflare.errors import CheckpointError, ConfigError, DataError, DataFlareError, RunError
from dataflare.model.types import Schema

pytestmark = pytest.mark.rotates(2)

SCHEMA = Schema.of({"id": "int64", "v": "string"})
ONE, TWO, THREE = (batch([{"id": i, "v": f"v{i}"}]) for i in (1, 2, 3))
MANY = batch([{"id": i, "v": f"v{i}"} for i in range(10, 100)])
POINTS = [
    "clickhouse.commit.before_insert", "clickhouse.commit.after_insert",
    "clickhouse.commit.before_marker", "clickhouse.commit.after_commit",
    "clickhouse.commit.before_swap", "clickhouse.commit.after_swap",
]  # fmt: skip
MODES = {
    "append": {},
    "overwrite": {"mode": "overwrite"},
    "upsert": {"mode": "upsert", "key": ["id"]},
}


class Died(BaseException):
    """As a kill."""


@contextlib.contextmanager
def dying_at(monkeypatch, point, time=1):
    """The `time`-th pass of a crash point ends the attempt."""
    passed = []

    def reach(name):
        if name == point:
            passed.append(name)
            if len(passed) == time:
                raise Died

    with monkeypatch.context() as patch:
        for module in ("committing", "writing"):
            patch.setattr(f"dataflare.connectors.clickhouse.{module}.crash_point", reach)
        yield passed


def ids(database: Database, table: str = "t", final: bool = False) -> list[int]:
    if [table] not in database.rows("show tables"):
        return []
    return [
        i
        for (i,) in database.rows(f"select id from {table} {'final' if final else ''} order by id")
    ]


@pytest.mark.parametrize(
    ("mode", "point"),
    [(mode, p) for mode in MODES for p in POINTS if mode == "overwrite" or "swap" not in p],
)
def test_a_commit_that_died_is_made_again(database, monkeypatch, mode, point):
    config = {"batch_size": 40, **MODES[mode]}

    async def go():
        step = await database.step(SCHEMA, **config).start()
        await step.epoch(1, ONE)
        # Two redo frames of other columns make two chunks.
        made = await step.prepare(2, TWO, batch([{"id": 4, "v": "v4", "w": 1}]), MANY, final=True)
        with dying_at(monkeypatch, point) as passed, contextlib.suppress(Died):
            await step.commit(2, [made], final=True)
        assert passed
        await step.close()
        again = await database.step(SCHEMA, attempt=2, **config).start(2, [made], final=True)
        await again.commit(2, [made], final=True)
        await again.commit(2, [made], final=True)
        await again.close()

    run(go())
    assert ids(database, final=mode == "upsert") == sorted([1, 2, 4, *range(10, 100)])
    assert sorted(name for (name,) in database.rows("show tables")) == ["_dataflare_epochs", "t"]


def test_rows_are_invisible_until_commit_and_there_once_after(database):
    async def go():
        step = await database.step(SCHEMA).start()
        made = await step.prepare(1, ONE, TWO)
        assert ids(database) == []
        await step.commit(1, [made])
        await step.commit(1, [made])
        assert ids(database) == [1, 2]
        found = await step.committer.marker()
        assert (found.epoch, found.attempt, found.manifest) == (1, 1, '{"epoch": 1}')
        assert not found.can_rewind
        published = await step.committer.published()
        assert (published["table"], published["rows"]) == ("t", 2)
        await step.close()

    run(go())


def test_the_same_rows_in_two_epochs_are_there_twice(database):
    async def go():
        step = await database.step(SCHEMA).start()
        for epoch in (1, 2, 3):
            await step.epoch(epoch, ONE)
        await step.close()

    run(go())
    assert ids(database) == [1, 1, 1]


def test_an_overwrite_shows_the_old_rows_until_its_end(database):
    async def go():
        for lineage, rows in (("a", ONE), ("b", TWO)):
            step = await database.step(
                SCHEMA, lineage=f"{lineage}0000000-0b0a-4000-8000-000000000001", mode="overwrite"
            ).start()
            await step.epoch(1, rows)
            assert ids(database) == ([] if lineage == "a" else [1, 3])
            await step.epoch(2, THREE, final=True)
            await step.close()

    run(go())
    assert ids(database) == [2, 3]


def test_upsert_keeps_the_last_row_of_a_key_or_the_one_with_the_greatest_sequence(database):
    schema = Schema.of({"id": "int64", "v": "string", "n": "int64"})
    rows = [batch([{"id": 1, "v": v, "n": n} for v, n in part]) for part in
            ([("a", 1), ("b", 3), ("b2", 3)], [("c", 2)])]  # fmt: skip
    equal = batch([{"id": 1, "v": "d", "n": 3}])

    async def go():
        for table, sequence in (("last", None), ("greatest", "n"), ("equal", "n")):
            step = await database.step(
                schema, table=table, mode="upsert", key=["id"], sequence=sequence
            ).start()
            await step.epoch(1, rows[0])
            await step.epoch(2, rows[1], final=table != "equal")
            if table == "equal":
                await step.epoch(3, equal, final=True)
            await step.close()

    run(go())
    assert database.rows("select v from last final") == [["c"]]
    assert database.rows("select v from greatest final") == [["b2"]]
    assert database.rows("select v from equal final") == [["d"]]


def test_an_older_attempt_and_another_lineage_are_fenced(database):
    async def go():
        old = await database.step(SCHEMA, workflow="w").start()
        first = await old.epoch(1, ONE)
        stale = await old.prepare(2, TWO)
        new = await database.step(SCHEMA, attempt=2, workflow="w").start(1, [first])
        with pytest.raises(RunError) as caught:
            await old.commit(2, [stale])
        assert caught.value.code == "E0804"
        other = database.step(SCHEMA, lineage="b0000000-0b0a-4000-8000-000000000001", workflow="w")
        committer = await other.connector.committer(other.context)
        owner = await committer.owner()
        assert (owner.epoch, owner.rows) == (1, 1)
        await committer.supersede(0)
        assert await committer.owner() is None
        with pytest.raises(RunError) as caught:
            await new.epoch(2, TWO)
        assert caught.value.code == "E0804"
        await committer.aclose()
        for step in (old, new):
            await step.close()

    run(go())
    assert ids(database) == [1]


def test_rows_that_may_be_there_of_a_lost_checkpoint_stop_the_run(database, monkeypatch):
    async def go():
        step = await database.step(SCHEMA).start()
        first = await step.epoch(1, ONE)
        made = await step.prepare(2, TWO)
        with dying_at(monkeypatch, "clickhouse.commit.after_insert"), contextlib.suppress(Died):
            await step.commit(2, [made])
        await step.close()
        with pytest.raises(CheckpointError) as caught:
            await database.step(SCHEMA, attempt=2).start(1, [first])
        assert caught.value.code == "E0705"

    run(go())


@pytest.mark.parametrize(("others", "known"), [(80, True), (101, False)])
def test_an_insert_in_doubt_is_made_again_only_while_the_table_remembers_it(
    database, monkeypatch, others, known
):
    database.execute(
        "create table t (id Int64, v String) engine = MergeTree order by id "
        "settings non_replicated_deduplication_window = 100"
    )

    async def go():
        step = await database.step(SCHEMA).start()
        await step.epoch(1, ONE)
        made = await step.prepare(2, TWO)
        with dying_at(monkeypatch, "clickhouse.commit.after_insert"), contextlib.suppress(Died):
            await step.commit(2, [made])
        await step.close()
        for number in range(others):
            database.execute(f"insert into t values ({1000 + number}, 'other')")
        for attempt in (2, 3):
            again = database.step(SCHEMA, attempt=attempt)
            if known:
                await (await again.start(2, [made])).close()
                continue
            with pytest.raises(CheckpointError, match="102 blocks were inserted since") as caught:
                await again.start(2, [made])
            assert caught.value.code == "E0705"

    run(go())
    assert database.rows("select count() from t where id < 1000") == [[2]]


def test_parts_that_were_dropped_leave_an_insert_in_doubt(database, monkeypatch):
    async def go():
        step = await database.step(SCHEMA).start()
        await step.epoch(1, ONE)
        made = await step.prepare(2, TWO)
        with dying_at(monkeypatch, "clickhouse.commit.before_insert"), contextlib.suppress(Died):
            await step.commit(2, [made])
        await step.close()
        database.execute("truncate table t sync")
        with pytest.raises(CheckpointError, match="parts of the table were dropped"):
            await database.step(SCHEMA, attempt=2).start(2, [made])

    run(go())


def test_the_age_of_an_insert_is_that_of_the_insert_whatever_is_noted_later():
    begun = Doing(4, 1, "abc", 17, 1_000)
    assert Doing.of(4, 1, begun.text, 0.5, 61_000) == replace(begun, age_s=60.0)
    assert Doing.of(4, 1, Doing(4, 1, "abc", None, 1_000).text, 0, 1_000).blocks is None
    assert Doing.of(4, 1, "abc", 0.5, 61_000) == Doing(4, 1, "abc", age_s=0.5)


def test_a_row_without_a_key_is_refused(database):
    async def go():
        step = await database.step(SCHEMA, mode="upsert", key=["id"]).start()
        with pytest.raises(DataError) as caught:
            await step.epoch(1, batch([{"id": None, "v": "x"}], id=pl.Int64, v=pl.String))
        assert caught.value.code == "E0510"
        await step.close()

    run(go())


@pytest.mark.parametrize(
    ("creation", "config", "said"),
    [
        (
            "engine = MergeTree order by id",
            {},
            "MODIFY SETTING non_replicated_deduplication_window",
        ),
        (
            "engine = MergeTree order by id settings non_replicated_deduplication_window = 99",
            {},
            "MODIFY SETTING non_replicated_deduplication_window",
        ),
        ("engine = Memory", {}, "MergeTree family"),
        ("engine = MergeTree order by id", MODES["upsert"], "ReplacingMergeTree"),
        ("engine = ReplacingMergeTree order by v", MODES["upsert"], "key: [v]"),
        ("engine = ReplacingMergeTree(id) order by id", MODES["upsert"], "sequence: id"),
    ],
)
def test_a_table_that_would_not_have_each_row_once_is_refused(database, creation, config, said):
    database.execute(f"create table t (id Int64, v String) {creation}")
    with pytest.raises(ConfigError) as caught:
        run(database.step(SCHEMA, **config).start())
    assert caught.value.code == "E0411"
    assert said in caught.value.help


def test_columns_are_added_and_a_missing_one_may_be_refused(database):
    wider = batch([{"id": 2, "v": "b", "more": 1.5}])

    async def go():
        step = await database.step(SCHEMA).start()
        await step.epoch(1, ONE)
        await step.epoch(2, wider, final=True)
        await step.close()

    run(go())
    assert database.rows("select id, more from t order by id") == [[1, None], [2, 1.5]]
    lacking = Schema.of({"id": "int64", "other": "string"})
    with pytest.raises(DataFlareError, match="has no column 'other'") as caught:
        run(database.step(lacking, create_table=False).start())
    assert caught.value.code == "E0606"
