"""Mirrors whose deleted rows stay, with the time of it: from full reads and from changes, in each database that can."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import psycopg
import pytest
from cdc_kit import Copy
from optional_packages import package
from postgres_kit import Database
from servers import services
from servers.mariadb import MariaDbServer

from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow.load import load_text

Rows = dict[int, tuple[str, Any]]
SQL = "select id, name, gone from kept order by id"


def in_sqlite(folder: Path) -> Rows:
    with closing(sqlite3.connect(folder / "kept.db")) as db:
        return {i: (n, g and datetime.fromisoformat(g)) for i, n, g in db.execute(SQL).fetchall()}


def in_duckdb(folder: Path) -> Rows:
    with duckdb.connect(str(folder / "kept.db"), read_only=True) as db:
        found = db.execute(SQL.replace("gone from", "epoch_us(gone) from")).fetchall()
    return {
        i: (n, None if g is None else datetime.fromtimestamp(g / 1e6, UTC)) for i, n, g in found
    }


def in_delta(folder: Path) -> Rows:
    return of_frame(pl.read_delta(str(folder / "kept")))


def in_iceberg(folder: Path) -> Rows:
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("dataflare", uri=f"sqlite:///{folder / 'catalog.db'}")
    found = catalog.load_table("shop.kept").scan().to_arrow()
    catalog.engine.dispose()
    return of_frame(pl.DataFrame(pl.from_arrow(found)))


def of_frame(frame: pl.DataFrame) -> Rows:
    rows = frame.sort("id").select("id", "name", "gone").iter_rows()
    return {i: (n, g) for i, n, g in rows}


ICEBERG = (
    "type: iceberg, config: {catalog: {type: sql, uri: 'sqlite:///catalog.db', warehouse: lake}, "
)
FILES = {
    "sqlite": ("type: sqlite, config: {path: kept.db, table: kept, ", in_sqlite),
    "duckdb": ("type: duckdb, config: {path: kept.db, table: kept, ", in_duckdb),
    "delta": ("type: delta, config: {path: kept, ", in_delta),
    "iceberg": (f"{ICEBERG}table: shop.kept, ", in_iceberg),
}


@pytest.fixture(params=[*FILES, "postgres", "mysql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Callable[[], Rows]]:
    """The beginning of a destination, and what another program finds there."""
    if request.param == "mysql":
        return request.getfixturevalue("mariadb_place")
    if request.param == "postgres":
        database: Database = request.getfixturevalue("logical")

        def rows() -> Rows:
            with psycopg.connect(database.dsn) as db:
                return {i: (n, g) for i, n, g in db.execute(SQL).fetchall()}

        return f'type: postgres, config: {{connection_string: "{database.dsn}", table: kept, ', rows
    if request.param in ("delta", "iceberg"):
        package("deltalake" if request.param == "delta" else "pyiceberg")
    beginning, reader = FILES[request.param]
    return beginning, lambda: reader(tmp_path)


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDbServer]:
    yield from services.running("mariadb")


@pytest.fixture
def mariadb_place(mariadb: MariaDbServer) -> tuple[str, Callable[[], Rows]]:
    with mariadb.client("test") as db, db.cursor() as cursor:
        cursor.execute("drop table if exists kept")

    def rows() -> Rows:
        with mariadb.client("test") as db, db.cursor() as cursor:
            cursor.execute("set time_zone = '+00:00'")
            cursor.execute(SQL)
            found = cursor.fetchall()
        return {i: (n, g and g.replace(tzinfo=UTC)) for i, n, g in found}

    dsn = mariadb.dsn("test")
    return f'type: mysql, config: {{connection_string: "{dsn}", table: kept, ', rows


def mirrored(folder: Path, place: str, source: str, more: str = "") -> RunResult:
    text = (
        f"name: kept\nsources: {{rows: {{{source}}}}}\ndestinations:\n"
        f"  kept: {{inputs: [rows], {place}mode: mirror, key: [id], deleted_at: gone{more}}}}}\n"
    )
    result = run(load_text(text, base=folder), RunOptions(folder / "home"))
    assert result.status == "finished", result.error
    return result


def inline(*rows: dict[str, Any]) -> str:
    changelog = "changelog: columns, " if any("_op" in row for row in rows) else ""
    given = f"type: inline, config: {{{changelog}rows: {json.dumps(rows)}}}"
    return f"{given}, schema: {{id: int64, name: string}}"


def row(id_: int, name: str, op: str | None = None) -> dict[str, Any]:
    return {"id": id_, "name": name} | ({} if op is None else {"_op": op})


def test_what_a_full_read_lacks_is_marked(
    tmp_path: Path, place: tuple[str, Callable[[], Rows]]
) -> None:
    to, rows = place
    (tmp_path / "in.ndjson").write_text('{"id": 1, "name": "a"}\n{"id": 2, "name": "b"}\n')
    source = "type: file, config: {path: in.ndjson}"
    before = datetime.now(UTC)
    mirrored(tmp_path, to, source, ", delete_max: 1")
    assert rows() == {1: ("a", None), 2: ("b", None)}
    (tmp_path / "in.ndjson").write_text('{"id": 1, "name": "a"}\n')
    told = mirrored(tmp_path, to, source, ", delete_max: 1").to_json()
    assert "'deleted': 1" in str(told)
    marked = rows()[2][1]
    assert before <= marked <= datetime.now(UTC)
    # One that is marked does not count as a delete of this run.
    mirrored(tmp_path, to, source, ", delete_max: 0")
    assert rows() == {1: ("a", None), 2: ("b", marked)}
    (tmp_path / "in.ndjson").write_text('{"id": 1, "name": "a"}\n{"id": 2, "name": "back"}\n')
    mirrored(tmp_path, to, source, ", delete_max: 0")
    assert rows() == {1: ("a", None), 2: ("back", None)}


def test_deletes_of_a_changelog_mark(tmp_path: Path, place: tuple[str, Callable[[], Rows]]) -> None:
    to, rows = place
    mirrored(
        tmp_path, to,
        inline(
            row(1, "a", "insert"), row(2, "b", "insert"), row(3, "c", "insert"), row(2, "b", "delete"),
            row(3, "c", "update_before"), row(4, "c", "update_after"), row(5, "e", "insert"),
        ),
    )  # fmt: skip
    first = rows()
    assert {i: (n, g is None) for i, (n, g) in first.items()} == {
        1: ("a", True), 4: ("c", True), 5: ("e", True)
    }  # fmt: skip


def test_a_followed_table_keeps_its_deleted_rows(
    logical: Database, tmp_path: Path, place: tuple[str, Callable[[], Rows]]
) -> None:
    to, rows = place
    logical.execute(
        "create table orders (id int primary key, name text)",
        "insert into orders values (1, 'a'), (2, 'b'), (3, 'c')",
    )
    kind, _, rest = to.removeprefix("type: ").partition(", config: {")
    into = f"{rest}mode: mirror, key: [id], deleted_at: gone"
    copy = Copy(logical, tmp_path, kind=kind, into=into)
    copy.catch_up()
    logical.execute(
        "delete from orders where id = 1", "update orders set id = 9 where id = 2", "update orders set name = 'x' where id = 3"
    )  # fmt: skip
    copy.catch_up()
    marked = rows()
    assert {i: (n, g is None) for i, (n, g) in marked.items()} == {
        1: ("a", False), 2: ("b", False), 3: ("x", True), 9: ("b", True)
    }  # fmt: skip
    logical.execute("insert into orders values (1, 'again')", "truncate orders")
    copy.catch_up()
    assert [g is None for _, g in rows().values()] == [False] * 4
    assert rows()[2] == marked[2]
    logical.execute("insert into orders values (1, 'third')")
    copy.catch_up()
    assert rows()[1] == ("third", None)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    for config, code in (
        ("mode: upsert, key: [id], deleted_at: gone", "E0405"),
        ("mode: mirror, key: [id], deleted_at: name", "E0411"),
    ):
        text = (
            f"name: t\nsources: {{rows: {{{inline(row(1, 'a'))}}}}}\n"
            f"destinations: {{kept: {{type: sqlite, inputs: [rows], config: {{path: a.db, table: t, {config}}}}}}}\n"
        )
        with pytest.raises(DataFlareError) as caught:
            run(load_text(text, base=tmp_path), RunOptions(tmp_path / "home"))
        assert caught.value.code == code
