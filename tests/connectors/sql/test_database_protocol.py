"""Every half-done order of prepare, commit and recover ends with each row once."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest
from databases import LINEAGE, Step, batch, execute, read, rows, run
from msgspec.structs import replace

from dataflare.errors import CheckpointError, DataError, DataFlareError, RunError
from dataflare.model.types import Schema
from dataflare.sdk.destination import Committable

pytestmark = pytest.mark.rotates(2)

SCHEMA = Schema.of({"id": "int64", "v": "string"})
OTHER = "1f0e0d0c-0b0a-4000-8000-000000000002"
ONE, TWO, THREE = (batch([{"id": i, "v": f"v{i}"}]) for i in (1, 2, 3))
MANY, MORE = (batch([{"id": i, "v": random.Random(i).randbytes(20_000).hex()}]) for i in (1, 2))
"""Too long for the checkpoint: they make redo files."""


def ids(kind: str, folder: Path, table: str = "t") -> list[int]:
    return [row[0] for row in rows(kind, folder / "data.db", f"select id from {table} order by id")]


def test_rows_are_invisible_until_commit_and_there_once_after(kind, tmp_path):
    async def go():
        step = await Step(kind, tmp_path, SCHEMA).start()
        made = await step.prepare(1, ONE, TWO)
        assert made.data["rows"] == 2
        step.die()  # only to look: what is open is rolled back
        assert not (tmp_path / "data.db").exists() or not rows(
            kind, tmp_path / "data.db", "select 1 from " + known_tables(kind)
        )
        await step.commit(1, [made])
        await step.commit(1, [made])
        assert ids(kind, tmp_path) == [1, 2]
        marker = await step.committer.marker()
        assert (marker.epoch, marker.attempt, marker.manifest) == (1, 1, '{"epoch": 1}')
        assert not marker.can_rewind
        published = await step.committer.published()
        assert published == {"path": str(tmp_path / "data.db"), "table": "t", "rows": 2}
        await step.close()

    run(go())


def known_tables(kind: str) -> str:
    return (
        "sqlite_master where name = 't'"
        if kind == "sqlite"
        else "duckdb_tables() where table_name = 't'"
    )


@pytest.mark.parametrize("lost", ["nothing", "transaction", "process"])
def test_an_epoch_whose_manifest_stands_is_committed_after_a_crash(kind, tmp_path, lost):
    async def go():
        step = await Step(kind, tmp_path, SCHEMA).start()
        first = await step.epoch(1, ONE)
        second = await step.prepare(2, TWO)
        if lost != "nothing":
            step.die()
        if lost == "process":
            step = await Step(kind, tmp_path, SCHEMA, attempt=2).start(2, [second])
        else:
            await step.commit(2, [second])
        await step.commit(2, [second])
        await step.epoch(3, THREE, final=True)
        await step.close()
        assert ids(kind, tmp_path) == [1, 2, 3]
        assert first.data["rows_total"] == 1
        assert not list((tmp_path / "redo-out").iterdir())

    run(go())


def test_an_epoch_without_a_manifest_is_forgotten(kind, tmp_path):
    async def go():
        step = await Step(kind, tmp_path, SCHEMA).start()
        first = await step.epoch(1, MANY)
        await step.prepare(2, MORE)
        await step.writer.write_batch(THREE)
        step.die()
        again = await Step(kind, tmp_path, SCHEMA, attempt=2).start(1, [first])
        assert sorted(p.name for p in (tmp_path / "redo-out").iterdir()) == ["1-1-0.arrow"]
        made = await again.epoch(2, THREE, final=True)
        assert made.data["rows_total"] == 2
        await again.close()
        assert ids(kind, tmp_path) == [1, 3]

    run(go())


def test_an_epoch_without_rows_does_not_open_the_database(kind, tmp_path):
    async def go():
        step = await Step(kind, tmp_path, SCHEMA).start()
        await step.epoch(1)
        assert not (tmp_path / "data.db").exists()
        await step.epoch(2, final=True)
        await step.close()
        assert ids(kind, tmp_path) == []

    run(go())


def test_a_run_does_not_commit_the_rows_of_another_run_of_this_process(kind, tmp_path):
    async def go():
        one = await Step(kind, tmp_path, SCHEMA, sift=True).start()
        other = await Step(kind, tmp_path, SCHEMA, step="other", lineage=OTHER, table="u").start()
        await one.writer.write_batch(ONE)
        await one.writer.settle()
        await other.epoch(1, TWO)
        found = rows(kind, tmp_path / "data.db", f"select count(*) from {known_tables(kind)}")
        assert found == [(0,)]
        await one.commit(1, [await one.prepare(1)])
        assert (ids(kind, tmp_path), ids(kind, tmp_path, "u")) == ([1], [2])
        await one.close()
        await other.close()

    run(go())


@pytest.mark.parametrize("restarted", [False, True])
def test_a_file_that_lost_committed_rows_is_refused(kind, tmp_path, restarted):
    async def go():
        step = await Step(kind, tmp_path, SCHEMA).start()
        await step.epoch(1, ONE)
        second = await step.epoch(2, TWO)
        await step.close()
        for path in tmp_path.glob("data.db*"):
            path.unlink()
        again = Step(kind, tmp_path, SCHEMA, attempt=2)
        with pytest.raises(CheckpointError) as caught:
            await (again.start(2, [second]) if restarted else step.epoch(3, THREE))
        assert caught.value.code == "E0705"
        assert "was reset to an earlier state" in caught.value.message

    run(go())


def test_both_rows_of_an_update_are_appended_as_changes_also_with_a_key(kind, tmp_path):
    async def go():
        config = {"changelog": "columns", "key": ["id"], "is_changelog": True}
        step = await Step(kind, tmp_path, SCHEMA, **config).start()
        update = batch([{"id": 1, "v": "old"}, {"id": 1, "v": "new"}], kinds=[1, 2])
        await step.epoch(1, update, final=True)
        await step.close()
        found = rows(kind, tmp_path / "data.db", "select _op, v from t order by v desc")
        assert found == [("update_before", "old"), ("update_after", "new")]

    run(go())


def test_a_writer_left_over_from_an_older_attempt_is_fenced(kind, tmp_path):
    async def go():
        old = await Step(kind, tmp_path, SCHEMA).start()
        first = await old.epoch(1, ONE)
        second = await old.prepare(2, TWO)
        new = await Step(kind, tmp_path, SCHEMA, attempt=2).start(1, [first])
        with pytest.raises(RunError) as caught:
            await old.commit(2, [second])
        assert caught.value.code == "E0804"
        await new.epoch(2, THREE)
        with pytest.raises(RunError):
            await old.prepare(3, TWO)
        await new.close()
        assert ids(kind, tmp_path) == [1, 3]

    run(go())


def test_a_damaged_or_missing_redo_file_is_never_applied(kind, tmp_path):
    async def go():
        step = await Step(kind, tmp_path, SCHEMA).start()
        made = await step.prepare(1, MANY)
        step.die()
        path = tmp_path / "redo-out" / made.data["file"]
        content = bytearray(path.read_bytes())
        content[-3] ^= 0x40
        path.write_bytes(content)
        for _ in range(2):
            with pytest.raises(CheckpointError) as caught:
                await step.commit(1, [made])
            assert caught.value.code == "E0703"
            path.unlink(missing_ok=True)

    run(go())


def test_damaged_or_missing_rows_of_the_checkpoint_are_never_applied(kind, tmp_path):
    async def go():
        step = await Step(kind, tmp_path, SCHEMA).start()
        made = await step.prepare(1, ONE)
        assert made.content
        assert not list((tmp_path / "redo-out").iterdir())
        step.die()
        for content in (made.content[:-3] + b"abc", b""):
            with pytest.raises(CheckpointError) as caught:
                await step.commit(1, [replace(made, content=content)])
            assert caught.value.code == "E0703"
        await step.commit(1, [made])
        assert ids(kind, tmp_path) == [1]

    run(go())


def test_appended_rows_cannot_be_taken_back(kind, tmp_path):
    async def go():
        step = await Step(kind, tmp_path, SCHEMA).start()
        first = await step.epoch(1, ONE)
        await step.epoch(2, TWO)
        again = Step(kind, tmp_path, SCHEMA, attempt=2)
        with pytest.raises(CheckpointError) as caught:
            await again.start(1, [first])
        assert caught.value.code == "E0705"

    run(go())


def test_keyed_rows_are_written_again_after_going_back(kind, tmp_path):
    async def go():
        keyed = {"mode": "upsert", "key": ["id"]}
        step = await Step(kind, tmp_path, SCHEMA, **keyed).start()
        first = await step.epoch(1, ONE)
        await step.epoch(2, TWO)
        assert (await step.committer.marker()).can_rewind
        again = await Step(kind, tmp_path, SCHEMA, attempt=2, **keyed).start(1, [first])
        assert (await again.committer.marker()).epoch == 1
        await again.epoch(2, TWO, THREE)
        await again.close()
        assert ids(kind, tmp_path) == [1, 2, 3]

    run(go())


def test_overwrite_swaps_in_at_the_end_and_keeps_indexes(kind, tmp_path):
    async def go():
        path = tmp_path / "data.db"
        execute(
            kind, path, "create table t (id bigint, old integer)", "insert into t values (9, 9)",
            "create index by_id on t (id)", "create view seen as select id from t",
        )  # fmt: skip
        step = await Step(kind, tmp_path, SCHEMA, mode="overwrite").start()
        await step.epoch(1, ONE)
        assert ids(kind, tmp_path) == [9]
        await step.epoch(2, TWO, final=True)
        await step.close()
        assert ids(kind, tmp_path) == [1, 2]
        assert ids(kind, tmp_path, "seen") == [1, 2]
        where = (
            "select name from sqlite_master where tbl_name = 't' and type = 'index'"
            if kind == "sqlite"
            else "select index_name from duckdb_indexes() where table_name = 't'"
        )
        assert rows(kind, path, where) == [("by_id",)]

    run(go())


def test_overwrite_keeps_the_rules_of_the_table(kind, tmp_path):
    """Its types, defaults and constraints, foreign keys at both ends, and columns that no row has."""

    async def go():
        path = tmp_path / "data.db"
        execute(
            kind, path, "create table parent (id bigint primary key)",
            "insert into parent values (1), (2), (3)",
            'create table "t" (id bigint primary key references parent (id), '
            "kind varchar not null default 'new', check (id < 100))",
            "create unique index once on t (id, kind)", "insert into t values (3, 'old')",
        )  # fmt: skip
        for attempt in (1, 2):
            again = Step(kind, tmp_path, SCHEMA, mode="overwrite", attempt=attempt)
            step = await again.start()
            await step.epoch(attempt * 2 - 1, ONE)
            await step.epoch(attempt * 2, TWO, final=True)
            await step.close()
            assert rows(kind, path, "select id, kind from t order by id") == [
                (1, "new"),
                (2, "new"),
            ]
        for refused in ("(1, 'x')", "(100, 'x')", "(3, null)"):
            with pytest.raises(Exception, match=r"(?i)constraint"):
                execute(kind, path, f"insert into t (id, kind) values {refused}")
        execute(kind, path, "delete from t", "delete from parent")

    run(go())


def test_overwrite_refuses_what_the_table_refuses(kind, tmp_path):
    async def go():
        path = tmp_path / "data.db"
        rule = "create table t (id bigint check (id <> 2))"
        execute(kind, path, rule, "insert into t values (7)")
        step = await Step(kind, tmp_path, SCHEMA, mode="overwrite").start()
        await step.epoch(1, ONE)
        with pytest.raises(DataError, match=r"(?i)check"):
            await step.epoch(2, TWO, final=True)
        step.die()
        assert ids(kind, tmp_path) == [7]

    run(go())


UNIQUE = (
    "create table t (id bigint, kind varchar default 'a b')", 'create index "by id" on t (id)',
    'create unique index "on ""ce" on "t" (lower(kind), id)', "insert into t values (7, 'x')",
)  # fmt: skip


def indexes(kind, folder) -> list[str]:
    where = (
        "select name from sqlite_master where type = 'index' and sql is not null"
        if kind == "sqlite"
        else "select index_name from duckdb_indexes()"
    )
    return sorted(name for (name,) in rows(kind, folder / "data.db", where))


@pytest.mark.parametrize("dies", ["staged", "prepared", "committed", "never"])
def test_overwrite_keeps_unique_indexes_of_their_own(kind, tmp_path, dies):
    """The staging table has them too, and none of its own is left, wherever the run died."""

    async def go():
        execute(kind, tmp_path / "data.db", *UNIQUE)
        step = await Step(kind, tmp_path, SCHEMA, mode="overwrite").start()
        first = await step.epoch(1, ONE)
        if dies == "staged":
            step.die()
            step = await Step(kind, tmp_path, SCHEMA, mode="overwrite", attempt=2).start(1, [first])
        last = await step.prepare(2, TWO, final=True)
        if dies == "prepared":
            step.die()
        if dies != "staged":
            await step.commit(2, [last], final=True)
        if dies == "committed":
            step.die()
            again = Step(kind, tmp_path, SCHEMA, mode="overwrite", attempt=2)
            step = await again.start(2, [last])
        if dies == "staged":
            await step.commit(2, [last], final=True)
        await step.close()
        assert ids(kind, tmp_path) == [1, 2]
        assert indexes(kind, tmp_path) == ["by id", 'on "ce']
        with pytest.raises(Exception, match=r"(?i)constraint"):
            execute(kind, tmp_path / "data.db", "insert into t (id, kind) values (2, 'A B')")

    run(go())


def test_overwrite_refuses_doubles_of_a_unique_index_when_they_come(kind, tmp_path):
    async def go():
        execute(kind, tmp_path / "data.db", *UNIQUE)
        step = await Step(kind, tmp_path, SCHEMA, mode="overwrite", sift=True).start()
        await step.writer.write_batch(ONE)
        await step.writer.write_batch(TWO)
        await step.writer.write_batch(ONE)
        refused = await step.writer.settle()
        assert [(row.row["id"], row.code) for row in refused] == [(1, "E0510")]
        await step.commit(1, [await step.prepare(1, final=True)], final=True)
        await step.close()
        assert ids(kind, tmp_path) == [1, 2]

    run(go())


def test_overwrite_fills_a_table_without_rowids(tmp_path):
    async def go():
        path = tmp_path / "data.db"
        table = "create table t (id bigint primary key, old int) without rowid"
        execute("sqlite", path, table, "insert into t values (7, 7)")
        step = await Step("sqlite", tmp_path, SCHEMA, mode="overwrite").start()
        await step.epoch(1, ONE, final=True)
        await step.close()
        assert ids("sqlite", tmp_path) == [1]
        (sql,) = rows("sqlite", path, "select sql from sqlite_master where name = 't'")[0]
        assert "without rowid" in sql

    run(go())


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("back_to", [0, 1, 2])
def test_overwrite_goes_back_by_cutting_what_is_staged(kind, tmp_path, back_to, there):
    async def go():
        if there:
            table = "create table t (id bigint not null, check (id < 9))"
            execute(kind, tmp_path / "data.db", table, "insert into t values (7)")
        step = await Step(kind, tmp_path, SCHEMA, mode="overwrite").start()
        made: list[Committable] = []
        for number, each in enumerate((ONE, TWO, TWO), start=1):
            made.append(await step.epoch(number, each))
        kept = [made[back_to - 1]] if back_to else []
        again = await Step(kind, tmp_path, SCHEMA, mode="overwrite", attempt=2).start(back_to, kept)
        await again.epoch(back_to + 1, THREE)
        await again.epoch(back_to + 2, final=True)
        await again.close()
        assert ids(kind, tmp_path) == [[3], [1, 3], [1, 2, 3]][back_to]

    run(go())


@pytest.mark.parametrize("there", [False, True])
def test_overwrite_commits_its_last_epoch_after_a_crash_too(kind, tmp_path, there):
    async def go():
        if there:
            table = "create table t (id bigint primary key)"
            execute(kind, tmp_path / "data.db", table, "insert into t values (7)")
        step = await Step(kind, tmp_path, SCHEMA, mode="overwrite").start()
        await step.epoch(1, ONE)
        last = await step.prepare(2, TWO, final=True)
        step.die()
        again = Step(kind, tmp_path, SCHEMA, mode="overwrite", attempt=2)
        again.committer = await again.destination.committer(again.context)
        await again.committer.recover(2, [last])
        for _ in range(2):
            await again.commit(2, [last], final=True)
        assert ids(kind, tmp_path) == [1, 2]
        await again.committer.aclose()

    run(go())


def test_a_forgotten_run_leaves_no_staging_table(kind, tmp_path):
    async def go():
        step = await Step(kind, tmp_path, SCHEMA, mode="overwrite").start()
        await step.epoch(1, ONE)
        await step.close()
        forgetting = await Step(kind, tmp_path, SCHEMA, mode="overwrite", attempt=2).start(1)
        await forgetting.close()
        names = (
            "select name from sqlite_master where name like '%new%'"
            if kind == "sqlite"
            else "select table_name from duckdb_tables() where table_name like '%new%'"
        )
        assert rows(kind, tmp_path / "data.db", names) == []

    run(go())


def test_two_steps_share_one_transaction_and_are_both_redone_if_it_is_lost(kind, tmp_path):
    async def go():
        steps = [
            await Step(kind, tmp_path, SCHEMA, step=name, table=name).start() for name in ("a", "b")
        ]
        first = [await step.prepare(1, ONE) for step in steps]
        for step, made in zip(steps, first, strict=True):
            await step.commit(1, [made])
        second = [await step.prepare(2, TWO) for step in steps]
        steps[0].die()
        for step, made in zip(steps, second, strict=True):
            await step.commit(2, [made])
        third = [await step.prepare(3, THREE, final=True) for step in steps]
        await steps[1].commit(3, [third[1]], final=True)
        # b's commit took a's rows with it: a has its marker, so nothing is applied again.
        steps[0].die()
        await steps[0].commit(3, [third[0]], final=True)
        for step in steps:
            assert (await step.committer.marker()).epoch == 3
            await step.close()
        assert ids(kind, tmp_path, "a") == ids(kind, tmp_path, "b") == [1, 2, 3]

    run(go())


def test_two_runs_on_one_file_do_not_publish_each_other(kind, tmp_path):
    async def go():
        mine = await Step(kind, tmp_path, SCHEMA, step="a", table="a").start()
        yours = await Step(kind, tmp_path, SCHEMA, step="b", table="b", lineage="ffff-2").start()
        my_share = await mine.prepare(1, ONE)
        await yours.prepare(1, TWO)
        await mine.commit(1, [my_share])
        assert ids(kind, tmp_path, "a") == [1]
        assert (await yours.committer.marker()) is None
        await mine.close()
        await yours.close()

    run(go())


def test_the_next_epoch_may_be_prepared_before_the_last_is_committed(kind, tmp_path):
    async def go():
        step = await Step(kind, tmp_path, SCHEMA, mode="upsert", key=["id"]).start()
        first = await step.prepare(1, ONE)
        second = await step.prepare(2, TWO)
        await step.commit(1, [first])
        assert ids(kind, tmp_path) == [1]
        await step.commit(2, [second])
        assert ids(kind, tmp_path) == [1, 2]
        await step.close()

    run(go())


REFUSALS = {
    "a double key": ("create table t (id bigint primary key, v varchar)", "E0510", "id = 1"),
    "a missing value": ("create table t (id bigint, v varchar, w int not null)", "E0510", None),
    "a check": ("create table t (id bigint check (id < 2), v varchar)", "E0510", "id = 2"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_found_when_preparing_and_names_the_row(kind, tmp_path, case):
    ddl, code, note = REFUSALS[case]

    async def go():
        execute(kind, tmp_path / "data.db", ddl)
        step = await Step(kind, tmp_path, SCHEMA).start()
        with pytest.raises(DataError) as caught:
            await step.prepare(1, batch([{"id": 0, "v": "x"}]), ONE, TWO, ONE)
        assert caught.value.code == code
        assert caught.value.step == "out"
        assert "'t'" in caught.value.message
        if note is not None:
            assert note in " ".join(caught.value.notes)
        await step.close()
        assert ids(kind, tmp_path) == []

    run(go())


def test_a_table_with_double_keys_cannot_be_upserted(kind, tmp_path):
    async def go():
        execute(
            kind, tmp_path / "data.db", "create table t (id bigint, v varchar)",
            "insert into t values (1, 'a'), (1, 'b')",
        )  # fmt: skip
        step = await Step(kind, tmp_path, SCHEMA, mode="upsert", key=["id"]).start()
        with pytest.raises(DataError, match="several rows for one key"):
            await step.prepare(1, ONE)
        await step.close()

    run(go())


def test_a_null_key_is_refused(kind, tmp_path):
    async def go():
        step = await Step(kind, tmp_path, SCHEMA, mode="upsert", key=["id"]).start()
        with pytest.raises(DataError, match="no key"):
            await step.prepare(1, batch([{"id": None, "v": "x"}], id=pl.Int64, v=pl.String))
        await step.close()

    run(go())


def test_new_columns_widen_the_table_unless_that_is_off(kind, tmp_path):
    wider = Schema.of({"id": "int64", "v": "string", "w": "float64"})
    row = batch([{"id": 2, "v": "b", "w": 0.5}])

    async def go():
        step = await Step(kind, tmp_path, SCHEMA, mode="upsert", key=["id"]).start()
        await step.epoch(1, ONE, row)
        await step.close()
        found = rows(kind, tmp_path / "data.db", "select * from t order by id")
        assert found == [(1, "v1", None), (2, "b", 0.5)]
        execute(kind, tmp_path / "data.db", "create table fixed (id bigint, v varchar)")
        off = Step(kind, tmp_path, wider, table="fixed", create_table=False)
        with pytest.raises(DataFlareError, match="no column 'w'"):
            await off.destination.validate(wider)
        await off.start(1)
        with pytest.raises(DataFlareError, match="no column 'w'"):
            await off.prepare(2, row)
        await off.close()

    run(go())


def test_changes_are_appended_with_their_kind(kind, tmp_path):
    async def go():
        step = await Step(kind, tmp_path, SCHEMA, changelog="columns").start()
        assert step.destination.capabilities().changelog
        changes = batch([{"id": i, "v": "x"} for i in range(4)], kinds=[0, 1, 2, 3])
        await step.epoch(1, changes, ONE)
        await step.close()
        found = rows(kind, tmp_path / "data.db", "select _op from t order by v, id")
        kinds = ["insert", "insert", "update_before", "update_after", "delete"]
        assert [op for (op,) in found] == kinds

    run(go())


def test_a_source_reads_a_table_that_the_same_run_writes(kind, tmp_path):
    async def go():
        execute(
            kind, tmp_path / "data.db", "create table origin (id bigint, v varchar)",
            "insert into origin values (1, 'a'), (2, 'b'), (3, 'c')",
        )  # fmt: skip
        step = await Step(kind, tmp_path, SCHEMA, busy_timeout=0).start()
        from dataflare.sdk import registry
        from dataflare.sdk.context import ConnectorContext
        from dataflare.sdk.source import EndOfSplit

        class_ = registry.source(kind)
        source = class_(
            class_.Config(path="data.db", table="origin"), ConnectorContext("in", tmp_path)
        )
        (split,) = await source.splits()
        reader = await source.open(split, None)
        number = 0
        try:
            while True:
                number += 1
                await step.epoch(number, await reader.read_batch(1))
        except EndOfSplit:
            await reader.aclose()
        await step.epoch(number, final=True)
        await step.close()
        assert number == 4
        found, _ = await read(kind, tmp_path, table="t")
        assert found.rows() == [(1, "a"), (2, "b"), (3, "c")]

    run(go())


def test_the_marker_table_holds_one_row_a_step(kind, tmp_path):
    async def go():
        step = await Step(kind, tmp_path, SCHEMA).start()
        for number in range(1, 4):
            await step.epoch(number, ONE)
        await step.close()
        found = rows(
            kind,
            tmp_path / "data.db",
            "select lineage, step, attempt, epoch, rows_total from _dataflare_epochs",
        )
        assert found == [(LINEAGE, "out", 1, 3, 3)]

    run(go())


def test_looking_makes_nothing_and_says_what_stands_in_the_way(kind, tmp_path):
    async def refusal(**config):
        with pytest.raises(DataFlareError) as caught:
            await Step(kind, tmp_path, SCHEMA, **config).destination.validate(SCHEMA)
        assert caught.value.step == "out"
        return caught.value

    async def go():
        await Step(kind, tmp_path, SCHEMA, path="deep/new.db").destination.validate(SCHEMA)
        assert not (tmp_path / "deep").exists()
        assert (await refusal(create_table=False)).code == "E0601"
        execute(
            kind, tmp_path / "data.db", "create table orders (id bigint)",
            "create view seen as select * from orders",
        )  # fmt: skip
        wrong = await refusal(table="ordrs", create_table=False)
        assert (wrong.code, wrong.help) == ("E0604", "did you mean 'orders'?")
        assert (await refusal(table="seen")).code == "E0604"
        key = await refusal(mode="upsert", key=["idd"])
        assert (key.code, key.help) == ("E0411", "did you mean 'id'?")
        folded = Schema.of({"id": "int64", "a": "int64", "A": "string"})
        with pytest.raises(DataFlareError, match="'a' and 'A' differ only in case") as caught:
            await Step(kind, tmp_path, folded).destination.validate(folded)
        assert (caught.value.code, caught.value.step) == ("E0411", "out")
        accents = Schema.of({"ä": "int64", "Ä": "string"})
        await Step(kind, tmp_path, accents).destination.validate(accents)
        (tmp_path / "text.db").write_text("no database at all " * 100)
        assert (await refusal(path="text.db")).code == "E0505"

    run(go())
