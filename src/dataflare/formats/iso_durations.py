"""ISO 8601 durations, such as PT1M30.5S: the text that DataFlare writes for a duration.

Always true: a text with years or months, with more digits than the unit, or beyond 64 bits is NULL.
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

_PATTERN = (
    r"^(?<sign>[+-]?)P(?:(?<w>\d{1,15})W)?(?:(?<d>\d{1,15})D)?"
    r"(?:T(?:(?<h>\d{1,18})H)?(?:(?<m>\d{1,18})M)?(?:(?<s>\d{1,20})(?:[.,](?<f>\d{1,9}))?S)?)?$"
)
_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_PER_SECOND = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def ticks_of(text: pl.Expr, unit: str) -> pl.Expr:
    """The durations as whole numbers of the unit: ms, us or ns."""
    parts = text.str.extract_groups(_PATTERN)
    per_second = _PER_SECOND[unit]
    seconds = pl.sum_horizontal(
        parts.struct.field(name).cast(pl.Int128).fill_null(0) * size
        for name, size in _SECONDS.items()
    )
    nanoseconds = parts.struct.field("f").str.pad_end(9, "0").cast(pl.Int64).fill_null(0)
    finest = 1_000_000_000 // per_second
    ticks = seconds * per_second + (nanoseconds // finest).cast(pl.Int128)
    sign = pl.when(parts.struct.field("sign") == "-").then(-1).otherwise(1).cast(pl.Int128)
    fits = text.str.contains(_PATTERN) & text.str.contains(r"\d[A-Z]$")
    return (
        pl.when(fits & (nanoseconds % finest == 0)).then(ticks * sign).cast(pl.Int64, strict=False)
    )


def iso_text(value: timedelta) -> str:
    """The text of one duration, however long it is."""
    size = abs(value)
    parts = [f"{size.days}D"] if size.days else []
    if size.seconds or size.microseconds or not parts:
        fraction = f".{size.microseconds:06}".rstrip("0") if size.microseconds else ""
        parts.append(f"T{size.seconds}{fraction}S")
    return ("-P" if value < timedelta() else "P") + "".join(parts)
