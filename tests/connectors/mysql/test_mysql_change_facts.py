"""When and where a change was written to the log, and in which transaction, as columns beside its row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from binlog_kit import Follower
from mysql_kit import Database, run

from dataflare.errors import DataFlareError
from dataflare.model.batch import RowKind

INSERT, BEFORE, AFTER, DELETE, _ = RowKind
ALL = ["ts", "lsn", "txid", "snapshot"]


@pytest.fixture
def table(plain: Database) -> Database:
    plain.execute(
        "create table t (id int primary key, v varchar(20))",
        "insert into t values (1, 'a'), (2, 'b'), (3, 'c')",
    )
    return plain


def place(table: Database) -> int:
    [(file, offset, *_)] = table.rows("show master status")
    return int(file.rpartition(".")[2]) * 2**40 + int(offset)


def test_the_facts_are_those_of_the_server(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t", cdc={"metadata": ALL})
        assert await follower.read() == [
            (INSERT, n, v, None, None, None, True) for n, v in ((1, "a"), (2, "b"), (3, "c"))
        ]
        before, ids = place(table), []
        with table.server.client(table.name) as db:
            db.autocommit(False)
            cursor = db.cursor()
            for statements in (
                ("insert into t values (4, 'd')", "update t set v = 'x' where id = 1"),
                ("delete from t where id = 2",),
            ):
                for statement in statements:
                    cursor.execute(statement)
                db.commit()
                cursor.execute("select @@last_gtid")
                row = cursor.fetchone()
                assert row is not None
                ids.append(str(row[0]))
        came = await follower.read()
        assert [row[:3] for row in came] == [
            (INSERT, 4, "d"), (BEFORE, 1, "a"), (AFTER, 1, "x"), (DELETE, 2, "b")
        ]  # fmt: skip
        assert [row[5] for row in came] == [ids[0]] * 3 + [ids[1]]
        places = [row[4] for row in came]
        assert before < places[0] < places[1] == places[2] < places[3] < place(table)
        for row in came:
            assert row[6] is False
            assert timedelta(0) <= datetime.now(UTC) - row[3] < timedelta(seconds=60)
        assert await follower.read() == []

    run(check())


def test_facts_stand_where_they_are_asked_for(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t", columns=["_snapshot", "v"], cdc={"metadata": ["snapshot"]})
        assert await follower.read(2) == [(INSERT, True, v) for v in "abc"]
        table.execute("update t set v = 'x' where id = 1")
        assert await follower.read() == [(BEFORE, False, "a"), (AFTER, False, "x")]

    run(check())


def test_a_column_of_that_name_is_refused(table: Database) -> None:
    async def check() -> None:
        table.execute("alter table t add _ts int")
        with pytest.raises(DataFlareError) as caught:
            await Follower(table, "t", cdc={"metadata": ["ts"]}).read()
        assert caught.value.code == "E0411"

    run(check())


def test_time_is_held_until_the_table_was_read(table: Database) -> None:
    async def check() -> None:
        source = table.source(table="t", cdc={"metadata": ["ts"]})
        assert source.capabilities().changed_at == "_ts"
        await source.schema()
        [split] = await source.splits()
        reader = await source.open(split, None)
        assert reader.holds_time
        assert (await reader.read_batch(2)).num_rows == 2
        assert (await reader.read_batch(2)).num_rows == 1
        assert reader.holds_time
        table.execute("insert into t values (4, 'd')")
        assert (await reader.read_batch(2)).num_rows == 1
        assert not reader.holds_time
        await reader.aclose()

    run(check())
