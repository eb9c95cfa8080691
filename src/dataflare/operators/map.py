"""`map`: derive, rename, cast, drop and select columns, in that order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from dataflare.errors import ConfigError
from dataflare.expr import ExprText, check
from dataflare.model.types import Schema, parse_type
from dataflare.operators.base import BindContext, Bound, RowOperator, Step, StepConfig, reserved
from dataflare.operators.primitives import Derive, Select, cast_columns, known_columns


class MapConfig(StepConfig):
    """Applied in the order of the fields."""

    derive: dict[str, ExprText] = Field(
        default_factory=dict,
        description="New or replaced columns, each an expression over the incoming row.",
    )
    rename: dict[str, str] = Field(default_factory=dict, description="Old name to new name.")
    cast: dict[str, str] = Field(
        default_factory=dict, description="Column to type; a value that does not fit fails its row."
    )
    drop: list[str] = Field(default_factory=list, description="Columns to leave out.")
    select: list[str] | None = Field(
        default=None, description="Columns to keep, in this order; all of them when not given."
    )


class MapStep(Step):
    type = "map"
    Config = MapConfig
    summary = "Derive, rename, cast, drop and select columns."
    example = """\
type: map
inputs: [orders]
config:
  derive: {gross: "net * 1.19", day: "date_trunc('day', created_at)"}
  rename: {cust: customer_id}
  cast: {customer_id: int64}
  drop: [note]
"""

    @classmethod
    def bind(cls, config: MapConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        step, schema = context.step, inputs[0]
        operators: list[RowOperator] = []

        def add(operator: RowOperator) -> None:
            nonlocal schema
            operators.append(operator)
            schema = operator.output_schema(schema)

        if config.derive:
            reserved(config.derive, step)
            typed = tuple((str(n), check(e, schema, step=step)) for n, e in config.derive.items())
            add(Derive(step, typed))
        if config.rename:
            known_columns(step, config.rename, schema)
            reserved(config.rename.values(), step)
            add(Select(step, _renamed(step, schema, config.rename)))
        if config.cast:
            casts = {str(name): parse_type(str(t)) for name, t in config.cast.items()}
            add(cast_columns(step, schema, casts))
        if config.drop:
            known_columns(step, config.drop, schema)
            gone = set(config.drop)
            add(Select(step, tuple((n, n) for n in schema.names if n not in gone)))
        if config.select is not None:
            known_columns(step, config.select, schema)
            _no_doubles(step, config.select)
            add(Select(step, tuple((str(n), str(n)) for n in config.select)))
        if not len(schema):
            raise ConfigError(f"step '{step}' leaves no column", code="E0403", step=step)
        return Bound(outputs={None: schema}, operators=tuple(operators))


def _renamed(step: str, schema: Schema, rename: Any) -> tuple[tuple[str, str], ...]:
    pairs = tuple((str(rename.get(name, name)), name) for name in schema.names)
    _no_doubles(step, [new for new, _ in pairs])
    return pairs


def _no_doubles(step: str, names: Sequence[str]) -> None:
    for name in names:
        if list(names).count(name) > 1:
            raise ConfigError(
                f"step '{step}' gives the column '{name}' twice",
                code="E0404",
                step=step,
                spot=getattr(name, "spot", None),
            )
