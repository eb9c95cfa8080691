"""Values that a database gives as text or numbers, as DataFlare types. Never raises: what does not fit becomes NULL.

Text of times is ISO 8601. A number has a unit that only the user knows: seconds, milliseconds and Julian days are
all common. So a number in a column of times is read in the unit `time_numbers`, the same in every row, and does not
fit without it.

Always true: a NULL out of a value that was not NULL means "does not fit". No digit is cut or rounded,
except that a Julian day is read to the millisecond, as SQLite's own functions do.
"""

from __future__ import annotations

from typing import Literal

import polars as pl

from dataflare.model.types import DataType

_OFFSET = r"(?:[Zz]|[+-]\d{2}:?\d{2})$"
NUMBER = r"^[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?$"
TimeNumbers = Literal["s", "ms", "us", "ns", "julian_day"]
_Unit = Literal["ms", "us", "ns"]
_UNITS: dict[str, _Unit] = {"s": "ms", "ms": "ms", "us": "us", "ns": "ns"}
_PER_SECOND = {"s": 1_000, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
NUMBERS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DIGITS = {"ms": 3, "us": 6, "ns": 9}
_INT64_MAX = 2**63 - 1
# SQLite's own functions end at these Julian days: -4713-11-24 12:00 and 9999-12-31 24:00.
_JULIAN_DAYS = (0.0, 5_373_484.5)
_JULIAN_EPOCH_MS = 210_866_760_000_000
_DAY_MS = 86_400_000


def is_number(type_: DataType) -> bool:
    """Whether a text of the type is read as a number."""
    return (
        type_.is_float
        or (type_.is_integer and type_.name != "uint64")
        or type_.name in ("bool", "duration")
    )


def decoded(
    raw: pl.Series,
    others: pl.Series | None,
    type_: DataType,
    time_numbers: TimeNumbers | None = None,
) -> pl.Series:
    """raw: as fetched. others: the text of values that are not numbers, of a guarded column.
    time_numbers: the unit of numbers in a column of times."""
    if is_number(type_):
        values = _number(
            raw if raw.dtype.is_numeric() else raw.cast(pl.String).cast(pl.Int64, strict=False),
            type_,
        )
        return values if others is None else values.fill_null(_number_of_text(others, type_))
    if type_.name == "binary":
        return raw if raw.dtype == pl.Binary else raw.cast(pl.String).cast(pl.Binary)
    text = text_of(raw)
    match type_.name:
        case "string" | "json":
            return text
        case "uint64":
            return text.cast(pl.UInt64, strict=False)
        case "decimal":
            return _decimal(text, type_)
        case "date":
            whole = _timestamp(text, "us", time_numbers)
            midnight = whole.dt.time().cast(pl.Int64) == 0
            return whole.dt.date().zip_with(midnight.fill_null(True), _nulls(text, pl.Date()))
        case "time":
            padded = text.str.replace(r"^(\d{2}:\d{2})$", "$1:00")
            return _whole(padded.str.to_time("%H:%M:%S%.f", strict=False), text, 9)
        case "timestamp":
            values = _timestamp(text, type_.unit or "us", time_numbers)
            return values if type_.timezone is None else _zoned(values, type_.timezone)
        case "list" | "struct":
            return _json(text, type_)
    return text


def decoded_text(text: pl.Series, type_: DataType) -> pl.Series:
    """Text as any type."""
    if is_number(type_):
        return decoded(_nulls(text, pl.Int64()), text, type_)
    return decoded(text, None, type_)


def _nulls(series: pl.Series, dtype: pl.DataType) -> pl.Series:
    return pl.Series([None], dtype=dtype).new_from_index(0, series.len())


def _number(raw: pl.Series, type_: DataType) -> pl.Series:
    if type_.name == "bool":
        valid = raw.is_in([0, 1]).fill_null(True)
        return raw.cast(pl.Boolean).zip_with(valid, _nulls(raw, pl.Boolean()))
    return raw.cast(type_.to_polars(), strict=False)


def _number_of_text(text: pl.Series, type_: DataType) -> pl.Series:
    text = text_of(text).str.strip_chars()
    if type_.name == "bool":
        words = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
        return text.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)
    if type_.is_float:
        return text.cast(pl.Float64, strict=False).cast(type_.to_polars())
    number = text.cast(pl.Float64, strict=False)
    whole = ((number == number.round(0)) & (number.abs() < 2.0**53)).fill_null(False)
    integer = number.zip_with(whole, _nulls(text, pl.Float64())).cast(pl.Int64)
    exact = text.cast(pl.Int64, strict=False).fill_null(integer)
    return exact.cast(type_.to_polars(), strict=False)


def text_of(raw: pl.Series) -> pl.Series:
    """The values as text; bytes that are not UTF-8 do not fit. SQLite does not check that text is UTF-8, and Polars
    assumes that it is, so it is checked here."""
    if raw.dtype == pl.String:
        raw = raw.cast(pl.Binary)
    elif raw.dtype != pl.Binary:
        return raw.cast(pl.String)
    try:
        return raw.cast(pl.String)
    except pl.exceptions.ComputeError:
        return pl.Series(raw.name, [_utf8(value) for value in raw], dtype=pl.String)


def _utf8(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _decimal(text: pl.Series, type_: DataType) -> pl.Series:
    scale = type_.scale or 0
    text = text.str.strip_chars()
    powers = text.str.contains("[eE]")
    if powers.any():
        number = text.cast(pl.Float64, strict=False)
        small = (number.abs() < 1e22).fill_null(False)
        plain = number.zip_with(small, _nulls(text, pl.Float64())).cast(pl.Decimal(38, 15))
        # A number that is smaller than the last digit does not fit: it is not 0.
        same = (plain.cast(pl.Float64) == number).fill_null(False)
        plain = plain.zip_with(same, _nulls(text, pl.Decimal(38, 15)))
        text = text.zip_with(~powers.fill_null(False), plain.cast(pl.String).fill_null("no"))
    exact = text.str.contains(rf"^[+-]?\d*(?:\.\d{{0,{scale}}}0*)?$").fill_null(True)
    values = text.cast(type_.to_polars(), strict=False)
    return values.zip_with(exact, _nulls(text, type_.to_polars()))


def _timestamp(text: pl.Series, unit: str, time_numbers: TimeNumbers | None) -> pl.Series:
    """Naive in UTC. ISO text with a blank or a T, with or without time, fraction and offset; or a
    number in the unit `time_numbers`."""
    polars_unit = _UNITS[unit]
    text = text.str.strip_chars()
    times = _of_text(text, polars_unit)
    if polars_unit == "ns":
        # Polars wraps around beyond the years 1677 to 2262: 1000-01-01 would be 2169-02-08.
        most = _INT64_MAX // 1_000
        inside = _of_text(text, "us").to_physical().is_between(-most, most)
        times = times.zip_with(inside.fill_null(False), _nulls(times, times.dtype))
    times = _whole(times, text, _DIGITS[polars_unit])
    if time_numbers is None:
        return times
    numbers = text.str.contains(NUMBER).fill_null(False)
    number_text = text.zip_with(numbers, _nulls(text, pl.String()))
    return times.fill_null(_of_number(number_text, polars_unit, time_numbers))


def _of_text(text: pl.Series, unit: _Unit) -> pl.Series:
    fast = text.str.strip_suffix("+00:00").str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f",
        time_unit=unit,
        strict=False,
    )
    slow = fast.is_null() & text.is_not_null()
    return fast.fill_null(_iso(text, unit)) if slow.any() else fast


def _whole(times: pl.Series, text: pl.Series, digits: int) -> pl.Series:
    """The times, NULL if the text has more digits after the point than the type: Polars truncates
    them."""
    shortest = len("12:00:00.") + digits
    if not (text.str.len_bytes() > shortest).any():
        return times
    is_cut = text.str.contains(rf"\.\d{{{digits}}}\d*[1-9]").fill_null(False)
    return times.zip_with(~is_cut, _nulls(times, times.dtype)) if is_cut.any() else times


def _iso(text: pl.Series, unit: _Unit) -> pl.Series:
    rest = text.str.slice(11).str.strip_chars()
    offset = rest.str.extract(f"({_OFFSET})", 1)
    time = rest.str.replace(_OFFSET, "").str.strip_chars().str.replace(r"^(\d{2}:\d{2})$", "$1:00")
    time = time.zip_with(time != "", pl.Series(["00:00:00"]).new_from_index(0, time.len()))
    between = text.str.slice(10, 1).is_in(["", " ", "T", "t"])
    day = text.str.slice(0, 10).zip_with(between.fill_null(True), _nulls(text, pl.String()))
    naive = (day + " " + time).str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f",
        time_unit=unit,
        strict=False,
    )
    digits = offset.str.replace_all("[Zz:]", "")
    minutes = digits.str.slice(1, 2).cast(pl.Int64, strict=False).fill_null(
        0
    ) * 60 + digits.str.slice(3, 2).cast(pl.Int64, strict=False).fill_null(0)
    sign = digits.str.starts_with("-").fill_null(False).cast(pl.Int64) * -2 + 1
    shift = minutes * sign * 60 * _PER_SECOND[unit]
    return (naive.to_physical() - shift).cast(naive.dtype)


def _of_number(text: pl.Series, unit: _Unit, time_numbers: TimeNumbers) -> pl.Series:
    """Numbers as moments. A fraction fits if it is the double that is nearest to a moment of the type:
    no double is exactly 0.1 s."""
    number = text.cast(pl.Float64, strict=False)
    per_second = _PER_SECOND[unit]
    if time_numbers == "julian_day":
        inside = number.is_between(*_JULIAN_DAYS).fill_null(False)
        number = number.zip_with(inside, _nulls(number, pl.Float64()))
        milliseconds = (number * _DAY_MS + 0.5).floor().cast(pl.Int64) - _JULIAN_EPOCH_MS
        return _scaled(milliseconds, per_second, 1_000).cast(pl.Datetime(unit))
    per_number = NUMBERS_PER_SECOND[time_numbers]
    whole = _scaled(text.cast(pl.Int64, strict=False), per_second, per_number)
    # Polars multiplies by the reciprocal of a scalar, which is not the nearest double.
    ratio = pl.Series([per_second / per_number]).new_from_index(0, text.len())
    rounded = (number * ratio).round(0)
    exact = (rounded / ratio == number) & text.str.contains(r"[.eE]")
    fraction = rounded.zip_with(exact.fill_null(False), _nulls(number, pl.Float64()))
    return whole.fill_null(fraction.cast(pl.Int64, strict=False)).cast(pl.Datetime(unit))


def _scaled(whole: pl.Series, per_second: int, per_number: int) -> pl.Series:
    """Integers of one unit in another; NULL where that is not exact or not in 64 bits."""
    if per_second >= per_number:
        factor = per_second // per_number
        fits = whole.is_between(-(_INT64_MAX // factor), _INT64_MAX // factor)
        scaled = whole * factor
    else:
        divisor = per_number // per_second
        fits, scaled = whole % divisor == 0, whole // divisor
    return scaled.zip_with(fits.fill_null(False), _nulls(whole, pl.Int64()))


def _zoned(naive: pl.Series, zone: str) -> pl.Series:
    return naive.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)


def _json(text: pl.Series, type_: DataType) -> pl.Series:
    dtype = type_.to_polars()
    try:
        return text.str.json_decode(dtype)
    except pl.exceptions.PolarsError:
        values = []
        for value in text:
            try:
                one = pl.Series([value], dtype=pl.String).str.json_decode(dtype)[0]
            except pl.exceptions.PolarsError:
                one = None
            values.append(one.to_list() if isinstance(one, pl.Series) else one)
        return pl.Series(text.name, values, dtype=dtype)
