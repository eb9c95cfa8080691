"""`limit`: the first rows only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.operators.base import (
    BindContext,
    Bound,
    LiveOperator,
    StatefulOperator,
    Step,
    StepConfig,
)
from dataflare.state.layout import Layout, TableLayout

if TYPE_CHECKING:
    import polars as pl

    from dataflare.state.tables import Tables


class LimitConfig(StepConfig):
    rows: int = Field(ge=0, description="How many rows pass; the others are dropped.")


class Limit(StatefulOperator, StructABC, frozen=True):
    """All rows meet in one task, which counts them."""

    step: str
    rows: int
    keys: tuple[str, ...] = ()
    passes_rows = True
    finite = True
    shown_values = frozenset({"left"})
    no_changes = ", because its first rows may be deleted, and the others are gone"
    keeps_time = True

    def open(self, tables: Tables) -> LiveOperator:
        return LiveLimit(tables, self.rows)

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        return {"": TableLayout(rule=f"the rows that may still pass of {self.rows}")}

    def describe(self) -> str:
        return f"limit {self.rows}"


class LiveLimit(LiveOperator):
    def __init__(self, tables: Tables, rows: int) -> None:
        self.left = tables.value("left", rows, min)

    @property
    def needs_rows(self) -> bool:
        return bool(self.left.value > 0)

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[pl.DataFrame]:
        taken = frame.head(self.left.value)
        self.left.value -= taken.height
        return [taken] if taken.height else []


class LimitStep(Step):
    type = "limit"
    Config = LimitConfig
    each_table = True
    summary = "Let the first rows pass, over the whole run; then its sources stop."
    example = """\
type: limit
inputs: [orders]
config: {rows: 100}
"""

    @classmethod
    def bind(cls, config: LimitConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        return Bound(outputs={None: inputs[0]}, stateful=Limit(context.step, config.rows))
