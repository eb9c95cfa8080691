"""Calendar arithmetic that never panics: times beyond 200,000 years are null and raise no exception.

Always true: Polars' calendar functions receive only values that `in_range` allows.
"""

from __future__ import annotations

import polars as pl

from dataflare.model.types import DataType

_YEARS = 200_000
_DAYS = _YEARS * 365
_SECONDS = _DAYS * 86_400
TICKS = {"s": 1_000, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Ticks per second of a column. Seconds are stored as milliseconds."""


NS_RANGE_US = 9_223_372_036_854_774
"""The largest distance from 1970, in microseconds, that 64 bits of nanoseconds can represent."""


def in_range(value: pl.Expr, type_: DataType) -> pl.Expr:
    """The date or timestamp, null beyond 200,000 years from 1970."""
    if type_.name == "date":
        return pl.when(value.to_physical().is_between(-_DAYS, _DAYS)).then(value)
    if type_.name != "timestamp" or type_.unit == "ns":
        return value
    bound = _SECONDS * TICKS[type_.unit or "us"]
    return pl.when(value.to_physical().is_between(-bound, bound)).then(value)


def local(value: pl.Expr, type_: DataType) -> pl.Expr:
    """The wall clock of the type's zone, as a naive value in range."""
    bounded = in_range(value, type_)
    return bounded if type_.timezone is None else bounded.dt.replace_time_zone(None)


def localise(naive: pl.Expr, zone: str) -> pl.Expr:
    """The instant of a wall clock time in a zone, after calendar arithmetic. As in DuckDB: the later of
    two instants; a time that the clock skipped gets the offset from before."""
    if zone == "UTC":
        return naive.dt.replace_time_zone("UTC")
    direct = naive.dt.replace_time_zone(zone, ambiguous="latest", non_existent="null")
    skipped = pl.when(direct.is_null()).then(naive)
    before = (skipped - pl.duration(hours=26)).dt.replace_time_zone(
        zone, ambiguous="latest", non_existent="null"
    )
    return pl.coalesce(direct, before + pl.duration(hours=26))


def existing(naive: pl.Expr, zone: str) -> pl.Expr:
    """The instant of a wall clock time in a zone: the later of two. Null for a time that the clock
    skipped, because no instant has it."""
    if zone == "UTC":
        return naive.dt.replace_time_zone("UTC")
    return naive.dt.replace_time_zone(zone, ambiguous="latest", non_existent="null")


def rounded_unit(moment: pl.Expr, to: DataType, given: str = "us") -> pl.Expr:
    """A time or span in a coarser unit, rounded as DuckDB does: a half goes away from 1970, or from 0.

    given: the unit that it has; seconds are held as milliseconds.
    """
    step = TICKS[given] if to.unit == "s" else TICKS[given] // TICKS[to.unit or "us"]
    ticks = moment.to_physical()
    # The remainder first: half a step more might be beyond 64 bits.
    rest = ticks - ticks.truncdiv(pl.lit(step, dtype=pl.Int64)) * step
    away = pl.when(rest * 2 >= step).then(1).when(rest * 2 <= -step).then(-1).otherwise(0)
    whole = ticks.truncdiv(pl.lit(step, dtype=pl.Int64)) + away
    return (whole * (1_000 if to.unit == "s" else 1)).cast(to.to_polars())


def days_from_civil(year: pl.Expr, month: pl.Expr, day: pl.Expr) -> pl.Expr:
    """Days since 1970 of a date in the Gregorian calendar, null if there is no such date.

    One operation, which computes in columns: as a tree it would use each part some hundred times.
    """
    parts = [
        part.cast(pl.Int64).alias(name)
        for part, name in zip((year, month, day), "ymd", strict=True)
    ]
    return pl.struct(parts).map_batches(
        _days_from_civil, return_dtype=pl.Int64, is_elementwise=True
    )


def _days_from_civil(dates: pl.Series) -> pl.Series:
    """Hinnant, chrono-compatible low-level date algorithms, days_from_civil."""
    y, m, d = (pl.col(name) for name in "ymd")
    leap = (y % 4 == 0) & ((y % 100 != 0) | (y % 400 == 0))
    longest = (
        pl.when(m == 2)
        .then(pl.when(leap).then(29).otherwise(28))
        .when(m.is_in([4, 6, 9, 11]))
        .then(30)
        .otherwise(31)
    )
    exists = m.is_between(1, 12) & (d >= 1) & (d <= longest) & y.is_between(-_YEARS, _YEARS)
    frame = dates.struct.unnest().with_columns(
        shifted=pl.when(exists).then(y - (m <= 2).cast(pl.Int64)),
        of_year=(153 * (m + pl.when(m > 2).then(-3).otherwise(9)) + 2) // 5 + d - 1,
    )
    shifted, of_year = pl.col("shifted"), pl.col("of_year")
    era = shifted // 400
    of_era = shifted - era * 400
    days = era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
    return frame.select(days.alias(dates.name)).to_series()
