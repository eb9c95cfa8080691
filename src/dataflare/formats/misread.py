"""What reading a failing chunk row by row finds: the good rows, and the bad ones by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from dataflare.model.types import DataType

RAW_MAX = 4096
"""A bad row keeps at most this many bytes of its text."""


@dataclass(frozen=True, slots=True)
class Misread:
    """A row that could not be read. row: its index in the chunk; place: for people."""

    row: int
    code: str
    message: str
    raw: str
    place: str


@dataclass(frozen=True, slots=True)
class Sorted:
    """good: the rows that could be read; good_rows: their index in the chunk."""

    good: pl.DataFrame
    good_rows: pl.Series
    bad: Sequence[Misread]


def misfit(name: str, type_: DataType, value: object) -> str:
    """What is said of a field that is not of its column's type."""
    shown = repr(value) if len(str(value)) <= 80 else repr(str(value)[:77] + "...")
    article = "an" if str(type_)[0] in "aei" else "a"
    return f"column '{name}': {shown} is not {article} {type_}"
