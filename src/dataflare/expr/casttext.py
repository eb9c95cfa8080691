"""Text to values and back, in DuckDB's spelling. CAST, `map: cast` and the `schema` of a source share it.

Always true: text that is not a value of the type becomes null, never an exception; offsets in text
for a timestamp without a zone are dropped, as DuckDB drops them; a time that its zone's clock skipped
is not a value.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from dataflare.errors import InternalError
from dataflare.expr import rowerrors
from dataflare.expr.calendar import NS_RANGE_US, existing, in_range, rounded_unit
from dataflare.expr.lowered import Lowered, fail_where
from dataflare.expr.textnumbers import decimal_of, float_of, integer_of, rest_of, seldom
from dataflare.model.types import DataType, timestamp

_SPACE = " \t\n\r\x0b\x0c"
_OFFSET = r"\s*(?i:(Z|UTC|[+-]\d{1,2}(?::?\d{2})?))$"


def from_text(value: pl.Expr, to: DataType) -> Lowered:
    """Text as that type: the value is null, and the mask is set, where the text is not one.

    Any scalar type. Lists and structs have no text form here.
    """
    if to.is_text:
        return Lowered(value)
    if to.name == "binary":
        return Lowered(value.cast(pl.Binary))
    result = _parsed(value, to)
    return Lowered(result, fail_where(result.is_null() & value.is_not_null(), rowerrors.CAST))


def is_json(text: pl.Expr) -> pl.Expr:
    """Whether it is JSON; Polars gives null both for what is not and for the document `null`."""
    document = text.str.json_path_match("$")
    return document.is_not_null() | (text.str.strip_chars() == "null")


def _parsed(value: pl.Expr, to: DataType) -> pl.Expr:
    text = value.str.strip_chars(_SPACE)
    if to.is_integer:
        return integer_of(text, to)
    if to.is_float:
        return float_of(text, to)
    if to.name == "decimal":
        return decimal_of(text, to)
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


def _date(text: pl.Expr) -> pl.Expr:
    plain = text.str.to_date("%Y-%m-%d", strict=False)
    rest = seldom(rest_of(text, plain), pl.Date(), lambda rare: _naive(rare, "us").dt.date())
    return pl.coalesce(plain, rest)


def _naive(text: pl.Expr, unit: Any) -> pl.Expr:
    """ISO text, the time of day and its seconds optional, an offset ignored.

    Most text has one shape, so the rarer shapes are looked for only where the first is not found.
    """
    plain = _read(text.str.replace("T", " ", literal=True).str.strip_suffix("Z"), unit)
    rest = seldom(rest_of(text, plain), pl.Datetime(unit), lambda rare: _rare(rare, unit))
    return pl.coalesce(plain, rest)


def _rare(text: pl.Expr, unit: Any) -> pl.Expr:
    spaced = text.str.replace(r"^([^ T]+)T", "${1} ")
    dashed = spaced.str.replace_all("/", "-", literal=True)
    bare = dashed.str.replace(rf"(:\d{{1,2}}(?:\.\d+)?){_OFFSET}", "${1}")
    full = (
        pl.when(bare.str.contains(r"^\d{1,6}-\d{1,2}-\d{1,2}$"))
        .then(bare + pl.lit(" 00:00:00"))
        .when(bare.str.contains(r"^\d{1,6}-\d{1,2}-\d{1,2} +\d{1,2}:\d{1,2}$"))
        .then(bare + pl.lit(":00"))
        .otherwise(bare)
    )
    return _read(full, unit)


def _read(text: pl.Expr, unit: str) -> pl.Expr:
    """Polars takes second 60, and wraps around what nanoseconds cannot hold."""
    real = pl.when(~text.str.contains(":60", literal=True)).then(text)
    pattern = "%Y-%m-%d %H:%M:%S%.f"
    moment = real.str.to_datetime(pattern, strict=False, time_unit="us")
    if unit == "ns":
        fits = moment.to_physical().is_between(-NS_RANGE_US, NS_RANGE_US)
        return real.str.to_datetime(pattern, strict=False, time_unit="ns").pipe(
            lambda made: pl.when(fits).then(made)
        )
    return moment


def _timestamp(text: pl.Expr, to: DataType) -> pl.Expr:
    """DuckDB's rule for units: nanoseconds and microseconds are cut, milliseconds and seconds rounded."""
    if to.unit not in ("us", "ns"):
        return rounded_unit(_timestamp(text, timestamp("us", to.timezone)), to)
    unit: Any = to.unit
    naive = _naive(text, unit)
    if to.timezone is None:
        return naive
    offset = text.str.extract(rf":\d{{1,2}}(?:\.\d+)?{_OFFSET}", 1)
    sign = pl.when(offset.str.starts_with("-")).then(-1).otherwise(1)
    hours = offset.str.extract(r"^[+-](\d{1,2})", 1).cast(pl.Int64, strict=False).fill_null(0)
    minutes = offset.str.extract(r"^[+-]\d{1,2}:?(\d{2})$", 1).cast(pl.Int64, strict=False)
    shift = pl.duration(minutes=sign * (hours * 60 + minutes.fill_null(0)), time_unit=unit)
    instant = (naive - shift).dt.replace_time_zone("UTC").dt.convert_time_zone(to.timezone)
    wall = existing(naive, to.timezone)
    return pl.when(offset.is_null()).then(wall).otherwise(instant)


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
