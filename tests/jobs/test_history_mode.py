"""`mode: history`: after several runs a table has each version of each row, as a plain loop over the runs finds them."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import duckdb
import polars as pl
import pytest

from dataflare import RunOptions, RunResult, load, run
from dataflare.errors import DataFlareError

Rows = dict[int, str | None]
Versions = list[tuple[int, str | None, bool]]


def put(folder: Path, rows: Rows, table: str = "customers") -> None:
    with closing(sqlite3.connect(folder / "in.db")) as db, db:
        db.execute(f"drop table if exists {table}")
        db.execute(f"create table {table} (id integer primary key, city text)")
        db.executemany(f"insert into {table} values (?, ?)", rows.items())


def go(folder: Path, text: str, **options: bool) -> RunResult:
    result = attempt(folder, text, **options)
    assert result.error is None, result.error
    return result


def attempt(folder: Path, text: str, **options: bool) -> RunResult:
    (folder / "w.yaml").write_text(text)
    return run(load(folder / "w.yaml"), RunOptions(home=folder / ".dataflare", **options))


def one_table(destination: str, parallelism: int = 2) -> str:
    return f"""\
name: kept
settings: {{parallelism: {parallelism}}}
sources:
  customers: {{type: sqlite, config: {{path: in.db, table: customers}}}}
destinations:
  versions: {{inputs: [customers], {destination}}}
"""


def of_sqlite(folder: Path, table: str = "customers") -> pl.DataFrame:
    with closing(sqlite3.connect(folder / "out.db")) as db:
        return pl.DataFrame(
            db.execute(
                f"select id, city, valid_from, valid_to, is_current from {table}"
            ).fetchall(),
            schema=["id", "city", "valid_from", "valid_to", "is_current"],
            orient="row",
            infer_schema_length=None,
        )


def of_duckdb(folder: Path) -> pl.DataFrame:
    with closing(duckdb.connect(str(folder / "out.duckdb"))) as db:
        return db.sql("select * from customers").pl()


def of_delta(folder: Path) -> pl.DataFrame:
    return pl.read_delta(str(folder / "out"))


PLACES = {
    "sqlite": ("type: sqlite, config: {path: out.db, table: customers, mode: history}", of_sqlite),
    "duckdb": ("type: duckdb, config: {path: out.duckdb, table: customers, mode: history}", of_duckdb),
    "delta": ("type: delta, config: {path: out, mode: history, key: [id]}", of_delta),
}  # fmt: skip


def versions(table: pl.DataFrame) -> Versions:
    """Each version of each key in its order. Its end is the beginning of the next one."""
    table = table.sort("id", "valid_from")
    following = table["valid_from"].shift(-1)
    is_last = (table["id"] != table["id"].shift(-1)).fill_null(True)
    assert table["is_current"].cast(pl.Boolean).to_list() == is_last.to_list()
    assert table.filter(is_last)["valid_to"].is_null().all()
    assert table["valid_to"].filter(~is_last).to_list() == following.filter(~is_last).to_list()
    return list(zip(table["id"], table["city"], is_last, strict=True))


def edited(rng: Random, rows: Rows) -> Rows:
    """Some rows changed, some new. None is removed: a read of all rows does not say which are gone."""
    changed = dict(rows)
    for _ in range(rng.randint(0, 4)):
        changed[rng.randint(1, 12)] = rng.choice(["Berlin", "Lyon", "Paris", None])
    return changed


@pytest.mark.parametrize("place", PLACES)
def test_each_run_adds_the_versions_that_are_new(tmp_path: Path, place: str) -> None:
    destination, read = PLACES[place]
    rng = Random(20_261)
    rows: Rows = {1: "Berlin", 2: "Lyon"}
    expected: dict[int, list[str | None]] = {}
    for parallelism in (2, 1, 3, 4, 1):
        put(tmp_path, rows)
        go(tmp_path, one_table(destination, parallelism))
        for key, city in rows.items():
            mine = expected.setdefault(key, [])
            if not mine or mine[-1] != city:
                mine.append(city)
        plain = [
            (key, city, place == len(expected[key]) - 1)
            for key in sorted(expected)
            for place, city in enumerate(expected[key])
        ]
        assert versions(read(tmp_path)) == plain
        rows = edited(rng, rows)


def test_the_column_of_sequence_says_from_when_a_row_is_so(tmp_path: Path) -> None:
    text = one_table(
        "type: sqlite, config: {path: out.db, table: customers, mode: history, sequence: since}"
    ).replace("sqlite, config: {path: in.db, table: customers}", "file, config: {path: in.csv}")
    text = text.replace("in.csv}", 'in.csv}, schema: {id: int64, city: string, since: "timestamp[us]"}')  # fmt: skip
    text = text.replace("mode: history", "mode: history, key: [id]")
    for line in ("1,Berlin,2026-01-01T00:00:00", "1,Paris,2026-02-01T00:00:00"):
        (tmp_path / "in.csv").write_text(f"id,city,since\n{line}\n")
        go(tmp_path, text)
    assert of_sqlite(tmp_path).rows() == [
        (1, "Berlin", "2026-01-01 00:00:00.000000", "2026-02-01 00:00:00.000000", 0),
        (1, "Paris", "2026-02-01 00:00:00.000000", None, 1),
    ]


def test_many_tables_have_each_its_history_by_its_own_key(tmp_path: Path) -> None:
    text = """\
name: many
sources:
  shop: {type: sqlite, config: {path: in.db, tables: ["*"]}}
destinations:
  versions: {type: sqlite, inputs: [shop], config: {path: out.db, table: "{table}", mode: history}}
"""
    for city in ("Berlin", "Paris"):
        put(tmp_path, {1: city, 2: "Lyon"})
        put(tmp_path, {7: city}, "shops")
        go(tmp_path, text)
    changed = [(1, "Berlin", False), (1, "Paris", True), (2, "Lyon", True)]
    assert versions(of_sqlite(tmp_path)) == changed
    assert versions(of_sqlite(tmp_path, "shops")) == [(7, "Berlin", False), (7, "Paris", True)]


@pytest.mark.parametrize(
    ("destination", "code"),
    [
        ("type: sqlite, config: {path: o.db, table: t, mode: history, key: [no]}", "E0203"),
        ("type: sqlite, config: {path: o.db, table: t, mode: history, sequence: city}", "E0204"),
        ("type: sqlite, config: {path: o.db, table: t, mode: history, delete_max: 5}", "E0405"),
        ("type: stdout, config: {mode: history}", "E0405"),
    ],
)
def test_what_has_no_history_is_refused(tmp_path: Path, destination: str, code: str) -> None:
    put(tmp_path, {1: "Berlin"})
    with pytest.raises(DataFlareError) as raised:
        go(tmp_path, one_table(destination))
    assert raised.value.code == code


def test_rows_without_a_key_need_one(tmp_path: Path) -> None:
    text = one_table("type: sqlite, config: {path: out.db, table: t, mode: history}")
    text = text.replace("sqlite, config: {path: in.db, table: customers}", "inline, config: {rows: [{id: 1}]}")  # fmt: skip
    with pytest.raises(DataFlareError) as raised:
        go(tmp_path, text)
    assert raised.value.code == "E0404"


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    text = one_table("type: sqlite, config: {path: out.db, table: t, mode: history, key: [id]}")
    text = text.replace(
        "sources:\n", "sources:\n  more: {type: inline, config: {rows: [{id: 1}]}}\n"
    )
    with pytest.raises(DataFlareError) as raised:
        go(tmp_path, text.replace("[customers]", "[customers, more]"))
    assert raised.value.code == "E0318"


HISTORY = "type: sqlite, config: {path: out.db, table: customers, mode: history}"


def test_a_history_may_be_added_to_a_workflow_that_has_run(tmp_path: Path) -> None:
    put(tmp_path, {1: "Berlin"})
    copy = "  copy: {type: memory, inputs: [customers], config: {name: copy}}\n"
    text = one_table(HISTORY)
    go(tmp_path, text[: text.index("  versions")] + copy)
    go(tmp_path, text + copy)
    put(tmp_path, {1: "Paris"})
    go(tmp_path, text + copy)
    assert versions(of_sqlite(tmp_path)) == [(1, "Berlin", False), (1, "Paris", True)]


def test_versions_that_are_lost_are_not_given_once_more(tmp_path: Path) -> None:
    put(tmp_path, {1: "Berlin"})
    go(tmp_path, one_table(HISTORY))
    shutil.rmtree(tmp_path / ".dataflare")
    result = attempt(tmp_path, one_table(HISTORY), adopt=True)
    assert result.error is not None
    assert (result.error.code, result.error.step) == ("E0812", "versions--history")
    assert "empty its table" in str(result.error.help)
    assert versions(of_sqlite(tmp_path)) == [(1, "Berlin", True)]


def test_a_fresh_run_says_what_stays(tmp_path: Path) -> None:
    put(tmp_path, {1: "Berlin"})
    go(tmp_path, one_table(HISTORY))
    told = go(tmp_path, one_table(HISTORY), fresh=True).warnings
    assert any("current there stay so" in each for each in told), told


def test_a_row_without_a_key_is_a_letter_of_the_step_in_front(tmp_path: Path) -> None:
    text = one_table(HISTORY.replace("history}", "history, key: [id]}"))
    text = text.replace(
        "sqlite, config: {path: in.db, table: customers}",
        "inline, config: {rows: [{id: 1, city: Berlin}, {id: null, city: Lyon}]}",
    )
    handled = text.replace(
        "{parallelism: 2}", "{parallelism: 2, error_handling: {on_error: dead_letter}}"
    )
    result = go(tmp_path, handled)
    assert result.steps["versions--history"]["dead_letters"] == 1
    assert versions(of_sqlite(tmp_path)) == [(1, "Berlin", True)]
    failed = attempt(tmp_path, text, fresh=True)
    assert failed.error is not None
    assert (failed.error.code, failed.error.step) == ("E0553", "versions--history")
