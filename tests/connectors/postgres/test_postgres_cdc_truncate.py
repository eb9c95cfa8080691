"""TRUNCATE of a table that is followed: its copies are emptied at that place of the order, or the run says which step takes
none."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from cdc_kit import Copy
from postgres_kit import Database

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.planner import plan
from dataflare.sdk.crashpoints import observed
from dataflare.workflow.load import load_text

CATALOG = '{type: sql, uri: "sqlite:///catalog.db", warehouse: warehouse}'
LAKES = {
    "delta": "path: copy.delta",
    "iceberg": f"catalog: {CATALOG}, table: shop.copied",
    "duckdb": "path: copy.duckdb, table: copied",
    "postgres": 'connection_string: "DSN", table: copied',
}
MANY = """\
name: shop
settings: {mode: batch, parallelism: 2, checkpoint: {interval: 20ms}}
sources:
  shop: {type: postgres, config: {connection_string: "DSN", tables: ["orders", "items"], cdc: true}}
"""


@pytest.fixture
def orders(logical: Database) -> Database:
    logical.execute(
        "create table orders (id int primary key, name text)",
        "insert into orders select n, 'n' || n from generate_series(1, 20) n",
    )
    return logical


def catch_up(text: str, database: Database, folder: Path) -> RunResult:
    text = text.replace("DSN", database.dsn)
    result = run(load_text(text, base=folder), RunOptions(folder / "home"))
    assert result.status == "finished", result.error
    return result


@pytest.mark.parametrize("kind", LAKES)
def test_a_mirror_is_emptied_in_the_middle_of_a_transaction(
    orders: Database, tmp_path: Path, kind: str
) -> None:
    into = LAKES[kind].replace("DSN", orders.dsn) + ", mode: mirror, key: [id]"
    copy = Copy(orders, tmp_path, kind=kind, into=into)
    copy.catch_up()
    orders.execute(
        "begin; insert into orders values (21, 'gone'); update orders set name = 'gone' where id = 1; truncate orders; "
        "insert into orders values (1, 'new'), (2, 'two'); update orders set name = 'newer' where id = 1; commit"
    )
    copy.catch_up()
    assert read(kind, orders, tmp_path) == [(1, "newer"), (2, "two")]
    orders.execute("truncate orders")
    copy.catch_up()
    assert read(kind, orders, tmp_path) == []
    orders.execute("insert into orders values (3, 'again')")
    copy.catch_up()
    assert read(kind, orders, tmp_path) == [(3, "again")]


def read(kind: str, database: Database, folder: Path) -> list[tuple[Any, ...]]:
    if kind == "postgres":
        return database.rows("select id, name from copied order by id")
    if kind == "duckdb":
        import duckdb

        with duckdb.connect(str(folder / "copy.duckdb")) as db:
            return db.execute("select id, name from copied order by id").fetchall()
    if kind == "delta":
        import deltalake

        table = deltalake.DeltaTable(str(folder / "copy.delta")).to_pyarrow_table()
    else:
        from pyiceberg.catalog.sql import SqlCatalog

        uri, place = f"sqlite:///{folder}/catalog.db", f"file://{folder}/warehouse"
        catalog = SqlCatalog("dataflare", uri=uri, warehouse=place)
        table = catalog.load_table("shop.copied").scan().to_arrow()
    return sorted((row["id"], row["name"]) for row in table.to_pylist())


def test_all_tables_of_the_statement_and_no_others(logical: Database, tmp_path: Path) -> None:
    logical.execute(
        "create table orders (id int primary key, name text)",
        "create table items (id int primary key references orders, name text)",
        "create table other (id int primary key)",
        "insert into orders values (1, 'a')", "insert into items values (1, 'b')", "insert into other values (1)",
    )  # fmt: skip
    text = MANY.replace('"items"', '"items", "other"') + (
        "destinations:\n"
        '  copy: {type: sqlite, inputs: [shop], config: {path: copy.db, table: "{table}", mode: mirror}}\n'
    )
    catch_up(text, logical, tmp_path)
    logical.execute("truncate orders cascade")
    catch_up(text, logical, tmp_path)
    with sqlite3.connect(tmp_path / "copy.db") as db:
        counts = [
            db.execute(f"select count(*) from {t}").fetchone()[0]
            for t in ("orders", "items", "other")
        ]
    assert counts == [0, 0, 1]


def test_it_passes_the_steps_that_work_row_by_row(orders: Database, tmp_path: Path) -> None:
    """In front of a filter the newest row of each key is kept, and then deletes come out."""
    orders.execute("alter table orders replica identity full")
    text = f"""\
name: shop
settings: {{mode: batch, parallelism: 2, checkpoint: {{interval: 20ms}}}}
sources:
  orders: {{type: postgres, config: {{connection_string: "{orders.dsn}", table: orders, cdc: true}}}}
transformations:
  some: {{type: filter, inputs: [orders], config: {{condition: "id > 1"}}}}
  parts: {{type: route, inputs: [some], config: {{routes: {{low: "id < 10", high: "id >= 10"}}}}}}
destinations:
  low: {{type: sqlite, inputs: [parts.low], config: {{path: copy.db, table: low, mode: mirror, key: [id]}}}}
  high: {{type: sqlite, inputs: [parts.high], config: {{path: copy.db, table: high, mode: upsert, key: [id]}}}}
  changes: {{type: sqlite, inputs: [orders], config: {{path: copy.db, table: changes, changelog: columns}}}}
"""
    catch_up(text, orders, tmp_path)
    orders.execute("truncate orders", "insert into orders values (3, 'new')")
    catch_up(text, orders, tmp_path)
    with sqlite3.connect(tmp_path / "copy.db") as db:
        assert db.execute("select id from low").fetchall() == [(3,)]
        assert db.execute("select count(*) from high").fetchone() == (11,)
        changes = db.execute("select id, _op from changes order by rowid desc limit 2").fetchall()
    assert changes == [(3, "insert"), (None, "truncate")]


def test_kept_rows_and_histories_say_which_rows_went(orders: Database, tmp_path: Path) -> None:
    text = f"""\
name: shop
settings: {{mode: batch, parallelism: 2, checkpoint: {{interval: 20ms}}}}
sources:
  orders: {{type: postgres, config: {{connection_string: "{orders.dsn}", table: orders, cdc: true}}}}
transformations:
  some: {{type: filter, inputs: [orders], config: {{condition: "id > 10"}}}}
  counted: {{type: aggregate, inputs: [some], config: {{measures: {{n: "count(*)"}}, emit: updates}}}}
destinations:
  counts: {{type: sqlite, inputs: [counted], config: {{path: copy.db, table: counts, changelog: columns}}}}
  copy: {{type: sqlite, inputs: [some], config: {{path: copy.db, table: some, mode: mirror, key: [id]}}}}
  versions: {{type: sqlite, inputs: [orders], config: {{path: copy.db, table: versions, mode: history, key: [id]}}}}
"""
    catch_up(text, orders, tmp_path)
    orders.execute("truncate orders", "insert into orders values (3, 'new'), (12, 'new')")
    catch_up(text, orders, tmp_path)
    with sqlite3.connect(tmp_path / "copy.db") as db:
        assert db.execute("select id, name from some").fetchall() == [(12, "new")]
        [(current,)] = db.execute("select count(*) from versions where is_current").fetchall()
        [(ended,)] = db.execute("select count(*) from versions where not is_current").fetchall()
        last = db.execute(
            "select n from counts where _op <> 'update_before' order by rowid desc"
        ).fetchone()
    assert (current, ended) == (2, 20)
    assert last == (1,)


def test_a_step_that_cannot_say_which_rows_went(orders: Database, tmp_path: Path) -> None:
    orders.execute("alter table orders replica identity full")
    text = f"""\
name: shop
settings: {{mode: batch, parallelism: 1, checkpoint: {{interval: 20ms}}, restart: {{attempts: 0}}}}
sources:
  orders: {{type: postgres, config: {{connection_string: "{orders.dsn}", table: orders, cdc: true}}}}
transformations:
  counted: {{type: aggregate, inputs: [orders], config: {{group_by: [name], measures: {{n: "count(*)"}}, emit: updates}}}}
destinations:
  counts: {{type: sqlite, inputs: [counted], config: {{path: copy.db, table: counts, mode: mirror, key: [name]}}}}
"""
    workflow = load_text(text, base=tmp_path)
    notes = next(n for n in plan(workflow).view()["nodes"] if n["id"] == "orders")
    assert "a TRUNCATE ends the run, because step 'counted' takes none" in notes["effects"]
    catch_up(text, orders, tmp_path)
    orders.execute("insert into orders values (50, 'before')", "truncate orders")
    error = run(workflow, RunOptions(tmp_path / "home")).error
    assert error is not None
    assert (error.code, "step 'counted' cannot take back" in error.message) == ("E0605", True)
    with sqlite3.connect(tmp_path / "copy.db") as db:
        assert db.execute("select count(*) from counts where name = 'before'").fetchone() == (1,)


def test_a_truncate_that_the_snapshot_has_seen(orders: Database, tmp_path: Path) -> None:
    """It comes between the slot and the snapshot, so it is in the log, and the rows behind it were read."""

    def between(place: str) -> None:
        if place == "postgres.cdc.after_slot":
            orders.execute("truncate orders", "insert into orders values (7, 'read')")

    copy = Copy(orders, tmp_path)
    with observed(between):
        copy.catch_up()
    copy.catch_up()
    assert copy.rows() == [(7, "read")]


def test_a_table_without_a_key_is_mirrored_by_a_key_of_its_own(
    logical: Database, tmp_path: Path
) -> None:
    """Also where several rows have the key."""
    logical.execute(
        "create table orders (id int, name text)", "alter table orders replica identity full",
        "insert into orders select n % 15, 'n' || n from generate_series(1, 20) n",
    )  # fmt: skip
    text = f"""\
name: shop
settings: {{mode: batch, parallelism: 2, checkpoint: {{interval: 20ms}}}}
sources:
  orders: {{type: postgres, config: {{connection_string: "{logical.dsn}", table: orders, cdc: true}}}}
destinations:
  copy: {{type: sqlite, inputs: [orders], config: {{path: copy.db, table: orders, mode: mirror, key: [id]}}}}
"""
    notes = plan(load_text(text, base=tmp_path)).view()["nodes"]
    assert not [e for node in notes for e in node.get("effects", ()) if "TRUNCATE" in e]
    catch_up(text, logical, tmp_path)
    logical.execute(
        "insert into orders values (99, 'before')", "truncate orders",
        "insert into orders values (3, 'new'), (3, 'newer')", "delete from orders where name = 'newer'",
    )  # fmt: skip
    catch_up(text, logical, tmp_path)
    with sqlite3.connect(tmp_path / "copy.db") as db:
        assert db.execute("select id, name from orders").fetchall() == [(3, "new")]
    logical.execute("truncate orders")
    catch_up(text, logical, tmp_path)
    with sqlite3.connect(tmp_path / "copy.db") as db:
        assert db.execute("select count(*) from orders").fetchone() == (0,)
