"""Convert the server's texts to DataFlare's types. Never raises: a value that does not fit becomes NULL.

Always true: a NULL for a value that is not NULL means that it does not fit; no value is rounded.
"""

from __future__ import annotations

import polars as pl

from dataflare.model.types import DataType
from dataflare.sdk.sql.text_values import decoded_text

_STAMP = "%Y-%m-%d %H:%M:%S%.f"
_CLOCK = r"^(?P<sign>-)?(?P<h>\d+):(?P<m>\d\d):(?P<s>\d\d)(?:\.(?P<us>\d{1,6}))?$"


def decoded(raw: pl.Series, type_: DataType, *, as_text: bool) -> pl.Series:
    """raw: Binary. as_text: the contract has another type than the column."""
    if type_.name == "binary":
        return raw
    text = raw.cast(pl.String, strict=False)
    if as_text:
        return _of_text(text, type_)
    match type_.name:
        case "string" | "json":
            return text
        case "bool":
            values = text.cast(pl.Int64, strict=False)
            return _unless(values.cast(pl.Boolean), ~values.is_between(0, 1))
        case "date":
            return text.str.to_date("%Y-%m-%d", strict=False)
        case "timestamp":
            values = text.str.to_datetime(_STAMP, time_unit="us", strict=False)
            return values if type_.timezone is None else values.dt.replace_time_zone("UTC")
        case "time":
            return text.str.to_time("%H:%M:%S%.f", strict=False)
        case "float32":
            return text.cast(pl.Float64, strict=False).cast(pl.Float32)
        case "null":
            return text.cast(pl.Null, strict=False)
    return text.cast(type_.to_polars(), strict=False)


def _of_text(text: pl.Series, type_: DataType) -> pl.Series:
    if type_.name == "duration":
        return _duration(text).cast(type_.to_polars())
    return decoded_text(text, type_)


def _duration(text: pl.Series) -> pl.Series:
    """A TIME such as -25:00:00.5."""
    parts = text.str.extract_groups(_CLOCK).struct.unnest()
    whole = {name: parts[name].cast(pl.Int64, strict=False) for name in "hms"}
    fraction = parts["us"].str.pad_end(6, "0").cast(pl.Int64, strict=False).fill_null(0)
    us = ((whole["h"] * 60 + whole["m"]) * 60 + whole["s"]) * 1_000_000 + fraction
    signed = us.zip_with(parts["sign"].is_null(), -us)
    return signed.cast(pl.Duration("us")).rename(text.name)


def _unless(values: pl.Series, wrong: pl.Series) -> pl.Series:
    if not wrong.any():
        return values
    nothing = pl.Series(values.name, [None], dtype=values.dtype).new_from_index(0, values.len())
    return values.zip_with(~wrong.fill_null(False), nothing)
