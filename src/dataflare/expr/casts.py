"""CAST, for each pair of types: the value, and where it does not fit.

Always true: nothing raises; a value that does not fit is null and its mask is set. Floats round half
to even and decimals half away from zero, as DuckDB does.
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


def lower_cast(value: pl.Expr, given: DataType, to: DataType) -> Lowered:
    """The value as type `to`; the mask says CAST where it does not fit."""
    if given == to:
        return Lowered(value)
    dtype = to.to_polars()
    if given.name == "null":
        return Lowered(value.cast(dtype))
    if to.name == "json":
        return _to_json(value, given)
    if given.name == "json" and not to.is_text:
        value = _scalar(value)
    if given.is_text:
        return from_text(value, to)
    if to.is_text:
        return Lowered(to_text(value, given))
    if given.is_numeric and to.is_numeric:
        return _number(value, given, to)
    if given.name == "bool":
        return Lowered(value.cast(pl.Int8).cast(dtype))
    if to.name == "bool":
        return Lowered(value != 0 if given.name != "decimal" else value.to_physical() != 0)
    if given.is_temporal and to.is_temporal:
        return _temporal(value, given, to)
    if given.name == "list" == to.name:
        return _list(value, given, to)
    if given.name == "struct" == to.name:
        return _struct(value, given, to)
    raise InternalError(f"no cast from {given} to {to}")


def checked(value: pl.Expr, result: pl.Expr, kind: int = rowerrors.CAST) -> Lowered:
    """The result, failing where it is null although the value is not."""
    return Lowered(result, fail_where(result.is_null() & value.is_not_null(), kind))


def _to_json(value: pl.Expr, given: DataType) -> Lowered:
    """Text must be JSON already; a number or a bool is written as it is, all else as a JSON string."""
    if given.is_text:
        valid = is_json(value)
        return Lowered(pl.when(valid).then(value), fail_where(~valid, rowerrors.JSON))
    text = to_text(value, given)
    if given.is_float:
        finite = pl.when(value.is_finite()).then(text)
        return Lowered(finite, fail_where(~value.is_finite(), rowerrors.JSON))
    if given.is_numeric or given.name == "bool":
        return Lowered(text)
    return Lowered(pl.lit('"') + text + pl.lit('"'))


def _scalar(value: pl.Expr) -> pl.Expr:
    """The text that a JSON document stands for: of a string what is inside of its quotes, NULL of null."""
    inner = value.str.json_path_match("$")
    quoted = value.str.contains(r'^\s*"')
    return pl.when(quoted).then(inner).when(value.str.strip_chars() != "null").then(value)


def _list(value: pl.Expr, given: DataType, to: DataType) -> Lowered:
    """Each element is cast by its own rule; one that does not fit fails the row."""
    assert given.item is not None and to.item is not None  # noqa: PT018
    made = lower_cast(pl.element(), given.item, to.item)
    result = value.list.eval(made.value).cast(to.to_polars())
    if made.error is None:
        return Lowered(result)
    failed = value.list.eval(made.error).list.drop_nulls().list.len() > 0
    return Lowered(result, fail_where(failed, rowerrors.CAST))


def _struct(value: pl.Expr, given: DataType, to: DataType) -> Lowered:
    made = [
        lower_cast(value.struct.field(field.name), field.type, wanted.type)
        for field, wanted in zip(given.fields, to.fields, strict=True)
    ]
    fields = [each.value.alias(field.name) for each, field in zip(made, to.fields, strict=True)]
    result = pl.when(value.is_not_null()).then(pl.struct(fields)).cast(to.to_polars())
    return Lowered(result, first_error(each.error for each in made))


def _number(value: pl.Expr, given: DataType, to: DataType) -> Lowered:
    dtype = to.to_polars()
    if given.is_integer and to.is_integer:
        (low, high), (least, most) = RANGES[given.name], RANGES[to.name]
        if least <= low and high <= most:
            return Lowered(value.cast(dtype))
        return checked(value, value.cast(dtype, strict=False))
    if to.is_float:
        if given.name == "float64" and to.name == "float32":
            narrow = value.cast(dtype, strict=False)
            return Lowered(
                narrow, fail_where(narrow.is_infinite() & value.is_finite(), rowerrors.CAST)
            )
        return Lowered(value.cast(dtype, strict=False))
    if to.is_integer:
        if given.is_float:
            return checked(value, value.round(0, mode="half_to_even").cast(dtype, strict=False))
        return checked(value, rescaled(value, given.scale or 0, 0).cast(dtype, strict=False))
    return _to_decimal(value, given, to)


def _to_decimal(value: pl.Expr, given: DataType, to: DataType) -> Lowered:
    precision, scale = as_decimal(to)
    if given.is_float:
        scaled = (value.cast(pl.Float64) * 10.0**scale).round(0, mode="half_away_from_zero")
        fitting = pl.when(scaled.abs() < 10.0**precision).then(scaled)
        return checked(value, as_scaled(fitting.cast(pl.Int128, strict=False), precision, scale))
    digits, from_scale = as_decimal(given)
    if digits - from_scale + scale <= precision and scale >= from_scale:
        return Lowered(value.cast(to.to_polars(), strict=False))
    if scale > from_scale:
        bound = pl.lit(10 ** (precision - scale + from_scale), dtype=pl.Int128)
        physical = physical_of(value, given)
        fitting = pl.when(physical.abs() < bound).then(physical)
        return checked(
            value,
            as_scaled(
                fitting * pl.lit(10 ** (scale - from_scale), dtype=pl.Int128), precision, scale
            ),
        )
    shifted = (
        rescaled(value, from_scale, scale) if given.name == "decimal" else value.cast(pl.Int128)
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


def _temporal(value: pl.Expr, given: DataType, to: DataType) -> Lowered:
    unit: Any = "ms" if to.unit == "s" else to.unit
    if given.name == "duration":
        return _unit(value, given, to)
    if to.name in ("date", "time"):
        moment = local(value, given)
        return Lowered(moment.dt.date() if to.name == "date" else moment.dt.time())
    if given.name == "date" or (given.timezone is None and to.timezone is not None):
        naive = in_range(value, given).cast(pl.Datetime(unit), strict=False)
        made = naive if to.timezone is None else existing(naive, to.timezone)
        return checked(value, made)
    moved = value
    if given.timezone is not None and to.timezone is None:
        moved = local(value, given)
    elif given.timezone != to.timezone:
        moved = value.dt.convert_time_zone(to.timezone or "UTC")
    return _unit(moved, given, to)


_UNITS = ("s", "ms", "us", "ns")


def _unit(value: pl.Expr, given: DataType, to: DataType) -> Lowered:
    """A time or span in another unit: rounded in a coarser one, an error beyond the range of a finer."""
    have, want = given.unit or "us", to.unit or "us"
    if _UNITS.index(want) < _UNITS.index(have):
        return Lowered(rounded_unit(value, to, have))
    if given.to_polars().time_unit == to.to_polars().time_unit:  # type: ignore[attr-defined]
        return Lowered(value)
    return checked(value, value.cast(to.to_polars(), strict=False))
