"""A table and its changes, from a real server's log."""

from __future__ import annotations

import contextlib
import random
import time

import pymysql
import pytest
from binlog_kit import Follower, left, rows_of
from mysql_kit import Database, drain, run

from dataflare.connectors.mysql.cdc import log as logs
from dataflare.connectors.mysql.cdc import reader as readers
from dataflare.connectors.mysql.cdc import table_rows
from dataflare.errors import DataFlareError
from dataflare.model.batch import RowKind
from dataflare.model.progress import Position, Split
from dataflare.sdk.source import EndOfSplit
from dataflare.sdk.sql import changes

INSERT, BEFORE, AFTER, DELETE = list(RowKind)[:4]


@pytest.fixture(autouse=True)
def no_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers are read by hand here, and are told of no checkpoint."""
    monkeypatch.setattr(changes, "_COMMITTED_S", 0.0)


@pytest.fixture
def table(plain: Database) -> Database:
    plain.execute(
        "create table t (id int primary key, v varchar(20))",
        "insert into t values (1, 'a'), (2, 'b'), (3, 'c')",
    )
    return plain


def test_the_table_comes_first_and_then_its_changes(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t")
        assert await follower.read() == [(INSERT, 1, "a"), (INSERT, 2, "b"), (INSERT, 3, "c")]
        assert await follower.read() == []
        table.execute(
            "insert into t values (4, 'd')", "update t set v = 'x' where id < 3", "delete from t where id = 3",
            "update t set id = 9 where id = 1", "create table u (id int primary key)", "insert into u values (1)",
        )  # fmt: skip
        assert await follower.read() == [
            (INSERT, 4, "d"), (BEFORE, 1, "a"), (AFTER, 1, "x"), (BEFORE, 2, "b"), (AFTER, 2, "x"), (DELETE, 3, "c"),
            (BEFORE, 1, "x"), (AFTER, 9, "x"),
        ]  # fmt: skip

    run(check())


def test_only_what_is_committed_comes_and_in_the_order_of_commits(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t", cdc={"snapshot": "never"})
        assert await follower.read() == []
        with table.server.client(table.name) as one, table.server.client(table.name) as two:
            one.autocommit(False)
            two.autocommit(False)
            one.cursor().execute("insert into t values (11, 'one')")
            two.cursor().execute("insert into t values (12, 'two')")
            one.cursor().execute("savepoint s")
            one.cursor().execute("insert into t values (13, 'undone')")
            one.cursor().execute("rollback to s")
            two.commit()
            one.commit()
            two.cursor().execute("delete from t")
            two.rollback()
        assert await follower.read() == [(INSERT, 12, "two"), (INSERT, 11, "one")]

    run(check())


def test_columns_and_tls(table: Database) -> None:
    async def check() -> None:
        follower = Follower(
            table, "t", columns=["v"], connection_string=table.server.dsn(table.name)
        )
        assert await follower.read() == [(INSERT, "a"), (INSERT, "b"), (INSERT, "c")]
        table.execute("update t set id = 7 where id = 1")
        assert await follower.read() == [(BEFORE, "a"), (AFTER, "a")]
        source = follower.source()
        await source.schema()
        assert source.capabilities().key == ()
        assert table.source(table="t", cdc=True).capabilities().bounded is False

    run(check())


KEYS = {
    "number": ("id int", lambda n: str(n)),
    "large": ("id bigint unsigned", lambda n: str(n + 2**63)),
    "text": ("id varchar(20) collate utf8mb4_general_ci", lambda n: f"'{'aAbBcC'[n % 6]}{n}'"),
    "bytes of text": ("id varchar(20) collate utf8mb4_bin", lambda n: f"'{'aAbBcC'[n % 6]}{n}'"),
    "latin": ("id varchar(20) character set latin1", lambda n: f"'{'äaöo'[n % 4]}{n}'"),
    "bytes": ("id varbinary(4)", lambda n: f"x'{n * 7919 % 65536:04x}{n:04x}'"),
    "day": ("id date", lambda n: f"'2024-01-01' + interval {n} day"),
    "moment": ("id timestamp(3)", lambda n: f"'2024-01-01' + interval {n} minute"),
    "money": ("id decimal(20,3)", lambda n: f"{n - 40}.5"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_table_that_changes_while_it_is_read_comes_without_a_gap_or_a_duplicate(
    plain: Database, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part begins at the last key, whatever happened to the rows before and behind it."""
    declared, value = KEYS[kind]
    plain.execute(f"create table t ({declared}, v int, primary key (id)) character set utf8mb4")
    plain.execute(
        f"insert into t values {', '.join(f'({value(n)}, {n})' for n in range(0, 80, 2))}"
    )
    monkeypatch.setattr(readers, "_PART_ROWS", 9)
    monkeypatch.setattr(table_rows, "_KEYS", 3)
    rng = random.Random(kind)

    async def check() -> None:
        follower = Follower(plain, "t", cdc={"snapshot": "initial"})
        source = follower.source()
        await source.schema()
        [split] = await source.splits()
        found, position = [], None
        for turn in range(20):
            reader = await source.open(split, position)
            for _ in range(rng.randint(1, 3)):
                try:
                    batch = await reader.read_batch(rng.choice([3, 4]))
                except EndOfSplit:
                    break
                found += rows_of([batch.frame])
                if batch.may_cut:
                    taken, position = len(found), reader.position()
            await reader.aclose()
            # What no checkpoint has comes again.
            del found[taken:]
            if turn < 15:
                numbers = rng.sample(range(80), 3)
                plain.execute(
                    f"replace into t values ({value(numbers[0])}, {turn + 1000})",
                    f"delete from t where id = {value(numbers[1])}",
                    f"update ignore t set id = {value(numbers[2])} order by v limit 1",
                )
        follower.carried = source.carry({"changes": position})
        found += await follower.read()
        expected, _ = await plain.read(table="t")
        assert left(found) == dict.fromkeys(expected.rows(), 1)
        assert follower.carried["tables"][f"{plain.name}.t"]["reads"] is False

    run(check())


def test_a_key_is_behind_another_by_the_collation_of_its_column(plain: Database) -> None:
    plain.execute(
        "create table t (id int, part varchar(5), v int, primary key (id, part)) character set utf8mb4 collate utf8mb4_bin",
        "insert into t values (53, 'B', 1), (53, 'b', 2)",
    )  # fmt: skip

    async def check() -> None:
        source = Follower(plain, "t").source()
        await source.schema()
        [split] = await source.splits()
        frames, position = await drain(source, split, None, 1, batches=1)
        # By its bytes it comes behind the first row, and by letters before it.
        plain.execute("insert into t values (53, 'a', 3)")
        more, _ = await drain(source, split, position, 10)
        assert rows_of([*frames, *more]) == [
            (INSERT, 53, "B", 1), (INSERT, 53, "a", 3), (INSERT, 53, "b", 2)
        ]  # fmt: skip

    run(check())


def test_a_table_without_a_key_comes_whole(plain: Database) -> None:
    plain.execute("create table t (v int)", "insert into t values (1), (1), (null)")

    async def check() -> None:
        follower = Follower(plain, "t")
        source = follower.source()
        await source.schema()
        [split] = await source.splits()
        reader = await source.open(split, None)
        batches = [await reader.read_batch(2) for _ in range(3)]
        await reader.aclose()
        assert [batch.may_cut for batch in batches] == [False, False, True]
        assert [batch.num_rows for batch in batches] == [2, 1, 0]
        follower.carried = reader.position().value
        plain.execute("delete from t where v = 1 limit 1", "insert into t values (4)")
        assert await follower.read() == [(DELETE, 1), (INSERT, 4)]

    run(check())


def test_a_transaction_of_many_batches_is_not_cut(
    table: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_BYTES", 20_000)

    async def check() -> None:
        follower = Follower(table, "t")
        await follower.read()
        with table.server.client(table.name) as db, db.cursor() as cursor:
            db.begin()
            cursor.execute("insert into t select seq, 'new' from seq_10_to_5009")
            cursor.execute("update t set v = 'changed' where id >= 10")
            db.commit()
        table.execute("insert into t values (6000, 'next')")
        source = follower.source()
        await source.schema()
        [split] = await source.splits(follower.carried)
        reader = await source.open(split, None)
        begin, found, cuts = reader.position(), [], []
        while len(found) < 15_001:
            batch = await reader.read_batch(999)
            assert batch.num_rows <= 1_000
            found += rows_of([batch.frame])
            if batch.may_cut:
                cuts.append(len(found))
            elif not cuts:
                assert reader.position() == begin
        await reader.aclose()
        assert len(found) == 15_001
        assert set(cuts) <= {15_000, 15_001}
        assert [kind for kind, *_ in found[5_000:5_004]] == [BEFORE, AFTER, BEFORE, AFTER]

    run(check())


def test_a_compressed_log_and_several_files(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t")
        await follower.read()
        try:
            table.execute(
                "set global log_bin_compress = 1",
                "set global log_bin_compress_min_len = 10",
                "flush binary logs",
            )
            text = "x" * 20
            table.execute(f"insert into t values (10, '{text}'), (11, '{text}'), (12, '{text}')")
            table.execute(
                "flush binary logs", "update t set v = 'y' where id = 11", "flush binary logs"
            )
            assert await follower.read() == [
                (INSERT, 10, text), (INSERT, 11, text), (INSERT, 12, text), (BEFORE, 11, text), (AFTER, 11, "y")
            ]  # fmt: skip
        finally:
            table.execute("set global log_bin_compress = 0")
        assert await follower.read() == []

    run(check())


def test_a_log_without_checksums(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t")
        await follower.read()
        try:
            table.execute(
                "insert into t values (10, 'with')", "set global binlog_checksum = 'NONE'"
            )
            table.execute("insert into t values (11, 'without')")
            assert await follower.read() == [(INSERT, 10, "with"), (INSERT, 11, "without")]
        finally:
            table.execute("set global binlog_checksum = 'CRC32'")
        table.execute("insert into t values (12, 'again')")
        assert await follower.read() == [(INSERT, 12, "again")]

    run(check())


def test_a_truncate_is_a_change_of_its_own(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t")
        await follower.read()
        table.execute(
            "insert into t values (10, 'gone')",
            "truncate table t",
            "insert into t values (1, 'new')",
        )
        assert await follower.read() == [
            (INSERT, 10, "gone"), (RowKind.TRUNCATE, None, None), (INSERT, 1, "new"),
        ]  # fmt: skip
        table.execute("truncate t")
        assert await follower.read() == [(RowKind.TRUNCATE, None, None)]

    run(check())


def test_a_truncate_that_a_step_does_not_take(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t")
        await follower.read()
        table.execute("truncate table t")
        source = follower.source()
        source.not_truncated = {None: "counted"}
        await source.schema()
        [split] = await source.splits(follower.carried)
        with pytest.raises(DataFlareError, match="step 'counted' cannot take back") as caught:
            await drain(source, split, None, 100)
        assert caught.value.code == "E0605"

    run(check())


# -- what is refused -------------------------------------------------------------------------------


async def failure(follower: Follower) -> DataFlareError:
    with pytest.raises(DataFlareError) as caught:
        await follower.read()
    return caught.value


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("alter table t add column w int default 5", "add column w"),
        ("alter table t add column w int not null", "add column w"),
        ("alter table t change v w varchar(20)", "change v w"),
        ("alter table t drop column v; alter table t add column v varchar(20)", "drop column v"),
        ("alter table t modify v varchar(5)", "modify v"),
        ("rename table t to t2; rename table t2 to t", "rename table t to t2"),
    ],
)
def test_a_change_of_the_table_is_an_error_that_names_it(
    table: Database, change: str, told: str
) -> None:
    async def check() -> None:
        follower = Follower(table, "t")
        await follower.read()
        follower.refusing = "counted"
        # The columns are the same again, and only the log tells.
        table.execute("insert into t values (4, 'd')", *change.split("; "))
        error = await failure(follower)
        assert error.code == "E0545"
        assert told in error.message or "it has other columns now" in error.message
        if "drop column v" not in told:
            assert "step 'counted' cannot take back the rows" in error.message
        assert "--fresh" in (error.help or "")

    run(check())


def test_a_change_that_is_undone_is_met_in_the_log(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t")
        await follower.read()
        follower.refusing = "counted"
        table.execute("alter table t modify v varchar(5)", "alter table t modify v varchar(20)")
        error = await failure(follower)
        assert (error.code, "modify v varchar(5)" in error.message) == ("E0545", True)

    run(check())


def test_a_harmless_change_of_the_table_is_passed(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t")
        await follower.read()
        table.execute(
            "alter table t add index (v)", "insert into t values (4, 'd')", "analyze table t"
        )
        assert await follower.read() == [(INSERT, 4, "d")]

    run(check())


def test_a_statement_within_a_statement(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t")
        await follower.read()
        table.execute(
            "set statement max_statement_time=9 for truncate table t",
            "insert into t values (4, 'd')",
        )
        assert await follower.read() == [(RowKind.TRUNCATE, None, None), (INSERT, 4, "d")]
        table.execute(
            "alter table t add column w varchar(20)",
            "set statement max_statement_time=9 for alter table t rename column v to w, rename column w to v",
        )
        follower.refusing = "counted"
        error = await failure(follower)
        assert (error.code, "column 'v' was renamed" in error.message) == ("E0545", True), error

    run(check())


def test_a_table_whose_name_has_another_case_is_another_one(table: Database) -> None:
    async def check() -> None:
        table.execute("create table T (id int primary key)")
        follower = Follower(table, "t")
        await follower.read()
        table.execute("truncate table T", "alter table T add a int default 5", "drop table T")
        table.execute("insert into t values (4, 'd')")
        assert await follower.read() == [(INSERT, 4, "d")]

    run(check())


def test_a_name_in_the_character_set_of_a_session(plain: Database) -> None:
    async def check() -> None:
        plain.execute("create table zähler (id int primary key, v int)")
        plain.execute("insert into zähler values (1, 1)")
        follower = Follower(plain, "zähler")
        await follower.read()
        with plain.client() as db:
            db.set_character_set("latin1")
            db.cursor().execute("truncate table zähler")
        assert await follower.read() == [(RowKind.TRUNCATE, None, None)]

    run(check())


@pytest.mark.parametrize(
    ("statements", "code"),
    [
        (["set binlog_format = 'STATEMENT'", "analyze update t set v = 'x'"], "E0605"),
        (["set binlog_format = 'STATEMENT'", "analyze format=json delete from t"], "E0605"),
        (["set statement binlog_format='STATEMENT' for delete from t"], "E0605"),
        (
            ["select 9, 'x' into outfile '{file}'", "set binlog_format = 'STATEMENT'",
             "load data infile '{file}' into table t"],
            "E0605",
        ),
        (
            ["create function f() returns int deterministic modifies sql data begin delete from t; return 1; end",
             "set binlog_format = 'STATEMENT'", "do f()"],
            "E0605",
        ),
        (
            ["set binlog_format = 'STATEMENT'", "create temporary table t (id int)", "truncate table t"],
            "E0545",
        ),
        (
            ["alter table t add w varchar(20)", "set sql_mode = 'NO_BACKSLASH_ESCAPES'",
             "alter table t comment 'x\\', rename column v to w, rename column w to v, comment 'y\\'"],
            "E0545",
        ),
        (
            ["alter table t add w varchar(20)", "set sql_mode = 'ANSI_QUOTES'",
             'alter table "t" rename column "v" to w, rename column w to "v"'],
            "E0545",
        ),
    ],
)  # fmt: skip
def test_statements_that_change_rows_or_columns_in_other_words(
    table: Database, statements: list[str], code: str
) -> None:
    async def check() -> None:
        follower = Follower(table, "t", columns=["id", "v"])
        await follower.read()
        follower.refusing = "counted"
        [(folder,)] = table.rows("select @@datadir")
        file = f"{folder}{table.name}_rows.txt"
        table.execute(
            "set @@session.sql_mode = ''", *(each.replace("{file}", file) for each in statements)
        )
        error = await failure(follower)
        assert error.code == code, error

    run(check())


def test_rows_that_are_not_in_the_log_are_an_error(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t")
        await follower.read()
        table.execute(
            "set session binlog_format = 'STATEMENT'", "insert into t values (4, 'secret')"
        )
        error = await failure(follower)
        assert (error.code, "binlog_format" in (error.help or "")) == ("E0605", True)
        assert "secret" not in error.message

    run(check())


def test_rows_without_all_columns_are_an_error(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t")
        await follower.read()
        table.execute(
            "set session binlog_row_image = 'MINIMAL'", "update t set v = 'n' where id = 1"
        )
        error = await failure(follower)
        assert (error.code, "binlog_row_image" in error.message) == ("E0605", True)

    run(check())


def test_a_prepared_transaction_is_an_error(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t")
        await follower.read()
        table.execute(
            "xa start 'x'",
            "insert into t values (4, 'd')",
            "xa end 'x'",
            "xa prepare 'x'",
            "xa commit 'x'",
        )
        assert (await failure(follower)).code == "E0545"

    run(check())


@pytest.mark.parametrize(
    ("create", "code", "told"),
    [
        ("create table t (id int primary key) engine = MyISAM", "E0605", "MyISAM"),
        ("create view t as select 1 as id", "E0405", "is a view"),
        ("create table t (id int primary key) with system versioning", "E0605", "system-versioned"),
        (
            "create table p (id int primary key); create table t (id int primary key, p int, "
            "foreign key (p) references p (id) on delete set null)",
            "E0605",
            "SET NULL",
        ),
        ("create table t (id int primary key, a varchar(9) character set sjis)", "E0509", "sjis"),
        ("create table t (id int primary key, a uuid)", "E0509", "uuid"),
    ],
)
def test_a_table_whose_changes_cannot_be_read_is_refused(
    plain: Database, create: str, code: str, told: str
) -> None:
    plain.execute(*create.split("; "))
    error = run(failure(Follower(plain, "t")))
    assert (error.code, told in error.message) == (code, True)


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [("binlog_format", "MIXED", "ROW"), ("binlog_row_image", "MINIMAL", "FULL")],
)
def test_a_server_that_does_not_write_what_is_needed_is_refused(
    table: Database, name: str, wrong: str, right: str
) -> None:
    table.execute(f"set global {name} = '{wrong}'")
    try:
        error = run(failure(Follower(table, "t")))
    finally:
        table.execute(f"set global {name} = '{right}'")
    assert (error.code, f"{name} is {wrong}" in error.message) == ("E0605", True)
    assert f"set global {name} = '{right}'" in (error.help or "")


def test_a_user_without_the_right_is_told_which(table: Database) -> None:
    table.execute(
        "create or replace user 'weak'@'127.0.0.1' identified by 'w'",
        f"grant select on {table.name}.* to 'weak'@'127.0.0.1'",
    )
    weak = table.server.dsn(table.name, user="weak", password="w")
    error = run(failure(Follower(table, "t", connection_string=weak)))
    assert (error.code, error.help) == (
        "E0602",
        "grant replication slave, binlog monitor on *.* to the user",
    )
    table.execute("grant binlog monitor on *.* to 'weak'@'127.0.0.1'")
    again = run(failure(Follower(table, "t", connection_string=weak)))
    assert (again.code, again.help) == (error.code, error.help)
    table.execute("grant replication slave on *.* to 'weak'@'127.0.0.1'")
    assert len(run(Follower(table, "t", connection_string=weak).read())) == 3


def test_a_replica_that_does_not_log_what_its_primary_sends_is_refused(table: Database) -> None:
    table.execute(
        "change master to master_host = '127.0.0.1', master_user = 'replica'",
        "start slave sql_thread",
    )
    try:
        error = run(failure(Follower(table, "t")))
    finally:
        table.execute("stop slave", "reset slave all")
    assert (error.code, "log_slave_updates" in error.message) == ("E0605", True)


def test_check_tells_how_long_the_log_is_kept(table: Database) -> None:
    facts = run(Follower(table, "t").source().inspect())
    assert facts["log"] == "kept until it is purged by hand"
    assert "log" not in run(table.source(table="t").inspect())


def test_the_id_of_the_server_itself_is_refused(table: Database) -> None:
    [(number,)] = table.rows("select @@server_id")
    error = run(failure(Follower(table, "t", cdc={"server_id": number})))
    assert error.code == "E0405"


def purge(database: Database, file: str) -> None:
    """Remove the log up to this file. The server keeps what a connection reads that it has not missed yet."""
    readers = database.rows(
        "select id from information_schema.processlist where command = 'Binlog Dump'"
    )
    for (number,) in readers:
        with contextlib.suppress(pymysql.OperationalError):  # it has ended
            database.execute(f"kill {number}")
    [(last, *_)] = database.rows("show master status")
    end = time.monotonic() + 20
    while file in [name for name, *_ in database.rows("show binary logs")]:
        assert time.monotonic() < end
        database.execute(f"purge binary logs to '{last}'")


def test_a_log_that_is_gone_or_another_one_is_an_error(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t")
        await follower.read()
        whole = dict(follower.carried)
        follower.carried = {**whole, "gtid": "0-99-12345"}
        table.execute("insert into t values (5, 'e')")
        error = await failure(follower)
        assert (error.code, "was reset, or this is another server" in error.message) == (
            "E0605",
            True,
        )
        follower.carried = whole
        table.execute("flush binary logs", "flush binary logs")
        purge(table, whole["file"])
        error = await failure(follower)
        assert (error.code, "was purged" in error.message, "--fresh" in (error.help or "")) == (
            "E0605",
            True,
            True,
        )

    run(check())


def test_an_event_that_is_too_large_for_the_servers_own_search_is_no_hindrance(
    table: Database,
) -> None:
    """The server cannot tell the transactions before a place behind such an event."""
    [(usual,)] = table.rows("select @@global.max_allowed_packet")

    async def check() -> None:
        follower = Follower(table, "t")
        await follower.read()
        table.execute(f"set global max_allowed_packet = {64 << 20}")
        try:
            table.execute(
                "create table big (b longblob)", "insert into big values (repeat('x', 20000000))"
            )
        finally:
            table.execute(f"set global max_allowed_packet = {usual}")
        table.execute("insert into t values (4, 'd')")
        assert await follower.read() == [(INSERT, 4, "d")]
        table.execute("insert into t values (5, 'e')")
        assert await follower.read() == [(INSERT, 5, "e")]
        other = {**follower.carried, "gtid": "0-99-12345"}
        table.execute("insert into t values (6, 'f')")
        follower.carried = other
        assert (await failure(follower)).code == "E0605"

    run(check())


def test_a_position_is_small_and_json(table: Database) -> None:
    async def check() -> None:
        follower = Follower(table, "t")
        source = follower.source()
        await source.schema()
        [split] = await source.splits()
        assert Split.from_json(split.to_json()) == split
        await follower.read()
        assert Position(follower.carried).to_json() == follower.carried
        assert set(follower.carried) == {"file", "offset", "gtid", "tables"}
        [of_table] = follower.carried["tables"].values()
        assert set(of_table) == {"reads", "after", "rows", "columns"}

    run(check())
