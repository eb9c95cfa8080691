"""A row of the log comes out as a read of the table gives it, whatever its types are."""

from __future__ import annotations

import asyncio
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from postgres_kit import Database

from dataflare.connectors.postgres.cdc.decoders import Decoders
from dataflare.connectors.postgres.cdc.log import Assembler, LoggedTable, Piece
from dataflare.connectors.postgres.cdc.place import TablePlace
from dataflare.connectors.postgres.cdc.wire import Replication
from dataflare.model.batch import KIND_COLUMN
from dataflare.model.types import Schema
from dataflare.sdk.source import ChunkReader, EndOfSplit

VALUES = {
    "boolean": ["true", "false"],
    "smallint": ["-32768", "32767"],
    "integer": ["-2147483648", "0"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "oid": ["4294967295"],
    "real": ["0.1", "1e-45", "3.4028235e38", "NaN", "-Infinity", "16777217", "-0"],
    "double precision": ["0.1", "5e-324", "1.7976931348623157e308", "NaN", "Infinity", "-0"],
    "numeric": ["1.5", "NaN", "12345678901234567890123456789.123456789", "0.0000000001", "1e30", "-0.50"],
    "numeric(10, 2)": ["-99999999.99", "0.10", "NaN"],
    "numeric(50, 3)": ["1.125", "12345678901234567890123456789012345678901234567.125"],
    "text": ["''", "é\t\\ \"", "NULL", " x ", "\\N"],
    "varchar(5)": ["abc", ""],
    "char(5)": ["ab", ""],
    '"char"': ["x"],
    "name": ["public"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "inet": ["10.0.0.1", "10.0.0.0/8", "::1", "2001:db8::/32"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"],
    "money": ["12.34"],
    "xml": ["<a>b</a>"],
    "bit(3)": ["101"],
    "int4range": ["[1,5)", "empty"],
    "point": ["(1,2)"],
    "tsvector": ["a b"],
    "json": ['{"a": [1, null]}', "1.0"],
    "jsonb": ['{"b": 1.50, "a": "x"}'],
    "bytea": ["\\x00ff61", ""],
    "date": ["2024-02-29", "0001-01-01", "0044-03-15 BC", "infinity", "20000-01-01", "9999-12-31"],
    "time": ["00:00", "23:59:59.999999", "24:00"],
    "timetz": ["12:00:00+02"],
    "timestamp": [
        "2024-02-29 12:34:56.789012", "0001-01-01", "0044-03-15 12:00 BC", "infinity", "-infinity", "20000-01-01",
        "1969-12-31 23:59:59.999999",
    ],
    "timestamptz": ["2024-02-29 12:34:56.5+05:30", "0044-03-15 12:00+00 BC", "infinity", "1883-11-18 12:00:00+00"],
    "interval": ["1 day 02:03:04.5", "-00:00:01", "1 mon", "3 days", "00:00", "-1 day +01:00"],
    "mood": ["ok", "it's"],
    "small": ["7"],
    "padded": ["ab"],
    "integer[]": ["{1,NULL,3}", "{}", "{{1,2},{3,4}}", "[2:3]={1,2}"],
    "text[]": ['{a,"b,c",NULL,"NULL","q\\"\\\\","{"}', '{""}'],
    "double precision[]": ["{1.5,NaN,-Infinity}"],
    "boolean[]": ["{t,f}"],
    "date[]": ["{2024-02-29}", "{infinity}"],
    "timestamp[]": ['{"2024-02-29 01:02:03"}'],
    "numeric(10, 2)[]": ["{1.25,NULL}"],
    "numeric[]": ["{1.5,NaN}"],
    "bytea[]": ['{"\\\\x00ff"}'],
    "uuid[]": ["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"],
    "interval[]": ['{"1 day"}'],
    "mood[]": ["{ok}"],
    "jsonb[]": ['{"{\\"a\\": 1}"}'],
}  # fmt: skip
CONTRACTS = {
    "boolean": "string", "integer": "string", "inet": "string", "char(5)": "string", "bytea": "string",
    "numeric": "decimal(38, 2)", "text": "binary", "timestamp": "string", "bigint": "decimal(20, 0)", "real": "float64",
    "date": "timestamp[us]", "interval": "string", "integer[]": "string", '"char"': "string", "time": "string",
}  # fmt: skip


@pytest.fixture(scope="module")
def typed(logical_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A table for each type, with the messages of its rows."""
    folder = tmp_path_factory.mktemp("typed")
    Database(logical_server, "postgres", folder).execute("create database typed")
    database = Database(logical_server, "typed", folder)
    database.execute(
        "create type mood as enum ('ok', 'it''s')", "create domain small as int", "create domain padded as char(4)",
        "create publication p for all tables", "select pg_create_logical_replication_slot('typed', 'pgoutput')",
    )  # fmt: skip
    import psycopg

    with psycopg.connect(database.dsn, autocommit=True) as db:
        for at, (type_, values) in enumerate(VALUES.items()):
            db.execute(f"create table t{at} (id int primary key, x {type_})")
            for id_, value in enumerate([*values, None]):
                db.execute(f"insert into t{at} values (%s, %s::text::{type_})", (id_, value))
            db.execute(f"update t{at} set id = id")
    replication = Replication(database.source(table="t0").server, "values")
    replication.start("typed", "p", 0)
    assembler = Assembler(0)
    tables: dict[str, LoggedTable] = {}
    messages: dict[str, list[bytes]] = {}
    wanted = 2 * sum(len(values) + 1 for values in VALUES.values())
    while sum(map(len, messages.values())) < wanted:
        events = assembler.add(replication.receive(100_000, 1 << 24).messages)
        for event in events:
            if isinstance(event, LoggedTable):
                tables[event.name] = event
            elif isinstance(event, Piece):
                for id_, (found, _) in event.by_table().items():
                    name = next(n for n, t in tables.items() if t.id == id_)
                    messages.setdefault(name, []).extend(found)
    assert len(tables) == len(VALUES)
    replication.close()
    yield database, tables, messages
    admin = Database(logical_server, "postgres", folder)
    admin.execute("select pg_drop_replication_slot('typed')", "drop database typed with (force)")


async def _table(source: Any) -> tuple[pl.DataFrame, list[Any]]:
    [split] = await source.splits()
    reader = await source.open(split, None)
    frames, bad = [pl.DataFrame(schema=(await source.schema()).to_polars())], []
    assert isinstance(reader, ChunkReader)
    try:
        while True:
            chunk = await reader.read_chunk()
            frames.append(chunk.scan().collect())
            bad += chunk.bad
    except EndOfSplit:
        await reader.aclose()
        await source.aclose()
    return pl.concat(frames), bad


@pytest.mark.rotates(5)
@pytest.mark.parametrize(
    ("type_", "as_"), [*((type_, None) for type_ in VALUES), *CONTRACTS.items()], ids=str
)
def test_the_log_gives_what_the_table_gives(typed: Any, type_: str, as_: str | None) -> None:
    database, tables, messages = typed
    name = f"t{[*VALUES].index(type_)}"
    contract = None if as_ is None else Schema.of({"id": "int32", "x": as_})
    source = database.source(table=name, cdc=True, contract=contract)
    rows, bad = asyncio.run(_table(database.source(table=name, contract=contract)))
    asyncio.run(source.look())
    followed = source.followed(None)
    following = source.log.following(
        source.server,
        "in",
        [followed],
        {},
        None,
        has_event_time=False,
        not_ranged={},
        new_tables=None,
    )
    decoders, number = Decoders(following), followed.table.oid
    try:
        assert decoders.describe(tables[name], {number: TablePlace(name, ("id", "x"))}) == (
            "id",
            "x",
        )
        found = decoders.of(number).batch(messages[name], [0] * len(messages[name]), (), {})
    finally:
        decoders.close()
    half = len(messages[name]) // 2
    assert found is not None
    inserts = found.frame.filter(pl.col(KIND_COLUMN) == 0).drop(KIND_COLUMN)
    updates = found.frame.filter(pl.col(KIND_COLUMN) == 2).drop(KIND_COLUMN)
    assert_frame_equal(inserts, rows.sort("id"), check_exact=True)
    assert_frame_equal(updates.sort("id"), rows.sort("id"), check_exact=True)
    told = [each.message for each in sorted(bad, key=lambda each: each.row)]
    assert [each.message for each in found.bad if each.row < half] == told
