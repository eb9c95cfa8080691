"""Stored values of a page back to our types, without raising: what does not fit becomes NULL.

Always true: a NULL out of a value that was not NULL means "does not fit", and never "rounded".
"""

from __future__ import annotations

from typing import Literal

import polars as pl

from dataflare.model.types import DataType

_OFFSET = r"(?:[Zz]|[+-]\d{2}:?\d{2})$"
_EPOCH = r"^[+-]?\d+(?:\.\d+)?$"
# An epoch in seconds stays below 1e11 until the year 5138; then milliseconds, then microseconds.
_EPOCH_UNITS = ((1e11, 1_000_000_000), (1e14, 1_000_000), (1e17, 1_000))
_Unit = Literal["ms", "us", "ns"]
_UNITS: dict[str, _Unit] = {"s": "ms", "ms": "ms", "us": "us", "ns": "ns"}
_PER_SECOND = {"s": 1_000, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def selected(column: str, type_: DataType, *, text_affinity: bool) -> str:
    """The SQL that fetches a column (quoted name), so that a page holds one storage class where the
    values fit. Blobs stay blobs, to be told apart from text."""
    if type_.name == "binary":
        return f"cast({column} as blob)"
    if type_.is_integer and type_.name != "uint64":
        return column
    if type_.is_float or type_.name in ("bool", "duration"):
        return column
    if type_.is_text and text_affinity:
        return column
    real = ""
    if type_.is_temporal:
        real = f"when 'real' then printf('%!.17g', {column}) "
    return f"case typeof({column}) when 'blob' then {column} {real}else cast({column} as text) end"


def is_number(type_: DataType) -> bool:
    """Whether a page of the type comes as numbers; another storage class among them turns the whole
    page to text and loses digits of reals, so such a page is fetched `guarded`."""
    return (
        type_.is_float
        or (type_.is_integer and type_.name != "uint64")
        or type_.name in ("bool", "duration")
    )


def guarded(column: str, type_: DataType) -> tuple[str, str]:
    """Two columns instead of one: the numbers, and the text of all else (of a blob, its digits)."""
    kinds = "('integer', 'real')" if type_.is_float else "('integer')"
    numbers = f"case when typeof({column}) in {kinds} then {column} end"
    others = (
        f"case when typeof({column}) = 'blob' then 'blob ' || hex({column}) "
        f"when typeof({column}) not in {kinds} then cast({column} as text) end"
    )
    return numbers, others


def is_doubtful(raw: pl.Series, type_: DataType) -> bool:
    """Whether a page of numbers has other values among them."""
    if not is_number(type_):
        return False
    return raw.dtype != pl.Int64 and not (type_.is_float and raw.dtype == pl.Float64)


def decoded(raw: pl.Series, others: pl.Series | None, type_: DataType) -> pl.Series:
    """raw: as fetched. others: the text of values that are no numbers, of a guarded column."""
    if is_number(type_):
        found = _number(
            raw if raw.dtype.is_numeric() else raw.cast(pl.String).cast(pl.Int64), type_
        )
        return found if others is None else found.fill_null(_number_of_text(others, type_))
    if type_.name == "binary":
        return raw if raw.dtype == pl.Binary else raw.cast(pl.String).cast(pl.Binary)
    text = _text(raw)
    match type_.name:
        case "string" | "json":
            return text
        case "uint64":
            return text.cast(pl.UInt64, strict=False)
        case "decimal":
            return _decimal(text, type_)
        case "date":
            whole = _timestamp(text, "us")
            midnight = whole.dt.time().cast(pl.Int64) == 0
            return whole.dt.date().zip_with(midnight.fill_null(True), _nulls(text, pl.Date()))
        case "time":
            padded = text.str.replace(r"^(\d{2}:\d{2})$", "$1:00")
            return padded.str.to_time("%H:%M:%S%.f", strict=False)
        case "timestamp":
            found = _timestamp(text, type_.unit or "us")
            return found if type_.timezone is None else _zoned(found, type_.timezone)
        case "list" | "struct":
            return _json(text, type_)
    return text


def _nulls(like: pl.Series, dtype: pl.DataType) -> pl.Series:
    return pl.Series([None], dtype=dtype).new_from_index(0, like.len())


def _number(raw: pl.Series, type_: DataType) -> pl.Series:
    if type_.name == "bool":
        valid = raw.is_in([0, 1]).fill_null(True)
        return raw.cast(pl.Boolean).zip_with(valid, _nulls(raw, pl.Boolean()))
    return raw.cast(type_.to_polars(), strict=False)


def _number_of_text(text: pl.Series, type_: DataType) -> pl.Series:
    text = _text(text).str.strip_chars()
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


def _text(raw: pl.Series) -> pl.Series:
    """As text. A page with a blob in it comes as bytes: those that are no text do not fit.

    SQLite does not check that text is UTF-8, and Polars trusts it, so it is checked here."""
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
        text = text.zip_with(~powers.fill_null(False), plain.cast(pl.String))
    exact = text.str.contains(rf"^[+-]?\d*(?:\.\d{{0,{scale}}}0*)?$").fill_null(True)
    found = text.cast(type_.to_polars(), strict=False)
    return found.zip_with(exact, _nulls(text, type_.to_polars()))


def _timestamp(text: pl.Series, unit: str) -> pl.Series:
    """Naive in UTC. ISO text with a blank or a T, with or without time, fraction and offset; or an
    epoch in seconds, milliseconds, microseconds or nanoseconds, told apart by its size."""
    polars_unit = _UNITS[unit]
    fast = text.str.strip_suffix("+00:00").str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f",
        time_unit=polars_unit,
        strict=False,
    )
    slow = fast.is_null() & text.is_not_null()
    if not slow.any():
        return fast
    text = text.str.strip_chars()
    epochs = text.str.contains(_EPOCH)
    iso = _iso(text.zip_with(~epochs.fill_null(False), _nulls(text, pl.String())), polars_unit)
    made = iso.fill_null(
        _epoch(text.zip_with(epochs.fill_null(False), _nulls(text, pl.String())), polars_unit)
    )
    return fast.fill_null(made)


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


def _epoch(text: pl.Series, unit: _Unit) -> pl.Series:
    whole = text.cast(pl.Int64, strict=False)
    number = text.cast(pl.Float64, strict=False)
    size = number.abs()
    scale = pl.Series([1], dtype=pl.Int64).new_from_index(0, text.len())
    for limit, ns in reversed(_EPOCH_UNITS):
        scale = (
            pl.Series([ns], dtype=pl.Int64)
            .new_from_index(0, text.len())
            .zip_with((size < limit).fill_null(False), scale)
        )
    per = 1_000_000_000 // _PER_SECOND[unit]
    exact = _scaled(whole, scale, per)
    rounded = (number * scale.cast(pl.Float64) / per).round(0).cast(pl.Int64, strict=False)
    return exact.fill_null(rounded).cast(pl.Datetime(unit))


def _scaled(whole: pl.Series, scale: pl.Series, per: int) -> pl.Series:
    finer = scale >= per
    return (whole * (scale // per)).zip_with(finer, whole // (per // scale.clip(1, per)))


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
