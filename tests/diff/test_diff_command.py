"""`dataflare diff` on the command line."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import duckdb
import polars as pl
import pytest

from dataflare.cli.app import execute
from dataflare.jobs.diff import sides
from dataflare.workflow.load import load_text

FLOW = """\
name: shop
sources:
  orders: {type: sqlite, config: {path: shop.db, table: orders}}
transformations:
  dear: {type: filter, inputs: [orders], config: {condition: "price > 10"}}
  by_name: {type: aggregate, inputs: [orders], config: {group_by: [name], measures: {n: count(*)}}}
destinations:
  text: {type: file, inputs: [dear], config: {path: out/dear.csv, null_value: NA}}
  table: {type: duckdb, inputs: [dear], config: {path: out.duckdb, table: dear, mode: mirror, key: [id]}}
  parts: {type: file, inputs: [dear], config: {path: out/parts/, format: parquet}}
  counts: {type: sqlite, inputs: [by_name], config: {path: counts.db, table: counts, mode: overwrite}}
  shown: {type: stdout, inputs: [by_name], config: {format: ndjson}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "shop.db") as db:
        db.execute("create table orders (id integer primary key, name text, price real)")
        rows = [(1, "a", 5.0), (2, None, 20.0), (3, "", 30.5), (4, "d", None), (5, "-", 11.0)]
        db.executemany("insert into orders values (?, ?, ?)", rows)
        db.execute("create table others as select id, name, price + (id = 3) as price from orders")
        db.execute("delete from others where id = 4")
    db.close()
    return tmp_path


CHANGES = """\
name: changes
sources:
  rows: {type: inline, config: {rows: [{id: 1, x: 1}, {id: 1, x: 2}, {id: 2, x: 5}]}}
transformations:
  last: {type: deduplicate, inputs: [rows], config: {key: [id], keep: last}}
destinations:
  out: {type: sqlite, inputs: [last], config: {path: last.db, table: last, mode: upsert, key: [id]}}
"""


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def cli(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """A command line, in this process: to start one takes longer than all that it does."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: str) -> Done:
        status = execute([*args])
        return Done(status, *capsys.readouterr())

    return run


def test_equal_tables(folder: Path, cli: Command) -> None:
    pl.DataFrame(
        {
            "id": [1, 2, 3, 4, 5],
            "name": ["a", None, "", "d", "-"],
            "price": [5.0, 20, 30.5, None, 11],
        }
    ).write_parquet(folder / "orders.parquet")
    done = cli("diff", "shop.db#orders", "orders.parquet")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal: 5 rows and 5 rows compared by id\n"


def test_rows_that_differ(folder: Path, cli: Command) -> None:
    done = cli("diff", "shop.db#orders", "shop.db#others")
    assert done.returncode == 1
    assert "1 row only in shop.db#orders" in done.stdout
    assert "1 row different (price in 1)" in done.stdout
    found = json.loads(cli("diff", "shop.db#orders", "shop.db#others", "--json").stdout)
    assert not found["equal"]
    assert (found["left_rows"], found["right_rows"], found["key"]) == (5, 4, ["id"])
    rows = {row["id"]: row for row in found["rows"]}
    assert rows[3]["_diff"] == "different"
    assert (rows[3]["price_left"], rows[3]["price_right"]) == (30.5, 31.5)
    assert rows[4]["_diff"] == "left"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["--where", "id < 3"], 0),
        (["--columns", "name", "--where", "id <> 4"], 0),
        (["--key", "name"], 1),
        (["--sample", "100%", "--limit", "0"], 1),
    ],
)
def test_a_part_of_the_tables(folder: Path, cli: Command, options: list[str], status: int) -> None:
    done = cli("diff", "shop.db#orders", "shop.db#others", *options)
    assert done.returncode == status, done.stdout + done.stderr


def test_all_differences_go_into_a_file_or_a_table(folder: Path, cli: Command) -> None:
    for place in ("out.csv", "found.db#rows", "found.db#rows"):
        done = cli("diff", "shop.db#orders", "shop.db#others", "--limit", "1", "--into", place)
        assert done.returncode == 1, done.stderr
    assert (
        (folder / "out.csv").read_text().splitlines()[0].startswith("_diff,id,_columns,name_left")
    )
    with sqlite3.connect(folder / "found.db") as db:
        rows = db.execute("select _diff, id from rows order by id").fetchall()
    db.close()
    assert rows == [("different", 3), ("left", 4)]


def test_the_steps_of_a_file(folder: Path, cli: Command) -> None:
    """What a workflow writes is what it reads, also where a file has no types of its own."""
    (folder / "flow.yaml").write_text(FLOW)
    assert cli("run", "flow.yaml", "-q").returncode == 0
    for step in ("text", "table", "parts"):
        done = cli("diff", "flow.yaml:dear", f":{step}")
        assert done.stdout == "equal: 3 rows and 3 rows compared by id\n", done.stderr
    done = cli("diff", "flow.yaml:by_name", ":counts")
    assert done.stdout.startswith("equal: 5 rows and 5 rows compared as whole rows")
    done = cli("diff", "flow.yaml:orders", "out/dear.csv", "--where", "price > 11")
    assert done.returncode == 1  # NA in the file is a text here
    with sqlite3.connect(folder / "shop.db") as db:
        db.execute("update orders set price = 40 where id = 3")
    db.close()
    done = cli("diff", "flow.yaml:orders", ":table", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["by_column"] == {"price": 1}


@pytest.mark.parametrize(
    ("left", "right", "status", "words"),
    [
        ("shop.db", "x.csv", 2, "names a database, but no table"),
        ("sqlit:shop.db#orders", "x.csv", 2, "did you mean 'sqlite'?"),
        (":orders", "shop.db#orders", 2, "names a step, but no file"),
        ("flow.yaml", "shop.db#orders", 2, "names no step"),
        ("flow.yaml:ordes", "shop.db#orders", 2, "did you mean 'orders'?"),
        ("flow.yaml:shown", "shop.db#orders", 2, "cannot be read back"),
        ("shop.db#ordes", "shop.db#orders", 3, "did you mean 'orders'?"),
        ("shop.db#orders", "none.parquet", 3, "none.parquet"),
        ("shop.db#orders", "postgresql://u:secret@127.0.0.1:1/x#t", 3, "no connection"),
        ("shop.db#orders", "generate:x", 2, "cannot be"),
    ],
)
def test_what_cannot_be_compared(
    folder: Path, cli: Command, left: str, right: str, status: int, words: str
) -> None:
    (folder / "flow.yaml").write_text(FLOW)
    done = cli("diff", left, right, "--json")
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "<command line>" not in done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert json.loads(done.stdout)["error"]["code"]


@pytest.mark.parametrize(
    "options",
    [
        ["--key", "nope"], ["--columns", "nope"], ["--where", "nope > 1"], ["--sample", "0"],
        ["--sample", "x%"], ["--wait", "soon"], ["--key", "id,"], ["--into", "stdin:x"],
    ],
)  # fmt: skip
def test_a_wrong_option(folder: Path, cli: Command, options: list[str]) -> None:
    done = cli("diff", "shop.db#orders", "shop.db#others", *options)
    assert done.returncode == 2, done.stdout
    assert "error[" in done.stderr


def test_columns_that_cannot_be_compared_are_told_once(folder: Path, cli: Command) -> None:
    pl.DataFrame(
        {"id": [1, 2, 3, 4, 5], "name": [1, 2, 3, 4, 5], "new": [1, 2, 3, 4, 5]}
    ).write_parquet(folder / "odd.parquet")
    done = cli("diff", "shop.db#orders", "odd.parquet")
    assert done.returncode == 1
    assert "name    string and int64 have no common values" in done.stdout
    assert "price   only the left has it (float64)" in done.stdout
    assert "new     only the right has it (int64)" in done.stdout


def test_rows_that_cannot_be_read_are_not_equal(folder: Path, cli: Command) -> None:
    with sqlite3.connect(folder / "shop.db") as db:
        db.execute("update orders set price = 'much' where id = 1")
    db.close()
    done = cli("diff", "shop.db#orders", "shop.db#orders")
    assert done.returncode == 1
    assert "could not be read" in done.stderr


def test_a_changelog_is_compared_by_the_rows_that_are_left(folder: Path, cli: Command) -> None:
    (folder / "changes.yaml").write_text(CHANGES)
    assert cli("run", "changes.yaml", "-q").returncode == 0
    done = cli("diff", "changes.yaml:last", ":out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("equal: 2 rows and 2 rows")


def test_a_source_that_begins_at_a_value_stands_for_the_rows_from_there_on(
    folder: Path, cli: Command
) -> None:
    with duckdb.connect(folder / "shop.duckdb") as db:
        db.execute("create table orders as select range as id from range(5)")
    text = """
name: recent
sources:
  recent:
    type: duckdb
    config: {path: shop.duckdb, table: orders, incremental: {column: id, initial_value: 2}}
destinations:
  out: {type: blackhole, inputs: [recent]}
"""
    (folder / "recent.yaml").write_text(text)
    done = cli("diff", "recent.yaml:recent", "shop.duckdb#orders", "--json", "--key", "id")
    found = json.loads(done.stdout)
    assert (done.returncode, found["only_right"], found["left_rows"]) == (1, 2, 3)


def test_a_source_that_follows_a_log_stands_for_its_table(folder: Path) -> None:
    """The log is not read: its position belongs to the runs of the workflow."""
    text = """
name: follows
sources:
  orders: {type: postgres, config: {connection_string: "postgresql://h/d", table: orders, cdc: true}}
destinations:
  out: {type: blackhole, inputs: [orders]}
"""
    left, _ = sides("w.yaml:orders", "x.parquet", lambda _: load_text(text, base=folder))
    assert "cdc" not in left.workflow.sources["orders"].config


def test_one_table_of_many_is_named_like_its_step(folder: Path, cli: Command) -> None:
    (folder / "many.yaml").write_text("""\
name: many
sources: {shop: {type: sqlite, config: {path: shop.db, tables: ["*"]}}}
transformations: {dear: {type: filter, inputs: [shop], config: {condition: "price > 10"}}}
destinations: {copy: {type: sqlite, inputs: [dear], config: {path: copy.db, table: "{table}", mode: overwrite}}}
""")
    assert cli("run", "many.yaml").returncode == 0
    assert cli("diff", "many.yaml:dear.orders", ":copy.orders", "--key", "id").returncode == 0
    more = ("--key", "id", "--where", "price > 10")
    assert cli("diff", "many.yaml:shop.orders", "copy.db#orders", *more).returncode == 0
    assert cli("diff", "many.yaml:shop.orders", ":copy.orders", "--key", "id").returncode == 1


def test_tables_of_many_are_compared_one_by_one(folder: Path, cli: Command) -> None:
    with sqlite3.connect(folder / "shop.db") as db:
        db.execute('create table "Order Lines" (id integer primary key)')
    (folder / "many.yaml").write_text("""\
name: many
sources: {shop: {type: sqlite, config: {path: shop.db, tables: ["*"]}}}
destinations: {copy: {type: sqlite, inputs: [shop], config: {path: copy.db, table: "{table}", mode: overwrite}}}
""")
    for side in ("shop", "copy"):
        done = cli("diff", f"many.yaml:{side}", "many.yaml:copy", "--key", "id")
        assert done.returncode == 2
        words = f"'many.yaml:{side}' stands for 3 tables, and tables are compared one by one"
        assert words in done.stderr
        assert f"they are: {side}.Order Lines, {side}.orders, {side}.others" in done.stderr
        assert f"'many.yaml:{side}.Order Lines'" in done.stderr
    assert cli("run", "many.yaml").returncode == 0
    assert cli("diff", "many.yaml:shop.Order Lines", ":copy.Order Lines").returncode == 0
