"""Convert what the server sent to DataFlare's types. Never raises: a value that does not fit becomes NULL.

Always true: a NULL for a value that is not NULL means that it does not fit; no value is changed.
"""

from __future__ import annotations

import polars as pl

from dataflare.model.types import DataType
from dataflare.sdk.sql.text_values import decoded_text, text_of


def decoded(raw: pl.Series, type_: DataType, *, as_text: bool) -> pl.Series:
    """raw: as Arrow has it, texts as Binary. as_text: the contract has another type than the column."""
    dtype = type_.to_polars()
    if as_text:
        if type_.name == "binary":
            return raw
        return decoded_text(text_of(raw), type_)
    match type_.name:
        case "string" | "json":
            return text_of(raw)
        case "time":
            return text_of(raw).str.to_time("%H:%M:%S%.f", strict=False)
        case "list" | "struct":
            return _nested(raw, dtype)
    return raw if raw.dtype == dtype else raw.cast(dtype, strict=False)


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
