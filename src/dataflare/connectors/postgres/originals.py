"""The text that the server writes for a value from the driver, for dead letters.

Always true: a value has the same text here as in `select column::text`, except floats and bools outside
arrays, which JSON has itself.
"""

from __future__ import annotations

import math
import re
from datetime import time
from typing import Any

import polars as pl

_DAYS, _MICROSECONDS = 10_957, 946_684_800_000_000
"""From 1970 to 2000. The driver adds them to the server's number without an overflow check."""
_DAY_US = 86_400_000_000
_QUOTED = re.compile(r'[{}",\\\s]|^$|^null$', re.I)


def original(values: pl.Series, row: int) -> Any:
    """One value of a column, as JSON or text."""
    if values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime):
        return _moment_text(values.to_physical()[row], values.dtype)
    value = values[row]
    match value:
        case pl.Series():
            return _array_text(value)
        case bytes():
            return "\\x" + value.hex()
        case time():
            return _fraction(value.isoformat())
        case float() if not math.isfinite(value):
            return _float_text(value)
    return value


def _moment_text(number: int | None, dtype: Any) -> str | None:
    if number is None:
        return None
    if dtype == pl.Date:
        days = _wrapped(number - _DAYS, 32)
        return _endless(days, 32) or _era(*_civil(days + _DAYS), "")
    since_2000 = _wrapped(number - _MICROSECONDS, 64)
    if text := _endless(since_2000, 64):
        return text
    days, us = divmod(since_2000, _DAY_US)
    seconds, us = divmod(us, 1_000_000)
    clock = f" {seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{us:06}"
    zone = "+00" if dtype.time_zone else ""
    return _era(*_civil(days + _DAYS), _fraction(clock) + zone)


def _wrapped(number: int, bits: int) -> int:
    half = 1 << bits - 1
    return (number + half) % (2 * half) - half


def _endless(number: int, bits: int) -> str | None:
    ends = {(1 << bits - 1) - 1: "infinity", -(1 << bits - 1): "-infinity"}
    return ends.get(number)


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of a number of days since 1970, in a calendar without end, as in
    https://howardhinnant.github.io/date_algorithms.html#civil_from_days."""
    era, of_era = divmod(days + 719_468, 146_097)
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    return year + era * 400 + (month <= 2), month, day


def _era(year: int, month: int, day: int, rest: str) -> str:
    year_text = year if year > 0 else 1 - year
    return f"{year_text:04}-{month:02}-{day:02}{rest}{'' if year > 0 else ' BC'}"


def _fraction(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _float_text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _array_text(values: pl.Series) -> str:
    return "{" + ",".join(_item_text(original(values, at)) for at in range(values.len())) + "}"


def _item_text(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "t" if value else "f"
    text = str(value)
    if _QUOTED.search(text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text
