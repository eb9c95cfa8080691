"""What sources of both database files promise: names, splits, resuming, pushdown, errors."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from databases import Step, batch, execute, read, run

from dataflare.errors import ConfigError, DataError, DataFlareError, Retry
from dataflare.expr.typed import check_condition
from dataflare.model.text import SourceText, Variable
from dataflare.model.types import INT64, Schema
from dataflare.sdk import registry
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.source import EndOfSplit, Replay

pytestmark = pytest.mark.rotates(2)

ORDERS = [
    "create table orders (id integer primary key, status varchar, amount double)",
    "insert into orders values (1, 'new', 1.5), (2, 'paid', 20), (3, null, 7), (4, 'new', null), (5, 'Paid', 3)",
]


def source(kind: str, folder: Path, **config: Any) -> Any:
    class_ = registry.source(kind)
    return class_(class_.Config(**{"path": "data.db"} | config), ConnectorContext("in", folder))


def schema_error(kind: str, folder: Path, **config: Any) -> DataFlareError:
    with pytest.raises(DataFlareError) as caught:
        run(source(kind, folder, **config).schema())
    assert caught.value.step == "in"
    return caught.value


def test_what_is_missing_is_named_with_the_nearest_name(kind, tmp_path):
    execute(kind, tmp_path / "data.db", *ORDERS)
    file = schema_error(kind, tmp_path, path="dta.db", table="orders")
    assert (file.code, file.help) == ("E0601", "did you mean 'data.db'?")
    assert not (tmp_path / "dta.db").exists()
    table = schema_error(kind, tmp_path, table="ordrs")
    assert (table.code, table.help) == ("E0604", "did you mean 'orders'?")
    column = schema_error(kind, tmp_path, table="orders", columns=["id", "stats"])
    assert (column.code, column.help) == ("E0606", "did you mean 'status'?")
    in_query = schema_error(kind, tmp_path, query="select * from ordrs")
    assert (in_query.code, in_query.help) == ("E0604", "did you mean 'orders'?")
    assert schema_error(kind, tmp_path, query="select stats from orders").code == "E0412"
    assert schema_error(kind, tmp_path, query="select from where").code == "E0412"
    cursor = schema_error(kind, tmp_path, table="orders", incremental={"column": "amont"})
    assert cursor.help == "did you mean 'amount'?"


def test_a_file_of_another_kind_is_refused(kind, tmp_path):
    (tmp_path / "data.db").write_text("id,name\n" * 1_000)
    assert schema_error(kind, tmp_path, table="t").code == "E0505"
    (tmp_path / "folder.db").mkdir()
    assert schema_error(kind, tmp_path, path="folder.db", table="t").code == "E0602"


@pytest.mark.parametrize(
    "config", [{}, {"table": "t", "query": "select 1"}, {"table": "t", "colour": 1}]
)
def test_config_is_checked(kind, config):
    with pytest.raises(ValueError):
        registry.source(kind).Config(path="x", **config)


def test_destination_config_is_checked(kind):
    config = registry.destination(kind).Config
    for wrong in (
        {"mode": "upsert"},
        {"sequence": "s"},
        {"mode": "mirror", "key": ["a"], "changelog": "columns"},
    ):
        with pytest.raises(ValueError):
            config(path="x", table="t", **wrong)
    assert config(path="x", table="t", mode="upsert", key="a").key == ["a"]


@pytest.mark.parametrize("name", ["table", "view", "query"])
def test_reading_goes_on_from_any_position(kind, tmp_path, name):
    execute(kind, tmp_path / "data.db", *ORDERS, "create view seen as select * from orders")
    config = {
        "table": {"table": "orders"}, "view": {"table": "seen"}, "query": {"query": "select * from orders order by id"},
    }[name]  # fmt: skip

    async def go():
        one = source(kind, tmp_path, **config)
        await one.validate()
        wanted = Replay.BY_KEY if name == "table" else Replay.NONE
        assert one.capabilities().replay is wanted
        assert one.capabilities().replay_reason
        (split,) = await one.splits()
        for cut in range(6):
            got, position = [], None
            for rows_max, most in ((1, cut), (2, 99)):
                reader = await pickle.loads(pickle.dumps(one)).open(split, position)
                try:
                    for _ in range(most):
                        got += (await reader.read_batch(rows_max)).frame["id"].to_list()
                except EndOfSplit:
                    pass
                position = reader.position()
                await reader.aclose()
            assert got == [1, 2, 3, 4, 5]

    run(go())


def test_a_large_table_is_read_in_ranges_that_cover_it_once(kind, tmp_path):
    rows = 120_000 if kind == "sqlite" else 1_000_000
    series = (
        f"with recursive r(i) as (select 1 union all select i + 1 from r where i < {rows}) select i from r"
        if kind == "sqlite"
        else f"select i from range(1, {rows + 1}) as r(i)"
    )
    execute(kind, tmp_path / "data.db", "create table t (i integer)", f"insert into t {series}")

    async def go():
        one = source(kind, tmp_path, table="t")
        splits = await one.splits()
        assert [split.id for split in splits] == [f"rows-{i}" for i in range(8)]
        assert [s.to_json() for s in await one.splits()] == [s.to_json() for s in splits]
        found, _ = await read(kind, tmp_path, table="t", rows_max=50_000)
        assert found["i"].cast(pl.Int64).sum() == rows * (rows + 1) // 2
        assert found["i"].n_unique() == rows

    run(go())


@pytest.mark.parametrize("splits", [1, 2, 3, 5, 900])
def test_a_table_is_cut_into_as_many_parts_as_are_said(kind, tmp_path, splits):
    execute(kind, tmp_path / "data.db", *ORDERS)

    async def go():
        cut = {"table": "orders", "sharding": {"splits": splits}}
        found = await source(kind, tmp_path, **cut).splits()
        assert len(found) == min(splits, 5)
        rows, _ = await read(kind, tmp_path, **cut)
        assert rows["id"].cast(pl.Int64).sort().to_list() == [1, 2, 3, 4, 5]

    run(go())


def test_what_has_no_rowid_is_not_cut(kind, tmp_path):
    execute(kind, tmp_path / "data.db", *ORDERS, "create view seen as select * from orders")
    with pytest.raises(ConfigError, match=r"has no rowid.* to divide by") as caught:
        run(source(kind, tmp_path, table="seen", sharding={"splits": 2}).splits())
    assert (caught.value.code, caught.value.step) == ("E0413", "in")
    with pytest.raises(ValueError, match="'sharding' is for a full read of a table"):
        source(kind, tmp_path, query="select 1", sharding={"splits": 2})


TIMED = [
    "create table t (id integer primary key, n integer, s varchar, d date, seen timestamp, b blob)",
    "insert into t values (1, null, null, null, null, null), (2, 5, 'it''s', '2026-01-31', "
    "'2026-01-31 23:59:59', null), (3, -7, 'A', '2026-02-01', '2026-02-01 00:00:00', null), "
    "(4, 5, 'a', '2026-04-09', '2026-04-09 12:00:00.5', null), (5, 900, 'é', '2027-01-01', "
    "'2027-01-01 00:00:00', null), (6, 0, '', '2026-02-01', '2026-02-01 10:00:00', null)",
]
SHARDINGS = [
    ({"by": "range", "column": "n", "splits": 3}, None),
    ({"by": "range", "column": "n", "boundaries": [100, 0, 0]}, [[1, 3], [2, 4, 6], [5]]),
    ({"by": "range", "column": "s", "boundaries": ["b", "a"]}, [[1, 3, 6], [4], [2, 5]]),
    ({"by": "range", "column": "S", "splits": 4}, None),
    ({"by": "range", "column": "d", "boundaries": ["2026-02-01"]}, [[1, 2], [3, 4, 5, 6]]),
    ({"by": "time", "column": "seen", "every": "month"}, None),
    ({"by": "time", "column": "seen", "every": "year"}, [[1, 2, 3, 4, 6], [5]]),
    ({"by": "time", "column": "d", "every": "1d"}, None),
    ({"by": "time", "column": "seen", "splits": 3}, None),
    ({"by": "hash", "splits": 3}, None),
    *(({"by": "hash", "column": c, "splits": 3}, None) for c in ("n", "s", "d", "b")),
]


@pytest.mark.rotates(4)
@pytest.mark.parametrize(("sharding", "expected"), SHARDINGS)
@pytest.mark.parametrize("empty", [False, True])
def test_each_row_is_in_one_part_however_a_table_is_cut(kind, tmp_path, sharding, expected, empty):
    execute(kind, tmp_path / "data.db", *(TIMED[:1] if empty else TIMED))

    async def go():
        made = source(kind, tmp_path, table="t", columns=["id"], sharding=sharding)
        parts = await made.splits()
        assert [part.id for part in await made.splits()] == [part.id for part in parts]
        found = []
        for part in parts:
            reader, ids = await made.open(part, None), []
            while True:
                try:
                    # From the position each time: a killed run goes on there.
                    rows = await reader.read_batch(1)
                except EndOfSplit:
                    break
                ids += rows.frame["id"].to_list()
                position = reader.position()
                await reader.aclose()
                reader = await made.open(part, position)
            await reader.aclose()
            found.append(ids)
        assert sorted(id_ for ids in found for id_ in ids) == ([] if empty else [1, 2, 3, 4, 5, 6])
        if sharding.get("every") == "month" and not empty:
            assert len(parts) == 13
        if expected is not None and not empty:
            assert found == expected

    run(go())


@pytest.mark.parametrize(
    ("sharding", "code", "text"),
    [
        ({"column": "nn", "splits": 2}, "E0606", "nn"),
        ({"column": "b", "splits": 2}, "E0413", "has no order to divide by"),
        ({"by": "time", "column": "n", "splits": 2}, "E0413", "needs dates or timestamps"),
        ({"by": "time", "column": "seen", "every": "1s"}, "E0413", "would make"),
        ({"column": "n", "boundaries": ["x"]}, "E0413", "is not a value of column 'n'"),
    ],
)
def test_what_cannot_be_cut_is_refused(kind, tmp_path, sharding, code, text):
    execute(kind, tmp_path / "data.db", *TIMED)
    with pytest.raises(DataFlareError, match=text) as caught:
        run(source(kind, tmp_path, table="t", sharding=sharding).splits())
    assert (caught.value.code, caught.value.step) == (code, "in")
    assert caught.value.help


def test_an_empty_table_has_a_schema_and_no_rows(kind, tmp_path):
    execute(kind, tmp_path / "data.db", "create table t (i integer, s varchar)")
    found, _ = run(read(kind, tmp_path, table="t"))
    assert found.is_empty()
    assert found.columns == ["i", "s"]


CONDITIONS = {
    "amount > 2": [2, 3, 5],
    "status = 'new' AND amount IS NOT NULL": [1],
    "status <> 'new'": [2, 5],
    "id IN (1, 5) OR status IS NULL": [1, 3, 5],
    "status > 'a'": [1, 2, 4],
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_pushed_filter_gives_the_same_rows(kind, tmp_path, condition):
    execute(kind, tmp_path / "data.db", *ORDERS)

    async def go():
        schema = await source(kind, tmp_path, table="orders").schema()
        filters = [check_condition(condition, schema)]
        found, _ = await read(
            kind, tmp_path, table="orders", filters=filters, columns=["amount", "id"]
        )
        assert found.columns == ["amount", "id"]
        assert found["id"].to_list() == CONDITIONS[condition]

    run(go())


def test_a_filter_and_variables_go_into_one_query(kind, tmp_path):
    execute(kind, tmp_path / "data.db", *ORDERS)
    variable = Variable("__00_", "${param:x}", 1, INT64)
    template = "select * from orders where id > __00_"
    query = SourceText(
        "select * from orders where id > 1", template=template, variables=(variable,)
    )

    async def go():
        schema = await source(kind, tmp_path, query=query).schema()
        filters = [check_condition("amount > 2 AND id < 5", schema)]
        found, _ = await read(kind, tmp_path, query=query, filters=filters, columns=["id"])
        assert found["id"].to_list() == [2, 3]

    run(go())


def test_filters_add_up_and_leave_the_original_alone(kind, tmp_path):
    execute(kind, tmp_path / "data.db", *ORDERS)

    async def go():
        schema = await source(kind, tmp_path, table="orders").schema()
        conditions = [
            check_condition(text, schema) for text in ("amount > 2", "id < 5", "amount < 10")
        ]
        found, _ = await read(kind, tmp_path, table="orders", filters=conditions)
        assert found["id"].to_list() == [3]

    run(go())


def test_a_value_that_does_not_fit_the_contract_is_a_row_error(kind, tmp_path):
    execute(
        kind, tmp_path / "data.db", "create table t (id integer primary key, n varchar)",
        "insert into t values (1, '1'), (2, 'two'), (3, null), (4, '4')",
    )  # fmt: skip
    contract = Schema.of({"n": "int64"})

    async def go():
        with pytest.raises(DataError) as caught:
            await read(kind, tmp_path, table="t", contract=contract)
        assert caught.value.code == "E0501"
        assert "'t'" in caught.value.message
        assert "'n'" in caught.value.message
        assert "'two'" in caught.value.message
        one = source(kind, tmp_path, table="t")
        one.contract = contract
        (split,) = await one.splits()
        reader = await one.open(split, None)
        chunk = await reader.read_chunk()
        good = chunk.scan().collect()
        assert good.to_dicts() == [{"id": 1, "n": 1}, {"id": 3, "n": None}, {"id": 4, "n": 4}]
        assert chunk.row_numbers.to_list() == [0, 2, 3]
        assert [bad.row for bad in chunk.bad] == [1]
        assert chunk.position.value == reader.position().value
        with pytest.raises(EndOfSplit):
            await reader.read_chunk()
        await reader.aclose()

    run(go())


def test_a_contract_that_names_a_missing_column_is_refused(kind, tmp_path):
    execute(kind, tmp_path / "data.db", *ORDERS)

    async def go():
        one = source(kind, tmp_path, table="orders")
        one.contract = Schema.of({"amuont": "float64"})
        with pytest.raises(DataFlareError, match="no column 'amuont'"):
            await one.schema()

    run(go())


HOLDER = {
    "sqlite": "import sqlite3; c = sqlite3.connect(PATH, isolation_level=None); c.execute('begin exclusive')",
    "duckdb": "import duckdb; c = duckdb.connect(PATH); c.execute('create or replace table h (i int)')",
}


def test_a_database_that_another_process_holds_is_an_error_worth_retrying(kind, tmp_path):
    path = tmp_path / "data.db"
    execute(kind, path, *ORDERS)
    code = f"PATH = {str(path)!r}\n{HOLDER[kind]}\nprint('held', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        error = schema_error(kind, tmp_path, table="orders", busy_timeout=0)
        assert (error.code, error.retry) == ("E0605", Retry.LATER)

        async def go():
            schema = Schema.of({"id": "int64"})
            step = Step(kind, tmp_path, schema, busy_timeout=0)
            with pytest.raises(DataFlareError) as caught:
                await step.start()
            assert caught.value.code == "E0605"
            holder.stdin.write("\n")
            holder.stdin.close()
            holder.wait()
            await step.start()
            await step.epoch(1, batch([{"id": 1}]), final=True)
            await step.close()

        run(go())


def test_closing_a_reader_waits_for_the_read_that_is_under_way(kind, tmp_path):
    execute(kind, tmp_path / "data.db", *ORDERS)

    async def go():
        one = source(kind, tmp_path, table="orders")
        (split,) = await one.splits()
        reader = await one.open(split, None)
        reading = asyncio.ensure_future(reader.read_batch(1))
        await asyncio.sleep(0)
        reading.cancel()
        await reader.aclose()
        await reader.aclose()
        with pytest.raises(EndOfSplit):
            await reader.read_batch(1)

    run(go())


def test_a_query_is_refused_before_it_could_change_anything(kind, tmp_path):
    execute(kind, tmp_path / "data.db", *ORDERS)
    error = schema_error(kind, tmp_path, query="delete from orders")
    assert isinstance(error, ConfigError)
    found, _ = run(read(kind, tmp_path, table="orders"))
    assert found.height == 5
