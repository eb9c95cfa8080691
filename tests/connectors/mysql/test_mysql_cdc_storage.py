"""Columns that are stored or shown in another way, and statements that the log has in two parts."""

from __future__ import annotations

import threading

import pymysql
import pytest
from binlog_kit import Follower, Plain
from mysql_kit import Database, run

from dataflare.model.batch import RowKind

INSERT, BEFORE, AFTER, DELETE = list(RowKind)[:4]


@pytest.mark.parametrize("wrap", ["ON", "OFF"])
def test_compressed_columns_have_the_values_of_the_table(plain: Database, wrap: str) -> None:
    async def check() -> None:
        plain.execute(
            "create table t (id int primary key, a varchar(900) compressed, b longtext compressed, "
            "c varbinary(90) compressed, d mediumblob compressed, e text compressed character set latin1, f int)"
        )
        follower = Follower(plain, "t", cdc={"snapshot": "never"})
        assert await follower.read() == []
        plain.execute(
            f"set session column_compression_zlib_wrap = {wrap}",
            "insert into t values (1, repeat('x', 250), repeat('y', 300000), 'q', repeat(x'00ff', 9000), repeat('é', 999), 1)",
            "insert into t values (2, 'short', '', '', null, 'é', 2), (3, null, null, null, '', '', null), "
            "(4, repeat('äß', 99), repeat('ab', 60), repeat('z', 90), x'00', null, 4)",
        )
        rows = await follower.read()
        whole, _ = await plain.read(table="t")
        assert rows == [(INSERT, *row) for row in whole.sort("id").rows()]
        plain.execute("update t set b = a, f = 0 where id in (1, 4)", "delete from t where id = 3")
        found = await follower.read()
        whole, _ = await plain.read(table="t")
        assert [row[1:] for row in found if row[0] == AFTER] == whole.sort("id").rows()[::2]
        assert [row[:1] + row[1:] for row in found if row[0] == DELETE] == [
            (DELETE, 3, None, None, None, b"", "", None)
        ]

    run(check())


def test_a_column_becomes_compressed_while_it_is_followed(plain: Database) -> None:
    async def check() -> None:
        plain.execute("create table t (id int primary key, v varchar(300))")
        follower = Follower(plain, "t")
        assert await follower.read() == []
        plain.execute(
            "insert into t values (1, repeat('a', 200))",
            "alter table t modify v varchar(300) compressed",
            "insert into t values (2, repeat('b', 200))",
            "alter table t modify v varchar(300) compressed=zlib comment 'c', add column w text compressed null",
            "insert into t values (3, repeat('c', 200), repeat('d', 200))",
            "alter table t modify v varchar(300)",
            "insert into t values (4, repeat('e', 200), '')",
        )
        rows = await follower.read()
        assert [row[:3] for row in rows] == [
            (INSERT, number, letter * 200) for number, letter in enumerate("abce", 1)
        ]

    run(check())


def test_a_table_becomes_page_compressed_while_it_is_followed(plain: Database) -> None:
    async def check() -> None:
        plain.execute("create table t (id int primary key) page_compressed = 1")
        follower = Follower(plain, "t")
        assert await follower.read() == []
        plain.execute(
            "insert into t values (1)", "alter table t page_compressed = 0",
            "insert into t values (2)", "alter table t `page_compressed` = 1 page_compression_level = 4",
            "insert into t values (3)",
        )  # fmt: skip
        assert await follower.read() == [(INSERT, 1), (INSERT, 2), (INSERT, 3)]

    run(check())


def test_an_invisible_column_is_not_read_as_in_a_full_read(plain: Database) -> None:
    async def check() -> None:
        plain.execute(
            "create table t (id int primary key, h int invisible not null default 7, v varchar(9))",
            "insert into t values (1, 'a')",
        )
        follower = Follower(plain, "t")
        assert await follower.read() == [(INSERT, 1, "a")]
        plain.execute(
            "insert into t (id, h, v) values (2, 8, 'b')", "update t set h = 9 where id = 1",
            "alter table t add column g varchar(9) invisible first", "insert into t (id, g, v) values (3, 'g', 'c')",
        )  # fmt: skip
        found = await follower.read()
        assert found == [(INSERT, 2, "b"), (BEFORE, 1, "a"), (AFTER, 1, "a"), (INSERT, 3, "c")]
        whole, _ = await plain.read(table="t")
        assert whole.columns == ["id", "v"]

    run(check())


def test_an_alter_table_in_two_parts(plain: Plain) -> None:
    """Another session commits between the two, with the columns of before."""

    async def check() -> None:
        plain.execute(
            "create table t (id int primary key, v varchar(9))",
            "insert into t select seq, 'a' from seq_1_to_100000",
        )
        follower = Follower(plain, "t", cdc={"snapshot": "never"})
        assert await follower.read() == []
        count = _alter_meanwhile(
            plain,
            "alter table t add column w int null first, force, algorithm = inplace, lock = none",
        )
        plain.execute("insert into t values (9, 0, 'c')")
        with plain.client() as db, db.cursor() as cursor:
            cursor.execute("set session binlog_alter_two_phase = 1")
            with pytest.raises(pymysql.IntegrityError):
                cursor.execute(
                    "alter table t add column x int not null default 1, add unique key (x)"
                )
        plain.execute("insert into t values (8, -1, 'd')")
        assert _parts(plain) == ["START", "rows", "COMMIT", "rows", "START", "ROLLBACK", "rows"]
        found = [(kind, *row) for kind, _, *row in await follower.read()]
        assert found[:count] == [(INSERT, 200_000 + number, "b") for number in range(count)]
        assert found[count:] == [(INSERT, 0, "c"), (INSERT, -1, "d")]

    run(check())


def _alter_meanwhile(plain: Plain, text: str) -> int:
    """Run it, and commit rows until it has ended. Returns how many."""
    count = 0
    with (
        plain.client() as writer,
        plain.client() as alterer,
        writer.cursor() as cursor,
        alterer.cursor() as altering,
    ):
        altering.execute("set session binlog_alter_two_phase = 1")
        thread = threading.Thread(target=altering.execute, args=(text,))
        thread.start()
        while thread.is_alive():
            cursor.execute(f"insert into t (id, v) values ({200_000 + count}, 'b')")
            count += 1
        thread.join()
    return count


def _parts(plain: Plain) -> list[str]:
    """What the log has from the first part on."""
    [(file, *_)] = plain.rows("show master status")
    found: list[str] = []
    for event in plain.rows(f"show binlog events in '{file}'"):
        text, is_rows = str(event[5]), event[2] == "Xid"
        words = [word for word in ("START", "COMMIT", "ROLLBACK") if f"{word} ALTER" in text]
        part = "rows" if is_rows else words[0] if words and event[2] == "Gtid" else ""
        if part and found[-1:] != [part]:
            found.append(part)
    return found[found.index("START") :]
