"""`aggregate`: measures over groups of rows, from partial aggregates that survive a crash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import polars as pl
from pydantic import Field

from dataflare.errors import PlanError
from dataflare.expr import ExprText, Typed, check, check_measures
from dataflare.model.record import StructABC
from dataflare.model.text import SourceText
from dataflare.model.types import Field as Column
from dataflare.model.types import Schema
from dataflare.operators.base import (
    ERROR_COLUMN,
    BindContext,
    Bound,
    Fault,
    LiveOperator,
    Lowering,
    StatefulOperator,
    Step,
    StepConfig,
)
from dataflare.operators.names import ByName, no_doubles, not_empty, not_reserved
from dataflare.operators.primitives import Derive, Select
from dataflare.state.layout import Layout, TableLayout
from dataflare.state.tables import Tables

if TYPE_CHECKING:
    from dataflare.expr import Aggregation

_SLICE_ROWS = 100_000


class AggregateConfig(StepConfig):
    group_by: list[ExprText] | ByName[ExprText] = Field(
        default_factory=list,
        description="Columns or expressions; a mapping names them. Without any, one row comes out.",
    )
    measures: ByName[ExprText] = Field(description='Name to aggregate, as total: "sum(amount)".')
    emit: Literal["final", "updates"] | None = Field(
        default=None,
        description="final: results at the end of a bounded input (the default there). updates: a changelog "
        "of the groups that changed, after each batch (the default for an input without end).",
    )


class Aggregate(StatefulOperator, StructABC, frozen=True):
    """meanings: of the keys, what each holds."""

    step: str
    keys: tuple[str, ...]
    aggregation: Aggregation
    meanings: tuple[str, ...] = ()
    bounded_only = True

    def open(self, tables: Tables) -> LiveOperator:
        return LiveAggregate(self, tables)

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        columns = inputs[0]
        keys = {key: f"{columns[key]}" for key in self.keys}
        meanings = dict(zip(self.keys, self.meanings, strict=True))
        return {"groups": TableLayout(keys, self.aggregation.meanings(), key_meanings=meanings)}

    def initial(self, table: str) -> pl.DataFrame:
        inputs = {n: t.type.to_polars() for n, t in self.aggregation.inputs}
        empty: pl.DataFrame = pl.DataFrame(schema=inputs or {"__dataflare_none": pl.Int8})
        return empty.lazy().select(self.aggregation.partial()).collect(engine="in-memory")

    def shown(self, tables: Tables) -> Mapping[str, Iterator[pl.DataFrame]]:
        """The results as they would be if the input ended now."""
        live = LiveAggregate(self, tables)
        return {"groups": live.shown()}

    def describe(self) -> str:
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        return f"aggregate {', '.join(self.aggregation.output.names)}{by}"


class LiveAggregate(LiveOperator):
    """Keeps partials while there is input, then hands out the results. answered: whether the one row of an
    aggregate without keys was handed out."""

    def __init__(self, operator: Aggregate, tables: Tables) -> None:
        self.operator, self.keys = operator, operator.keys
        self._partial = operator.aggregation.partial()
        self._merge_exprs = operator.aggregation.merge()
        self._alone = not self.keys and tables.subtask == 0
        self._open(tables)
        self._answered = tables.value("answered", False, any)

    def _open(self, tables: Tables) -> None:
        self.log = tables.log("groups", self.keys, self._merge)

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[pl.DataFrame]:
        self.log.append(self._grouped(frame, self._partial))
        return ()

    def end(self, port: int) -> Iterable[pl.DataFrame]:
        if self._alone and not self._answered.value and self.log.is_empty:
            self.log.append(self._empty_partial())
        for partials in self.log.drain(_SLICE_ROWS):
            self._answered.value = True
            yield self.finished(partials)

    def _grouped(self, frame: pl.DataFrame, exprs: Sequence[pl.Expr]) -> pl.DataFrame:
        if not self.keys:
            return frame.lazy().select(exprs).collect(engine="in-memory")
        grouped = frame.lazy().group_by(self.keys).agg(exprs)
        return grouped.collect(engine="in-memory")

    def _merge(self, frame: pl.DataFrame) -> pl.DataFrame:
        return self._grouped(frame, self._merge_exprs)

    def _empty_partial(self) -> pl.DataFrame:
        return self.operator.initial("groups")

    def shown(self) -> Iterator[pl.DataFrame]:
        """The results of what is held, which is not held any more."""
        for partials in self.log.drain(_SLICE_ROWS):
            yield self.finished(partials).drop(ERROR_COLUMN, strict=False)

    def finished(self, partials: pl.DataFrame) -> pl.DataFrame:
        self.lowering = Lowering()
        return finished(
            self.operator.aggregation, partials, self.keys, self.operator.step, self.lowering
        )


def finished(
    aggregation: Aggregation,
    partials: pl.DataFrame,
    columns: Sequence[str | pl.Expr],
    step: str,
    lowering: Lowering,
) -> pl.DataFrame:
    """These columns of merged partials, and the measures. A row whose measure fails has a fault."""
    values: list[pl.Expr] = []
    errors: list[Fault] = []
    for name, lowered in aggregation.finish().items():
        values.append(lowered.value.alias(name))
        if lowered.error is not None:
            errors.append((name, lowered.error))
    if errors:
        values.append(lowering.column(step, errors))
    return partials.lazy().select(*columns, *values).collect(engine="in-memory")


class AggregateStep(Step):
    type = "aggregate"
    Config = AggregateConfig
    summary = "Sums, counts, averages and more over groups of rows."
    example = """\
type: aggregate
inputs: [orders]
config:
  group_by: [country, "date_trunc('month', created_at)"]
  measures: {orders: "count(*)", revenue: "sum(amount)", average: "sum(amount) / count(*)"}
"""

    @classmethod
    def names_its_columns(cls, config: AggregateConfig) -> bool:
        return True

    @classmethod
    def bind(cls, config: AggregateConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        schema, step = inputs[0], context.step
        if not config.measures:
            not_empty(step, "`measures` or `group_by`", config.group_by)
        gives_updates = config.emit == "updates" or (config.emit is None and not context.bounded)
        if not gives_updates:
            _refuse_endless(step, context)
        keys = group_keys(config.group_by, schema, step)
        not_reserved(step, [*keys, *config.measures])
        no_doubles(step, [*keys, *config.measures])
        aggregation = check_measures(config.measures, schema, step=step)
        columns = {str(name): f"__dataflare_g{i}" for i, name in enumerate(keys)}
        columns |= {name: name for name, _ in aggregation.inputs}
        derived = [*zip(columns.values(), keys.values(), strict=False), *aggregation.inputs]
        # A batch without columns would forget how many rows it has: one is kept.
        selected = tuple(columns.items()) or ((schema.names[0], schema.names[0]),)
        operators = (*([Derive(step, tuple(derived))] if derived else []), Select(step, selected))
        names = tuple(map(str, keys))
        output = Schema((*map(Column, names, (t.type for t in keys.values())), *aggregation.output))
        class_ = Aggregate
        if gives_updates and context.changes:
            from dataflare.operators.aggregate_changes import AggregateChanges as class_  # noqa: N813
        elif gives_updates:
            from dataflare.operators.aggregate_updates import AggregateUpdates as class_  # noqa: N813
        operator = class_(step, names, aggregation, tuple(key.meaning for key in keys.values()))
        if context.changes:
            from dataflare.operators.aggregate_changes import refuse_order

            refuse_order(step, operator)
        return Bound(outputs={None: output}, operators=operators, stateful=operator)


def _refuse_endless(step: str, context: BindContext) -> None:
    if not context.bounded:
        raise PlanError(
            f"step '{step}' cannot emit final results: its input has no end",
            code="E0316",
            step=step,
            help="leave 'emit' out to get updates, or bound the sources (for `generate`: rows)",
        )


def group_keys(
    group_by: Sequence[ExprText] | Mapping[str, ExprText], schema: Schema, step: str
) -> dict[str, Typed]:
    """The group's columns by name: an expression without a name is called by its text."""
    if isinstance(group_by, Mapping):
        return {n: check(e, schema, step=step) for n, e in group_by.items()}
    keys: dict[str, Typed] = {}
    for text in group_by:
        typed = check(text, schema, step=step)
        name = typed.is_column or str(text)
        no_doubles(step, [*keys, SourceText(name, starts=text.source.starts)])
        keys[name] = typed
    return keys
