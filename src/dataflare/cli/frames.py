"""Print the rows of a frame: a table for people, NDJSON for programs.

A value that a table's column cuts short ends with an ellipsis; NDJSON shows it all.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dataflare.cli import terminal

if TYPE_CHECKING:
    import polars as pl

_CELL_MAX = 40


def write_ndjson(frame: pl.DataFrame) -> None:
    """One JSON object a line, spelled as in the NDJSON files we write."""
    from dataflare.formats.text_write import NdjsonText

    sys.stdout.write(NdjsonText().rows(frame).decode())


def print_frame(frame: pl.DataFrame) -> None:
    """A table with the type of each column under its name."""
    headings = {name: f"{name}\n{type_}" for name, type_ in _types(frame).items()}
    numbers = [headings[name] for name, dtype in frame.schema.items() if dtype.is_numeric()]
    rows = ([_cell(value) for value in row] for row in frame.iter_rows())
    terminal.print_table(list(headings.values()), rows, right=numbers)
    print()
    print(f"{frame.height:,} row{'s' * (frame.height != 1)}")


def _types(frame: pl.DataFrame) -> dict[str, str]:
    from dataflare.model.types import Schema

    return Schema.from_polars(frame.schema).to_json()


def _cell(value: object) -> str:
    text = "NULL" if value is None else str(value)
    return text if len(text) <= _CELL_MAX else text[: _CELL_MAX - 1] + "…"
