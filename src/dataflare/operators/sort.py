"""`sort`: all rows in one order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl
from pydantic import Field

from dataflare.errors import DataError
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.model.units import Size
from dataflare.operators.base import (
    BindContext,
    Bound,
    LiveOperator,
    Snapshot,
    StatefulOperator,
    Step,
    StepConfig,
)
from dataflare.operators.ordering import (
    Order,
    OrderBy,
    Runs,
    all_rows,
    bound_order,
    refuse_endless,
    snapshot_frames,
)

_SLICE_ROWS = 65_536


class SortConfig(StepConfig):
    by: OrderBy = Field(
        description="Columns, the most important first: `a`, or `{column: a, descending: true, nulls: first}`."
    )
    memory: Size = Field(
        default=1_000_000_000,
        description="How many bytes of rows it may hold, as in `4GB`; 1 GB, if not given. More is an error that says so.",
    )


class Sort(StatefulOperator, StructABC, frozen=True):
    step: str
    order: Order
    bytes_max: int
    keys: tuple[str, ...] = ()
    bounded_only = True
    passes_rows = False

    def open(self, subtask: int, subtasks: int) -> LiveOperator:
        return LiveSort(self, subtask)

    def describe(self) -> str:
        return f"sort by {self.order}"


class LiveSort(LiveOperator):
    """Holds all rows, then hands them out in order. All rows meet in the first subtask."""

    def __init__(self, operator: Sort, subtask: int) -> None:
        self.operator, self.subtask = operator, subtask
        self.runs = Runs()
        self.left: pl.DataFrame | None = None
        self.given = 0

    def process(self, frame: pl.DataFrame) -> Iterable[pl.DataFrame]:
        self.runs.append(frame)
        held = self.runs.num_bytes()
        if held > self.operator.bytes_max:
            raise DataError(
                f"step '{self.operator.step}' holds {held:,} bytes of rows to sort, "
                f"and may hold {self.operator.bytes_max:,}",
                code="E0548",
                step=self.operator.step,
                help="raise `memory` of the step, drop columns before it, or sort where the rows are read",
            )
        return ()

    def end(self) -> None:
        rows = self.runs.take()
        self.left = None if rows is None else self.operator.order.sorted(rows)
        self.given = 0

    def drain(self) -> pl.DataFrame | None:
        if self.left is None or self.given >= self.left.height:
            return None
        rows = self.left.slice(self.given, _SLICE_ROWS)
        self.given += rows.height
        return rows

    def snapshot(self) -> Snapshot:
        return Snapshot(snapshot_frames(self.runs, self.left, self.given))

    def restore(self, snapshots: Sequence[Snapshot]) -> None:
        if self.subtask == 0:
            for snapshot in snapshots:
                all_rows(snapshot.frames.values(), self.runs)

    def state_bytes(self) -> int:
        left = 0 if self.left is None else int(self.left.estimated_size())
        return self.runs.num_bytes() + left


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
            stateful=Sort(context.step, order, config.memory),
        )
