"""Print the rows of a frame: a table for people, NDJSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import polars as pl


def write_ndjson(frame: pl.DataFrame, to: TextIO) -> None:
    """One JSON object a line."""
    to.write(frame.write_ndjson())


def print_frame(frame: pl.DataFrame) -> None:
    """A table."""
    print(frame)
