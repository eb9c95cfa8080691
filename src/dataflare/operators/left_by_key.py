"""In front of a destination that keeps what came last for a key: what is left of the rows of each key.

Of several rows that are there with one key the last one is given, and given again when it changes; at the end of the
input the run says of how many keys there are several. A delete of a row that never came is given if its key has no
other row, because the destination may have the row from before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from dataflare.model.batch import RowKind
from dataflare.model.record import StructABC
from dataflare.operators.changes import of_kind
from dataflare.operators.deduplicate_changes import (
    ARRIVAL,
    DeduplicateChanges,
    LiveDeduplicateChanges,
)
from dataflare.state.tables import Tables
from dataflare.state.weighted import HASH, WEIGHT, cancelled

_COVERED = (
    "another row with the same key came later, and the destination has only that one: this is so"
)
_LACKING = "a delete had values that no row has, and deleted nothing if its key has another row: this is so"


class LeftByKey(DeduplicateChanges, StructABC, frozen=True):
    """destination: its step."""

    destination: str

    def open(self, tables: Tables) -> LiveDeduplicateChanges:
        return LiveLeftByKey(self, tables)


class LiveLeftByKey(LiveDeduplicateChanges):
    def __init__(self, operator: LeftByKey, tables: Tables) -> None:
        super().__init__(operator, tables)
        self._destination = operator.destination
        self._warnings: dict[tuple[str, str], int] = {}

    def _changes(self, before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
        changes = super()._changes(before, after)
        left = cancelled(after, last=(ARRIVAL,))
        lacking = left.filter(pl.col(WEIGHT) < 0)
        if not lacking.height:
            return changes
        for others in (left.filter(pl.col(WEIGHT) > 0), changes):
            lacking = lacking.join(others, on=self.keys, how="anti", nulls_equal=True)
        lacking = lacking.unique(subset=self.keys, maintain_order=True)
        deletes = of_kind(lacking.drop(ARRIVAL, WEIGHT, HASH), RowKind.DELETE)
        return pl.concat([deletes.select(changes.columns), changes])

    def end(self, port: int) -> Sequence[pl.DataFrame]:
        found = dict.fromkeys((_COVERED, _LACKING), 0)
        for rows in self.rows.parts():
            there = rows.filter(pl.col(WEIGHT) > 0)
            found[_COVERED] += int(there[WEIGHT].sum()) - there.select(self.keys).n_unique()
            found[_LACKING] -= int(rows.filter(pl.col(WEIGHT) < 0)[WEIGHT].sum())
        self._warnings = {(self._destination, text): n for text, n in found.items() if n}
        return ()

    def warnings(self) -> Mapping[tuple[str, str], int]:
        return self._warnings
