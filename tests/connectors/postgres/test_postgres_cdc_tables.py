"""Tables of all kinds, and tables that change while they are followed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from cdc_kit import Copy, is_following, source
from postgres_kit import Database

from dataflare.errors import DataFlareError
from dataflare.model.batch import RowKind
from dataflare.sdk.source import EndOfSplit


def refused(copy: Copy) -> DataFlareError:
    result = copy.run()
    assert result.status == "failed"
    assert result.error is not None
    return result.error


@pytest.fixture
def orders(logical: Database) -> Database:
    logical.execute(
        "create table orders (id int primary key, name text)",
        "insert into orders values (1, 'a'), (2, 'b')",
    )
    return logical


def test_a_table_without_a_key_is_written_as_changes(logical: Database, tmp_path: Path) -> None:
    logical.execute(
        "create table orders (id int, name text)", "alter table orders replica identity full",
        "insert into orders select n, 'n' from generate_series(1, 50) n",
    )  # fmt: skip
    copy = Copy(logical, tmp_path, into="path: copy.db, table: orders, changelog: columns")
    copy.catch_up()
    logical.execute(
        "update orders set name = 'new' where id = 1", "delete from orders where id = 2"
    )
    copy.catch_up()
    counts = copy.rows("select _op, count(*) from orders group by 1 order by 1")
    assert counts == [("delete", 1), ("insert", 50), ("update_after", 1), ("update_before", 1)]
    assert copy.rows("select id, name from orders where _op = 'delete'") == [(2, "n")]


def test_rows_of_tables_that_inherit_are_neither_read_nor_followed(
    orders: Database, tmp_path: Path
) -> None:
    orders.execute(
        "create table gifts (note text) inherits (orders)", "insert into gifts values (50, 'g', 'x')",
        "create table more (primary key (id)) inherits (orders)",
    )  # fmt: skip
    copy = Copy(orders, tmp_path)
    result = copy.catch_up()
    assert [w for w in result.warnings if "inherit from it (gifts, more)" in w]
    assert copy.rows() == [(1, "a"), (2, "b")]
    # The table has no key, and its updates are not refused, because it is not published.
    orders.execute(
        "update orders set name = name || '!'", "insert into gifts values (51, 'h', 'y')",
        "delete from orders where id in (2, 50)", "insert into more values (2, 'm')",
    )  # fmt: skip
    copy.catch_up()
    assert copy.rows() == [(1, "a!")] == orders.rows("select * from only orders")
    assert orders.rows("select tablename::text from pg_publication_tables") == [("orders",)]


def test_a_partitioned_table_is_one(logical: Database, tmp_path: Path) -> None:
    logical.execute(
        "create table orders (id int primary key, name text) partition by range (id)",
        "create table low partition of orders for values from (0) to (100)",
        "create table high partition of orders for values from (100) to (200)",
        "insert into orders values (1, 'a'), (101, 'b')",
    )
    copy = Copy(logical, tmp_path)
    copy.catch_up()
    logical.execute("update orders set id = 102 where id = 1", "insert into orders values (5, 'c')")
    copy.catch_up()
    assert copy.rows() == [(5, "c"), (101, "b"), (102, "a")]


def test_generated_columns_are_left_out(logical: Database, tmp_path: Path) -> None:
    logical.execute(
        "create table orders (id int primary key, twice int generated always as (id * 2) stored, name text)",
        "insert into orders values (1, default, 'a')",
    )
    copy = Copy(logical, tmp_path)
    copy.catch_up()
    logical.execute("insert into orders values (2, default, 'b')")
    copy.catch_up()
    assert copy.rows() == [(1, "a"), (2, "b")]


def test_an_index_identifies_rows(logical: Database, tmp_path: Path) -> None:
    logical.execute(
        "create table orders (id int not null, name text)", "create unique index by_id on orders (id)",
        "alter table orders replica identity using index by_id", "insert into orders values (1, 'a'), (2, 'b')",
    )  # fmt: skip
    copy = Copy(logical, tmp_path)
    copy.catch_up()
    logical.execute("delete from orders where id = 1", "update orders set id = 3 where id = 2")
    copy.catch_up()
    assert copy.rows() == [(3, "b")]


def test_a_filter_gets_whole_rows(orders: Database, tmp_path: Path) -> None:
    copy = Copy(orders, tmp_path)
    kept = "transformations:\n  kept: {type: filter, inputs: [orders], config: {condition: \"name == 'a'\"}}\n"
    copy.text = copy.text.replace("destinations:", f"{kept}destinations:")
    copy.text = copy.text.replace(
        "inputs: [orders], config: {path", "inputs: [kept], config: {path"
    )
    copy.catch_up()
    assert copy.rows() == [(1, "a")]
    orders.execute("update orders set name = case id when 1 then 'b' else 'a' end")
    copy.catch_up()
    assert copy.rows() == [(2, "a")]


def test_a_run_from_now_on(orders: Database, tmp_path: Path) -> None:
    copy = Copy(orders, tmp_path, cdc="{snapshot: never}")
    copy.catch_up()
    orders.execute("insert into orders values (3, 'c')")
    copy.catch_up()
    assert copy.rows() == [(3, "c")]


def test_a_column_is_added(orders: Database, tmp_path: Path) -> None:
    copy = Copy(orders, tmp_path, mode="auto")
    copy.text = copy.text.replace("cdc: true", "cdc: {stop: latest}")
    copy.catch_up()
    orders.execute(
        "insert into orders values (3, 'c')", "alter table orders add note text",
        "update orders set note = 'n' where id = 1", "insert into orders values (4, 'd', 'm')",
    )  # fmt: skip
    copy.catch_up(accept_changes=True)
    assert copy.rows() == [(1, "a", "n"), (2, "b", None), (3, "c", None), (4, "d", "m")]


@pytest.mark.parametrize("is_running", [False, True])
def test_a_column_is_added_with_a_default(
    orders: Database, tmp_path: Path, *, is_running: bool
) -> None:
    """The rows from before have it, also those that no change names; and those of the log from before the column."""
    orders.execute("insert into orders select n, 'n' from generate_series(10, 500) n")
    copy = Copy(orders, tmp_path, mode="auto")
    copy.text = copy.text.replace(
        "parallelism: 1", "parallelism: 1\n  batch: {initial: 50, min: 50, max: 50}"
    )
    changes = [
        "update orders set name = 'before' where id between 20 and 25", "delete from orders where id = 30",
        "alter table orders add level text default 'it''s, \"5\"'", "alter table orders alter level set default 'new'",
        "update orders set name = 'behind' where id between 24 and 40", "delete from orders where id between 50 and 60",
        "update orders set id = id + 1000 where id < 15", "insert into orders (id, name) values (30, 'again'), (700, 'x')",
        "update orders set level = null where id = 100",
    ]  # fmt: skip
    changed: list[str] = []

    def listener(progress: Any) -> None:
        if not changed and is_following(orders):
            changed.extend(changes)
            orders.execute(*changes)

    if is_running:
        copy.run(listener=listener, for_s=3.0)
    else:
        copy.run(for_s=1.5)
        orders.execute(*changes)
    copy.text = copy.text.replace("cdc: true", "cdc: {stop: latest}")
    result = copy.catch_up(accept_changes=True)
    assert copy.rows() == orders.rows("select * from orders order by id")
    if not is_running:
        assert any("is read once more" in each for each in result.warnings)
    orders.execute(
        "delete from orders where id > 20", "update orders set level = 'y' where id = 16"
    )
    copy.catch_up()
    assert copy.rows() == orders.rows("select * from orders order by id")


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_a_table_is_read_once_more_in_two_parts(orders: Database, batches: int) -> None:
    """The reader ends in the middle, and the next one goes on there."""
    orders.execute("insert into orders select n, 'n' from generate_series(10, 60) n")
    rows: dict[int, tuple[Any, ...]] = {}

    async def follow(start: Any, batches_max: int) -> Any:
        made = source(orders, table="orders", cdc={"stop": "latest"})
        [split] = await made.splits(start)
        reader = await made.open(split, None)
        with contextlib.suppress(EndOfSplit):
            for _ in range(batches_max):
                batch = await reader.read_batch(10)
                for *row, kind in batch.frame.rows():
                    rows.pop(row[0], None)
                    if kind in (RowKind.INSERT, RowKind.UPDATE_AFTER):
                        rows[row[0]] = tuple(row)
        await reader.aclose()
        return json.loads(json.dumps(reader.position().value))

    start = asyncio.run(follow(None, 1_000))
    orders.execute(
        "update orders set name = 'before' where id < 30", "delete from orders where id in (1, 50)",
        "alter table orders add level int default 5", "update orders set name = 'behind' where id in (2, 55)",
    )  # fmt: skip
    start = asyncio.run(follow(start, batches))
    assert start["tables"][next(iter(start["tables"]))]["snapshot"]["again"]
    orders.execute(
        "delete from orders where id in (11, 56)",
        "update orders set level = 6 where id in (12, 57)",
    )
    asyncio.run(follow(start, 1_000))
    assert sorted(rows.values()) == orders.rows("select * from orders order by id")


def test_defaults_of_many_types(orders: Database, tmp_path: Path) -> None:
    into = f'connection_string: "{orders.dsn}", table: copied, mode: mirror, key: [id]'
    copy = Copy(orders, tmp_path, kind="postgres", into=into)
    copy.catch_up()
    columns = {
        "numeric(10, 2)": "1.5", "timestamptz": "'2020-02-03 04:05:06.789+05'", "timestamp": "'2020-02-03 04:05'",
        "date": "'2020-02-03'", "int[]": "'{1,null,3}'", "text[]": "'{a,\"b, c\"}'", "bytea": "'\\x00ff'",
        "interval": "'3 hours'", "uuid": "'0a1b2c3d-0000-4000-8000-000000000000'", "boolean": "true",
        "double precision": "0.1", "jsonb": "'{\"a\": [1]}'", "char(4)": "'ab'", "text": "''",
    }  # fmt: skip
    orders.execute("update orders set name = 'before' where id = 1")
    for number, (type_, value) in enumerate(columns.items()):
        orders.execute(f"alter table orders add c{number} {type_} default {value}")
    orders.execute(
        f"alter database {orders.name} set datestyle = 'German'",
        "update orders set name = 'behind' where id = 2",
    )
    copy.catch_up(accept_changes=True)
    names = ", ".join(["id", "name", *(f"c{number}" for number in range(len(columns)))])
    names = names.replace("c11", "c11::text").replace("c12", "rtrim(c12)")
    both = "(select {0} from {1} except select {0} from {2})"
    assert orders.rows("select count(*) from copied") == [(2,)]
    for pair in (("orders", "copied"), ("copied", "orders")):
        assert orders.rows(both.format(names, *pair)) == []


def test_a_default_of_whole_rows_is_refused(orders: Database, tmp_path: Path) -> None:
    """Rows that were given cannot be given once more where steps may take each of them back."""
    orders.execute("alter table orders replica identity full")
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    orders.execute("alter table orders add level int default 5")
    error = refused(copy)
    assert (error.code, "REPLICA IDENTITY FULL" in error.message) == ("E0545", True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("add level float default random()", "column 'level' of table 'orders' in"),
        ("drop name", "column 'name' of table 'orders' in"),
        ("alter name type int using 1", "column 'name' of table 'orders' in"),
    ],
)
def test_a_change_that_cannot_be_followed_is_named(
    orders: Database, tmp_path: Path, change: str, says: str
) -> None:
    """It comes while a run waits for changes, whose columns are those of its start."""
    copy = Copy(orders, tmp_path, mode="auto")
    changed: list[Any] = []

    def listener(progress: Any) -> None:
        if not changed and is_following(orders):
            changed.append(change)
            orders.execute("insert into orders (id) values (3)", f"alter table orders {change}")
            orders.execute("insert into orders (id) values (4)")

    result = copy.run(listener=listener)
    assert result.status == "failed"
    error = result.error
    assert error is not None
    assert error.code == "E0545"
    assert says in error.message
    assert copy.rows("select count(*) from orders where id = 3") == [(1,)]
    if "default" in change:
        assert refused(copy).code == "E0545"
