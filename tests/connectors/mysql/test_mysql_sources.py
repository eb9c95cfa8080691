"""Tables and queries are read whole, in parts, from the last key, or only what is new."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mysql_kit import Database, drain, run

from dataflare.errors import ConfigError, DataError, DataFlareError
from dataflare.model.progress import Position
from dataflare.sdk.source import Replay

FEW = ["a", "A", "b", "B", "é", "e", "", " ", "a "]
COLUMNS: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "n": ("bigint", st.integers(-(2**63), 2**63 - 1)),
    "u": ("bigint unsigned", st.integers(0, 2**64 - 1)),
    "m": ("decimal(30,2)", st.decimals(-(10**20), 10**20, places=2)),
    "s": ("varchar(20) character set utf8mb4 collate utf8mb4_nopad_bin", st.sampled_from(FEW) | st.text(max_size=4)),
    "c": ("varchar(20) character set utf8mb4 collate utf8mb4_unicode_ci", st.sampled_from(FEW)),
    "l": ("varchar(20) character set latin1", st.sampled_from(FEW)),
    "b": ("varbinary(9)", st.binary(max_size=4)),
    "d": ("date", st.dates()),
    "t": ("datetime(6)", st.datetimes()),
}  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(data=st.data())
def test_the_parts_of_a_table_are_its_rows_each_once(database: Database, data: st.DataObject):
    name = data.draw(st.sampled_from(sorted(COLUMNS)))
    declared, value = COLUMNS[name]
    values = data.draw(st.lists(st.none() | value, max_size=12).map(lambda made: made + made[:2]))
    ways = ["range", "hash", *(["time"] if name in "dt" else [])]
    sharding: dict[str, Any] = {"by": data.draw(st.sampled_from(ways)), "column": name}
    known = [v for v in values if v is not None]
    if sharding["by"] == "range" and known and name != "b" and data.draw(st.booleans()):
        sharding["boundaries"] = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=4))
    else:
        sharding["splits"] = data.draw(st.sampled_from([1, 2, 5]))
    database.execute(
        "drop table if exists t", f"create table t (id int primary key, {name} {declared})"
    )
    with database.server.client(database.name) as db, db.cursor() as cursor:
        cursor.executemany("insert into t values (%s, %s)", list(enumerate(values)))
    frame, _ = run(database.read(table="t", sharding=sharding, rows_max=3))
    assert sorted(frame["id"].to_list()) == list(range(len(values)))


KEYS = {
    "int": ("id int unsigned primary key", [0, 1, 2**32 - 1, 7, 100]),
    "text": ("id varchar(9) character set utf8mb4 collate utf8mb4_unicode_ci primary key",
             ["b", "a", "É", "z z", "'"]),
    "latin1": ("id varchar(9) character set latin1 primary key", ["ÿ", "a", "Z", "é"]),
    "bytes": ("id varbinary(9) primary key", [b"\xff\0", b"a", b"", b"'"]),
    "decimal": ("id decimal(30,2) primary key", ["-1.50", "99999999999999999999.01", "0.00"]),
    "time": ("id datetime(6) primary key", ["0001-01-01", "2024-02-29 01:02:03.000004"]),
    "two": ("a varchar(3), id bigint, primary key (a, id)", [-(2**63), 0, 2**63 - 1, 5]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEYS)
def test_a_table_is_resumed_after_any_key(database: Database, kind: str):
    declared, ids = KEYS[kind]
    database.execute(f"create table t ({declared}, v int)")
    with database.server.client(database.name) as db, db.cursor() as cursor:
        if kind == "two":
            cursor.executemany(
                "insert into t values (%s, %s, 1)", [(a, i) for a in "xya" for i in ids]
            )
        else:
            cursor.executemany("insert into t values (%s, 1)", [(i,) for i in ids])

    async def go() -> None:
        source = database.source(table="t", columns=["v", "id"])
        await source.schema()
        assert source.capabilities().replay is Replay.BY_KEY
        [split] = await source.splits()
        frames, _ = await drain(source, split, None, 1)
        whole = pl.concat(frames)["id"].to_list()
        assert len(whole) == len(ids) * (3 if kind == "two" else 1)
        for count in range(len(whole) + 1):
            _, position = await drain(source, split, None, 1, count)
            rest, _ = await drain(
                source, split, Position(json.loads(json.dumps(position.value))), 2
            )
            found = pl.concat(rest)["id"].to_list() if rest else []
            assert whole[:count] + found == whole

    run(go())


def test_a_large_table_is_divided_by_its_key(database: Database):
    database.execute("create table t (id bigint primary key, v int)",
                     "insert into t select seq * 7, 1 from seq_1_to_600000", "analyze table t")  # fmt: skip

    async def go() -> None:
        source = database.source(table="t")
        await source.schema()
        splits = await source.splits()
        assert len(splits) >= 2
        frame, _ = await database.read(table="t", rows_max=25_000)
        assert frame["id"].sort().equals(pl.int_range(1, 600_001, eager=True).alias("id") * 7)

    run(go())


def test_a_query_has_bound_values_its_types_and_no_second_statement(database: Database):
    database.execute("create table t (id int primary key, v varchar(9))",
                     "insert into t values (1, 'a'), (2, 'b\\'c')")  # fmt: skip
    frame, _ = run(
        database.read(query="select id + 1 as n, upper(v) as `V v`, 1.50 as d, now(3) as t from t")
    )
    assert [str(dtype) for dtype in frame.dtypes[:3]] == [
        "Int64",
        "String",
        "Decimal(precision=3, scale=2)",
    ]
    assert frame["n"].to_list() == [2, 3]
    for query, code in (("select 1; drop table t", "E0412"), ("select nothing from t", "E0412"),
                        ("select 1 as a, 2 as a", "E0412"), ("select 1 from nowhere", "E0604")):  # fmt: skip
        with pytest.raises(DataFlareError) as caught:
            run(database.read(query=query))
        assert caught.value.code == code, query


def test_only_new_rows_are_read(database: Database):
    database.execute("create table t (id int primary key, at datetime(3) null)",
                     "insert into t values (1, '2024-01-01'), (2, '2024-01-02'), (3, null)")  # fmt: skip
    options = {"table": "t", "incremental": {"column": "at", "lag": 3600}}
    frame, carried = run(database.read(**options))
    assert sorted(frame["id"].to_list()) == [1, 2, 3]
    database.execute("insert into t values (4, '2024-01-02'), (5, '2024-01-03'), (6, '2024-01-01')")
    frame, carried = run(database.read(carried=carried, **options))
    assert sorted(frame["id"].to_list()) == [4, 5]
    frame, carried = run(database.read(carried=carried, **options))
    assert frame.height == 0


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        ("varchar(9) character set utf8mb4 collate utf8mb4_unicode_ci", ["a", "B", "b", "É", "z"]),
        ("bigint unsigned", [0, 5, 2**63 - 1]),
        ("decimal(20,3)", ["-1.5", "0.001", "10.25"]),
        ("double", [-1.5, 0.1, 1e300]),
        ("timestamp(6) null", ["2024-01-01 00:00:00.000001", "2024-01-01 00:00:00.000002"]),
        ("date", ["0001-01-01", "2024-02-29"]),
    ],
)
def test_a_cursor_of_each_type_goes_on_where_it_was(
    database: Database, declared: str, values: list[Any]
):
    database.execute(f"create table t (id int primary key, v {declared})")
    options = {"table": "t", "incremental": {"column": "v"}}
    carried = None
    order = sorted(values, key=lambda v: str(v).encode()) if "varchar" in declared else values
    for at, value in enumerate(order):
        with database.server.client(database.name) as db, db.cursor() as cursor:
            cursor.execute("insert into t values (%s, %s)", (at, value))
        frame, carried = run(database.read(carried=carried, **options))
        assert frame["id"].to_list() == [at]


def test_a_cursor_that_has_no_order_is_refused(database: Database):
    database.execute("create table t (id int primary key, v enum('z','a'), w longtext)")
    for column in ("v", "w"):
        with pytest.raises(ConfigError) as caught:
            run(database.read(table="t", incremental={"column": column}))
        assert caught.value.code == "E0413"


def test_rows_longer_than_a_packet_are_read_and_written(database: Database):
    # Two packets of the protocol, and the most that the server takes by default.
    database.execute("create table t (id int primary key, v longblob)",
                     "insert into t values (1, 'a'), (2, repeat('x', 16777190)), (3, 'b')")  # fmt: skip
    frame, _ = run(database.read(table="t"))
    assert frame["v"].bin.size().to_list() == [1, 16_777_190, 1]
    assert frame["id"].to_list() == [1, 2, 3]


def test_numbers_are_filtered_by_the_server(database: Database):
    from dataflare.expr import check_condition

    database.execute("create table t (id int primary key, m decimal(9,2), s varchar(9), b tinyint(1))",
                     "insert into t values (1, 1.5, 'a', 1), (2, 2.5, 'A', 0), (3, null, 'b', 1)")  # fmt: skip

    async def go() -> None:
        source = database.source(table="t")
        schema = await source.schema()
        for text, ids in (
            ("id >= 2 and id in (2, 7)", [2]),
            ("m > 1.5", [2]),
            ("id is not null", [1, 2, 3]),
        ):
            filtered = source.with_filter(check_condition(text, schema))
            assert filtered is not None, text
            [split] = await filtered.splits()
            frames, _ = await drain(filtered, split, None)
            assert pl.concat(frames)["id"].to_list() == ids, text
        for text in ("s = 'a'", "b"):
            assert source.with_filter(check_condition(text, schema)) is None

    run(go())


def test_a_broken_value_of_a_cursor_is_an_error(database: Database):
    database.execute("create table t (id int primary key, v date)")
    with database.server.client(database.name, sql_mode="") as db, db.cursor() as cursor:
        cursor.execute("insert into t values (1, '0000-00-00')")
    with pytest.raises(DataError) as caught:
        run(database.read(table="t", incremental={"column": "v"}))
    assert caught.value.code == "E0501"
