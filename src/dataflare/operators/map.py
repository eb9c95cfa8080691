"""`map`: derive, rename, cast, drop and select columns, in that order."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from dataflare.errors import ConfigError
from dataflare.expr import ExprText, check
from dataflare.model.types import Schema
from dataflare.operators.base import BindContext, Bound, RowOperator, Step, StepConfig
from dataflare.operators.casts import cast
from dataflare.operators.names import (
    ByName,
    Name,
    by_column,
    expanded,
    known_columns,
    no_doubles,
    not_reserved,
    types,
)
from dataflare.operators.primitives import Derive, Select

Matched = dict[str, bool]


class MapConfig(StepConfig):
    """Applied in the order of the fields."""

    derive: ByName[ExprText] = Field(
        default_factory=dict,
        description="New or replaced columns, each an expression over the incoming row.",
    )
    rename: ByName[Name] = Field(default_factory=dict, description="Old name to new name.")
    cast: ByName[Name] = Field(
        default_factory=dict,
        description="Column, or pattern of columns, to type; a value that does not fit fails its row.",
    )
    drop: list[Name] = Field(
        default_factory=list, description="Columns to leave out, or patterns such as secret_*."
    )
    select: list[Name] | None = Field(
        default=None,
        description="Columns to keep, or patterns, in this order; all of them when not given.",
    )


class MapStep(Step):
    type = "map"
    Config = MapConfig
    each_table = True
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
    def names_its_columns(cls, config: MapConfig) -> bool:
        return config.select is not None

    @classmethod
    def bind(cls, config: MapConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        step, schema = context.step, inputs[0]
        operators: list[RowOperator] = []
        for part in (_derived, _renamed, _cast, _dropped, _selected):
            operator = part(step, config, schema, context.matched)
            if operator is not None:
                operators.append(operator)
                schema = operator.output_schema(schema)
        if not len(schema):
            raise ConfigError(
                f"step '{step}' leaves no column",
                code="E0405",
                step=step,
                help="list at least one in 'select', or 'drop' fewer",
            )
        return Bound(outputs={None: schema}, operators=tuple(operators))


def _derived(step: str, config: MapConfig, schema: Schema, _: Matched) -> Derive | None:
    if not config.derive:
        return None
    not_reserved(step, config.derive)
    named = ((str(name), text) for name, text in config.derive.items())
    return Derive(
        step, tuple((name, check(text, schema, step=step, name=name)) for name, text in named)
    )


def _renamed(step: str, config: MapConfig, schema: Schema, _: Matched) -> Select | None:
    if not config.rename:
        return None
    known_columns(step, config.rename, schema)
    not_reserved(step, config.rename.values())
    pairs = [(config.rename.get(name, name), name) for name in schema.names]
    unmoved = [new for new, old in pairs if new == old]
    no_doubles(
        step,
        [*unmoved, *(new for new, old in pairs if new != old)],
        "choose another name, or rename the column that has this one too",
    )
    return Select(step, tuple((str(new), old) for new, old in pairs))


def _cast(step: str, config: MapConfig, schema: Schema, matched: Matched) -> Derive | None:
    named = by_column(config.cast, schema, matched)
    if not named:
        return None
    known_columns(step, named, schema)
    wanted = types(step, named)
    return Derive(
        step, tuple((str(n), cast(step, str(n), wanted[n], schema, at)) for n, at in named.items())
    )


def _dropped(step: str, config: MapConfig, schema: Schema, matched: Matched) -> Select | None:
    dropped = expanded(config.drop, schema, matched)
    if not dropped:
        return None
    known_columns(step, dropped, schema)
    return Select(step, tuple((n, n) for n in schema.names if n not in dropped))


def _selected(step: str, config: MapConfig, schema: Schema, matched: Matched) -> Select | None:
    if config.select is None:
        return None
    selected = expanded(config.select, schema, matched)
    known_columns(step, selected, schema)
    no_doubles(step, selected, "list it once")
    return Select(step, tuple((str(n), str(n)) for n in selected))
