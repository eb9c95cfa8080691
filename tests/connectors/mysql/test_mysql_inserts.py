"""A server that does not allow LOAD DATA LOCAL gets the same rows by INSERT, and refuses the same ones."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from mysql_kit import Database, batch, run
from servers.mariadb import MariaDbServer

from dataflare.connectors.mysql import sending
from dataflare.errors import DataError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.types import Schema, parse_type
from dataflare.testing import check_destination, destination_of


@pytest.fixture
def by_insert(server: MariaDbServer) -> Iterator[None]:
    with server.client() as db, db.cursor() as cursor:
        cursor.execute("set global local_infile = 0")
        yield
        cursor.execute("set global local_infile = 1")


@pytest.mark.rotates(2)
def test_it_keeps_the_contract_of_destinations(
    by_insert: None, database: Database, tmp_path: Path
) -> None:
    rows = pl.DataFrame({"n": range(40), "text": [f"row {n}" for n in range(40)]})

    def table_of(folder: Path) -> str:
        return f"t{zlib.crc32(str(folder).encode())}"

    def make(folder: Path) -> Any:
        config = {"connection_string": database.dsn, "table": table_of(folder)}
        return destination_of("mysql", config, base=folder)

    def read(folder: Path) -> pl.DataFrame:
        found = database.rows(f"select n, text from {table_of(folder)} order by n")
        return pl.DataFrame(found, schema=rows.schema, orient="row")

    # A newer attempt ends the session of an older one, which is told that its connection is lost.
    skip = ["an_older_attempt_is_fenced"]
    run(check_destination(make, read, tmp_path, frame=rows, skip=skip))


SAMPLES: dict[str, list[Any]] = {
    "bool": [True, False],
    **{f"int{n}": [0, -(2 ** (n - 1)), 2 ** (n - 1) - 1] for n in (8, 16, 32, 64)},
    **{f"uint{n}": [0, 2**n - 1] for n in (8, 16, 32, 64)},
    "float32": [0.1, 1.2e-38, -3.4e38, -2.5],
    "float64": [0.1, -1e300, 2.3e-308, 1.7976931348623157e308, 123456789012345680.0, 3.0],
    "decimal(38,10)": [Decimal("9" * 28 + "." + "9" * 10), Decimal("-0.0000000001")],
    "string": ["NULL", "\\N", '"', "'", "\n", "\0", "", "a ", "😀", "0x41", "?", "%s"],
    "binary": [b"", b"\0\xff'\\", b"abc"],
    "date": [date(1, 1, 1), date(9999, 12, 31)],
    "time": [time(0), time(23, 59, 59, 999_999)],
    "timestamp[us]": [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)],
    "timestamp[us, UTC]": [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)],
    "duration[us]": [timedelta(hours=838, minutes=59), timedelta(microseconds=-1)],
    "json": ['{"a": [1, null]}', "[]"],
}


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_written_is_read_again(by_insert: None, database: Database, name: str) -> None:
    type_, samples = parse_type(name), SAMPLES[name]
    frame = pl.DataFrame(
        {"id": range(len(samples) + 1), "v": [*samples, None]},
        {"id": pl.Int64, "v": type_.to_polars()},
        strict=False,
    )
    schema = Schema.of({"id": parse_type("int64"), "v": type_})

    async def go() -> pl.DataFrame:
        step = await database.step(schema, mode="upsert", key=["id"]).start()
        await step.epoch(1, SharedDataBatch(frame), final=True)
        await step.close()
        contract = Schema.of({"v": type_}) if type_.name == "duration" else None
        found, _ = await database.read(table="t", contract=contract)
        return found.sort("id")

    found = run(go())["v"]
    assert found.cast(frame["v"].dtype).equals(frame["v"], null_equal=True), found


def test_rows_that_the_server_would_change_are_refused(by_insert: None, database: Database) -> None:
    database.execute(
        "create table t (id int primary key, small varchar(3), n decimal(4, 1), d date not null)"
    )
    schema = Schema.of({"id": "int64", "small": "string", "n": "float64", "d": "date"})
    rows = [
        {"id": 1, "small": "abc", "n": 1.5, "d": "2024-01-01"},
        {"id": 2, "small": "abcd", "n": 1.5, "d": "2024-01-01"},
        {"id": 3, "small": "x", "n": 1.25, "d": "2024-01-01"},
        {"id": 4, "small": "x", "n": 12345.0, "d": "2024-01-01"},
        {"id": 5, "small": "x", "n": 1.0, "d": None},
        {"id": 2**40, "small": "x", "n": 1.0, "d": "2024-01-01"},
        {"id": 7, "small": None, "n": None, "d": "2024-01-01"},
    ]
    frame = pl.DataFrame(rows).with_columns(pl.col("d").str.to_date())

    async def go() -> set[int]:
        step = await database.step(schema, sift=True).start()
        refused = await step.settle(SharedDataBatch(frame))
        await step.epoch(1, final=True)
        await step.close()
        return {each.row["id"] for each in refused}

    assert run(go()) == {2, 3, 4, 5, 2**40}
    assert [row[0] for row in database.rows("select id from t order by id")] == [1, 7]


def test_a_refused_row_is_named(by_insert: None, database: Database) -> None:
    database.execute("create table t (id int primary key, v varchar(2))")

    async def go() -> None:
        step = await database.step(Schema.of({"id": "int64", "v": "string"})).start()
        try:
            await step.epoch(1, batch([{"id": 1, "v": "ok"}, {"id": 2, "v": "long"}]), final=True)
        finally:
            step.die()

    with pytest.raises(DataError, match="refuses a row") as caught:
        run(go())
    assert "id = 2" in str(caught.value.notes)


def test_many_rows_and_a_row_that_is_too_long(
    by_insert: None, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_STATEMENT_BYTES", 500)
    [(packet,)] = database.rows("select @@max_allowed_packet")
    lengths = [1, 300, 2, 3, 900, 4, *([5] * 200)]
    rows = [{"id": at, "v": "é" * n} for at, n in enumerate(lengths)]
    rows.append({"id": -1, "v": "x" * (packet // 2)})

    async def go() -> set[int]:
        step = await database.step(Schema.of({"id": "int64", "v": "string"}), sift=True).start()
        refused = await step.settle(batch(rows))
        await step.epoch(1, final=True)
        await step.close()
        assert all("max_allowed_packet" in each.message for each in refused)
        return {each.row["id"] for each in refused}

    assert run(go()) == {-1}
    found = database.rows("select char_length(v) from t order by id")
    assert [n for (n,) in found] == lengths


def test_a_proxy_that_refuses_files_is_met_with_insert(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pymysql

    from dataflare.connectors.mysql.connection import Db

    def refuse(self: Db, sql: str, data: memoryview) -> None:
        raise pymysql.err.ProgrammingError(1148, "The used command is not allowed")

    monkeypatch.setattr(Db, "load", refuse)

    async def go() -> None:
        step = await database.step(Schema.of({"id": "int64"})).start()
        await step.epoch(1, batch([{"id": 1}, {"id": 2}]), final=True)
        await step.close()

    run(go())
    assert database.rows("select count(*) from t") == [(2,)]
