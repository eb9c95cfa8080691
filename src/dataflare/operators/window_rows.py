"""The columns of a window step on their way: rows to partials, partials to windows, windows to results."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dataflare.expr import Aggregation
from dataflare.model.event_time import TIME_COLUMN, WATERMARK_COLUMN
from dataflare.operators.aggregate import finished
from dataflare.operators.base import Lowering

PANE = "__dataflare_pane"
"""Int64: the start of the row's pane, on the ruler of the grid."""
FROM = "__dataflare_from"
"""Int64: the end of the first window that takes the row. Earlier ones were closed for it."""
START = "__dataflare_start"
END = "__dataflare_end"
"""Int64: where a window starts and ends, in microseconds since 1970, UTC. Of tumbling and sliding windows also
the end on the ruler, until the results are made."""
FIRST, LAST = "__dataflare_first", "__dataflare_last"
"""Int64: the times of the first and the last row of a session."""
FIRED = "__dataflare_fired"
"""Int8: 1 if a session has fired and took no row since."""
WINDOW_COLUMNS = ("window_start", "window_end")


class WindowRows:
    """keys: the columns of the group, and their names in the results."""

    def __init__(
        self, step: str, keys: Sequence[str], names: Sequence[str], aggregation: Aggregation
    ) -> None:
        self.step, self.keys, self.names, self.aggregation = step, list(keys), names, aggregation
        self.lowering = Lowering()
        self.of_rows, self.of_partials = aggregation.partial(), aggregation.merge()

    def partial(self, frame: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
        """Rows as partials, by the keys and these columns."""
        grouped = frame.lazy().group_by(*self.keys, *by).agg(self.of_rows)
        return grouped.collect(engine="in-memory")

    def merged(self, frame: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
        """Partials of the same keys and columns as one."""
        if not self.keys and not by:
            return frame.lazy().select(self.of_partials).collect(engine="in-memory")
        grouped = frame.lazy().group_by(*self.keys, *by).agg(self.of_partials)
        return grouped.collect(engine="in-memory")

    def results(
        self, windows: pl.DataFrame, start: pl.Expr | None, end: pl.Expr, *, watermarks: bool
    ) -> pl.DataFrame:
        """Merged partials of windows as result rows. start, end: in microseconds since 1970, UTC; without a
        start, both columns are NULL. watermarks: result rows have a watermark: that of the late row from which
        they follow, or their own time."""
        self.lowering = Lowering()
        first = pl.lit(None, pl.Int64) if start is None else start
        time = pl.col(END) - 1
        shown = (START, END) if start is not None else (START, START)
        columns = [
            *(pl.col(key).alias(name) for key, name in zip(self.keys, self.names, strict=True)),
            *(_stamp(column, name) for column, name in zip(shown, WINDOW_COLUMNS, strict=True)),
            time.alias(TIME_COLUMN),
        ]
        if watermarks:
            own = [pl.col(WATERMARK_COLUMN)] if WATERMARK_COLUMN in windows.columns else []
            columns.append(pl.coalesce(*own, time).alias(WATERMARK_COLUMN))
        stamped = windows.with_columns(first.alias(START), end.alias(END))
        return finished(self.aggregation, stamped, columns, self.step, self.lowering)


def _stamp(column: str, name: str) -> pl.Expr:
    return pl.col(column).cast(pl.Datetime("us", "UTC")).alias(name)
