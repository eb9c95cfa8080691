"""What is wrong is said: whose fault, where, and what to do; and no password is in it."""

from __future__ import annotations

from typing import Any

import pytest
from clickhouse_kit import Database, batch, run
from servers.clickhouse import PASSWORD

from dataflare.connectors.clickhouse.config import ClickhouseConfig
from dataflare.connectors.clickhouse.connection import Server
from dataflare.errors import ConfigError, DataError, DataFlareError, Retry
from dataflare.model.types import Schema
from dataflare.sdk.source import EndOfSplit
from dataflare.testing import FaultProxy

SCHEMA = Schema.of({"id": "int64", "v": "string"})


def failing(call: Any) -> DataFlareError:
    with pytest.raises(DataFlareError) as caught:
        run(call)
    assert PASSWORD not in f"{caught.value.message} {caught.value.notes} {caught.value.help}"
    return caught.value


@pytest.mark.parametrize(
    "text",
    ["shop", "postgresql://a@b/c", "clickhouse://a:b@c:x/d", "clickhouse://a:b@c/d?tls=on",
     "clickhouse://a:b@c/d?secure=maybe", "clickhouse://a:b@c/d/e",
     "clickhouse://a:b@c/d?secure=true&ca=/nowhere.pem"],
)  # fmt: skip
def test_a_connection_string_that_is_not_one_is_not_shown(text):
    with pytest.raises(ConfigError) as caught:
        Server.of(ClickhouseConfig(connection_string=text)).connect()
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
    database.execute("create table orders (id Int8) engine = MergeTree order by id")
    error = failing(database.source(table="ordrs").schema())
    assert (error.code, "orders" in (error.help or "")) == ("E0604", True)
    error = failing(database.source(table="orders", columns=["idd"]).schema())
    assert error.code == "E0604"
    error = failing(database.source(query="select idd from orders").schema())
    assert error.code == "E0412"


def test_tls_checks_the_certificate(database: Database):
    server = database.server
    database.execute("create table orders (id Int8) engine = MergeTree order by id")

    def source(**options: str) -> Any:
        dsn = server.dsn(database.name, host="localhost", port=server.secure_port, **options)
        return database.source(connection_string=dsn, table="orders")

    trusted = source(secure="true", ca=str(server.certificate))
    assert run(trusted.schema()).names == ("id",)
    assert run(trusted.inspect())["encryption"] == "TLS"
    assert run(source(secure="true", verify="false").schema()).names == ("id",)
    assert failing(source(secure="true").schema()).code == "E0609"


def test_rows_that_break_off_are_an_error_and_are_read_again(database: Database):
    database.execute(
        "create table big (id Int64, v String) engine = MergeTree order by id",
        "insert into big select number, randomPrintableASCII(300) from numbers(100000)",
    )

    async def rest(reader: Any, ids: list[int]) -> None:
        while True:
            ids += (await reader.read_chunk()).scan().collect()["id"].to_list()

    async def read() -> list[int]:
        ids: list[int] = []
        with FaultProxy("127.0.0.1", database.server.port) as proxy:
            source = database.source(
                connection_string=database.server.dsn(database.name, port=proxy.port), table="big"
            )
            [split] = await source.splits()
            reader = await source.open(split, None)
            ids += (await reader.read_chunk()).scan().collect()["id"].to_list()
            proxy.cut()
            with pytest.raises(DataFlareError) as caught:
                await rest(reader, ids)
            assert caught.value.code == "E0607"
            position = reader.position()
            await reader.aclose()
        reader = await database.source(table="big").open(split, position)
        with pytest.raises(EndOfSplit):
            await rest(reader, ids)
        await reader.aclose()
        return ids

    assert run(read()) == list(range(100_000))


def test_a_server_that_hangs_is_given_up_after_the_timeout(database: Database):
    source = database.source(query="select 1 as x", statement_timeout="200ms")
    database.server.pause()
    try:
        assert failing(source.schema()).code == "E0608"
    finally:
        database.server.go_on()


def test_a_violated_constraint_fails_the_run(database: Database):
    database.execute(
        "create table t (id Int64, v String, constraint small check id < 10) engine = MergeTree "
        "order by id settings non_replicated_deduplication_window = 100"
    )

    async def write() -> None:
        step = await database.step(SCHEMA).start()
        try:
            await step.epoch(1, batch([{"id": 11, "v": "a"}]), final=True)
        finally:
            await step.close()

    error = failing(write())
    assert isinstance(error, DataError)
    assert (error.code, "small" in error.message) == ("E0510", True)
