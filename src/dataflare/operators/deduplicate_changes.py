"""`deduplicate` of a changelog: all rows of a key are kept, and the one that stays is given again when it changes.

The row that stays may be deleted or updated, and then another one of its key is the first: so the others cannot be
forgotten.

Always true: what was given for a key is the row of it that stays among those in the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import polars as pl

from dataflare.model.batch import CHANGES, Kinds, is_truncation
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.operators import kept_rows
from dataflare.operators.base import Lowering, StatefulOperator
from dataflare.operators.by_key import TABLE, LiveByKey
from dataflare.operators.ordering import Order
from dataflare.state.layout import Adaptation, Held, Layout, TableLayout
from dataflare.state.tables import Tables
from dataflare.state.weighted import HASH, WEIGHT, cancelled

ARRIVAL = "__dataflare_arrival"
_SLICE_ROWS = 65_536


class DeduplicateChanges(StatefulOperator, StructABC, frozen=True):
    """last: which row of a key stays, by `order` and then by when it came."""

    step: str
    keys: tuple[str, ...]
    last: bool
    order: Order | None
    accepts = CHANGES
    truncates = True
    goes_on = True

    def chosen_by(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return self.keys if self.order is None else (*self.keys, *self.order.columns)

    def open(self, tables: Tables) -> LiveDeduplicateChanges:
        return LiveDeduplicateChanges(self, tables)

    def makes(self, arriving: Kinds) -> Kinds:
        return CHANGES

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        keys = {key: f"{inputs[0][key]}" for key in self.keys}
        columns = {f.name: f"{f.name}: {f.type}" for f in inputs[0] if f.name not in keys}
        rule = f"all rows, of which the {'last' if self.last else 'first'} by {self.order} stays"
        own = {ARRIVAL: "(arrival)", WEIGHT: "(how often)", HASH: "(hash of the key)"}
        return {TABLE: TableLayout(keys, columns | own, rule=rule)}

    def adapted(
        self, before: Mapping[str, Any], now: Mapping[str, Any], held: Held
    ) -> Adaptation | str:
        return kept_rows.new_columns(held, TABLE) or super().adapted(before, now, held)

    def shown(self, tables: Tables) -> Mapping[str, Iterator[pl.DataFrame]]:
        """The rows that stay."""
        live = LiveDeduplicateChanges(self, tables)
        results = (live.results(rows, Lowering()) for rows in live.rows.parts())
        return {"rows": (part for frame in results for part in frame.iter_slices(_SLICE_ROWS))}

    def describe(self) -> str:
        which = "last" if self.last else "first"
        order = "" if self.order is None else f" in the order of {self.order}"
        return (
            f"deduplicate by {', '.join(self.keys)}: the {which}{order}, updated with each batch; "
            "all rows of a key are kept"
        )


class LiveDeduplicateChanges(LiveByKey):
    """NULL keys form one key, as in GROUP BY."""

    def __init__(self, operator: DeduplicateChanges, tables: Tables) -> None:
        # Without the rows that cancel out, an equal one from before would seem to have come earlier than it did.
        newer = partial(cancelled, last=(ARRIVAL,), keeps_zero=True)
        super().__init__(operator.keys, tables, partial(cancelled, last=(ARRIVAL,)), newer)
        self._operator = operator
        self._arrived = tables.value("arrived", 0, max)

    def process(self, port: int, frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
        if not is_truncation(frame):
            yield from super().process(port, frame)
            return
        for rows in self.rows.parts():
            yield from self._changes(rows, rows.clear()).iter_slices(_SLICE_ROWS)
        # Also deletes of rows that never came: one of them would take a row away that comes now.
        self.rows.clear()

    def prepared(self, frame: pl.DataFrame) -> pl.DataFrame:
        first: int = self._arrived.value
        self._arrived.value = first + frame.height
        place = pl.int_range(pl.len(), dtype=pl.Int64) + first
        return frame.with_columns(place.alias(ARRIVAL))

    def results(self, rows: pl.DataFrame, lowering: Lowering) -> pl.DataFrame:
        there = cancelled(rows, last=(ARRIVAL,)).filter(pl.col(WEIGHT) > 0)
        ordered = there.sort(ARRIVAL).drop(ARRIVAL, WEIGHT, HASH)
        if self._operator.order is not None:
            ordered = self._operator.order.sorted(ordered)
        keep: Literal["first", "last"] = "last" if self._operator.last else "first"
        return ordered.unique(subset=self.keys, keep=keep, maintain_order=True)
