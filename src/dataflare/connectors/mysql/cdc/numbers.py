"""Numbers and times of the log as columns. Pure.

Always true: a value that DataFlare's type does not have is NULL here, and no other value is.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from dataflare.connectors.mysql.cdc.images import Bytes, Flags, Numbers, Values
from dataflare.connectors.mysql.cdc.table_map import Cell

_DAY_US = 86_400_000_000
_DIGIT_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
_MONTH_DAYS = np.array([0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 0, 0, 0])


def fixed(data: Bytes, values: Values, width: int) -> Bytes:
    """The bytes of values that have all the same width: a row each."""
    found: Bytes = data[values.start[:, None] + np.arange(width)]
    return found


def little(cells: Bytes, *, unsigned: bool) -> Numbers:
    """Whole numbers of up to eight bytes, the lowest byte first."""
    rows, width = cells.shape
    whole = np.zeros((rows, 8), np.uint8)
    whole[:, :width] = cells
    if not unsigned and width < 8:
        whole[:, width:] = np.where(cells[:, -1:] > 127, 255, 0)
    return whole.view("<i8")[:, 0]


def big(cells: Bytes) -> Numbers:
    """Whole numbers of up to seven bytes without a sign, the highest byte first."""
    return little(cells[:, ::-1], unsigned=True)


def integers(data: Bytes, values: Values, cell: Cell, *, unsigned: bool) -> pl.Series:
    assert cell.width is not None
    found = little(fixed(data, values, cell.width), unsigned=unsigned)
    return pl.Series(found.view(np.uint64) if unsigned and cell.width == 8 else found)


def bits(data: Bytes, values: Values, cell: Cell) -> pl.Series:
    assert cell.width is not None
    return pl.Series(
        little(fixed(data, values, cell.width)[:, ::-1], unsigned=True).view(np.uint64)
    )


def years(data: Bytes, values: Values) -> pl.Series:
    found = data[values.start].astype(np.int16)
    return pl.Series(np.where(found == 0, 0, found + 1900).astype(np.int16))


def floats(data: Bytes, values: Values, cell: Cell) -> pl.Series:
    assert cell.width is not None
    cells = np.ascontiguousarray(fixed(data, values, cell.width))
    return pl.Series(cells.view("<f4" if cell.width == 4 else "<f8")[:, 0])


def dates(data: Bytes, values: Values) -> pl.Series:
    packed = little(fixed(data, values, 3), unsigned=True)
    days, fits = _days(packed >> 9, packed >> 5 & 15, packed & 31)
    return _kept(pl.Series(days.astype(np.int32)).cast(pl.Date), fits)


def datetimes(data: Bytes, values: Values, cell: Cell) -> pl.Series:
    cells = fixed(data, values, cell.width or 0)
    packed = big(cells[:, :5]) - 0x8000000000
    clock, date = packed & 0x1FFFF, packed >> 17
    months = date >> 5
    days, fits = _days(months // 13, months % 13, date & 31)
    us = ((clock >> 12) * 3600 + (clock >> 6 & 63) * 60 + (clock & 63)) * 1_000_000
    us += days * _DAY_US + fraction(cells[:, 5:])
    return _kept(pl.Series(us).cast(pl.Datetime("us")), fits)


def timestamps(data: Bytes, values: Values, cell: Cell) -> pl.Series:
    """In UTC. Zero stands for 0000-00-00 00:00:00."""
    cells = fixed(data, values, cell.width or 0)
    us = big(cells[:, :4]) * 1_000_000 + fraction(cells[:, 4:])
    return _kept(pl.Series(us).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"), us != 0)


def times(data: Bytes, values: Values, cell: Cell) -> pl.Series:
    us = time_us(data, values, cell)
    fits = (us >= 0) & (us < _DAY_US)
    return _kept(pl.Series(np.where(fits, us, 0) * 1000).cast(pl.Time), fits)


def time_us(data: Bytes, values: Values, cell: Cell) -> Numbers:
    """The microseconds of a TIME, which may be below zero and longer than a day."""
    width = cell.width or 0
    packed = big(fixed(data, values, width)) - (0x800000 << 8 * (width - 3))
    magnitude = np.abs(packed)
    clock = magnitude >> 8 * (width - 3)
    scale = 10 ** (6 - 2 * (width - 3))
    us = (clock >> 12 & 0x3FF) * 3600 + (clock >> 6 & 63) * 60 + (clock & 63)
    us = us * 1_000_000 + (magnitude & ((1 << 8 * (width - 3)) - 1)) * scale
    signed: Numbers = np.where(packed < 0, -us, us)
    return signed


def decimals(data: Bytes, values: Values, cell: Cell) -> pl.Series:
    """Up to 38 digits: groups of nine digits in four bytes each, the highest bit inverted, all bits inverted
    below zero."""
    cells, is_negative = _decimal_bytes(data, values, cell)
    # Four limbs of 32 bits, the lowest first.
    limbs = [np.zeros(cells.shape[0], np.uint64) for _ in range(4)]
    for digits, group in _groups(cells, cell):
        carry = group.astype(np.uint64)
        for at in range(4):
            total = limbs[at] * np.uint64(10**digits) + carry
            limbs[at], carry = total & np.uint64(0xFFFFFFFF), total >> np.uint64(32)
    low = limbs[0] | limbs[1] << np.uint64(32)
    high = limbs[2] | limbs[3] << np.uint64(32)
    low_negative = ~low + np.uint64(1)
    high_negative = ~high + (low_negative == 0).astype(np.uint64)
    whole = np.empty((cells.shape[0], 2), np.uint64)
    whole[:, 0] = np.where(is_negative, low_negative, low)
    whole[:, 1] = np.where(is_negative, high_negative, high)
    array = pa.Array.from_buffers(
        pa.decimal128(cell.first, cell.second),
        whole.shape[0],
        [None, pa.py_buffer(whole.tobytes())],
    )
    found = pl.from_arrow(array)
    assert isinstance(found, pl.Series)
    return found


def decimal_texts(data: Bytes, values: Values, cell: Cell) -> pl.Series:
    """More than 38 digits, as the server writes them."""
    cells, is_negative = _decimal_bytes(data, values, cell)
    parts = [
        pl.Series(f"{at}", group).cast(pl.String).str.zfill(digits)
        for at, (digits, group) in enumerate(_groups(cells, cell))
    ]
    text = pl.DataFrame(parts).select(pl.concat_str(pl.all())).to_series()
    whole = cell.first - cell.second
    before = (
        text.str.head(whole).str.replace("^0+(.)", "$1") if whole else pl.Series(["0"] * text.len())
    )
    after = "." + text.str.tail(cell.second) if cell.second else pl.Series([""] * text.len())
    sign = (
        pl.Series(is_negative).cast(pl.Int8).replace_strict({0: "", 1: "-"}, return_dtype=pl.String)
    )
    return sign + before + after


def _decimal_bytes(data: Bytes, values: Values, cell: Cell) -> tuple[Bytes, Flags]:
    cells = fixed(data, values, cell.width or 0)
    is_negative = cells[:, 0] < 128
    cells = np.where(is_negative[:, None], ~cells, cells)
    cells[:, 0] ^= 128
    return cells, is_negative


def _groups(cells: Bytes, cell: Cell) -> list[tuple[int, Numbers]]:
    """Each group of digits: how many, and the numbers of them."""
    whole, groups, at = cell.first - cell.second, [], 0
    sizes = [whole % 9, *[9] * (whole // 9), *[9] * (cell.second // 9), cell.second % 9]
    for digits in filter(None, sizes):
        width = _DIGIT_BYTES[digits]
        groups.append((digits, big(cells[:, at : at + width])))
        at += width
    return groups


def fraction(cells: Bytes) -> Numbers:
    width = cells.shape[1]
    return big(cells) * 10 ** (6 - 2 * width) if width else np.zeros(cells.shape[0], np.int64)


def _days(year: Numbers, month: Numbers, day: Numbers) -> tuple[Numbers, Flags]:
    """Days since 1970, and which are dates. The algorithm is `days_from_civil` of Howard Hinnant, chrono-Compatible
    Low-Level Date Algorithms."""
    is_leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    longest = np.where((month == 2) & ~is_leap, 28, _MONTH_DAYS[month & 15])
    fits = (month >= 1) & (day >= 1) & (day <= longest)
    shifted = np.where(month <= 2, year - 1, year)
    era = shifted // 400
    of_era = shifted - era * 400
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468, fits


def _kept(found: pl.Series, fits: Flags) -> pl.Series:
    if fits.all():
        return found
    return found.set(pl.Series(~fits), None)
