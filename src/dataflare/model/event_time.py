"""The reserved columns that carry the event time of rows. See docs/design/time.md."""

from __future__ import annotations

import datetime

TIME_COLUMN = "__dataflare_time"
"""Int64: the event time of the row in microseconds since 1970, UTC. No nulls."""

WATERMARK_COLUMN = "__dataflare_watermark"
"""Int64: the watermark of the row's split at this row, in the same unit. Only where rows may be late."""

TIME_COLUMNS = (TIME_COLUMN, WATERMARK_COLUMN)

NEVER = -(2**63)
"""The watermark of a split that has given no row yet."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
END_OF_TIME = datetime.datetime.max.replace(tzinfo=datetime.UTC)
"""The moment when all inputs have ended."""


def moment_of(event_time_us: int) -> datetime.datetime:
    """A time in microseconds as a datetime in UTC; the nearest one for those that no calendar reaches."""
    try:
        return _EPOCH + datetime.timedelta(microseconds=event_time_us)
    except OverflowError:
        return (
            END_OF_TIME if event_time_us > 0 else datetime.datetime.min.replace(tzinfo=datetime.UTC)
        )
