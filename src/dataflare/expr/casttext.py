"""Convert text to values and back, in DuckDB's notation. CAST, `map: cast` and `schema` of sources use it.

Always true: text that is not a value of the type becomes null and raises no exception; an offset in text
for a timestamp without a zone is dropped, as in DuckDB; a time that the zone's clock skipped is not a
value.
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
    """Text as that type. Where the text is not a value, the value is null and the mask is set.

    to: any scalar type. Lists and structs have no text form.
    """
    if to.is_text:
        return Lowered(value)
    if to.name == "binary":
        return Lowered(value.cast(pl.Binary))
    result = _parsed(value, to)
    return Lowered(result, fail_where(result.is_null() & value.is_not_null(), rowerrors.CAST))


def is_json(text: pl.Expr) -> pl.Expr:
    """Whether a text is JSON. Polars gives null for invalid text and for the document `null`."""
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
    rare_dates = seldom(rest_of(text, plain), pl.Date(), lambda rare: _naive(rare, "us").dt.date())
    return pl.coalesce(plain, rare_dates)


def _naive(text: pl.Expr, unit: Any) -> pl.Expr:
    """Read ISO text. The time of day and its seconds are optional; an offset is ignored.

    Most text has one form, so the rarer forms are tried only where that one does not match.
    """
    plain = _read(text.str.replace("T", " ", literal=True).str.strip_suffix("Z"), unit)
    rare_times = seldom(rest_of(text, plain), pl.Datetime(unit), lambda rare: _rare(rare, unit))
    return pl.coalesce(plain, rare_times)


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
    """Read the common form. Avoids two faults of Polars: it accepts second 60, and overflows for times
    that nanoseconds cannot represent."""
    possible = pl.when(~text.str.contains(":60", literal=True)).then(text)
    pattern = "%Y-%m-%d %H:%M:%S%.f"
    moment = possible.str.to_datetime(pattern, strict=False, time_unit="us")
    if unit == "ns":
        fits = moment.to_physical().is_between(-NS_RANGE_US, NS_RANGE_US)
        return possible.str.to_datetime(pattern, strict=False, time_unit="ns").pipe(
            lambda parsed: pl.when(fits).then(parsed)
        )
    return moment


def _timestamp(text: pl.Expr, to: DataType) -> pl.Expr:
    """As in DuckDB, nanoseconds and microseconds are truncated, milliseconds and seconds rounded."""
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


def to_text(value: pl.Expr, source: DataType) -> pl.Expr:
    """The value as DuckDB writes it: `1.0`, `1e-07`, `2024-12-31 23:59:59.5`."""
    if source.is_float:
        return _float_text(value)
    if source.name == "date":
        return in_range(value, source).cast(pl.String)
    if source.name == "timestamp":
        digits = 9 if source.unit == "ns" else 6
        moment = in_range(value, source)
        text = _trimmed(moment.dt.strftime(f"%Y-%m-%d %H:%M:%S%.{digits}f"))
        if source.timezone is None:
            return text
        return text + moment.dt.strftime("%:z").str.replace(":00", "", literal=True)
    if source.name == "time":
        return _trimmed(value.dt.strftime("%H:%M:%S%.6f"))
    if source.name == "binary":
        return value.bin.encode("hex")
    return value.cast(pl.String)


def _trimmed(text: pl.Expr) -> pl.Expr:
    """The text without zeros at the end of a fraction, and without its point if no digit remains."""
    return text.str.strip_chars_end("0").str.strip_suffix(".")


def _float_text(value: pl.Expr) -> pl.Expr:
    """The shortest digits as C++ writes them: an exponent below 1e-4, with at least two digits."""
    plain = value.cast(pl.String)
    usual = value.is_null() | (value == 0) | value.abs().is_between(1e-4, 1e15)
    rare = pl.when(~usual).then(plain).str.replace(r"e([+-]?)(\d)$", "e${1}0${2}")
    small = rare.str.replace(r"^(-?)0\.0000([1-9])$", "${1}${2}e-05")
    longer = small.str.replace(r"^(-?)0\.0000([1-9])(\d+)$", "${1}${2}.${3}e-05")
    return pl.when(usual).then(plain).when(value.is_nan()).then(pl.lit("nan")).otherwise(longer)
