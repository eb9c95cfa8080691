"""What cannot be followed is refused, with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from cdc_kit import Copy, is_following
from postgres_kit import Database
from servers import postgres as servers

from dataflare.errors import DataFlareError
from dataflare.jobs import Progress
from dataflare.jobs.resync import resync
from dataflare.workflow.load import load_text


def refused(copy: Copy, **options: Any) -> DataFlareError:
    try:
        result = copy.run(**options)
    except DataFlareError as error:
        return error
    assert result.status == "failed"
    assert result.error is not None
    return result.error


def slot_of(database: Database) -> str:
    [(slot,)] = database.rows(
        "select slot_name from pg_replication_slots where database = current_database()"
    )
    return str(slot)


@pytest.fixture
def orders(logical: Database) -> Database:
    logical.execute(
        "create table orders (id int primary key, name text)",
        "insert into orders select n, 'n' || n from generate_series(1, 20) n",
    )
    return logical


def test_a_server_without_a_logical_log(tmp_path: Path) -> None:
    with servers.server(wal_level="replica") as server:
        database = Database(server, "postgres", tmp_path)
        database.execute("create table orders (id int primary key)")
        error = refused(Copy(database, tmp_path))
        # Of many tables it is told once.
        database.execute("create table items (id int primary key)")
        many = Copy(database, tmp_path, into='path: copy.db, table: "{table}", mode: mirror')
        many.text = many.text.replace("table: orders, cdc", "tables: [orders, items], cdc")
        assert refused(many).message == error.message
    assert (error.code, "wal_level is replica" in error.message) == ("E0605", True)
    assert error.help == "ALTER SYSTEM SET wal_level = logical; then restart the server"


def test_a_table_without_a_key_is_not_published(logical: Database, tmp_path: Path) -> None:
    logical.execute("create table orders (id int, name text)")
    error = refused(Copy(logical, tmp_path))
    assert error.code == "E0605"
    assert error.help is not None
    assert 'ALTER TABLE "public"."orders" REPLICA IDENTITY FULL' in error.help
    assert logical.rows("select * from pg_publication") == []


def test_a_view(logical: Database, tmp_path: Path) -> None:
    logical.execute("create view orders as select 1 as id")
    assert refused(Copy(logical, tmp_path)).code == "E0405"


def test_a_user_without_rights_is_told_the_statements(orders: Database, tmp_path: Path) -> None:
    orders.execute(
        "drop role if exists reader", "create role reader login password 's3cret-Pass/w0rd'",
        "grant select on orders to reader",
    )  # fmt: skip
    copy = Copy(orders, tmp_path)
    copy.text = copy.text.replace("//tester:", "//reader:")
    error = refused(copy)
    assert (error.code, error.help) == (
        "E0602",
        "ALTER ROLE ... REPLICATION for the user in 'connection_string'",
    )
    orders.execute("alter role reader replication")
    error = refused(copy)
    assert error.code == "E0602"
    assert error.help is not None
    assert "let the owner of the table run: CREATE PUBLICATION" in error.help
    assert "s3cret" not in str(error)
    orders.execute(error.help.partition("run: ")[2])
    copy.catch_up()
    assert len(copy.rows()) == 20
    orders.execute("drop owned by reader")


def test_a_slot_that_another_reads(orders: Database, tmp_path: Path) -> None:
    orders.execute("create publication mine for table orders")
    name = "replication=database&application_name=someone"
    low = psycopg.connect(f"{orders.dsn}?{name}", autocommit=True).pgconn
    low.exec_(b"CREATE_REPLICATION_SLOT taken LOGICAL pgoutput (SNAPSHOT 'nothing')")
    low.exec_(
        b"START_REPLICATION SLOT taken LOGICAL 0/0 (proto_version '1', publication_names 'mine')"
    )
    copy = Copy(orders, tmp_path, cdc="{slot: taken}")
    copy.text = copy.text.replace("  parallelism: 1", "  restart: {attempts: 0}")
    error = refused(copy)
    low.finish()
    assert error.code == "E0605"
    assert "is in use by 'someone' from 127.0.0.1" in error.message


def test_a_slot_that_is_gone_or_was_made_anew(orders: Database, tmp_path: Path) -> None:
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    slot = slot_of(orders)
    orders.execute(f"select pg_drop_replication_slot('{slot}')", "delete from orders where id = 1")
    error = refused(copy)
    assert error.code == "E0605"
    assert f"slot '{slot}'" in error.message
    assert "is gone" in error.message
    orders.execute(f"select pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    error = refused(copy)
    assert error.code == "E0605"
    assert "made anew or advanced by another program" in error.message


def test_a_run_anew_says_that_deleted_rows_stay(orders: Database, tmp_path: Path) -> None:
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    orders.execute("insert into orders values (100, 'new')", "delete from orders where id = 1")
    result = copy.catch_up(fresh=True)
    assert (1, "n1") in copy.rows()
    [told] = [each for each in result.warnings if "was there before this run" in each]
    assert "reads public.orders anew" in told
    assert "'dataflare resync' of the table removes them" in told
    resync(load_text(copy.text, base=tmp_path), tmp_path / "home", "orders")
    copy.catch_up()
    assert copy.rows() == orders.rows("select * from orders order by id")


def test_the_old_row_has_a_large_value(logical: Database, tmp_path: Path) -> None:
    logical.execute(
        "create table orders (id int primary key, name text, body text)",
        "alter table orders replica identity full",
        "alter table orders alter body set storage external",
        "insert into orders values (1, 'a', repeat('x', 10000))",
    )
    copy = Copy(logical, tmp_path)
    copy.catch_up()
    logical.execute("update orders set name = 'b'")
    copy.catch_up()
    assert copy.rows("select name, length(body) from orders") == [("b", 10_000)]


def test_a_table_that_was_made_again(orders: Database, tmp_path: Path) -> None:
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    orders.execute("drop table orders", "create table orders (id int primary key, name text)")
    orders.execute("insert into orders values (9, 'new')")
    result = copy.catch_up()
    assert copy.rows() == [(9, "new")]
    assert [w for w in result.warnings if "is read again: it is another table" in w]
    orders.execute("update orders set name = 'newer'")
    assert not copy.catch_up().warnings
    assert copy.rows() == [(9, "newer")]


def test_a_table_that_was_made_again_behind_a_step_that_cannot_take_back_rows(
    orders: Database, tmp_path: Path
) -> None:
    orders.execute("alter table orders replica identity full")
    copy = Copy(orders, tmp_path, into="path: copy.db, table: orders, mode: mirror, key: [name]")
    sums = "{type: aggregate, inputs: [orders], config: {group_by: [name], measures: {n: count(*)}, emit: updates}}"
    copy.text = copy.text.replace("inputs: [orders]", "inputs: [sums]").replace(
        "destinations:", f"transformations:\n  sums: {sums}\ndestinations:"
    )
    copy.catch_up()
    orders.execute(
        "drop table orders",
        "create table orders (id int primary key, name text)",
        "alter table orders replica identity full",
    )
    error = refused(copy)
    assert (error.code, error.step) == ("E0545", "orders")
    assert "another table" in error.message
    assert "step 'sums' cannot take back" in error.message


def test_a_single_table_that_was_renamed_goes_on_under_its_new_name(
    orders: Database, tmp_path: Path
) -> None:
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    orders.execute(
        "update orders set name = 'before'", "alter table orders rename to purchases",
        "delete from purchases where id = 1",
    )  # fmt: skip
    copy.text = copy.text.replace("table: orders, cdc", "table: purchases, cdc")
    result = copy.catch_up()
    assert not [w for w in result.warnings if "read again" in w]
    assert copy.rows() == orders.rows("select * from purchases order by id")


def test_a_table_that_is_renamed_while_it_is_followed(
    orders: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_TELL_S", "_CHECK_S"):
        monkeypatch.setattr(f"dataflare.connectors.postgres.cdc.reader.{name}", 0.05)
    copy = Copy(orders, tmp_path, mode="auto")

    def rename(progress: Progress) -> None:
        if is_following(orders) and orders.rows("select from pg_class where relname = 'orders'"):
            orders.execute("alter table orders rename to purchases")

    error = refused(copy, listener=rename)
    assert error.code == "E0605"
    assert "it is called 'public.purchases' now" in error.message


def test_a_table_that_goes_while_it_is_followed(
    orders: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_TELL_S", "_CHECK_S"):
        monkeypatch.setattr(f"dataflare.connectors.postgres.cdc.reader.{name}", 0.05)
    copy = Copy(orders, tmp_path, mode="auto")

    def drop(progress: Progress) -> None:
        if is_following(orders) and orders.rows("select from pg_class where relname = 'orders'"):
            orders.execute("drop table orders")

    error = refused(copy, listener=drop)
    assert error.code == "E0605"
    assert "does not have table 'orders'" in error.message


def test_a_table_that_left_the_publication(orders: Database, tmp_path: Path) -> None:
    copy = Copy(orders, tmp_path)
    copy.catch_up()
    [(name,)] = orders.rows("select pubname::text from pg_publication")
    orders.execute(f'alter publication "{name}" drop table orders')
    error = refused(copy)
    assert (error.code, error.help) == (
        "E0605",
        f'ALTER PUBLICATION "{name}" ADD TABLE ONLY "public"."orders"',
    )
