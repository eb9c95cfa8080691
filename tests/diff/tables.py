"""Random tables, the differences of two of them by plain Python, and what writes them to a system."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from dataflare.connectors import memory
from dataflare.jobs import RunOptions, run
from dataflare.workflow.load import load_text

TEXTS = ["", "a", "A", "ä", "a ", "😀\n", "x,y", "3:abc", "-", "NULL", "ß", "'", '"']
SCHEMA = {
    "id": pl.Int64, "number": pl.Int32, "price": pl.Decimal(10, 2), "name": pl.String, "is_new": pl.Boolean,
    "day": pl.Date, "seen": pl.Datetime("us"), "made": pl.Datetime("us", "UTC"), "raw": pl.Binary,
}  # fmt: skip
FLOATS = {"share": pl.Float64}

Row = tuple[Any, ...]


def a_value(chance: random.Random, dtype: Any) -> Any:
    if chance.random() < 0.15:
        return None
    match dtype:
        case pl.Int32:
            return chance.choice([0, 1, -1, 2**31 - 1, -(2**31), chance.randrange(100)])
        case pl.Float64:
            return chance.choice([0.0, 0.1, -1.5, 1e300, 5e-324, 2.0**53, chance.random()])
        case pl.String:
            return chance.choice(TEXTS)
        case pl.Boolean:
            return chance.random() < 0.5
        case pl.Date:
            return dt.date(2000, 1, 1) + dt.timedelta(chance.choice([0, 1, -40_000, 90_000]))
        case pl.Binary:
            return chance.choice([b"", b"\x00", b"\xff\x00", b"ab"])
    if dtype == pl.Decimal(10, 2):
        return Decimal(chance.choice([0, 1, -1, 99_999_999_99, 150])) / 100
    moment = dt.datetime(2001, 2, 3, 4, 5, 6) + dt.timedelta(
        microseconds=chance.choice([0, 1, 500_000, 10**12])
    )
    return moment if dtype == pl.Datetime("us") else moment.replace(tzinfo=dt.UTC)


def a_table(chance: random.Random, rows: int, *, floats: bool) -> list[Row]:
    types = list({**SCHEMA, **(FLOATS if floats else {})}.values())[1:]
    return [
        (key, *(a_value(chance, dtype) for dtype in types))
        for key in chance.sample(range(-rows, 10 * rows), rows)
    ]


def changed(chance: random.Random, rows: list[Row], *, floats: bool) -> list[Row]:
    """The rows with some removed, some new, some with another value, in another order."""
    types = list({**SCHEMA, **(FLOATS if floats else {})}.values())
    result = [row for row in rows if chance.random() > 0.03]
    for at, row in enumerate(result):
        if chance.random() < 0.05:
            place = chance.randrange(1, len(types))
            value = a_value(chance, types[place])
            result[at] = (*row[:place], value, *row[place + 1 :])
    keys = {row[0] for row in rows}
    result += [row for row in a_table(chance, 5, floats=floats) if row[0] not in keys]
    chance.shuffle(result)
    return result


def frame_of(rows: list[Row], *, floats: bool) -> pl.DataFrame:
    schema = {**SCHEMA, **(FLOATS if floats else {})}
    return pl.DataFrame(rows, schema=schema, orient="row")


def differences(left: list[Row], right: list[Row]) -> tuple[set[Any], set[Any], set[Any]]:
    """The keys that only the left has, that only the right has, and that differ."""
    ours, yours = ({row[0]: repr(row) for row in rows} for rows in (left, right))
    both = ours.keys() & yours.keys()
    unequal = {key for key in both if ours[key] != yours[key]}
    return ours.keys() - yours.keys(), yours.keys() - ours.keys(), unequal


def multisets(left: list[Row], right: list[Row]) -> tuple[int, int]:
    """How many rows each side has beyond the other."""
    ours, yours = (Counter(map(repr, rows)) for rows in (left, right))
    return (ours - yours).total(), (yours - ours).total()


def write(frame: pl.DataFrame, type_: str, config: dict[str, Any], folder: Path) -> None:
    """Write a table by a destination of this type."""
    memory.put("rows", frame)
    text = f"""
name: write
sources: {{rows: {{type: memory, config: {{name: rows}}}}}}
destinations: {{out: {{type: {type_}, inputs: [rows], config: {config!r}}}}}
"""
    result = run(load_text(text, base=folder), RunOptions(home=folder / "home", fresh=True))
    assert result.error is None, result.error
