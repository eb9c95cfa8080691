"""`sort`: all rows in one order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from pydantic import Field

from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.model.units import Size
from dataflare.operators import kept_rows
from dataflare.operators.base import (
    BindContext,
    Bound,
    LiveOperator,
    StatefulOperator,
    Step,
    StepConfig,
)
from dataflare.operators.external_sort import sorted_rows
from dataflare.operators.ordering import Order, OrderBy, bound_order, refuse_endless
from dataflare.state.layout import STEP, Adaptation, Held, Layout, TableLayout
from dataflare.state.tables import Tables

_SLICE_ROWS = 65_536


class SortConfig(StepConfig):
    by: OrderBy = Field(
        description="Columns, the most important first: `a`, or `{column: a, descending: true, nulls: first}`."
    )
    memory: Size = Field(
        default=1_000_000_000,
        description="How many bytes of rows stay in memory, as in `4GB`. More are sorted in files beside the checkpoints.",
    )


class Sort(StatefulOperator, StructABC, frozen=True):
    step: str
    order: Order
    bytes_max: int
    schema: Schema = Schema(())
    keys: tuple[str, ...] = ()
    bounded_only = True
    passes_rows = False

    def chosen_by(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return self.order.columns

    def open(self, tables: Tables) -> LiveOperator:
        return LiveSort(self, tables)

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        nulls = ["last" if last else "first" for last in self.order.nulls_last]
        order = f"{self.order}, NULL {' '.join(nulls)}"
        return {
            STEP: TableLayout(settings={"by": order}),
            "rows": kept_rows.layout_of(self.schema),
            "cuts": TableLayout(),
        }

    def initial(self, table: str) -> pl.DataFrame:
        return kept_rows.nulls(self.schema)

    def adapted(
        self, before: Mapping[str, Any], now: Mapping[str, Any], held: Held
    ) -> Adaptation | str:
        if before["by"] != now["by"] and any(held.all_of("gives")):
            return f"it is giving its rows in the order of {before['by']}, and cannot change to {now['by']}"
        return Adaptation()

    def shown(self, tables: Tables) -> Mapping[str, Iterator[pl.DataFrame]]:
        """The rows so far, in the order in which they came."""
        return kept_rows.shown(tables, {"rows": ("rows", ())})

    def describe(self) -> str:
        return f"sort by {self.order}"


class LiveSort(LiveOperator):
    """Holds all rows, then hands them out in order. All rows meet in the first subtask. More of them than
    `memory` leave it, and are sorted range by range."""

    def __init__(self, operator: Sort, tables: Tables) -> None:
        self.operator = operator
        self.rows = tables.rows("rows")
        self.cuts = tables.rows("cuts")
        self._gives = tables.value("gives", False, any)
        self._tables = tables

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[pl.DataFrame]:
        self.rows.append(frame)
        if self._tables.num_bytes() > self.operator.bytes_max:
            self._tables.spill(self.operator.bytes_max // 2)
        return ()

    def end(self, port: int) -> Iterable[pl.DataFrame]:
        bytes_max, self._gives.value = self.operator.bytes_max, True
        return sorted_rows(self.rows, self.cuts, self.operator.order, bytes_max, _SLICE_ROWS)


class SortStep(Step):
    type = "sort"
    Config = SortConfig
    summary = "All rows in one order; they come at the end of a bounded input."
    example = """\
type: sort
inputs: [orders]
config: {by: [country, {column: amount, descending: true, nulls: last}]}
"""

    @classmethod
    def bind(cls, config: SortConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        order = bound_order(context.step, "by", config.by, inputs[0])
        refuse_endless(context.step, "sorts", context.bounded)
        return Bound(
            outputs={None: inputs[0]},
            stateful=Sort(context.step, order, config.memory, inputs[0]),
        )
