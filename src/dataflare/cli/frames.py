"""Print the rows of a frame: a table to read, NDJSON for programs.

A value that is cut to fit a table's column ends with an ellipsis. NDJSON shows it completely.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dataflare.cli import human, tables, terminal
from dataflare.formats.visible import visible, visible_json
from dataflare.security.redact import redact

if TYPE_CHECKING:
    import polars as pl

_CELL_MAX = 40


def write_ndjson(frame: pl.DataFrame) -> None:
    """Print one JSON object a line, as in the NDJSON files of destinations, without secrets."""
    import orjson

    from dataflare.security.shown_rows import rows_without_secrets

    for row in rows_without_secrets(frame, redact):
        sys.stdout.write(visible_json(orjson.dumps(row).decode()) + "\n")


def print_frame(frame: pl.DataFrame, *, count: bool = True) -> None:
    """Print a table with the type of each column under its name, without secrets. It is transposed if it is wider than
    the terminal."""
    from dataflare.formats.text_write import for_python

    types = _types(frame)
    headings = [f"{name}\n{type_}" for name, type_ in types.items()]
    numbers = [h for h, dtype in zip(headings, frame.dtypes, strict=True) if dtype.is_numeric()]
    rows = [[_cell(value) for value in row] for row in for_python(frame).iter_rows()]
    width = tables.terminal_width()
    across = max(map(tables.cell_width, tables.lines(headings, rows)), default=0)
    if width is None or across <= width:
        tables.print_table(headings, rows, right=numbers)
    else:
        _print_turned(types, rows, width)
    if count:
        print()
        print(human.counted(frame.height, "row"))


def _print_turned(types: dict[str, str], rows: list[list[str]], width: int) -> None:
    """Print a line for each column, with as many rows side by side as fit."""
    names = [[name, type_] for name, type_ in types.items()]
    heading_width = sum(max(tables.cell_width(each[i]) for each in names) + 2 for i in (0, 1))
    start = 0
    while start < len(rows):
        room, end = width - heading_width, start
        while end < len(rows) and (end == start or room >= _widest(rows[end])):
            room -= _widest(rows[end]) + 2
            end += 1
        if start:
            print()
        numbers = [f"row {number + 1}" for number in range(start, end)]
        block = [[*name, *(row[i] for row in rows[start:end])] for i, name in enumerate(names)]
        for line in tables.lines(("column", "type", *numbers), block, heading=terminal.bold):
            print(line)
        start = end


def _widest(row: list[str]) -> int:
    return max((tables.cell_width(cell) for cell in row), default=0)


def _types(frame: pl.DataFrame) -> dict[str, str]:
    from dataflare.model.types import Schema

    types = Schema.from_polars(frame.schema).to_json()
    return {visible(name): type_ for name, type_ in types.items()}


def _cell(value: object) -> str:
    text = "NULL" if value is None else redact(str(value))
    text = visible(text.replace("\n", "⏎").replace("\t", "⇥"))
    return text if len(text) <= _CELL_MAX else text[: _CELL_MAX - 1] + "…"
