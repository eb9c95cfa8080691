"""What is wrong is said: whose fault, where, and what to do; and no password is in it."""

from __future__ import annotations

import shutil
import ssl
from typing import Any

import pymysql
import pytest
from mysql_kit import Database, batch, run
from servers.mariadb import PASSWORD, LocalMariaDb

from dataflare.connectors.mysql.config import MysqlConfig
from dataflare.connectors.mysql.connection import Server
from dataflare.connectors.mysql.errors import translated
from dataflare.errors import ConfigError, DataError, DataFlareError, Retry
from dataflare.model.types import Schema
from dataflare.testing import FaultProxy

SCHEMA = Schema.of({"id": "int64", "v": "string"})


def failing(call: Any) -> DataFlareError:
    with pytest.raises(DataFlareError) as caught:
        run(call)
    assert PASSWORD not in f"{caught.value.message} {caught.value.notes} {caught.value.help}"
    return caught.value


@pytest.mark.parametrize(
    "text",
    ["shop", "postgresql://a@b/c", "mysql://a:b@c", "mysql://a:b@c:x/d", "mysql://a:b@c/d?ssl=on",
     "mysql://a:b@c/d?ssl_mode=maybe", "mysql://a:b@c/d?ssl_ca=/nowhere.pem"],
)  # fmt: skip
def test_a_connection_string_that_is_not_one_is_not_shown(text):
    with pytest.raises(ConfigError) as caught:
        Server.of(MysqlConfig(connection_string=text)).connect("x")
    assert caught.value.code == "E0414"
    assert text not in caught.value.message


def test_wrong_names_and_passwords(database: Database):
    dsn = database.server.dsn
    for connection, code in (
        (dsn(database.name, password="no"), "E0606"),
        (dsn(database.name, user="stranger"), "E0606"),
        (dsn("nowhere"), "E0604"),
    ):
        error = failing(database.source(connection_string=connection, table="t").schema())
        assert error.code == code, error
    error = failing(database.source(connection_string=dsn(port=1), table="t").schema())
    assert (error.code, error.retry) == ("E0607", Retry.LATER)
    database.execute("create table orders (id int primary key)")
    error = failing(database.source(table="ordrs").schema())
    assert error.code == "E0604"
    assert "orders" in (error.help or "")
    error = failing(database.source(table="orders", columns=["idd"]).schema())
    assert error.code == "E0604"


def test_missing_rights(database: Database):
    database.execute("create table t (id bigint primary key, v text)",
                     "create or replace user weak@'127.0.0.1' identified by 'x'",
                     f"grant select on {database.name}.* to weak@'127.0.0.1'")  # fmt: skip
    weak = database.server.dsn(database.name, user="weak", password="x")

    async def write() -> None:
        step = database.step(SCHEMA, connection_string=weak)
        await step.destination.validate(SCHEMA)
        await step.start()
        await step.epoch(1, batch([{"id": 1, "v": "a"}]), final=True)

    error = failing(write())
    assert error.code == "E0602"
    database.execute("drop user weak@'127.0.0.1'")


def test_a_table_without_transactions_is_refused(database: Database):
    database.execute("create table t (id bigint, v text) engine = MyISAM")
    error = failing(database.destination().validate(SCHEMA))
    assert error.code == "E0411"
    assert "MyISAM" in error.message


def test_views_generated_columns_and_other_types_are_refused(database: Database):
    database.execute("create table t (id bigint, v int as (id + 1))", "create view w as select 1 as id",
                     "create table x (id date, v text)", "create table y (id timestamp null, v text)")  # fmt: skip
    for table, schema, code in (
        ("t", SCHEMA, "E0511"),
        ("w", SCHEMA, "E0604"),
        ("x", SCHEMA, "E0511"),
        ("y", Schema.of({"id": "timestamp[us]"}), "E0511"),
    ):
        assert failing(database.destination(table=table).validate(schema)).code == code


def test_a_server_that_hangs_is_not_waited_for_forever(database: Database):
    with FaultProxy("127.0.0.1", database.server.port) as proxy:
        through = database.server.dsn(database.name, port=proxy.port)
        database.execute("create table t (id int primary key)")
        proxy.hang()
        source = database.source(connection_string=through, table="t", connect_timeout="1s",
                                 statement_timeout="1s")  # fmt: skip
        error = failing(source.schema())
    assert error.retry is Retry.LATER


def test_tls(database: Database, tmp_path):
    made = database.server
    if not isinstance(made, LocalMariaDb):
        pytest.skip("the container has no certificate")
    database.execute("create table t (id int primary key)")
    ca = tmp_path / "ca.pem"
    shutil.copy(made.certificate, ca)
    for options, good in (
        ({"ssl_mode": "disabled"}, True),
        ({"ssl_mode": "required"}, True),
        ({"ssl_mode": "verify_ca", "ssl_ca": str(ca)}, True),
        ({"ssl_mode": "verify_identity", "ssl_ca": str(ca)}, True),
        ({"ssl_mode": "verify_identity"}, False),
    ):
        source = database.source(connection_string=made.dsn(database.name, **options), table="t")
        if good:
            facts = run(source.inspect())
            assert facts["encryption"] == ("none" if options["ssl_mode"] == "disabled" else "TLS")
        else:
            assert failing(source.schema()).code == "E0609"


def test_a_server_that_dies_while_tls_is_agreed_upon_is_away_and_not_misconfigured():
    cut = ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
    wrapped = pymysql.OperationalError(2003, "Can't connect to MySQL server on 'h'")
    wrapped.original_exception = cut
    for error in (cut, wrapped):
        made = translated(error, "h:1/d", "connecting")
        assert (made.code, made.retry) == ("E0607", Retry.LATER)
    assert translated(ssl.SSLError(1, "bad"), "h:1/d", "connecting").code == "E0609"


def test_a_row_that_is_locked_is_waited_for_no_longer_than_told(database: Database):
    database.execute(
        "create table t (id bigint primary key, v text)", "insert into t values (1, 'a')"
    )
    other = database.server.client(database.name)
    other.begin()
    other.cursor().execute("update t set v = 'b'")

    async def go() -> None:
        step = await database.step(SCHEMA, mode="upsert", key=["id"], lock_timeout="1s").start()
        try:
            await step.epoch(1, batch([{"id": 1, "v": "c"}]), final=True)
        finally:
            step.die()

    error = failing(go())
    assert (error.code, error.retry) == ("E0605", Retry.LATER)
    other.close()


@pytest.mark.parametrize(
    ("declared", "bad", "says"),
    [
        ("v varchar(3) not null", None, "v"),
        ("v varchar(3)", "abcd", "truncated"),
        ("v text, check (v <> 'x')", "x", "CONSTRAINT"),
        ("v varchar(9) unique", "a", "Duplicate"),
        ("v varchar(9), foreign key (v) references p (v)", "nowhere", "foreign key"),
    ],
)
@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_refused_rows_are_found_one_by_one(database: Database, declared, bad, says, mode):
    database.execute("create table p (v varchar(9) primary key)", "insert into p values ('a'), ('b'), ('c')",
                     f"create table t (id bigint primary key, {declared})")  # fmt: skip
    rows = [
        {"id": 1, "v": "a"},
        {"id": 2, "v": bad},
        {"id": 3, "v": "b"},
        {"id": 4, "v": bad},
        {"id": 5, "v": "c"},
    ]
    config = {"mode": mode, "key": ["id"] if mode == "upsert" else []}
    wanted = batch(rows, **SCHEMA.to_polars())

    async def sifted() -> Any:
        step = await database.step(SCHEMA, sift=True, **config).start()
        refused = await step.settle(wanted)
        await step.epoch(1, final=True)
        await step.close()
        return refused

    async def strict() -> None:
        step = await database.step(
            SCHEMA, lineage="0f0e0d0c-0b0a-4000-8000-00000000000f", step="s", **config
        ).start()
        try:
            await step.epoch(1, wanted, final=True)
        finally:
            step.die()

    with pytest.raises(DataError) as caught:
        run(strict())
    assert says in caught.value.message
    assert any("the row: id = 2" in note or "id = 2" in note for note in caught.value.notes)
    assert database.rows("select count(*) from t") == [(0,)]
    refused = run(sifted())
    assert [each.row["id"] for each in refused] == [2, 4]
    assert all(says in each.message for each in refused)
    assert database.rows("select id, v from t order by id") == [(1, "a"), (3, "b"), (5, "c")]


def test_an_upsert_never_changes_the_row_of_another_key(database: Database):
    """ON DUPLICATE KEY UPDATE would, by any unique index."""
    database.execute("create table t (id bigint primary key, v varchar(9) unique)",
                     "insert into t values (1, 'a'), (2, 'b')")  # fmt: skip

    async def go() -> Any:
        step = await database.step(SCHEMA, mode="upsert", key=["id"], sift=True).start()
        refused = await step.settle(batch([{"id": 3, "v": "a"}, {"id": 2, "v": "c"}]))
        await step.epoch(1, final=True)
        await step.close()
        return refused

    assert [each.row["id"] for each in run(go())] == [3]
    assert database.rows("select * from t order by id") == [(1, "a"), (2, "c")]


def test_new_columns_in_the_middle_of_an_epoch(database: Database):
    """MySQL commits before ALTER: the rows before it are applied again behind it."""

    async def go() -> None:
        step = await database.step(SCHEMA, batch_size=1).start()
        await step.write(batch([{"id": 1, "v": "a"}]))
        await step.write(batch([{"id": 2, "v": "b", "w": 5}]))
        assert database.rows("select count(*) from t") == [(0,)]
        await step.epoch(1, batch([{"id": 3, "v": "c", "w": 6}]), final=True)
        await step.close()

    run(go())
    assert database.rows("select id, v, w from t order by id") == [
        (1, "a", None),
        (2, "b", 5),
        (3, "c", 6),
    ]


@pytest.mark.parametrize("options", [{"before_sql": "insert into log values (\"before\")"},
                                     {"after_sql": ["insert into log values ('after')"]}])  # fmt: skip
def test_statements_run_as_the_server_reads_them(database: Database, options):
    database.execute("create table log (what varchar(9))")

    async def go() -> None:
        step = await database.step(SCHEMA, **options).start()
        await step.committer.begin(0)
        await step.epoch(1, batch([{"id": 1, "v": "a"}]), final=True)
        await step.close()

    run(go())
    assert database.rows("select * from log") == [(next(iter(options)).partition("_")[0],)]
    assert database.rows("select id from t") == [(1,)]


def test_check_says_that_a_server_takes_rows_by_insert_only(database: Database):
    with database.server.client() as db, db.cursor() as cursor:
        cursor.execute("set global local_infile = 0")
        try:
            facts = run(database.destination().inspect())
        finally:
            cursor.execute("set global local_infile = 1")
    assert "INSERT" in facts["local_infile"]
