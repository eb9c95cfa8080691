"""Windows over a changelog whose measures need the values that are there: `min` when the least one goes, sums of floats.

The panes keep the values that measures read, each with the number of times that it is there, and a window is computed
from those of its panes.

Always true: what a window gives depends on the sum of its changes alone, and not on their order.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dataflare.expr import Aggregation
from dataflare.operators.changes import repeated
from dataflare.operators.window_rows import END, WindowRows
from dataflare.state.weighted import WEIGHT

_TOTAL = "__dataflare_total"


class ValueRows(WindowRows):
    """Rows have WEIGHT. Partials have a row for each value of a group, with WEIGHT, and the notes."""

    by_values = True

    def __init__(
        self,
        step: str,
        keys: Sequence[str],
        names: Sequence[str],
        aggregation: Aggregation,
        *,
        notes: Sequence[tuple[pl.Expr, pl.Expr]] = (),
    ) -> None:
        super().__init__(step, keys, names, aggregation, notes=notes)
        self._values = [name for name, _ in aggregation.inputs]
        self._notes = [of_partials for _, of_partials in notes]
        total = pl.col(WEIGHT).sum()
        self.of_rows = [total, *(of_rows for of_rows, _ in notes)]
        self.of_partials = [total, *self._notes]
        self._of_window = aggregation.partial()

    def partial(self, frame: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
        return super().partial(frame, [*by, *self._values])

    def merged(self, frame: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
        return super().merged(frame, [*by, *self._values])

    def whole(self, windows: pl.DataFrame) -> pl.DataFrame:
        by = [*self.keys, END]
        notes = [pl.col(WEIGHT).sum().alias(_TOTAL), *self._notes]
        totals = windows.lazy().group_by(by, maintain_order=True).agg(notes)
        there = repeated(windows.filter(pl.col(WEIGHT) > 0).select(*by, *self._values, WEIGHT))
        orderable = [name for name in self._values if _has_order(there.schema[name])]
        rows = there.lazy().sort(orderable, nulls_last=True) if orderable else there.lazy()
        measured = rows.group_by(by, maintain_order=True).agg(self._of_window)
        joined = totals.join(measured, on=by, how="left", nulls_equal=True, maintain_order="left")
        return joined.rename({_TOTAL: WEIGHT}).collect(engine="in-memory")

    def results(
        self, windows: pl.DataFrame, start: pl.Expr | None, end: pl.Expr, *, watermarks: bool
    ) -> pl.DataFrame:
        there = windows.filter(pl.col(WEIGHT) > 0)
        return super().results(there, start, end, watermarks=watermarks)


def _has_order(dtype: pl.DataType) -> bool:
    return not dtype.is_nested() and dtype != pl.Null
