"""`filter`: keep the rows where a condition is true; the others leave by `step.rejected`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from dataflare.expr import ExprText, Typed, check_condition
from dataflare.model.types import Schema
from dataflare.operators.base import BindContext, Bound, Branch, Lowering, Step, StepConfig
from dataflare.operators.primitives import Filter

if TYPE_CHECKING:
    import polars as pl


class FilterConfig(StepConfig):
    condition: ExprText = Field(
        description="A boolean expression; rows where it is not true (false or NULL) leave."
    )


class FilterStep(Step):
    type = "filter"
    Config = FilterConfig
    each_table = True
    summary = "Keep the rows where a condition is true; `step.rejected` has the others."
    example = """\
type: filter
inputs: [orders]
config: {condition: "status == 'paid' AND amount > 0"}
"""

    @classmethod
    def extra_outputs(cls, config: FilterConfig) -> tuple[str, ...]:
        return ("rejected",)

    @classmethod
    def bind(cls, config: FilterConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        schema, step = inputs[0], context.step
        condition = check_condition(config.condition, schema, step=step)
        branch = Branch(
            step=step,
            reads=condition.columns | condition.needs,
            can_fail=condition.can_fail,
            tag=partial(_tag, step, condition),
            outputs={None: _passes, "rejected": _rejected},
            described=f"filter {condition.shown}",
        )
        return Bound(
            outputs={None: schema, "rejected": schema},
            operators=(Filter(step, condition),),
            branch=branch,
        )


def _tag(step: str, condition: Typed, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
    lowered = condition.lower()
    if lowered.error is not None:
        frame = lowering.mark(frame, step, [(condition.shown, lowered.error)])
    return frame.with_columns(lowered.value.fill_null(False).alias("__dataflare_pass"))


def _passes() -> pl.Expr:
    import polars as pl

    return pl.col("__dataflare_pass")


def _rejected() -> pl.Expr:
    import polars as pl

    return ~pl.col("__dataflare_pass")
