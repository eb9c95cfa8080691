"""Columns of the Polars types that have no DataFlare type of their own, as the nearest type that does.

Half floats become float32, categories text, 128-bit integers decimals of 38 digits, maps lists of
entries, fixed-size lists lists, and extension types what they are stored as. No value changes; an
integer beyond 38 digits raises a Polars error (strict) or becomes NULL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from dataflare.model.types import Schema, from_polars


def held(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with every column in a type that DataFlare holds; itself where it is so already. Raises
    DataError (E0509) for a column that cannot be held."""
    foreign = foreign_columns(frame.schema)
    return frame.with_columns(**foreign) if foreign else frame


def foreign_columns(schema: Mapping[str, Any], *, strict: bool = True) -> dict[str, pl.Expr]:
    """For each column of a foreign type: the expression that turns it into the type that holds it.

    Raises DataError (E0509) for a column that cannot be held.
    """
    types = Schema.from_polars(schema).to_polars()
    return {
        name: as_held(pl.col(name), dtype, strict=strict)
        for name, dtype in schema.items()
        if dtype != types[name]
    }


def as_held(value: pl.Expr, dtype: Any, *, strict: bool = True) -> pl.Expr:
    """A value of this Polars type in the type that holds it."""
    return _stored(value, dtype).cast(from_polars(dtype).to_polars(), strict=strict)


def _stored(value: pl.Expr, dtype: Any) -> pl.Expr:
    """The value without extension types, which Polars does not cast, at any depth."""
    if not _has_extension(dtype):
        return value
    if isinstance(dtype, pl.BaseExtension):
        return _stored(value.ext.storage(), dtype.ext_storage())
    if isinstance(dtype, pl.Struct):
        return value.struct.with_fields(
            _stored(pl.field(f.name), f.dtype).alias(f.name)
            for f in dtype.fields
            if _has_extension(f.dtype)
        )
    if isinstance(dtype, pl.Map):
        entry = pl.Struct({"key": dtype.key, "value": dtype.value})
        return _stored(value.cast(pl.List(entry)), pl.List(entry))
    if isinstance(dtype, pl.Array):
        value = value.arr.to_list()
    return value.list.eval(_stored(pl.element(), dtype.inner))


def _has_extension(dtype: Any) -> bool:
    if isinstance(dtype, pl.Struct):
        return any(_has_extension(f.dtype) for f in dtype.fields)
    if isinstance(dtype, pl.Map):
        return _has_extension(dtype.key) or _has_extension(dtype.value)
    if isinstance(dtype, pl.List | pl.Array):
        return _has_extension(dtype.inner)
    return isinstance(dtype, pl.BaseExtension)


def has_wide_integers(dtype: Any) -> bool:
    """Whether integers of 128 bits are inside, which a decimal of 38 digits may not hold."""
    if isinstance(dtype, pl.Struct):
        return any(has_wide_integers(f.dtype) for f in dtype.fields)
    if isinstance(dtype, pl.Map):
        return has_wide_integers(dtype.key) or has_wide_integers(dtype.value)
    if isinstance(dtype, pl.List | pl.Array):
        return has_wide_integers(dtype.inner)
    if isinstance(dtype, pl.BaseExtension):
        return has_wide_integers(dtype.ext_storage())
    return bool(dtype in (pl.Int128, pl.UInt128))
