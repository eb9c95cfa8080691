"""`aggregate` with `emit: updates`: after each batch, the groups whose measures changed, as a changelog.

Always true:
- the first result of a group is an insert; each later one is an update, whose first half is exactly the row
  that was given before;
- the newest state of each group is in the table, so what was given before is computed from it;
- a group whose measures fail has no result: the one before is deleted, and the next one is an insert.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import polars as pl

from dataflare.model.batch import CHANGES, KIND_COLUMN, Kinds, RowKind
from dataflare.model.types import Schema
from dataflare.operators.aggregate import Aggregate, LiveAggregate, finished
from dataflare.operators.base import ERROR_COLUMN, Lowering
from dataflare.state.layout import Layout
from dataflare.state.tables import Tables

_PLACE = "__dataflare_place"
_IS_AFTER = "__dataflare_is_after"
_OTHER = "__dataflare_other"
_TABLE = "newest"


class AggregateUpdates(Aggregate, frozen=True):
    """The same measures, given again whenever they change. Its input need not end."""

    bounded_only = False
    goes_on = True

    def open(self, tables: Tables) -> LiveAggregateUpdates:
        return LiveAggregateUpdates(self, tables)

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        return {_TABLE: super().layout(inputs)["groups"]}

    def shown(self, tables: Tables) -> Mapping[str, Iterator[pl.DataFrame]]:
        """The results that were given last."""
        return {_TABLE: LiveAggregateUpdates(self, tables).shown()}

    def makes(self, arriving: Kinds) -> Kinds:
        can_fail = any(each.error is not None for each in self.aggregation.finish().values())
        return CHANGES if can_fail else CHANGES - {RowKind.DELETE}

    def describe(self) -> str:
        return f"{super().describe()}, updated with each batch"


class LiveAggregateUpdates(LiveAggregate):
    """Keeps the merged partial of each group, the newest one last in the log."""

    def _open(self, tables: Tables) -> None:
        self._newest = tables.newest(_TABLE, self.keys)
        self.log = self._newest.log

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[pl.DataFrame]:
        if not frame.height:
            return
        partial = self._grouped(frame, self._partial)
        found = self._newest.find(partial.select(self.keys))
        before = partial.clear() if found is None else found
        after = self._merge(pl.concat([before, partial])) if before.height else partial
        self._newest.put(after)
        self._answered.value = True
        changes = self._changes(before, after)
        if changes.height:
            yield changes

    def end(self, port: int) -> Iterable[pl.DataFrame]:
        if self._alone and not self._answered.value and self.log.is_empty:
            self._answered.value = True
            empty = self._empty_partial()
            yield self._changes(empty.clear(), empty)

    def _changes(self, before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
        """The changelog from some groups' state to their next one."""
        self.lowering = Lowering()
        rows = self._results(after, self.lowering).with_row_index(_PLACE)
        old = self._results(before, Lowering())
        if ERROR_COLUMN in old.columns:
            old = old.filter(pl.col(ERROR_COLUMN).is_null())
        measures = list(self.operator.aggregation.output.names)
        # A group with a result before it: `_OTHER` columns are that result.
        given = old.select(*self.keys, *(pl.col(n).alias(_OTHER + n) for n in measures))
        given = given.with_columns(pl.lit(True).alias(_OTHER))
        if self.keys:
            rows = rows.join(
                given, on=list(self.keys), how="left", nulls_equal=True, maintain_order="left"
            )
        else:
            rows = rows.join(given, how="cross") if given.height else _without(rows, given)
        known = pl.col(_OTHER).fill_null(False)
        fails = (
            pl.col(ERROR_COLUMN).is_not_null() if ERROR_COLUMN in rows.columns else pl.lit(False)
        )
        differing = [pl.col(n).ne_missing(pl.col(_OTHER + n)) for n in measures]
        differs = pl.any_horizontal(differing) if differing else pl.lit(False)
        rows = rows.filter(fails | ~known | differs)
        first = rows.filter(known).with_columns(
            *(pl.col(_OTHER + n).alias(n) for n in measures),
            pl.when(fails)
            .then(pl.lit(RowKind.DELETE, pl.UInt8))
            .otherwise(pl.lit(RowKind.UPDATE_BEFORE, pl.UInt8))
            .alias(KIND_COLUMN),
            pl.lit(False).alias(_IS_AFTER),
        )
        if ERROR_COLUMN in rows.columns:
            first = first.with_columns(pl.lit(None, pl.UInt32).alias(ERROR_COLUMN))
        second = rows.with_columns(
            pl.when(known & ~fails)
            .then(pl.lit(RowKind.UPDATE_AFTER, pl.UInt8))
            .otherwise(pl.lit(RowKind.INSERT, pl.UInt8))
            .alias(KIND_COLUMN),
            pl.lit(True).alias(_IS_AFTER),
        )
        both = pl.concat([first, second]).sort(_PLACE, _IS_AFTER)
        return both.drop(_PLACE, _IS_AFTER, _OTHER, *(_OTHER + n for n in measures))

    def _results(self, partials: pl.DataFrame, lowering: Lowering) -> pl.DataFrame:
        operator = self.operator
        return finished(operator.aggregation, partials, self.keys, operator.step, lowering)


def _without(rows: pl.DataFrame, given: pl.DataFrame) -> pl.DataFrame:
    """Rows with the columns of `given`, all NULL."""
    return rows.with_columns(pl.lit(None, dtype).alias(n) for n, dtype in given.schema.items())
