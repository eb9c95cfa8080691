"""`route`: send each row to the outputs whose conditions it meets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dataflare.errors import ConfigError
from dataflare.expr import ExprText, Typed, check_condition
from dataflare.model.types import Schema
from dataflare.operators.base import (
    BindContext,
    Bound,
    Branch,
    Fault,
    Lowering,
    Step,
    StepConfig,
)
from dataflare.operators.names import ByName, Name, not_empty, spot_of

if TYPE_CHECKING:
    import polars as pl


class RouteConfig(StepConfig):
    routes: ByName[ExprText] = Field(
        description="Output name to condition; `step.NAME` has its rows."
    )
    default: Name | None = Field(
        default=None,
        description="Output for rows that meet no condition; without it they leave the workflow.",
    )
    match: Literal["first", "all"] = Field(
        default="first",
        description="To the first output whose condition is true, or to all of them.",
    )


class RouteStep(Step):
    type = "route"
    Config = RouteConfig
    each_table = True
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
        not_empty(step, "routes", config.routes)
        if config.default in config.routes:
            raise ConfigError(
                f"step '{step}' has both a route and the default named '{config.default}'",
                code="E0405",
                step=step,
                spot=spot_of(config.default),
                help="choose another name for one of them",
            )
        typed = {str(n): check_condition(e, schema, step=step) for n, e in config.routes.items()}
        first = config.match == "first"
        outputs: dict[str | None, Callable[[], pl.Expr]] = {
            name: partial(_met, i, first) for i, name in enumerate(typed)
        }
        if config.default:
            outputs[str(config.default)] = partial(_unmet, len(typed))
        branch = Branch(
            step=step,
            reads=frozenset().union(*(t.columns | t.needs for t in typed.values())),
            can_fail=any(t.can_fail for t in typed.values()),
            tag=partial(_tag, step, typed, first),
            outputs=outputs,
            described="route " + ", ".join(f"{n}: {t.shown}" for n, t in typed.items()),
        )
        return Bound(outputs=dict.fromkeys(outputs, schema), branch=branch)


def _tag(
    step: str, routes: dict[str, Typed], first: bool, frame: pl.LazyFrame, lowering: Lowering
) -> pl.LazyFrame:
    """One column of verdicts for each route. first: a row that has met a condition is not asked
    about the later ones, so these cannot fail for it."""
    import polars as pl

    values: list[pl.Expr] = []
    errors: list[Fault] = []
    met: pl.Expr | None = None
    for index, (name, typed) in enumerate(routes.items()):
        lowered = typed.lower()
        verdict = lowered.value.fill_null(False)
        values.append(verdict.alias(f"__dataflare_route{index}"))
        if lowered.error is not None:
            asked = lowered.error if met is None else pl.when(~met).then(lowered.error)
            errors.append((f"{name}: {typed.shown}", asked))
        if first:
            met = verdict if met is None else met | verdict
    if errors:
        values.append(lowering.column(step, errors))
    return frame.with_columns(values)


def _met(index: int, first: bool) -> pl.Expr:
    import polars as pl

    met = pl.col(f"__dataflare_route{index}")
    if first:
        for earlier in range(index):
            met = met & ~pl.col(f"__dataflare_route{earlier}")
    return met


def _unmet(count: int) -> pl.Expr:
    import polars as pl

    return ~pl.any_horizontal([pl.col(f"__dataflare_route{i}") for i in range(count)])
