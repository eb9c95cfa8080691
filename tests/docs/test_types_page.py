"""The page of types is true: its table is what the code declares and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dataflare.connectors.duckdb import types as duckdb_types
from dataflare.connectors.postgres import types as postgres_types
from dataflare.connectors.sqlite import types as sqlite_types
from dataflare.formats.text_types import TextColumn, converted
from dataflare.formats.text_write import NdjsonText
from dataflare.model import types as t

PAGE = (Path(__file__).parents[2] / "docs" / "types.md").read_text()
TABLE = (
    PAGE.split("| --- | --- | --- | --- | --- | --- |\n")[1].split("\n\n")[0].split("\nEvery")[0]
)
ROWS = [
    [cell.strip().strip("`") for cell in line.strip("|\n").split(" | ")]
    for line in TABLE.splitlines()
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_of_the_table(row):
    text, _, shown, lite, duck, postgres = row
    type_ = t.parse_type(text)
    assert sqlite_types.declared(type_) == lite
    assert duckdb_types.declared(type_) == duck
    assert postgres_types.declared(type_) == postgres
    frame = pl.DataFrame({"v": [json.loads(shown)]}) if not _is_text(shown) else _read(type_, shown)
    written = NdjsonText().encode(frame).decode()
    assert written == f'{{"v":{shown}}}\n'


def _is_text(shown: str) -> bool:
    return shown.startswith('"')


def _read(type_: t.DataType, shown: str) -> pl.DataFrame:
    texts = pl.DataFrame({"v": [json.loads(shown)]})
    if type_.name == "duration":
        return pl.DataFrame({"v": [90_000]}).cast(pl.Duration("ms")).cast({"v": type_.to_polars()})
    column: Any = converted(TextColumn("v", type_, declared=True), pl.col("v"), lenient=True)
    return texts.select(column)


def test_every_type_has_a_row():
    families = {t.parse_type(row[0]).name for row in ROWS}
    assert families >= {*t.INTEGERS, *t.FLOATS}
    assert families == {
        *t.INTEGERS, *t.FLOATS, "bool", "string", "binary", "date", "time", "json",
        "decimal", "timestamp", "duration", "list", "struct",
    }  # fmt: skip
