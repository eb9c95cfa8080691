"""Which values a column of fewer digits would round: shared by the databases. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from dataflare.model.types import DataType

_PER_SECOND = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_WHOLE = {"float4": 2**24, "float8": 2**53}
_DIGITS = {"float4": 6, "float8": 15}


def fraction_of(value: pl.Expr, type_: DataType, digits: int) -> pl.Expr | None:
    """The times that have more digits of seconds than that; None where none can have them."""
    unit = 9 if type_.name == "time" else _PER_SECOND[type_.unit or "us"]
    if unit <= digits:
        return None
    return value.to_physical() % int(10 ** (unit - digits)) != 0


def loses_scale(value: pl.Expr, type_: DataType, scale: int) -> pl.Expr | None:
    """The numbers, or texts of numbers, with more digits after the point than that."""
    if type_.name == "decimal" and (type_.scale or 0) > scale:
        return value.to_physical() % pl.lit(10 ** ((type_.scale or 0) - scale), pl.Int128) != 0
    if type_.is_float:
        cut = value % 10.0**-scale != 0 if scale < 0 else value.round(scale) != value
        return cut & value.is_not_nan() & value.is_finite()
    if type_.is_integer and scale < 0:
        return value.cast(pl.Int128) % pl.lit(10**-scale, pl.Int128) != 0
    if type_.name == "string" and scale >= 0:
        return value.str.contains(rf"^\s*[+-]?\d*\.\d{{{scale}}}\d*[1-9]")
    return None


def beyond_float(value: pl.Expr, type_: DataType, kind: str) -> pl.Expr | None:
    """The numbers that a float4 or float8 does not hold exactly."""
    if kind == "float4" and type_.name == "float64":
        return (value.cast(pl.Float32).cast(pl.Float64) != value) & value.is_not_nan()
    if type_.is_integer:
        if type_.name in ("int8", "int16", "uint8", "uint16"):
            return None
        float_ = pl.Float32() if kind == "float4" else pl.Float64()
        great = value.cast(pl.Float64).abs() >= _WHOLE[kind]
        back = value.cast(float_).cast(pl.Float64).cast(pl.Int128, strict=False)
        return great & (back != value.cast(pl.Int128)).fill_null(True)
    if type_.name == "decimal" and (type_.precision or 38) > _DIGITS[kind]:
        return value.to_physical().abs() >= pl.lit(10 ** _DIGITS[kind], pl.Int128)
    return None


def first_lost(
    frame: pl.DataFrame, masks: Mapping[str, Sequence[pl.Expr]]
) -> Sequence[tuple[int, str]]:
    """The rows with a value that a column would change, in order, and the first such column of each. masks: by
    column, which values it would change."""
    lost = frame.select(
        pl.any_horizontal(part.fill_null(False) for part in parts).alias(name)
        for name, parts in masks.items()
        if parts
    )
    first: dict[int, str] = {}
    for column in lost:
        if column.any():
            for row in column.arg_true().to_list():
                first.setdefault(row, column.name)
    return sorted(first.items())
