"""`join`: rows of two inputs that have the same keys, and are near in time where time counts."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from dataflare.errors import PlanError
from dataflare.model.types import Schema
from dataflare.operators.base import BindContext, Bound, Step, StepConfig
from dataflare.operators.join_bounded import BoundedJoin
from dataflare.operators.join_shape import Kind, join_shape
from dataflare.operators.names import ByName, Name, listed, no_doubles


class JoinConfig(StepConfig):
    kind: Kind = Field(
        default="inner",
        description="inner: pairs. left, right, full: also rows of that side (of both) without a match. "
        "semi, anti: rows of the first input with, or without, a match.",
    )
    on: Name | list[Name] | ByName[Name] = Field(
        description="Columns that are equal in both inputs: `[a, b]`, or `{a: column_of_the_second}`. NULL is "
        "equal to nothing."
    )
    suffix: str | None = Field(
        default=None,
        min_length=1,
        description="What is added to a column of the second input whose name the first has too.",
    )


class JoinStep(Step):
    type = "join"
    Config = JoinConfig
    summary = "Rows of two inputs with the same keys, side by side."
    example = """\
type: join
inputs: [orders, customers]
config: {kind: left, on: {customer_id: id}}
"""
    inputs_max = None

    @classmethod
    def bind(cls, config: JoinConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        step = context.step
        if len(inputs) != 2:
            raise PlanError(
                f"step '{step}' (join) takes two inputs, and has {len(inputs)}",
                code="E0318",
                step=step,
                help="name the left and the right input; more than two are joined by several steps",
            )
        left, right = inputs
        shape = join_shape(step, config.kind, _pairs(step, config), left, right, config.suffix)
        if not context.bounded:
            raise PlanError(
                f"step '{step}' joins its inputs at their end, and one has none",
                code="E0316",
                step=step,
                help="bound the sources (for `generate`: rows)",
            )
        operator = BoundedJoin(step, shape, shape.left_keys)
        return Bound(outputs={None: shape.output}, stateful=operator)


def _pairs(step: str, config: JoinConfig) -> dict[str, str]:
    """The key columns of the first input with those of the second."""
    if isinstance(config.on, dict):
        return dict(config.on)
    names = listed(config.on)
    no_doubles(step, names)
    return {name: name for name in names}
