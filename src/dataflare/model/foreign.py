"""Convert columns of Polars types that DataFlare does not have to the nearest type that it has.

Half floats become float32, categories text, 128-bit integers decimals of 38 digits, maps lists of
entries, fixed-size lists lists, and extension types their storage type. No value changes. An
integer of more than 38 digits raises a Polars error (strict) or becomes NULL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from dataflare.model.types import Schema, from_polars


def to_held_types(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with every column in a type that DataFlare has; the same object if all columns already
    are. Raises DataError (E0509) for a column that has no such type."""
    foreign = foreign_columns(frame.schema)
    return frame.with_columns(**foreign) if foreign else frame


def foreign_columns(schema: Mapping[str, Any], *, strict: bool = True) -> dict[str, pl.Expr]:
    """For each column of a foreign type: the expression that converts it to its DataFlare type.

    Raises DataError (E0509) for a column that has no such type.
    """
    types = Schema.from_polars(schema).to_polars()
    return {
        name: as_held(pl.col(name), dtype, strict=strict)
        for name, dtype in schema.items()
        if dtype != types[name]
    }


def as_held(value: pl.Expr, dtype: Any, *, strict: bool = True) -> pl.Expr:
    """A value of this Polars type, converted to its DataFlare type."""
    return _stored(value, dtype).cast(from_polars(dtype).to_polars(), strict=strict)


def _stored(value: pl.Expr, dtype: Any) -> pl.Expr:
    """The value with extension types, which Polars does not cast, replaced by their storage at any depth."""
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
    """Whether the type has 128-bit integers at any depth. A decimal of 38 digits may be too small for them."""
    if isinstance(dtype, pl.Struct):
        return any(has_wide_integers(f.dtype) for f in dtype.fields)
    if isinstance(dtype, pl.Map):
        return has_wide_integers(dtype.key) or has_wide_integers(dtype.value)
    if isinstance(dtype, pl.List | pl.Array):
        return has_wide_integers(dtype.inner)
    if isinstance(dtype, pl.BaseExtension):
        return has_wide_integers(dtype.ext_storage())
    return bool(dtype in (pl.Int128, pl.UInt128))
