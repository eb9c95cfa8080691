"""CAST, for each pair of types: the value, and the rows whose value does not fit.

Always true: no row raises; a value that does not fit is null and its mask is set. Floats round half to
even and decimals half away from zero, as in DuckDB.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from dataflare.errors import InternalError
from dataflare.expr import rowerrors
from dataflare.expr.calendar import existing, in_range, local, rounded_unit
from dataflare.expr.casttext import from_text, is_json, to_text
from dataflare.expr.lowered import Lowered, fail_where, first_error
from dataflare.expr.sqltypes import RANGES, as_decimal
from dataflare.model.types import DataType


def lower_cast(value: pl.Expr, source: DataType, to: DataType) -> Lowered:
    """The value as type `to`. The mask is CAST where it does not fit."""
    if source == to:
        return Lowered(value)
    dtype = to.to_polars()
    if source.name == "null":
        return Lowered(value.cast(dtype))
    if to.name == "json":
        return _to_json(value, source)
    if source.name == "json" and not to.is_text:
        value = _scalar(value)
    if source.is_text:
        return from_text(value, to)
    if to.is_text:
        return Lowered(to_text(value, source))
    if source.is_numeric and to.is_numeric:
        return _number(value, source, to)
    if source.name == "bool":
        return Lowered(value.cast(pl.Int8).cast(dtype))
    if to.name == "bool":
        return Lowered(value != 0 if source.name != "decimal" else value.to_physical() != 0)
    if source.is_temporal and to.is_temporal:
        return _temporal(value, source, to)
    if source.name == "list" == to.name:
        return _list(value, source, to)
    if source.name == "struct" == to.name:
        return _struct(value, source, to)
    raise InternalError(f"no cast from {source} to {to}")


def checked(value: pl.Expr, result: pl.Expr, kind: int = rowerrors.CAST) -> Lowered:
    """The result, with an error where it is null and the value is not."""
    return Lowered(result, fail_where(result.is_null() & value.is_not_null(), kind))


def _to_json(value: pl.Expr, source: DataType) -> Lowered:
    """Text must be JSON already. A number or a bool is written as it is, other values as a JSON string."""
    if source.is_text:
        valid = is_json(value)
        return Lowered(pl.when(valid).then(value), fail_where(~valid, rowerrors.JSON))
    text = to_text(value, source)
    if source.is_float:
        finite = pl.when(value.is_finite()).then(text)
        return Lowered(finite, fail_where(~value.is_finite(), rowerrors.JSON))
    if source.is_numeric or source.name == "bool":
        return Lowered(text)
    return Lowered(pl.lit('"') + text + pl.lit('"'))


def _scalar(value: pl.Expr) -> pl.Expr:
    """The text of a JSON document: a string without its quotes, NULL for null, else the document."""
    inner = value.str.json_path_match("$")
    quoted = value.str.contains(r'^\s*"')
    return pl.when(quoted).then(inner).when(value.str.strip_chars() != "null").then(value)


def _list(value: pl.Expr, source: DataType, to: DataType) -> Lowered:
    """Cast each element. An element that does not fit is an error of the row."""
    assert source.item is not None and to.item is not None  # noqa: PT018
    element = lower_cast(pl.element(), source.item, to.item)
    result = value.list.eval(element.value).cast(to.to_polars())
    if element.error is None:
        return Lowered(result)
    failed = value.list.eval(element.error).list.drop_nulls().list.len() > 0
    return Lowered(result, fail_where(failed, rowerrors.CAST))


def _struct(value: pl.Expr, source: DataType, to: DataType) -> Lowered:
    casts = [
        lower_cast(value.struct.field(field.name), field.type, target.type)
        for field, target in zip(source.fields, to.fields, strict=True)
    ]
    fields = [each.value.alias(field.name) for each, field in zip(casts, to.fields, strict=True)]
    result = pl.when(value.is_not_null()).then(pl.struct(fields)).cast(to.to_polars())
    return Lowered(result, first_error(each.error for each in casts))


def _number(value: pl.Expr, source: DataType, to: DataType) -> Lowered:
    dtype = to.to_polars()
    if source.is_integer and to.is_integer:
        (low, high), (least, most) = RANGES[source.name], RANGES[to.name]
        if least <= low and high <= most:
            return Lowered(value.cast(dtype))
        return checked(value, value.cast(dtype, strict=False))
    if to.is_float:
        if source.name == "float64" and to.name == "float32":
            narrow = value.cast(dtype, strict=False)
            return Lowered(
                narrow, fail_where(narrow.is_infinite() & value.is_finite(), rowerrors.CAST)
            )
        return Lowered(value.cast(dtype, strict=False))
    if to.is_integer:
        if source.is_float:
            return checked(value, value.round(0, mode="half_to_even").cast(dtype, strict=False))
        return checked(value, rescaled(value, source.scale or 0, 0).cast(dtype, strict=False))
    return _to_decimal(value, source, to)


def _to_decimal(value: pl.Expr, source: DataType, to: DataType) -> Lowered:
    precision, scale = as_decimal(to)
    if source.is_float:
        scaled = (value.cast(pl.Float64) * 10.0**scale).round(0, mode="half_away_from_zero")
        fitting = pl.when(scaled.abs() < 10.0**precision).then(scaled)
        return checked(value, as_scaled(fitting.cast(pl.Int128, strict=False), precision, scale))
    digits, from_scale = as_decimal(source)
    if digits - from_scale + scale <= precision and scale >= from_scale:
        return Lowered(value.cast(to.to_polars(), strict=False))
    if scale > from_scale:
        bound = pl.lit(10 ** (precision - scale + from_scale), dtype=pl.Int128)
        physical = physical_of(value, source)
        fitting = pl.when(physical.abs() < bound).then(physical)
        return checked(
            value,
            as_scaled(
                fitting * pl.lit(10 ** (scale - from_scale), dtype=pl.Int128), precision, scale
            ),
        )
    shifted = (
        rescaled(value, from_scale, scale) if source.name == "decimal" else value.cast(pl.Int128)
    )
    fitting = pl.when(shifted.abs() < pl.lit(10**precision, dtype=pl.Int128)).then(shifted)
    return checked(value, as_scaled(fitting, precision, scale))


def physical_of(value: pl.Expr, type_: DataType) -> pl.Expr:
    """An integer's or decimal's digits as Int128."""
    return value.to_physical() if type_.name == "decimal" else value.cast(pl.Int128)


def as_scaled(digits: pl.Expr, precision: int, scale: int) -> pl.Expr:
    """Int128 digits as a decimal of that scale."""
    return digits.reinterpret(dtype=pl.Decimal(precision, scale))


def rescaled(value: pl.Expr, scale: int, to: int) -> pl.Expr:
    """A decimal's digits at a smaller scale, rounded half away from zero, as Int128."""
    digits = value.to_physical()
    if to >= scale:
        return digits
    unit = pl.lit(10 ** (scale - to), dtype=pl.Int128)
    half = 10 ** (scale - to) // 2
    up, down = (
        pl.lit(each, dtype=pl.Int128) for each in (half, -half)
    )  # Polars negates no Int128.
    return (digits + pl.when(digits < 0).then(down).otherwise(up)).truncdiv(unit)


def _temporal(value: pl.Expr, source: DataType, to: DataType) -> Lowered:
    unit: Any = "ms" if to.unit == "s" else to.unit
    if source.name == "duration":
        return _unit(value, source, to)
    if to.name in ("date", "time"):
        moment = local(value, source)
        return Lowered(moment.dt.date() if to.name == "date" else moment.dt.time())
    if source.name == "date" or (source.timezone is None and to.timezone is not None):
        naive = in_range(value, source).cast(pl.Datetime(unit), strict=False)
        moment_in_zone = naive if to.timezone is None else existing(naive, to.timezone)
        return checked(value, moment_in_zone)
    moved = value
    if source.timezone is not None and to.timezone is None:
        moved = local(value, source)
    elif source.timezone != to.timezone:
        moved = value.dt.convert_time_zone(to.timezone or "UTC")
    return _unit(moved, source, to)


_UNITS = ("s", "ms", "us", "ns")


def _unit(value: pl.Expr, source: DataType, to: DataType) -> Lowered:
    """A time or duration in another unit: rounded to a coarser unit; an error if a finer unit cannot hold it."""
    source_unit, unit = source.unit or "us", to.unit or "us"
    if _UNITS.index(unit) < _UNITS.index(source_unit):
        return Lowered(rounded_unit(value, to, source_unit))
    if source.to_polars().time_unit == to.to_polars().time_unit:  # type: ignore[attr-defined]
        return Lowered(value)
    return checked(value, value.cast(to.to_polars(), strict=False))
