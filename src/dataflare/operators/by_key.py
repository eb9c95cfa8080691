"""Results by key over a changelog: after each batch, what the rows of its keys give now, instead of what they gave.

Always true: what was given for a key is what its rows in the table give, so it is computed again and not kept.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import polars as pl

from dataflare.operators.base import LiveOperator, Lowering
from dataflare.operators.changes import differences, weighted
from dataflare.state.tables import Tables
from dataflare.state.weighted import HASH, Merge, WeightedRows

TABLE = "changes"


class LiveByKey(LiveOperator):
    """keys: the columns of the rows that results are by; without any there is one result, always."""

    def __init__(
        self,
        keys: Sequence[str],
        tables: Tables,
        merge: Merge | None = None,
        newer: Merge | None = None,
    ) -> None:
        self.keys = list(keys)
        self.rows = WeightedRows(tables.rows(TABLE, keys), merge, newer=newer)
        self._answered = tables.value("answered", False, any)

    @abstractmethod
    def prepared(self, frame: pl.DataFrame) -> pl.DataFrame:
        """What is kept of a batch. frame: its rows with WEIGHT."""

    @abstractmethod
    def results(self, rows: pl.DataFrame, lowering: Lowering) -> pl.DataFrame:
        """The result of each key that has one. rows: what is kept of these keys, not brought together."""

    def process(self, port: int, frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
        if not frame.height:
            return
        delta = self.rows.hashed(self.prepared(weighted(frame)))
        found = self.rows.having(delta[HASH].unique(maintain_order=True))
        if found is None:
            found = delta.clear()
        elif self.keys:
            found = found.join(delta, on=self.keys, how="semi", nulls_equal=True)
        changes = self._changes(found, pl.concat([found, delta]))
        self.rows.add(delta)
        if changes.height:
            yield changes

    def _changes(self, before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
        self.lowering = Lowering()
        old = self.results(before, Lowering())
        if not self.keys and not self._answered.value:
            old = old.clear()
        self._answered.value = True
        return differences(old, self.results(after, self.lowering), self._result_keys)

    @property
    def _result_keys(self) -> Sequence[str]:
        return self.keys
