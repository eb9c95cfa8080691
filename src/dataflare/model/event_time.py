"""The reserved columns that carry the event time of rows. See docs/design/time.md."""

from __future__ import annotations

TIME_COLUMN = "__dataflare_time"
"""Int64: the event time of the row in microseconds since 1970, UTC. No nulls."""

WATERMARK_COLUMN = "__dataflare_watermark"
"""Int64: the watermark of the row's split at this row, in the same unit. Only where rows may be late."""

TIME_COLUMNS = (TIME_COLUMN, WATERMARK_COLUMN)

NEVER = -(2**63)
"""The watermark of a split that has given no row yet."""
