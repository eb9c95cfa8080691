"""Convert what the server sent to DataFlare's types. Never raises: a value that does not fit becomes NULL.

Always true: a NULL for a value that is not NULL means that it does not fit; no value is changed.
"""

from __future__ import annotations

import polars as pl

from dataflare.connectors.sqlite.decode import decoded as decoded_text
from dataflare.connectors.sqlite.decode import is_number
from dataflare.model.types import DataType


def decoded(raw: pl.Series, type_: DataType, *, as_text: bool) -> pl.Series:
    """raw: as Arrow has it, texts as Binary. as_text: the contract has another type than the column."""
    dtype = type_.to_polars()
    if as_text:
        if type_.name == "binary":
            return raw
        return _of_text(_text(raw), type_)
    match type_.name:
        case "string" | "json":
            return _text(raw)
        case "time":
            return _text(raw).str.to_time("%H:%M:%S%.f", strict=False)
        case "list" | "struct":
            return _nested(raw, dtype)
    return raw if raw.dtype == dtype else raw.cast(dtype, strict=False)


def _text(raw: pl.Series) -> pl.Series:
    try:
        return raw.cast(pl.String)
    except pl.exceptions.ComputeError:
        return pl.Series(raw.name, [_utf8(value) for value in raw], dtype=pl.String)


def _utf8(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _nested(raw: pl.Series, dtype: pl.DataType) -> pl.Series:
    try:
        return raw.cast(dtype)
    except pl.exceptions.PolarsError:
        return pl.concat([_one(raw[[row]], dtype) for row in range(raw.len())])


def _one(raw: pl.Series, dtype: pl.DataType) -> pl.Series:
    try:
        return raw.cast(dtype)
    except pl.exceptions.PolarsError:
        return pl.Series(raw.name, [None], dtype=dtype)


def _of_text(text: pl.Series, type_: DataType) -> pl.Series:
    if is_number(type_):
        nothing = pl.Series(text.name, [None], dtype=pl.Int64).new_from_index(0, text.len())
        return decoded_text(nothing, text, type_)
    return decoded_text(text, None, type_)
