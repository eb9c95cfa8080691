"""Changes that have the key of a row alone, made whole: each comes out with the row that it replaces or deletes.

A log may say no more of a deleted row than its key, and of an updated one only what it is now. Steps that take rows
back need the row itself. So the newest row of each key is kept (in Flink: ChangelogNormalize).

Always true: the rows that come out, brought together, are the newest row of each key that is not deleted; what is taken
back is exactly what was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from dataflare.model.batch import CHANGES, KIND_COLUMN, Kinds, RowKind, is_truncation
from dataflare.model.event_time import TIME_COLUMNS
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.model.unchanged import UNCHANGED
from dataflare.operators import kept_rows
from dataflare.operators.base import LiveOperator, StatefulOperator
from dataflare.operators.by_key import TABLE
from dataflare.sdk.processor import Refused
from dataflare.state.layout import Adaptation, Held, Layout
from dataflare.state.tables import Tables
from dataflare.state.weighted import HASH, WEIGHT, WeightedRows, cancelled

_GONE, _BEFORE, _PLACE, _AFTER = (
    f"__dataflare_{name}" for name in ("gone", "before", "place", "is_after")
)
_UNKNOWN = "a delete had a key of which no row had come, and deleted nothing: this is so"


class WholeChanges(StatefulOperator, StructABC, frozen=True):
    """keys: of which no two rows that are there have equal values. source: the step whose changes these are."""

    step: str
    keys: tuple[str, ...]
    source: str
    accepts = CHANGES
    truncates = True
    fills_unchanged = True
    passes_rows = True
    goes_on = True

    def open(self, tables: Tables) -> LiveWholeChanges:
        return LiveWholeChanges(self, tables)

    def makes(self, arriving: Kinds) -> Kinds:
        return CHANGES

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        return {TABLE: kept_rows.layout_of(inputs[0], self.keys)}

    def adapted(
        self, before: Mapping[str, Any], now: Mapping[str, Any], held: Held
    ) -> Adaptation | str:
        return kept_rows.new_columns(held, TABLE) or super().adapted(before, now, held)

    def describe(self) -> str:
        return f"the newest row of each {', '.join(self.keys)}, so that deletes have the whole row"


class LiveWholeChanges(LiveOperator):
    def __init__(self, operator: WholeChanges, tables: Tables) -> None:
        self.keys, self._source = list(operator.keys), operator.source
        self.rows = WeightedRows(tables.rows(TABLE, operator.keys))
        self._unknown = 0
        self._refused: list[Refused] = []

    def process(self, port: int, frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
        if is_truncation(frame):
            for deletes in kept_rows.deletes_of_all(self.rows, self.keys, frame):
                yield from self.process(port, deletes)
            return
        if not frame.height:
            return
        changes = self._marked(frame)
        kept = self._kept(changes)
        changes = self._filled(kept, changes)
        both = pl.concat([kept.with_columns(pl.lit(False).alias(_GONE)), changes])
        both = both.with_row_index(_PLACE)
        both = both.with_columns(pl.col(_PLACE).shift(1).over(self.keys).alias(_BEFORE))
        self._keep(kept, changes)
        made = _made(both, kept.height)
        self._unknown += int(made[_GONE].sum())
        found = made.filter(~pl.col(_GONE)).drop(_GONE)
        if found.height:
            yield found

    def end(self, port: int) -> Sequence[pl.DataFrame]:
        return ()

    def warnings(self) -> Mapping[tuple[str, str], int]:
        return {(self._source, _UNKNOWN): self._unknown} if self._unknown else {}

    def _marked(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The changes in their order, each with whether its row is gone."""
        gone = pl.lit(False)
        if KIND_COLUMN in frame.columns:
            gone = pl.col(KIND_COLUMN).is_in([RowKind.DELETE.value, RowKind.UPDATE_BEFORE.value])
        return frame.with_columns(gone.alias(_GONE)).drop(
            [KIND_COLUMN, *TIME_COLUMNS], strict=False
        )

    def _kept(self, changes: pl.DataFrame) -> pl.DataFrame:
        """The rows of these keys as they were before."""
        keys = self.rows.hashed(changes.select(self.keys).unique())
        found = self.rows.having(keys[HASH].unique(maintain_order=True))
        columns = [name for name in changes.columns if name not in (_GONE, UNCHANGED)]
        if found is None:
            return changes.select(columns).clear()
        found = found.join(keys, on=self.keys, how="semi", nulls_equal=True)
        there = cancelled(found).filter(pl.col(WEIGHT) > 0)
        return there.select(columns)

    def _filled(self, kept: pl.DataFrame, changes: pl.DataFrame) -> pl.DataFrame:
        """The changes with the values that they leave out."""
        changes, lacking = kept_rows.filled(kept, changes, self.keys)
        if lacking.height:
            self._refused.append(Refused(lacking.drop(_GONE), *kept_rows.LACKS))
        return changes

    def refused(self) -> Sequence[Refused]:
        taken, self._refused = self._refused, []
        return taken

    def _keep(self, kept: pl.DataFrame, changes: pl.DataFrame) -> None:
        last = changes.unique(subset=self.keys, keep="last", maintain_order=True)
        coming = last.filter(~pl.col(_GONE)).drop(_GONE)
        delta = pl.concat(
            [
                kept.with_columns(pl.lit(-1, pl.Int64).alias(WEIGHT)),
                coming.with_columns(pl.lit(1, pl.Int64).alias(WEIGHT)),
            ]
        )
        self.rows.add(self.rows.hashed(delta))


def _made(both: pl.DataFrame, first: int) -> pl.DataFrame:
    """The changelog of the rows from `first` on, each with the row at the place _BEFORE of the same frame. A delete without
    one is the only row for which _GONE is true."""
    names = [name for name in both.columns if name not in (_PLACE, _GONE, _BEFORE)]
    now = both.slice(first)
    before = both.select(*names, _GONE)[now[_BEFORE].fill_null(0)]
    was_there = now[_BEFORE].is_not_null() & ~before[_GONE]
    is_there = ~now[_GONE]
    same = pl.select(
        pl.all_horizontal([pl.lit(now[n].eq_missing(before[n])) for n in names])
    ).to_series()
    changed = ~(was_there & is_there & same)
    first_kind = (
        pl.when(pl.lit(is_there))
        .then(pl.lit(RowKind.UPDATE_BEFORE.value, pl.UInt8))
        .otherwise(pl.lit(RowKind.DELETE.value, pl.UInt8))
    )
    taken_back = (
        before.select(
            pl.lit(now[_PLACE]), *names, first_kind.alias(KIND_COLUMN), pl.lit(False).alias(_GONE)
        )
        .with_columns(pl.lit(False).alias(_AFTER))
        .filter(was_there & changed)
    )
    second_kind = (
        pl.when(pl.lit(was_there))
        .then(pl.lit(RowKind.UPDATE_AFTER.value, pl.UInt8))
        .otherwise(pl.lit(RowKind.INSERT.value, pl.UInt8))
    )
    given = (
        now.select(_PLACE, *names, second_kind.alias(KIND_COLUMN), _GONE)
        .with_columns(pl.lit(True).alias(_AFTER))
        .filter((is_there & changed) | (~is_there & ~was_there))
    )
    made = pl.concat([taken_back, given]).sort(_PLACE, _AFTER)
    return made.select(*names, KIND_COLUMN, _GONE)
