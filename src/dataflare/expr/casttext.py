"""Text to values and back, in DuckDB's spelling."""

from __future__ import annotations

import polars as pl

from dataflare.errors import InternalError
from dataflare.expr import rowerrors
from dataflare.expr.lowered import Lowered, fail_where
from dataflare.model.types import DataType

_SPACE = " \t\n\r\x0b\x0c"
_NUMBER = r"^[+-]?(\d+(_\d+)*\.?\d*|\.\d+)([eE][+-]?\d+)?$"


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
        plain = text.cast(dtype, strict=False)
        shaped = pl.when(text.str.contains(_NUMBER)).then(
            text.str.replace_all("_", "", literal=True)
        )
        exact = (
            shaped.str.to_decimal(scale=4)
            if False
            else shaped.cast(pl.Decimal(38, 10), strict=False)
        )
        digits = exact.to_physical()
        unit = pl.lit(10**10, dtype=pl.Int128)
        half = pl.lit(10**10 // 2, dtype=pl.Int128)
        rounded = (digits + pl.when(digits < 0).then(-half).otherwise(half)).truncdiv(unit)
        return pl.coalesce(plain, rounded.cast(dtype, strict=False))
    if to.is_float:
        return text.cast(dtype, strict=False)
    if to.name == "decimal":
        shaped = pl.when(text.str.contains(_NUMBER)).then(text)
        return shaped.cast(dtype, strict=False)
    if to.name == "bool":
        lowered = value.str.to_lowercase()
        truth = lowered.is_in(["true", "t", "1", "yes", "y"])
        return pl.when(truth | lowered.is_in(["false", "f", "0", "no", "n"])).then(truth)
    if to.name == "date":
        return parse_timestamp(text, "us").dt.date()
    if to.name == "time":
        return _padded_time(text).str.to_time("%H:%M:%S%.f", strict=False)
    if to.name == "timestamp":
        return _timestamp(text, to)
    raise InternalError(f"no cast from text to {to}")


_ISO = r"^(\d{1,6})[-/](\d{1,2})[-/](\d{1,2})(?:[ T](\d{1,2}):(\d{1,2})(?::(\d{1,2})(\.\d+)?)?)?\s*(?i:(Z|UTC|[+-]\d{1,2}(?::?\d{2})?))?$"


def parse_timestamp(text: pl.Expr, unit: str) -> pl.Expr:
    """ISO text, the time of day and its seconds optional, an offset ignored, as naive Datetime."""
    clean = text.str.replace(r"\s*(?i:Z|UTC|[+-]\d{1,2}(?::?\d{2})?)$", "") if False else text
    bare = clean.str.replace(r"(:\d{1,2}(?:\.\d+)?)\s*(?i:Z|UTC|[+-]\d{1,2}(?::?\d{2})?)$", "${1}")
    spaced = bare.str.replace("T", " ", literal=True).str.replace_all("/", "-", literal=True)
    full = (
        pl.when(spaced.str.contains(r"^\d{1,6}-\d{1,2}-\d{1,2}$"))
        .then(spaced + pl.lit(" 00:00:00"))
        .when(spaced.str.contains(r"^\d{1,6}-\d{1,2}-\d{1,2} \d{1,2}:\d{1,2}$"))
        .then(spaced + pl.lit(":00"))
        .otherwise(spaced)
    )
    return full.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit=unit)  # type: ignore[arg-type]


def _timestamp(text: pl.Expr, to: DataType) -> pl.Expr:
    dtype = to.to_polars()
    unit = dtype.time_unit  # type: ignore[attr-defined]
    naive = parse_timestamp(text, unit)
    if to.timezone is None:
        return naive
    offset = text.str.extract(r":\d{1,2}(?:\.\d+)?\s*(?i:(Z|UTC|[+-]\d{1,2}(?::?\d{2})?))$", 1)
    sign = pl.when(offset.str.starts_with("-")).then(-1).otherwise(1)
    hours = offset.str.extract(r"^[+-](\d{1,2})", 1).cast(pl.Int64, strict=False).fill_null(0)
    minutes = offset.str.extract(r"^[+-]\d{1,2}:?(\d{2})$", 1).cast(pl.Int64, strict=False)
    shift = pl.duration(minutes=sign * (hours * 60 + minutes.fill_null(0)), time_unit=unit)
    instant = (naive - shift).dt.replace_time_zone("UTC").dt.convert_time_zone(to.timezone)
    local = naive.dt.replace_time_zone(to.timezone, ambiguous="earliest", non_existent="null")
    return pl.when(offset.is_null()).then(local).otherwise(instant)


def _padded_time(text: pl.Expr) -> pl.Expr:
    return (
        pl.when(text.str.contains(r"^\d{1,2}:\d{1,2}$")).then(text + pl.lit(":00")).otherwise(text)
    )


def to_text(value: pl.Expr, given: DataType) -> pl.Expr:
    """The value in DuckDB's spelling: `1.0`, `1e-07`, `2024-12-31 23:59:59.5`."""
    if given.is_float:
        return _float_text(value)
    if given.name == "timestamp":
        text = _trimmed(value.dt.strftime("%Y-%m-%d %H:%M:%S%.6f"))
        if given.unit == "ns":
            text = _trimmed(value.dt.strftime("%Y-%m-%d %H:%M:%S%.9f"))
        if given.timezone is None:
            return text
        return text + value.dt.strftime("%:z").str.replace(":00", "", literal=True)
    if given.name == "time":
        return _trimmed(value.dt.strftime("%H:%M:%S%.6f"))
    if given.name == "binary":
        return value.bin.encode("hex")
    return value.cast(pl.String)


def _trimmed(text: pl.Expr) -> pl.Expr:
    """Without the zeros that end a fraction."""
    return (
        text.str.strip_chars_end("0").str.replace(r"\.$", "")
        if False
        else text.str.replace(r"\.?0+$", "")
        if False
        else text.str.replace(r"\.0+$", "").str.replace(r"(\.\d*[1-9])0+$", "${1}")
    )


def _float_text(value: pl.Expr) -> pl.Expr:
    plain = value.cast(pl.String).str.replace(r"e(-?\+?)(\d)$", "e${1}0${2}")
    small = plain.str.replace(r"^(-?)0\.0000(\d)$", "${1}${2}e-05")
    longer = small.str.replace(r"^(-?)0\.0000([1-9])(\d+)$", "${1}${2}.${3}e-05")
    return pl.when(value.is_nan()).then(pl.lit("nan")).otherwise(longer)
