"""`dataflare connectors discover`: what a system has, and a workflow that runs as it is written."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import duckdb
import polars as pl
import pytest
from command_line import answer, cli

from dataflare.errors import ConfigError
from dataflare.jobs import RunOptions, run
from dataflare.jobs.catalog import discover, starter
from dataflare.testing import check_catalog
from dataflare.workflow.load import load_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A shop in two databases, and files."""
    with sqlite3.connect(tmp_path / "shop.db") as lite:
        lite.execute("create table orders (id integer primary key, price real, note text)")
        lite.execute("create table _dataflare_marker (id integer)")
        lite.execute("create view dear as select id from orders where price > 10")
        lite.execute('create table "Odd Name" (a text)')
        lite.execute("insert into orders values (1, 12.5, 'x'), (2, 3.0, null)")
    lite.close()
    with duckdb.connect(tmp_path / "shop.duckdb") as duck:
        duck.execute("create schema far; create table far.orders (id bigint, made timestamptz)")
        duck.execute("create table items as select 1 as id")
        duck.execute("create view all_items as select * from items")
    data = tmp_path / "data"
    (data / "sold" / "year=2024").mkdir(parents=True)
    pl.DataFrame({"id": [1]}).write_parquet(data / "sold" / "year=2024" / "a.parquet")
    for number in (1, 22):
        (data / f"events-{number}.ndjson").write_text('{"a": 1}\n')
    (data / "people.csv").write_text("name,born\nA,2001-02-03\n")
    (data / "notes.md").write_text("# no data\n")
    return tmp_path


@pytest.mark.parametrize(
    ("type_", "config", "names"),
    [
        ("sqlite", {"path": "shop.db"}, ["Odd Name", "dear", "orders"]),
        ("duckdb", {"path": "shop.duckdb"}, ["all_items", "far.orders", "items"]),
        ("file", {"path": "data"}, ["data/events-*.ndjson", "data/people.csv", "data/sold"]),
        ("file", {"path": "data/*.csv"}, ["data/people.csv"]),
    ],
)
def test_a_catalogue_keeps_its_contract(
    folder: Path, type_: str, config: dict[str, str], names: list[str]
) -> None:
    found = asyncio.run(check_catalog(type_, config, base=folder))
    assert [*found] == names


def test_files_that_belong_together_are_one_thing(folder: Path) -> None:
    found = asyncio.run(check_catalog("file", {"path": "data"}, base=folder))
    assert str(found["data/people.csv"]["born"]) == "date"
    assert found["data/sold"].names == ("id", "year")


def test_it_shows_names_and_columns(folder: Path) -> None:
    done = cli("connectors", "discover", "sqlite", "--set", "connection=shop.db", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "orders    table        id int64, price float64, note string" in done.stdout
    assert "dear      view" in done.stdout
    done = cli(
        "connectors", "discover", "sqlite", "*r*", "!dear", "--set", "path=shop.db", "--json",
        cwd=folder,
    )  # fmt: skip
    found = json.loads(done.stdout)["found"]
    assert [each["name"] for each in found] == ["orders"]
    assert found[0]["columns"][0] == {"name": "id", "type": "int64"}
    assert found[0]["config"] == {"table": "orders"}


@pytest.mark.parametrize("type_", ["sqlite", "duckdb", "file"])
def test_the_workflow_that_it_writes_runs(folder: Path, type_: str) -> None:
    paths = {"sqlite": "shop.db", "duckdb": "shop.duckdb", "file": "data"}
    text = starter(discover(type_, [("path", paths[type_])], base=folder))
    assert "# columns:" in text
    result = run(load_text(text, base=folder), RunOptions(folder / "home"))
    assert result.error is None, result.error
    written = sorted(path.name for path in (folder / "out").iterdir())
    assert (
        written
        == {
            "sqlite": ["dear.parquet", "odd_name.parquet", "orders.parquet"],
            "duckdb": ["all_items.parquet", "far_orders.parquet", "items.parquet"],
            "file": ["data_events.parquet", "data_people.parquet", "data_sold.parquet"],
        }[type_]
    )


def test_a_workflow_is_written_to_a_new_file_only(folder: Path) -> None:
    words = ("connectors", "discover", "sqlite", "orders", "--set", "path=shop.db", "--write")
    done = cli(*words, "-", cwd=folder)
    assert done.stdout.startswith("name: read_sqlite\n")
    assert cli(*words, "w.yaml", cwd=folder).returncode == 0
    assert (folder / "w.yaml").read_text() == done.stdout
    done = cli(*words, "w.yaml", cwd=folder)
    assert (done.returncode, "E0128" in done.stderr) == (2, True)
    done = cli(*words, "-", "--json", cwd=folder)
    assert done.returncode == 2
    assert answer(done)["error"] is not None


def test_what_cannot_be_read_is_listed_with_the_reason(folder: Path) -> None:
    (folder / "data" / "broken.parquet").write_bytes(b"nothing")
    found = {
        each.entry.name: each for each in discover("file", [("path", "data")], base=folder).found
    }
    broken = found["data/broken.parquet"]
    assert broken.schema is None
    assert broken.error is not None
    assert found["data/people.csv"].error is None


def test_a_limit_says_how_much_it_leaves_out(folder: Path) -> None:
    found = discover("sqlite", [("path", "shop.db")], base=folder, limit=1)
    assert (len(found.found), found.left_out) == (1, 2)


def test_patterns_are_of_tables_in_all_schemas_and_names_of_the_default_one(folder: Path) -> None:
    sets = [("path", "shop.duckdb")]

    def names(*patterns: str) -> list[str]:
        return [each.entry.name for each in discover("duckdb", sets, patterns, base=folder).found]

    assert names("o*") == ["far.orders"]
    assert names("*", "!ord*") == ["all_items", "items"]
    assert names("orders") == []
    assert names("far.orders") == ["far.orders"]
    done = cli(
        "connectors", "discover", "duckdb", "orders", "--set", "path=shop.duckdb", cwd=folder
    )
    assert (
        "'orders' is not a table of the default schema; other schemas have far.orders"
        in done.stderr
    )


def test_a_secret_becomes_a_variable() -> None:
    from dataflare.jobs.catalog import Catalog, _tree, _without_secrets

    given = [
        ("connection_string", "postgresql://me:s3cret@db/shop"),
        ("sasl.password", "hush-hush"),
        ("path", "${HERE}"),
        ("sslpassword", "${KEPT}"),
        ("columns", "[a, b]"),
    ]
    config, variables = _without_secrets("postgres", _tree(given))
    assert config == {
        "connection_string": "${POSTGRES_CONNECTION_STRING}",
        "sasl": {"password": "${POSTGRES_SASL_PASSWORD}"},
        "path": "${HERE}",
        "sslpassword": "${KEPT}",
        "columns": ["a", "b"],
    }
    assert variables == ["POSTGRES_CONNECTION_STRING", "POSTGRES_SASL_PASSWORD"]
    with pytest.raises(ConfigError, match="nothing was found"):
        starter(Catalog("postgres", config, variables, []))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("discover",), "discover needs a type: "),
        (("discover", "http"), "cannot say what its system has"),
        (("discover", "sqlit"), "did you mean 'sqlite'?"),
        (("discover", "sqlite"), "path"),
        (("discover", "sqlite", "--set", "path=gone.db"), "gone.db"),
        (("discover", "sqlite", "--set", "nothing=1"), "nothing"),
        (("sqlite", "more"), "belong to"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(
    folder: Path, words: tuple[str, ...], says: str
) -> None:
    done = cli("connectors", *words, cwd=folder)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "E0900" not in done.stderr
