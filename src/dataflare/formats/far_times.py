"""The exact text of dates and times that the formatters cannot format.

Polars panics beyond the year 262,142, and Python has no year above 9999. A timestamp goes to the year
294,247 (microseconds) or 292 million (milliseconds), a date to the year 5,879,611.

Always true: the text is ISO 8601; a year beyond 9999 has its sign, as in +294247-01-10T04:00:54.775807.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import polars as pl

from dataflare.expr.calendar import TICKS
from dataflare.model.types import DataType, Schema

_POLARS_DAYS = 200_000 * 365
_PYTHON_DAYS = (-719_162, 2_932_896)
"""From 0001-01-01 to 9999-12-31."""
_SPAN_DAYS = 999_999_999
_DAY_S = 86_400
_KINDS = ("date", "timestamp", "duration")


def far_columns(frame: pl.DataFrame, schema: Schema) -> frozenset[str]:
    """The columns with a value that Polars does not format."""
    return _beyond(frame, schema, -_POLARS_DAYS, _POLARS_DAYS)


def beyond_python(frame: pl.DataFrame, schema: Schema) -> frozenset[str]:
    """The columns with a value that Python's date and datetime cannot represent."""
    return _beyond(frame, schema, *_PYTHON_DAYS)


def finer_than_python(frame: pl.DataFrame, schema: Schema) -> frozenset[str]:
    """The columns with a value in nanoseconds that Python's microseconds would cut."""
    return _with_any(frame, {field.name: _odd(pl.col(field.name), field.type) for field in schema})


def _odd(value: pl.Expr, type_: DataType) -> pl.Expr | None:
    """Where a value, or one inside it, is not in whole microseconds; None if it always is."""
    if type_.name == "time" or (type_.name in _KINDS and type_.unit == "ns"):
        return value.to_physical() % 1_000 != 0
    return _inside(value, type_, _odd)


def _beyond(frame: pl.DataFrame, schema: Schema, first: int, last: int) -> frozenset[str]:
    return _with_any(
        frame,
        {field.name: _mask(pl.col(field.name), field.type, first, last) for field in schema},
    )


def _with_any(frame: pl.DataFrame, masks: Mapping[str, pl.Expr | None]) -> frozenset[str]:
    """The columns of which a mask is true somewhere."""
    checks = {name: mask.any() for name, mask in masks.items() if mask is not None}
    if not checks or not frame.height:
        return frozenset()
    is_beyond = frame.select(**checks).row(0, named=True)
    return frozenset(name for name, far in is_beyond.items() if far)


def _mask(value: pl.Expr, type_: DataType, first: int, last: int) -> pl.Expr | None:
    """Where a value, or one inside it, lies outside of these days; None if the type has no dates or
    times."""
    if type_.name in _KINDS:
        ticks = _ticks_of_a_day(type_)
        if type_.unit == "ns":
            return None
        if type_.name == "duration":
            ticks_max = _SPAN_DAYS * ticks if last == _PYTHON_DAYS[1] else 2**63 - 1
            return ~value.to_physical().is_between(
                -min(ticks_max, 2**63 - 1), min(ticks_max, 2**63 - 1)
            )
        return ~value.to_physical().is_between(first * ticks, (last + 1) * ticks - 1)
    return _inside(value, type_, partial(_mask, first=first, last=last))


def _inside(
    value: pl.Expr, type_: DataType, mask: Callable[[pl.Expr, DataType], pl.Expr | None]
) -> pl.Expr | None:
    """Where the mask of an item or a field is true."""
    if type_.item is not None:
        inside = mask(pl.element(), type_.item)
        return None if inside is None else value.list.eval(inside).list.any()
    parts = [mask(value.struct.field(f.name), f.type) for f in type_.fields]
    masks = [part for part in parts if part is not None]
    return pl.any_horizontal(masks) if masks else None


def _ticks_of_a_day(type_: DataType) -> int:
    return 1 if type_.name == "date" else _DAY_S * TICKS[type_.unit or "us"]


def text_of(value: pl.Expr, type_: DataType, near: pl.Expr) -> pl.Expr:
    """The text of dates, times or durations. near: the formatter's text, for values that it
    supports."""
    far = _mask(value, type_, -_POLARS_DAYS, _POLARS_DAYS)
    if far is None:
        return near
    rest = pl.when(far).then(value.to_physical())
    return pl.coalesce(
        near, rest.map_batches(lambda ticks: _texts(ticks, type_), return_dtype=pl.String)
    )


def near_only(value: pl.Expr, type_: DataType) -> pl.Expr:
    """The value if the formatter supports it, else NULL."""
    far = _mask(value, type_, -_POLARS_DAYS, _POLARS_DAYS)
    return value if far is None else pl.when(~far).then(value)


def _texts(ticks: pl.Series, type_: DataType) -> pl.Series:
    if ticks.null_count() == ticks.len():
        return pl.Series(ticks.name, [None], dtype=pl.String).new_from_index(0, ticks.len())
    texts = [None if tick is None else _text(tick, type_) for tick in ticks]
    return pl.Series(ticks.name, texts, dtype=pl.String)


def _text(tick: int, type_: DataType) -> str:
    if type_.name == "date":
        return _date(tick)
    unit = TICKS[type_.unit or "us"]
    if type_.name == "duration":
        seconds, rest = divmod(-tick, unit)
        days, seconds = divmod(seconds, _DAY_S)
        hours, minutes = divmod(seconds // 60, 60)
        return f"-P{days}DT{hours}H{minutes}M{seconds % 60}{_fraction(rest, unit)}S"
    days, rest = divmod(tick, _DAY_S * unit)
    seconds, rest = divmod(rest, unit)
    zone = "" if type_.timezone is None else "Z" if type_.timezone == "UTC" else "+00:00"
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{_date(days)}T{clock}{_fraction(rest, unit)}{zone}"


def _fraction(ticks: int, unit: int) -> str:
    return f".{ticks:0{len(str(unit)) - 1}}" if ticks else ""


def _date(days: int) -> str:
    """Days since 1970 as a date. Hinnant, chrono-compatible algorithms, civil_from_days."""
    shifted = days + 719_468
    era, of_era = divmod(shifted, 146_097)
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    year = year + era * 400 + (month <= 2)
    sign = "+" if year > 9999 else "-" if year < 0 else ""
    return f"{sign}{abs(year):04}-{month:02}-{day:02}"
