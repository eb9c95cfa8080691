"""`route`: send each row to the outputs whose conditions it meets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dataflare.errors import ConfigError
from dataflare.expr import ExprText, Typed, check_condition
from dataflare.model.types import Schema
from dataflare.operators.base import BindContext, Bound, Branch, Lowering, Step, StepConfig

if TYPE_CHECKING:
    import polars as pl


class RouteConfig(StepConfig):
    routes: dict[str, ExprText] = Field(description="Output name to condition; `step.NAME` has its rows.")
    default: str | None = Field(
        default=None,
        description="Output for rows that meet no condition; without it they leave the workflow.",
    )
    match: Literal["first", "all"] = Field(
        default="first", description="To the first output whose condition is true, or to all of them."
    )


class RouteStep(Step):
    type = "route"
    Config = RouteConfig
    summary = "Send rows to outputs by condition: `step.eu`, `step.us`, ..."
    example = """\
type: route
inputs: [orders]
config:
  routes: {eu: "country IN ('DE', 'FR')", us: "country = 'US'"}
  default: other
"""

    @classmethod
    def extra_outputs(cls, config: RouteConfig) -> tuple[str, ...]:
        return (*map(str, config.routes), *([str(config.default)] if config.default else []))

    @classmethod
    def bind(cls, config: RouteConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        schema, step = inputs[0], context.step
        if not config.routes:
            raise ConfigError(f"step '{step}' has no routes", code="E0403", step=step)
        if config.default in config.routes:
            raise ConfigError(
                f"step '{step}' has both a route and the default named '{config.default}'",
                code="E0404",
                step=step,
            )
        typed = {str(n): check_condition(e, schema, step=step) for n, e in config.routes.items()}
        outputs = {name: partial(_met, i, config.match) for i, name in enumerate(typed)}
        if config.default:
            outputs[str(config.default)] = partial(_unmet, len(typed))
        branch = Branch(
            step=step,
            reads=frozenset().union(*(t.columns | t.needs for t in typed.values())),
            can_fail=any(t.can_fail for t in typed.values()),
            tag=partial(_tag, step, typed),
            outputs=outputs,
            described="route " + ", ".join(f"{n}: {t.shown}" for n, t in typed.items()),
        )
        return Bound(outputs=dict.fromkeys(outputs, schema), branch=branch)


def _tag(step: str, routes: dict[str, Typed], frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
    values, errors = [], []
    for index, (name, typed) in enumerate(routes.items()):
        lowered = typed.lower()
        values.append(lowered.value.fill_null(False).alias(f"__route{index}"))
        if lowered.error is not None:
            errors.append((f"{name}: {typed.shown}", lowered.error))
    if errors:
        values.append(lowering.column(step, errors))
    return frame.with_columns(values)


def _met(index: int, match: str) -> pl.Expr:
    import polars as pl

    met = pl.col(f"__route{index}")
    if match == "first":
        for earlier in range(index):
            met = met & ~pl.col(f"__route{earlier}")
    return met


def _unmet(count: int) -> pl.Expr:
    import polars as pl

    return ~pl.any_horizontal([pl.col(f"__route{i}") for i in range(count)])
