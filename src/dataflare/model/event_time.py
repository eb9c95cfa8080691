"""The reserved columns that carry the event time of rows. See docs/design/time.md."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

TIME_COLUMN = "__dataflare_time"
"""Int64: the event time of the row in microseconds since 1970, UTC. No nulls."""

WATERMARK_COLUMN = "__dataflare_watermark"
"""Int64: the watermark of the row's split at this row, in the same unit. Only where rows may be late."""

TIME_COLUMNS = (TIME_COLUMN, WATERMARK_COLUMN)

NEVER = -(2**63)
"""The watermark of a split that has given no row yet."""

FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The first and the last event time that a row may have: the years 1 to 9999. A duration of a workflow is at most as
long (`model.units`), so a time with a few durations added or taken off is far from the ends of 64 bits."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
END_OF_TIME = datetime.datetime.max.replace(tzinfo=datetime.UTC)
"""The moment when all inputs have ended."""


def is_in_years(value: pl.Expr, unit: str | None) -> pl.Expr:
    """Whether times may be event times; NULL for NULL. Asked before they are made microseconds, which seconds and
    milliseconds may be too large for. unit: of the timestamps; None for milliseconds."""
    import polars as pl

    if unit == "ns":
        return pl.when(value.is_not_null()).then(pl.lit(True))  # these do not reach so far
    first, last = (FIRST_US, LAST_US) if unit == "us" else (FIRST_US // 1000, LAST_US // 1000)
    return value.to_physical().is_between(first, last)


def moment_of(event_time_us: int) -> datetime.datetime:
    """A time in microseconds as a datetime in UTC; the nearest one for those that no calendar reaches."""
    try:
        return _EPOCH + datetime.timedelta(microseconds=event_time_us)
    except OverflowError:
        return (
            END_OF_TIME if event_time_us > 0 else datetime.datetime.min.replace(tzinfo=datetime.UTC)
        )
