"""Numbers, sizes and durations as text to read."""

from __future__ import annotations

import math

_SIZES = ("B", "KB", "MB", "GB", "TB", "PB")


def count(number: float | None) -> str:
    """`1,234,567`; a dash for an unknown number."""
    return "–" if number is None else f"{round(number):,}"


def counted(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def size(num_bytes: float | None) -> str:
    """`812 B`, `1.2 MB`, in powers of a thousand."""
    if num_bytes is None:
        return "–"
    value, unit = float(num_bytes), 0
    while value >= 999.5 and unit < len(_SIZES) - 1:
        value, unit = value / 1000, unit + 1
    return (
        f"{value:.0f} {_SIZES[unit]}"
        if unit == 0 or value >= 99.5
        else f"{value:.1f} {_SIZES[unit]}"
    )


def rate(rows_per_s: float | None) -> str:
    """`18,300 rows/s`, `1.7 M rows/s`."""
    if rows_per_s is None or not math.isfinite(rows_per_s):
        return "–"
    if rows_per_s >= 999_500:
        return f"{rows_per_s / 1e6:.1f} M rows/s"
    digits = max(0, len(str(int(rows_per_s))) - 3)
    return f"{round(rows_per_s, -digits):,.0f} rows/s"


def span(seconds: float | None) -> str:
    """`0.12 s`, `8.1 s`, `2 min 5 s`, `3 h 20 min`, `2 d 4 h`."""
    if seconds is None:
        return "–"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for small, large, unit, name in ((60, 3_600, "s", "min"), (3_600, 86_400, "min", "h")):
        if whole < large:
            first, rest = divmod(whole, small)
            rest //= 1 if unit == "s" else 60
            return f"{first} {name} {rest} {unit}" if rest else f"{first} {name}"
    days, rest = divmod(whole, 86_400)
    return f"{days} d {rest // 3_600} h" if rest >= 3_600 else f"{days} d"


def clock(seconds: float) -> str:
    """`0:07`, `1:02:03`: a running time whose width seldom changes."""
    minutes, second = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{second:02}" if hours else f"{minutes}:{second:02}"


def highest_rate(rows_per_s: float | None, bytes_per_s: float | None) -> str:
    """`100 rows/s`, `0.1 rows/s and 10 MB/s`. None: no limit of that kind."""
    rows = None if rows_per_s is None else f"{rows_per_s:g} rows/s"
    if rows_per_s is not None and rows_per_s >= 100:
        rows = rate(rows_per_s)
    limits = [rows, None if bytes_per_s is None else f"{size(bytes_per_s)}/s"]
    return " and ".join(limit for limit in limits if limit is not None)
