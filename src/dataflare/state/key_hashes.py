"""Keys as hashes and as bytes. NULL is a value like others: equal keys have equal hashes and bytes."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dataflare.model.hashing import hash_columns

HASH = "__dataflare_h"


def with_hashes(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """The frame with a column HASH."""
    return hash_columns(frame.lazy(), keys, HASH).collect(engine="in-memory")


def hashes_tell_all(schema: pl.Schema, keys: Sequence[str]) -> bool:
    """Whether different keys always have different hashes: one column of 64 bits at most without NULL, because
    each step of the hash is a bijection."""
    dtype = schema[keys[0]]
    plain = dtype.is_integer() and dtype not in (pl.Int128, pl.UInt128)
    exact = plain or dtype in (pl.Date, pl.Boolean) or dtype == pl.Datetime("us", "UTC")
    return len(keys) == 1 and exact


def key_bytes(frame: pl.DataFrame, keys: Sequence[str]) -> pl.Series:
    """Each key as bytes (Binary)."""
    plain = frame.select([_plain(pl.col(key), frame.schema[key]) for key in keys])
    return plain._row_encode(unordered=True).cast(pl.Binary)


def _plain(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Equal values as the same value."""
    if dtype.is_float():
        same = pl.when(value == 0).then(pl.lit(0.0, dtype))
        return same.when(value.is_nan()).then(pl.lit(float("nan"), dtype)).otherwise(value)
    if isinstance(dtype, (pl.Categorical, pl.Enum)):
        return value.cast(pl.String)
    return value
