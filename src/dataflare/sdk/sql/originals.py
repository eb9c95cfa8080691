"""A row that could not be read, as its database writes it: the text of a dead letter.

Always true: a value that JSON cannot express is the text that the database writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson
import polars as pl


def original(values: pl.Series, row: int) -> Any:
    """One value of a column, as JSON or text."""
    if values.dtype in (pl.String, pl.Binary):
        # The text may not be UTF-8; then it cannot be a Python string.
        return text_or_hex(values[[row]].cast(pl.Binary)[0])
    value = values[row]
    if isinstance(value, pl.Series):
        return [original(value, at) for at in range(value.len())]
    if isinstance(value, Mapping):
        return {name: original(values.struct.field(name), row) for name in value}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def text_or_hex(value: bytes | None) -> str | None:
    """The bytes as text; if they are not UTF-8, as an SQL literal X'...'."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"X'{value.hex().upper()}'"


def original_row(values: Mapping[str, Any]) -> str:
    return orjson.dumps(values, default=str, option=orjson.OPT_PASSTHROUGH_DATETIME).decode()
