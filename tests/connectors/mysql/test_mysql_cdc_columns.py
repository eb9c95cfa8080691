"""Columns that come and go while a table is followed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pymysql
import pytest
from binlog_kit import Follower, left, rows_of
from mysql_kit import Database, drain

from dataflare.connectors.mysql.cdc.columns import described
from dataflare.connectors.mysql.cdc.history import Logged, Refused, altered, widens
from dataflare.connectors.mysql.cdc.statements import Statement, Verdict
from dataflare.connectors.mysql.connection import Server
from dataflare.connectors.mysql.tables import find_place
from dataflare.errors import DataError
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.model.batch import RowKind
from dataflare.sdk import registry
from dataflare.sdk.source import EndOfSplit
from dataflare.workflow.load import load_text

TYPES = [
    "int", "INTEGER(5) unsigned", "bigint", "tinyint(1)", "BOOLEAN", "decimal", "numeric(8)", "dec(10, 2)", "float",
    "DOUBLE PRECISION", "char", "varchar(20)", "varchar(9) character set latin1", "text collate utf8mb4_bin", "json",
    "enum('a', 'B', 'it''s')", "set('x','y')", "date", "datetime(6)", "datetime(0)", "timestamp(3) null", "time", "year",
    "bit", "bit(9)", "binary(3)", "varbinary(30)", "blob", "longtext", "mediumint unsigned", "smallint(3)",
    "text compressed", "varchar(9) compressed=zlib character set latin1", "int invisible",
]  # fmt: skip
WORKFLOW = """\
name: shop
settings: {{mode: {mode}, parallelism: 1, checkpoint: {{interval: 20ms}}}}
sources:
  t: {{type: mysql, config: {{connection_string: "{dsn}", table: t, cdc: {cdc}}}}}
destinations:
  copy: {{type: sqlite, inputs: [t], config: {{path: copy.db, table: t, mode: mirror, key: [id]}}}}
"""


class Copy:
    """A workflow in a folder of its own."""

    def __init__(self, database: Database, folder: Path, mode: str = "batch") -> None:
        self.database, self.folder = database, folder
        cdc = "true" if mode == "auto" else "{stop: latest}"
        self.text = WORKFLOW.format(mode=mode, dsn=database.dsn, cdc=cdc)

    def run(self, **options: Any) -> RunResult:
        return run(
            load_text(self.text, base=self.folder), RunOptions(self.folder / "home", **options)
        )

    def rows(self, sql: str = "select * from t order by id") -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.folder / "copy.db") as db:
            return db.execute(sql).fetchall()


@pytest.fixture
def table(plain: Database) -> Database:
    plain.execute(
        "create table t (id int primary key, v varchar(20)) character set utf8mb4",
        "insert into t values (1, 'a'), (2, 'b')",
    )
    return plain


def statement(rng: random.Random, names: list[str], number: int) -> str:
    """A change of columns, most of which the server takes."""

    def clause() -> str:
        place = rng.choice(["", "", " first", f" after `{rng.choice(names)}`"])
        name = rng.choice(names[1:] or names)
        column = rng.choice(["", "column "])
        match rng.randrange(8):
            case 0 | 1 | 2 | 3:
                return f"add {column}`c{number}_{rng.randrange(99)}` {rng.choice(TYPES)}{place}"
            case 4:
                return f"drop {column}`{name}`"
            case 5:
                return f"modify {column}`{name}` {rng.choice(TYPES)}{place}"
            case 6:
                return f"change {column}`{name}` `d{number}` {rng.choice(TYPES)}{place}"
        return f"rename column `{name}` to `R{number}`"

    return "ALTER TABLE t " + ", ".join(clause() for _ in range(rng.choice([1, 1, 2, 3])))


@pytest.mark.parametrize("seed", range(6))
def test_the_columns_behind_a_statement_are_those_of_the_server(table: Database, seed: int) -> None:
    """Of columns whose definition is known; names and places of all."""
    rng, taken = random.Random(seed), 0
    config = registry.source("mysql").Config(connection_string=table.dsn, table="t")
    db = Server.of(config).connect("columns")
    try:
        place = find_place(db, table.name, "t")
        assert place is not None
        known = described(db, place).columns
        for number in range(40):
            text = statement(rng, list(known.names), number)
            try:
                table.execute(text)
            except pymysql.MySQLError:  # a clause contradicts another, or the last column goes
                continue
            taken += 1
            made = Statement(text, table.name)
            assert made.to(table.name, "t") is Verdict.CHANGES_COLUMNS
            clauses = made.column_clauses(table.name, "t")
            known, now = altered(known, clauses, frozenset()), described(db, place).columns
            assert known.names == now.names, text
            for ours, theirs in zip(known.columns, now.columns, strict=True):
                assert not ours.declared or ours.equals(theirs), (text, ours, theirs)
    finally:
        db.close()
    assert taken > 15


@pytest.mark.parametrize(
    "definition",
    [
        "int not null", "int default 5", "int as (id + 1)", "timestamp", "int auto_increment unique", "point",
        "varchar(3) character set nosuch on update 5", "national varchar(5)", "",
    ],
)  # fmt: skip
def test_a_column_that_may_have_values_already_is_refused(table: Database, definition: str) -> None:
    config = registry.source("mysql").Config(connection_string=table.dsn, table="t")
    db = Server.of(config).connect("columns")
    try:
        place = find_place(db, table.name, "t")
        assert place is not None
        known = described(db, place).columns
    finally:
        db.close()
    made = Statement(f"alter table t add column w {definition}", "x")
    clauses = made.column_clauses("x", "t")
    with pytest.raises(Refused):
        altered(known, clauses, frozenset())


def test_a_column_is_added_between_two_runs(table: Database, tmp_path: Path) -> None:
    copy = Copy(table, tmp_path)
    assert copy.run().status == "finished"
    table.execute(
        "insert into t values (3, 'c')", "alter table t add column w varchar(5) charset latin1 after id",
        "update t set w = 'é' where id = 1", "insert into t values (4, 'm', 'd')", "alter table t add gone int first",
        "insert into t values (9, 5, 'n', 'e')", "alter table t drop gone", "delete from t where id = 2",
    )  # fmt: skip
    result = copy.run(accept_changes=True)
    assert result.status == "finished", result.error
    # The copy has the new column behind the others.
    wanted = table.rows("select id, v, w from t order by id")
    assert copy.rows("select id, v, w from t order by id") == wanted


def test_a_column_is_added_while_a_run_waits(table: Database, tmp_path: Path) -> None:
    copy, changes = Copy(table, tmp_path, "auto"), [
        ("insert into t values (3, 'c')", "alter table t add column w int", "update t set w = id where id < 3",
         "insert into t values (4, 'd', 4)"),
        ("alter table t drop column v", "delete from t where id = 3"),
    ]  # fmt: skip
    counts = [4, 2]

    def listener(progress: Any) -> None:
        # Each change is made when the copy has what was there before.
        is_there = copy.rows("select count(*) from sqlite_master where name = 't'") == [(1,)]
        if counts and is_there and copy.rows("select count(*) from t") == [(counts[-1],)]:
            counts.pop()
            table.execute(*changes.pop(0))

    result = copy.run(listener=listener)
    # The column that went is one that is read.
    assert result.status == "failed"
    error = result.error
    assert error is not None
    assert (error.code, "column 'v' was dropped" in error.message) == ("E0545", True), error
    assert copy.rows() == [(1, "a", 1), (2, "b", 2), (3, "c", None), (4, "d", 4)]
    # The next run has the columns that are left.
    copy.text = Copy(table, tmp_path).text
    result = copy.run(accept_changes=True)
    assert result.status == "finished", result.error
    assert copy.rows("select id, w from t order by id") == [(1, 1), (2, 2), (4, 4)]


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ("change v w varchar(20)", "w"),
        ("modify v varchar(5)", "v"),
        ("rename column v to w", "w"),
        ("add w int not null default 5", "w"),
    ],
)
def test_a_table_is_read_again_where_a_column_has_other_values(
    table: Database, tmp_path: Path, change: str, column: str
) -> None:
    """Between two runs, and then with changes that come behind it."""
    copy = Copy(table, tmp_path)
    assert copy.run().status == "finished"
    table.execute("insert into t (id, v) values (3, 'c')", f"alter table t {change}")
    table.execute("delete from t where id = 1", "insert into t (id) values (4)")
    result = copy.run(accept_changes=True)
    assert result.status == "finished", result.error
    assert any(f"table '{table.name}.t' is read again: " in each for each in result.warnings)
    for _ in range(2):
        sql = f"select id, {column} from t order by id"
        assert copy.rows(sql) == table.rows(sql)
        table.execute("update t set id = id + 100")
        result = copy.run()
        assert result.status == "finished", result.error
        assert not any("read again" in each for each in result.warnings)


WIDER = {
    "int": ("bigint", "7", "5000000000"),
    "tinyint unsigned": ("int unsigned", "200", "4000000000"),
    "varchar(3)": ("varchar(30)", "'abc'", "'abcdefgh'"),
    "varchar(4)": ("longtext", "'abc'", "repeat('x', 300)"),
    "decimal(5,2)": ("decimal(12,3)", "123.45", "123456.789"),
    "enum('a','b')": ("enum('a','b','c')", "'b'", "'c'"),
    "varbinary(3)": ("blob", "x'0102ff'", "x'010203040506'"),
}


@pytest.mark.parametrize("old", WIDER)
def test_a_column_becomes_wider_between_two_runs(plain: Database, old: str) -> None:
    """Rows from before are read by the old definition, and given as the new type."""
    new, before, after = WIDER[old]
    plain.execute(
        f"create table t (id int primary key, v {old}) character set utf8mb4",
        f"insert into t values (1, {before})",
    )

    async def check() -> None:
        follower = Follower(plain, "t")
        await follower.read()
        plain.execute(
            f"insert into t values (2, {before})", f"alter table t modify v {new} default null after id",
            f"insert into t values (3, {after})", f"alter table t change v v {new} comment 'x'",
            "update t set id = 9 where id = 2",
        )  # fmt: skip
        found = await follower.read()
        expected, _ = await plain.read(table="t")
        assert left([(RowKind.INSERT, *expected.rows()[0]), *found]) == Counter(expected.rows())
        assert await follower.read() == []

    asyncio.run(check())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bigint", "int"), ("int", "int unsigned"), ("int unsigned", "bigint"), ("tinyint(1)", "int"),
        ("varchar(9)", "varchar(8)"), ("varchar(9)", "tinytext"), ("char(9)", "varchar(9)"), ("text", "varchar(9)"),
        ("decimal(5,2)", "decimal(5,3)"), ("decimal(5,2)", "decimal(6,1)"), ("decimal(5,2)", "decimal(9,2) unsigned"),
        ("enum('a','b')", "enum('b','a')"), ("set('a','b')", "set('a')"), ("int", "varchar(20)"), ("date", "datetime"),
        ("datetime", "datetime(3)"), ("float", "double"), ("", "int"),
    ],
)  # fmt: skip
def test_a_conversion_that_may_change_values_is_not_a_wider_type(old: str, new: str) -> None:
    assert not widens(Logged("v", old, ""), Logged("v", new, ""))
    assert not widens(Logged("v", "varchar(2)", "latin1"), Logged("v", "varchar(3)", "utf8mb4"))


def test_a_column_becomes_wider_while_a_run_waits(plain: Database) -> None:
    plain.execute(
        "create table t (id int primary key, v varchar(3), n int) character set utf8mb4",
        "insert into t values (1, 'a', 1)",
    )

    async def check() -> None:
        source = Follower(plain, "t", cdc={"snapshot": "never", "stop": None}).source(stop=None)
        await source.schema()
        [split] = await source.splits()
        reader = await source.open(split, None)
        plain.execute("insert into t values (2, 'b', 2)")
        found = rows_of([(await reader.read_batch(10)).frame])
        plain.execute(
            "alter table t modify v varchar(30)", "insert into t values (3, 'a longer text', 3)"
        )
        found += rows_of([(await reader.read_batch(10)).frame])
        assert found == [(RowKind.INSERT, 2, "b", 2), (RowKind.INSERT, 3, "a longer text", 3)]
        # Another type is for the next run.
        plain.execute("alter table t modify n bigint", "insert into t values (4, 'c', 5000000000)")
        with pytest.raises(DataError, match="is int64 now, and was int32") as caught:
            await reader.read_batch(10)
        assert "run again" in (caught.value.help or "")
        position = reader.position()
        await reader.aclose()
        again = Follower(plain, "t").source()
        await again.schema()
        frames, _ = await drain(again, split, position)
        assert rows_of(frames) == [(RowKind.INSERT, 4, "c", 5_000_000_000)]

    asyncio.run(check())


def test_a_column_is_added_while_the_table_is_read(
    table: Database,
) -> None:
    """The rows that are read then have it, and a run that was planned without it tells so."""
    table.execute("insert into t select seq, 'x' from seq_3_to_900")

    async def check() -> None:
        planned = Follower(table, "t").source()
        await planned.schema()
        [split] = await planned.splits()
        frames, position = await drain(planned, split, None, 100, batches=3)
        table.execute("alter table t add w int", "update t set w = id where id in (1, 890)")
        reader = await planned.open(split, position)
        told = []
        with contextlib.suppress(EndOfSplit):
            while True:
                batch = await reader.read_batch(100)
                told += [] if batch.new_fields is None else [batch.new_fields.fields]
        await reader.aclose()
        assert [[*each] for each in told] == [["w"], ["w"]]
        again = Follower(table, "t").source()
        await again.schema()
        more, _ = await drain(again, split, position)
        first = [(*row, None) for row in rows_of(frames)]
        assert left([*first, *rows_of(more)]) == Counter(table.rows("select * from t"))

    asyncio.run(check())
