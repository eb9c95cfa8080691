"""The columns of a window step on their way: rows to partials, partials to windows, windows to results."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dataflare.expr import Aggregation
from dataflare.model.batch import KIND_COLUMN
from dataflare.model.event_time import TIME_COLUMN, WATERMARK_COLUMN
from dataflare.operators.aggregate import finished
from dataflare.operators.base import ERROR_COLUMN, Lowering

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
CHANGED = "__dataflare_changed"
"""Int8: 1 if partials have rows that no firing has given."""
FILLED = "__dataflare_filled"
"""Bool: the window has no rows."""
WINDOW_COLUMNS = ("window_start", "window_end")


class WindowRows:
    """keys: the columns of the group, and their names in the results. notes: what partials say beside the measures,
    as expressions over rows and over partials. zeros: the measures of windows without rows are 0 where they are
    numbers, and not NULL. by_values: whether a group has a partial for each value, so that only `whole` makes one
    row of a window."""

    by_values = False

    def __init__(
        self,
        step: str,
        keys: Sequence[str],
        names: Sequence[str],
        aggregation: Aggregation,
        *,
        notes: Sequence[tuple[pl.Expr, pl.Expr]] = (),
        zeros: bool = False,
    ) -> None:
        self.step, self.keys, self.names, self.aggregation = step, list(keys), names, aggregation
        self.lowering = Lowering()
        self.of_rows = [*aggregation.partial(), *(of_rows for of_rows, _ in notes)]
        self.of_partials = [*aggregation.merge(), *(of_partials for _, of_partials in notes)]
        self._zeros = zeros

    @property
    def measures(self) -> tuple[str, ...]:
        return self.aggregation.output.names

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

    def whole(self, windows: pl.DataFrame) -> pl.DataFrame:
        """Merged partials of windows with one row for each window. windows: all rows of each, by END."""
        return windows

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
        columns += [pl.col(name) for name in (KIND_COLUMN, FILLED) if name in windows.columns]
        stamped = windows.with_columns(first.alias(START), end.alias(END))
        results = finished(self.aggregation, stamped, columns, self.step, self.lowering)
        return self._without_rows(results) if FILLED in results.columns else results

    def _without_rows(self, results: pl.DataFrame) -> pl.DataFrame:
        """The measures of windows without rows."""
        values = []
        for name in (*self.aggregation.output.names, ERROR_COLUMN):
            if name in results.columns:
                is_number = results[name].dtype.is_numeric() and name != ERROR_COLUMN
                none = pl.lit(0 if self._zeros and is_number else None).cast(results[name].dtype)
                values.append(pl.when(FILLED).then(none).otherwise(name).alias(name))
        return results.with_columns(values).drop(FILLED)


def _stamp(column: str, name: str) -> pl.Expr:
    return pl.col(column).cast(pl.Datetime("us", "UTC")).alias(name)
