"""Text to values and back, in DuckDB's spelling.

Always true: text that is no value of the type becomes null, never an exception; offsets in text for
a timestamp without a zone are dropped, as DuckDB drops them.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from dataflare.errors import InternalError
from dataflare.expr import rowerrors
from dataflare.expr.calendar import in_range, localise
from dataflare.expr.lowered import Lowered, fail_where
from dataflare.model.types import DataType

_SPACE = " \t\n\r\x0b\x0c"
_NUMBER = r"^[+-]?(\d+(_\d+)*\.?(\d+(_\d+)*)?|\.\d+)([eE][+-]?\d+)?$"
_OFFSET = r"\s*(?i:(Z|UTC|[+-]\d{1,2}(?::?\d{2})?))$"


def from_text(value: pl.Expr, to: DataType) -> Lowered:
    """Text as that type; null, and the mask set, where it is not one."""
    if to.is_text:
        return Lowered(value)
    if to.name == "binary":
        return Lowered(value.cast(pl.Binary))
    result = _parsed(value, to)
    return Lowered(result, fail_where(result.is_null() & value.is_not_null(), rowerrors.CAST))


def _parsed(value: pl.Expr, to: DataType) -> pl.Expr:
    dtype = to.to_polars()
    text = value.str.strip_chars(_SPACE)
    if to.is_integer:
        return _integer(text, dtype)
    if to.is_float:
        return _float(text, dtype)
    if to.name == "decimal":
        return _shaped(text).cast(dtype, strict=False)
    if to.name == "bool":
        lowered = value.str.to_lowercase()
        truth = lowered.is_in(["true", "t", "1", "yes", "y"])
        return pl.when(truth | lowered.is_in(["false", "f", "0", "no", "n"])).then(truth)
    if to.name == "date":
        return _date(text)
    if to.name == "time":
        whole = text.str.contains(r"^\d{1,2}:\d{1,2}$")
        seconds = pl.when(whole).then(text + pl.lit(":00")).otherwise(text)
        return seconds.str.to_time("%H:%M:%S%.f", strict=False)
    if to.name == "timestamp":
        return _timestamp(text, to)
    raise InternalError(f"no cast from text to {to}")


def _shaped(text: pl.Expr) -> pl.Expr:
    """Numbers as DuckDB reads them, the underscores between digits taken out."""
    return text.str.extract(_NUMBER, 0).str.replace_all("_", "", literal=True)


def _rest(text: pl.Expr, plain: pl.Expr) -> pl.Expr:
    """The text where the plain reading failed: the rare shapes cost the common one nothing."""
    return pl.when(plain.is_null()).then(text)


def _float(text: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    plain = text.cast(dtype, strict=False)
    return pl.coalesce(plain, _shaped(_rest(text, plain)).cast(dtype, strict=False))


def _integer(text: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Plain digits are read as they are; what has a fraction or exponent is rounded."""
    plain = text.cast(dtype, strict=False)
    number = _shaped(_rest(text, plain)).cast(pl.Decimal(38, 10), strict=False)
    whole = number.round(0, mode="half_away_from_zero").to_physical()
    units = whole.truncdiv(pl.lit(10**10, dtype=pl.Int128))
    return pl.coalesce(plain, units.cast(dtype, strict=False))


def _date(text: pl.Expr) -> pl.Expr:
    plain = text.str.to_date("%Y-%m-%d", strict=False)
    return pl.coalesce(plain, _naive(_rest(text, plain), "us").dt.date())


def _naive(text: pl.Expr, unit: Any) -> pl.Expr:
    """ISO text, the time of day and its seconds optional, an offset ignored.

    Most text has one shape, so the rarer shapes are looked for only where the first is not found.
    """
    spaced = text.str.replace("T", " ", literal=True)
    plain = _read(spaced.str.strip_suffix("Z"), unit)
    dashed = _rest(spaced, plain).str.replace_all("/", "-", literal=True)
    bare = dashed.str.replace(rf"(:\d{{1,2}}(?:\.\d+)?){_OFFSET}", "${1}")
    full = (
        pl.when(bare.str.contains(r"^\d{1,6}-\d{1,2}-\d{1,2}$"))
        .then(bare + pl.lit(" 00:00:00"))
        .when(bare.str.contains(r"^\d{1,6}-\d{1,2}-\d{1,2} +\d{1,2}:\d{1,2}$"))
        .then(bare + pl.lit(":00"))
        .otherwise(bare)
    )
    return pl.coalesce(plain, _read(full, unit))


def _read(text: pl.Expr, unit: Any) -> pl.Expr:
    return text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit=unit)


def _timestamp(text: pl.Expr, to: DataType) -> pl.Expr:
    unit: Any = "ms" if to.unit == "s" else to.unit
    naive = _naive(text, unit)
    if to.timezone is None:
        return naive
    offset = text.str.extract(rf":\d{{1,2}}(?:\.\d+)?{_OFFSET}", 1)
    sign = pl.when(offset.str.starts_with("-")).then(-1).otherwise(1)
    hours = offset.str.extract(r"^[+-](\d{1,2})", 1).cast(pl.Int64, strict=False).fill_null(0)
    minutes = offset.str.extract(r"^[+-]\d{1,2}:?(\d{2})$", 1).cast(pl.Int64, strict=False)
    shift = pl.duration(minutes=sign * (hours * 60 + minutes.fill_null(0)), time_unit=unit)
    instant = (naive - shift).dt.replace_time_zone("UTC").dt.convert_time_zone(to.timezone)
    return pl.when(offset.is_null()).then(localise(naive, to.timezone)).otherwise(instant)


def to_text(value: pl.Expr, given: DataType) -> pl.Expr:
    """The value in DuckDB's spelling: `1.0`, `1e-07`, `2024-12-31 23:59:59.5`."""
    if given.is_float:
        return _float_text(value)
    if given.name == "date":
        return in_range(value, given).cast(pl.String)
    if given.name == "timestamp":
        digits = 9 if given.unit == "ns" else 6
        moment = in_range(value, given)
        text = _trimmed(moment.dt.strftime(f"%Y-%m-%d %H:%M:%S%.{digits}f"))
        if given.timezone is None:
            return text
        return text + moment.dt.strftime("%:z").str.replace(":00", "", literal=True)
    if given.name == "time":
        return _trimmed(value.dt.strftime("%H:%M:%S%.6f"))
    if given.name == "binary":
        return value.bin.encode("hex")
    return value.cast(pl.String)


def _trimmed(text: pl.Expr) -> pl.Expr:
    """Without the zeros that end a fraction, and without its point if there is nothing left."""
    return text.str.strip_chars_end("0").str.strip_suffix(".")


def _float_text(value: pl.Expr) -> pl.Expr:
    """As C++ writes the shortest digits: two digits in the exponent, and one below 1e-4."""
    plain = value.cast(pl.String)
    usual = value.is_null() | (value == 0) | value.abs().is_between(1e-4, 1e15)
    rare = pl.when(~usual).then(plain).str.replace(r"e([+-]?)(\d)$", "e${1}0${2}")
    small = rare.str.replace(r"^(-?)0\.0000([1-9])$", "${1}${2}e-05")
    longer = small.str.replace(r"^(-?)0\.0000([1-9])(\d+)$", "${1}${2}.${3}e-05")
    return pl.when(usual).then(plain).when(value.is_nan()).then(pl.lit("nan")).otherwise(longer)
