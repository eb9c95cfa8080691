"""`deduplicate`: one row of each key, the first, the last, or that which an order puts there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import polars as pl
from pydantic import Field

from dataflare.errors import ConfigError
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.model.units import Duration
from dataflare.operators.base import (
    LATE,
    BindContext,
    Bound,
    LiveOperator,
    StatefulOperator,
    Step,
    StepConfig,
)
from dataflare.operators.deduplicate_changes import DeduplicateChanges
from dataflare.operators.deduplicate_within import DeduplicateWithin
from dataflare.operators.names import (
    Name,
    known_columns,
    listed,
    no_doubles,
    not_empty,
)
from dataflare.operators.ordering import Order, OrderBy, bound_order, refuse_endless
from dataflare.state.layout import Layout, TableLayout
from dataflare.state.tables import Tables

_SLICE_ROWS = 65_536


class DeduplicateConfig(StepConfig):
    key: Name | list[Name] = Field(description="Rows with the same values here are the same row.")
    keep: Literal["first", "last"] = Field(
        default="first",
        description="Which row of a key stays. The last is known at the end of a bounded input.",
    )
    order_by: OrderBy | None = Field(
        default=None,
        description="What makes a row the first or last of its key; the order in which rows come, if not given. A NULL is never preferred.",
    )
    within: Duration | None = Field(
        default=None,
        description="How long a key is remembered after the row that stayed, in event time; for ever if not "
        "given. Of rows with the same time the first to arrive stays. A row behind the watermark of its own file or "
        "table is late and leaves by the output `late`: `step.late`.",
    )


class Deduplicate(StatefulOperator, StructABC, frozen=True):
    step: str
    keys: tuple[str, ...]
    passes_rows = True
    keeps_time = True
    goes_on = True

    def open(self, tables: Tables) -> LiveOperator:
        return LiveDeduplicate(self.keys, tables)

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        return {"seen": TableLayout({key: f"{inputs[0][key]}" for key in self.keys})}

    def describe(self) -> str:
        return f"deduplicate by {', '.join(self.keys)}"


class Best(StatefulOperator, StructABC, frozen=True):
    """keep: last, or order_by: the row that stays is known when all have come."""

    step: str
    keys: tuple[str, ...]
    last: bool
    order: Order | None
    bounded_only = True

    def chosen_by(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return self.keys if self.order is None else (*self.keys, *self.order.columns)

    def open(self, tables: Tables) -> LiveOperator:
        return LiveBest(self, tables)

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        columns = ", ".join(f"{field.name} {field.type}" for field in inputs[0])
        rule = f"the {'last' if self.last else 'first'} by {self.order} of {columns}"
        return {"rows": TableLayout({key: f"{inputs[0][key]}" for key in self.keys}, rule=rule)}

    def shown(self, tables: Tables) -> Mapping[str, Iterator[pl.DataFrame]]:
        """The rows that would stay if the input ended now."""
        return {"rows": LiveBest(self, tables).log.drain(_SLICE_ROWS)}

    def describe(self) -> str:
        which = "last" if self.last else "first"
        order = "" if self.order is None else f" in the order of {self.order}"
        return f"deduplicate by {', '.join(self.keys)}: the {which}{order}"


class LiveBest(LiveOperator):
    """Keeps the best row of each key so far, then hands them out."""

    def __init__(self, operator: Best, tables: Tables) -> None:
        self.operator = operator
        self.log = tables.log("rows", operator.keys, self._best)

    def _best(self, frame: pl.DataFrame) -> pl.DataFrame:
        rows = frame if self.operator.order is None else self.operator.order.sorted(frame)
        keep: Literal["first", "last"] = "last" if self.operator.last else "first"
        return rows.unique(subset=list(self.operator.keys), keep=keep, maintain_order=True)

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[pl.DataFrame]:
        self.log.append(self._best(frame))
        return ()

    def end(self, port: int) -> Iterable[pl.DataFrame]:
        return self.log.drain(_SLICE_ROWS)


class LiveDeduplicate(LiveOperator):
    """NULL keys form one key, as in GROUP BY."""

    def __init__(self, keys: tuple[str, ...], tables: Tables) -> None:
        self.keys = keys
        self.seen = tables.keys("seen", keys)

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[pl.DataFrame]:
        firsts = frame.unique(subset=list(self.keys), keep="first", maintain_order=True)
        fresh = firsts.filter(~self.seen.contains(firsts))
        if fresh.height:
            self.seen.add(fresh.select(self.keys))
            return [fresh]
        return []


class DeduplicateStep(Step):
    type = "deduplicate"
    Config = DeduplicateConfig
    each_table = True
    summary = "Keep one row of each key: the first, the last, or the newest."
    example = """\
type: deduplicate
inputs: [events]
config: {key: [event_id], keep: last, order_by: updated_at}
"""

    @classmethod
    def bind(
        cls, config: DeduplicateConfig, inputs: Sequence[Schema], context: BindContext
    ) -> Bound:
        keys = listed(config.key)
        not_empty(context.step, "a `key`", keys)
        known_columns(context.step, keys, inputs[0])
        no_doubles(context.step, keys)
        named = tuple(map(str, keys))
        last = config.keep == "last"
        if config.within is not None:
            return _within(config, config.within, named, inputs[0], context)
        if config.order_by is None and not last and not context.changes:
            return Bound(outputs={None: inputs[0]}, stateful=Deduplicate(context.step, named))
        order = None
        if config.order_by is not None:
            order = bound_order(
                context.step, "order_by", config.order_by, inputs[0], nulls_last=not last
            )
        if context.changes:
            return Bound(
                outputs={None: inputs[0]},
                stateful=DeduplicateChanges(context.step, named, last, order),
            )
        refuse_endless(context.step, "chooses rows", context.bounded)
        return Bound(outputs={None: inputs[0]}, stateful=Best(context.step, named, last, order))

    @classmethod
    def extra_outputs(cls, config: DeduplicateConfig) -> tuple[str, ...]:
        return () if config.within is None else (LATE,)


def _within(
    config: DeduplicateConfig,
    within: float,
    keys: tuple[str, ...],
    schema: Schema,
    context: BindContext,
) -> Bound:
    if config.keep == "last" or config.order_by is not None:
        raise ConfigError(
            f"step '{context.step}' has `within`, which keeps the first row by event time",
            code="E0405",
            step=context.step,
            help="leave `order_by` and `keep: last` out, or leave `within` out",
        )
    operator = DeduplicateWithin(
        context.step, keys, round(within * 1_000_000), schema, context.streaming
    )
    return Bound(outputs={None: schema, LATE: schema}, stateful=operator)
