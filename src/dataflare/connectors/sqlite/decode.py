"""Fetch the columns of an SQLite file, so that each value can be told as it is stored."""

from __future__ import annotations

import re

import polars as pl

from dataflare.model.types import DataType
from dataflare.sdk.sql.text_values import NUMBER, NUMBERS_PER_SECOND, TimeNumbers, is_number


def selected(column: str, type_: DataType, *, text_affinity: bool) -> str:
    """The SQL that fetches a column (quoted name), so that a page has one storage class if the
    values fit. Blobs stay blobs, so that they differ from text."""
    if type_.name == "binary":
        return f"cast(case typeof({column}) when 'real' then {_all_digits(column)} else {column} end as blob)"
    if type_.is_integer and type_.name != "uint64":
        return column
    if type_.is_float or type_.name in ("bool", "duration"):
        return column
    if type_.is_text and text_affinity:
        return column
    real = ""
    if type_.is_temporal:
        real = f"when 'real' then printf('%!.17g', {column}) "
    elif type_.name != "decimal":
        real = f"when 'real' then {_all_digits(column)} "
    return f"case typeof({column}) when 'blob' then {column} {real}else cast({column} as text) end"


def _all_digits(column: str) -> str:
    """The text of a real from which the same real is read. SQLite's own has 15 digits."""
    short = f"cast({column} as text)"
    return f"case when cast({short} as real) = {column} then {short} else printf('%!.17g', {column}) end"


def guarded(column: str, type_: DataType) -> tuple[str, str]:
    """Two columns instead of one: the numbers, and the text of other values (for a blob, its hex
    digits). A value of another storage class would turn a page of numbers to text and lose digits of reals."""
    kinds = "('integer', 'real')" if type_.is_float else "('integer')"
    numbers = f"case when typeof({column}) in {kinds} then {column} end"
    others = (
        f"case when typeof({column}) = 'blob' then 'blob ' || hex({column}) "
        f"when typeof({column}) not in {kinds} then cast({column} as text) end"
    )
    return numbers, others


def is_doubtful(raw: pl.Series, type_: DataType) -> bool:
    """Whether a page of numbers contains other values."""
    if not is_number(type_):
        return False
    return raw.dtype != pl.Int64 and not (type_.is_float and raw.dtype == pl.Float64)


def first_number(seconds: int, time_numbers: TimeNumbers | None) -> float | None:
    """The number of a moment, given in seconds since 1970; None if numbers have no unit."""
    if time_numbers is None:
        return None
    if time_numbers == "julian_day":
        return seconds / 86_400 + 2_440_587.5
    return seconds * NUMBERS_PER_SECOND[time_numbers]


def advice(text: str, type_: DataType, time_numbers: TimeNumbers | None) -> str:
    """Advice for a value that is not a date or timestamp of the type; empty if there is none."""
    if time_numbers is None and re.match(NUMBER, text):
        return "; say the unit of such numbers in 'time_numbers': s, ms, us, ns or julian_day"
    if type_.name == "timestamp" and re.search(r"\.\d+", text) and type_.unit != "ns":
        zone = "" if type_.timezone is None else f", {type_.timezone}"
        return f"; for all its digits, say timestamp[ns{zone}] or string in 'schema'"
    return ""
