"""Columns that are too narrow for a value: which type holds both, and tables of DuckDB that get it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from dataflare import Workflow
from dataflare.model.types import parse_type
from dataflare.sdk.sql.growth import Room, characters, outgrown

pytestmark = pytest.mark.rotates(2)

INT32, FLOAT32 = Room.of_integer(32), Room("float32")


@pytest.mark.parametrize(
    ("room", "type_", "values", "wider"),
    [
        (INT32, "int64", [1, 2**31 - 1, -(2**31), None], None),
        (INT32, "int64", [2**31], "int64"),
        (INT32, "int64", [-(2**31) - 1, 5], "int64"),
        (Room.of_integer(16), "int64", [40_000], "int32"),
        (Room.of_integer(8), "int64", [-129], "int16"),
        (INT32, "uint64", [2**64 - 1], "decimal(20, 0)"),
        (Room.of_integer(32, unsigned=True), "uint64", [2**64 - 1], "uint64"),
        (Room.of_integer(32, unsigned=True), "int64", [-1], "int64"),
        (INT32, "int64", [None], None),
        (INT32, "string", ["99999999999"], None),
        (FLOAT32, "float64", [0.5, -2.0, float("nan"), None], None),
        (FLOAT32, "float64", [0.1], "float64"),
        (FLOAT32, "float32", [0.1], None),
        (FLOAT32, "int64", [2**24 + 1], "float64"),
        (Room("decimal", digits=5, scale=2), "decimal(9, 3)", [Decimal("999.990")], None),
        (Room("decimal", digits=5, scale=2), "decimal(9, 3)", [Decimal("1000.000")], "decimal(6, 2)"),
        (Room("decimal", digits=5, scale=2), "decimal(9, 3)", [Decimal("1.234")], "decimal(6, 3)"),
        (Room("decimal", digits=5, scale=2), "decimal(9, 3)", [Decimal("-12345.678")], "decimal(8, 3)"),
        (Room("decimal", digits=5, scale=2), "int64", [1234], "decimal(6, 2)"),
        (Room("decimal", digits=38, scale=38), "int64", [1], None),
        (Room("text", digits=3), "string", ["äöü", None, ""], None),
        (Room("text", digits=3), "string", ["äöüß", "x"], "4"),
    ],
)  # fmt: skip
def test_the_type_that_holds_both(
    room: Room, type_: str, values: list[Any], wider: str | None
) -> None:
    dtype = parse_type(type_)
    frame = pl.DataFrame({"c": values}, {"c": dtype.to_polars()}, strict=False)
    found = outgrown(frame, {"c": dtype}, {"c": room})
    assert {name: str(each) for name, each in found.items()} == ({"c": wider} if wider else {})


def test_names_are_compared_as_the_database_does() -> None:
    frame = pl.DataFrame({"C": [2**40]})
    types = {"C": parse_type("int64")}
    assert not outgrown(frame, types, {"c": INT32})
    assert [*outgrown(frame, types, {"c": INT32}, str.casefold)] == ["C"]


def test_texts_grow_in_steps() -> None:
    assert [characters(n) for n in (1, 16, 17, 300)] == [16, 16, 32, 512]


def load(folder: Path, rows: pl.DataFrame, change: str | None, **config: Any) -> Any:
    wf = Workflow("grow", settings={"schema_change": change} if change else {})
    path = str(folder / "t.duckdb")
    wf.frame("rows", rows).to("out", "duckdb", path=path, table="t", **config)
    return wf.run(home=folder / "home")


ROWS = pl.DataFrame(
    {"n": [1, 2**40], "f": [0.5, 0.1], "d": [Decimal("1.5"), Decimal("12345.25")]},
    schema_overrides={"d": pl.Decimal(9, 2)},
)


def test_a_table_of_duckdb_becomes_wider(tmp_path: Path) -> None:
    with duckdb.connect(tmp_path / "t.duckdb") as db:
        db.execute("create table t (n integer, f float, d decimal(3, 1))")
        db.execute("insert into t values (7, 0.1, 99.9)")
    load(tmp_path, ROWS, "evolve")
    with duckdb.connect(tmp_path / "t.duckdb") as db:
        types = [row[1] for row in db.execute("describe t").fetchall()]
        assert types == ["BIGINT", "DOUBLE", "DECIMAL(7,2)"]
        rows = db.execute(
            "select n, cast(f as float), cast(d as varchar) from t order by n"
        ).fetchall()
    assert [row[0] for row in rows] == [1, 7, 2**40]
    assert [row[2] for row in rows] == ["1.50", "99.90", "12345.25"]


@pytest.mark.parametrize("change", [None, "ignore", "evolve"])
def test_without_the_wish_or_with_an_index_a_row_is_refused(
    tmp_path: Path, change: str | None
) -> None:
    key = "n integer primary key" if change == "evolve" else "n integer"
    with duckdb.connect(tmp_path / "t.duckdb") as db:
        db.execute(f"create table t ({key}, f double, d decimal(9, 2))")
    with pytest.raises(Exception, match=r"refuses a row|does not fit|n integer|column 'n'|INT32"):
        load(tmp_path, ROWS, change)
