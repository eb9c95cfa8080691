"""Folders of files, lakes and catalogues as sources of many tables, and as places of many: each stream has its own
columns, key and position."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optional_packages import package

from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.jobs.catalog import discover, starter
from dataflare.workflow import load_text

TABLES = """\
create table orders (id integer primary key, total real);
create table items (id integer, line integer, name text, primary key (id, line));
insert into orders values (1, 2.5), (2, 3.5);
insert into items values (1, 1, 'x'), (1, 2, 'y');
"""
ROWS = {
    "orders": [(1, 2.5), (2, 3.5)],
    "items": [(1, 1, "x"), (1, 2, "y")],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.executescript(TABLES)
    return tmp_path


def moved(folder: Path, source: str, destination: str, name: str, **options: Any) -> RunResult:
    text = f"name: {name}\nsources:\n  from: {{{source}}}\ndestinations:\n  to: {{inputs: [from], {destination}}}\n"
    result = run(load_text(text, base=folder), RunOptions(home=folder / "home", **options))
    assert result.status == "finished", result.error
    return result


def found(folder: Path, file: str = "back.db") -> dict[str, list[Any]]:
    with closing(sqlite3.connect(folder / file)) as db:
        names = db.execute("select name from sqlite_master where type = 'table'").fetchall()
        return {
            name: sorted(db.execute(f'select * from "{name}"').fetchall())
            for (name,) in names
            if not name.startswith("_dataflare")
        }


SHOP = 'type: sqlite, config: {path: shop.db, tables: ["*"]}'
BACK = 'type: sqlite, config: {path: back.db, table: "{table}"}'
FILES = 'type: file, config: {path: "files/{table}/"}'
NEW_FILES = 'type: file, config: {path: files/, tables: ["*"], new_only: true}'


def test_files_of_a_folder_are_streams_of_their_own(folder: Path) -> None:
    moved(folder, SHOP, FILES, "out")
    result = moved(folder, NEW_FILES, BACK, "back")
    assert found(folder) == ROWS
    assert {"to.orders": 2, "to.items": 2}.items() <= {
        name: step["rows_in"] for name, step in result.to_json()["steps"].items()
    }.items()
    with closing(sqlite3.connect(folder / "shop.db")) as db, db:
        db.execute("insert into orders values (3, 4.5)")
        db.execute("delete from orders where id < 3")
    moved(folder, SHOP, FILES, "out")
    moved(folder, NEW_FILES, BACK, "back")
    assert found(folder)["orders"] == [*ROWS["orders"], (3, 4.5)]
    # The second export had the items again, in a new file.
    assert found(folder)["items"] == sorted(ROWS["items"] * 2)


def test_names_come_from_the_files_and_schemas_from_the_folders(folder: Path) -> None:
    for path, rows in (
        ("in/people.ndjson", [{"id": 1}]),
        ("in/crm/people.ndjson", [{"id": 2}]),
        ("in/logs-2026-01.ndjson", [{"at": "a"}]),
        ("in/logs-2026-02.ndjson", [{"at": "b"}]),
        ("in/secret.ndjson", [{"x": 1}]),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = 'type: file, config: {path: "in/**/*.ndjson", tables: ["*", "!secret"], per_table: {logs: {columns: [at]}}}'
    with pytest.raises(DataFlareError, match="in no schema"):
        moved(folder, source, BACK.replace("{table}", "{schema}_{table}"), "names")
    moved(folder, source.replace('!secret"', '!secret", "!crm.*"'), BACK, "names")
    assert found(folder) == {"people": [(1,)], "logs": [("a",), ("b",)]}
    crm = source.replace('"*", "!secret"', '"crm.*"').replace(
        ", per_table: {logs: {columns: [at]}}", ""
    )
    moved(folder, crm, BACK.replace("{table}", "{schema}_{table}"), "crm")
    assert found(folder)["crm_people"] == [(2,)]


def test_the_tables_of_a_lake_are_streams(folder: Path) -> None:
    package("deltalake")
    moved(folder, SHOP, 'type: delta, config: {path: "lake/{table}", mode: upsert}', "out")
    source = 'type: delta, config: {path: lake, tables: ["*"], new_only: true}'
    moved(folder, source, BACK, "back")
    assert found(folder) == ROWS
    moved(folder, source, BACK, "back")
    assert found(folder) == ROWS
    one = 'type: delta, config: {path: lake, tables: ["ord*"]}'
    moved(folder, one, BACK.replace("back.db", "one.db"), "one")
    assert found(folder, "one.db") == {"orders": ROWS["orders"]}


def test_the_tables_of_a_catalogue_are_streams(folder: Path) -> None:
    package("pyiceberg")
    catalog = 'catalog: {type: sql, uri: "sqlite:///catalog.db", warehouse: lake}'
    moved(
        folder,
        SHOP,
        f'type: iceberg, config: {{{catalog}, table: "shop.{{table}}", mode: upsert}}',
        "out",
    )
    source = f'type: iceberg, config: {{{catalog}, tables: ["shop.*"], new_only: true}}'
    moved(folder, source, BACK, "back")
    moved(folder, source, BACK, "back")
    assert found(folder) == ROWS


def test_one_or_many_is_said_once(folder: Path) -> None:
    for config, says in (
        ('{bootstrap_servers: "h:1", topic: a, tables: ["*"]}', "set one of 'topic' and 'tables'"),
        ('{bootstrap_servers: "h:1", topic: a, per_table: {a: {}}}', "'per_table' needs 'tables'"),
        ('{bootstrap_servers: "h:1"}', "topic"),
    ):
        text = f"name: t\nsources: {{s: {{type: kafka, config: {config}}}}}\ndestinations: {{d: {{type: blackhole, inputs: [s]}}}}"
        with pytest.raises(DataFlareError) as caught:
            run(load_text(text, base=folder), RunOptions(home=folder / "home"))
        assert says in f"{caught.value} {caught.value.notes} {caught.value.help}"


def test_a_workflow_to_start_from_has_one_source_for_all(folder: Path) -> None:
    few = starter(discover("sqlite", [("path", "shop.db")], base=folder))
    assert list(load_text(few, base=folder).sources) == ["items", "orders"]
    names = [f"t{number}" for number in range(8)]
    with closing(sqlite3.connect(folder / "shop.db")) as db:
        db.executescript("".join(f"create table {name} (id int);" for name in names))
    text = starter(discover("sqlite", [("path", "shop.db")], base=folder))
    assert "orders: id total" in text
    made = load_text(text, base=folder)
    assert list(made.sources) == ["sqlite"]
    assert made.sources["sqlite"].config["tables"] == ["items", "orders", *names]
    result = run(made, RunOptions(home=folder / "home"))
    assert result.status == "finished", result.error
    written = {path.name for path in (folder / "out").glob("*.parquet")}
    assert {"items.parquet", "orders.parquet", "t7.parquet"} <= written
