"""`aggregate`: measures over groups of rows, from partial aggregates that survive a crash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import polars as pl
from pydantic import Field

from dataflare.errors import ConfigError, PlanError
from dataflare.expr import ExprText, Typed, check, check_measures
from dataflare.model.types import Field as Column
from dataflare.model.types import Schema
from dataflare.operators.base import (
    ERROR_COLUMN,
    BindContext,
    Bound,
    LiveOperator,
    Lowering,
    Snapshot,
    StatefulOperator,
    Step,
    StepConfig,
    reserved,
)
from dataflare.operators.primitives import Derive, Select
from dataflare.state.partials import PartialLog, own_rows

if TYPE_CHECKING:
    from dataflare.expr import Aggregation

_SLICE_ROWS = 100_000


class AggregateConfig(StepConfig):
    group_by: list[ExprText] | dict[str, ExprText] = Field(
        default_factory=list,
        description="Columns or expressions; a mapping names them. Without any, one row comes out.",
    )
    measures: dict[str, ExprText] = Field(description='Name to aggregate, as total: "sum(amount)".')
    emit: Literal["final", "updates"] | None = Field(
        default=None,
        description="final: results at the end of a bounded input (the default there).",
    )


@dataclass(frozen=True)
class Aggregate(StatefulOperator):
    step: str
    keys: tuple[str, ...]
    aggregation: Aggregation
    bounded_only = True

    def open(self, subtask: int, subtasks: int) -> LiveAggregate:
        return LiveAggregate(self, subtask, subtasks)

    def describe(self) -> str:
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        return f"aggregate {', '.join(self.aggregation.output.names)}{by}"


class LiveAggregate(LiveOperator):
    """keeps partials while there is input, then hands out the results, bucket by bucket."""

    def __init__(self, operator: Aggregate, subtask: int, subtasks: int) -> None:
        self.operator, self.subtask, self.subtasks = operator, subtask, subtasks
        self.keys = operator.keys
        self.lowering = Lowering()
        self._partial = operator.aggregation.partial()
        self._merge_exprs = operator.aggregation.merge()
        self.log = PartialLog(self.keys, self._merge)
        self._results: Iterator[pl.DataFrame] | None = None
        self._left: pl.DataFrame | None = None
        self._later: list[pl.DataFrame] = []

    def process(self, frame: pl.DataFrame) -> Iterable[pl.DataFrame]:
        self.log.append(self._grouped(frame, self._partial))
        return ()

    def end(self) -> None:
        if not self.keys and self.subtask == 0 and not self.log.frames():
            self.log.append(self._empty_partial())
        self._later = list(self.log.drain())

    def drain(self) -> pl.DataFrame | None:
        if self._left is None or not self._left.height:
            if not self._later:
                self._left = None
                return None
            self._left = self._later.pop(0)
        rows = self._left.head(_SLICE_ROWS)
        self._left = self._left.slice(_SLICE_ROWS)
        return self._finished(rows)

    def snapshot(self) -> Snapshot:
        """While results are handed out, what is kept are the partials not handed out yet."""
        if self._left is not None or self._later:
            held = [f for f in ([self._left] if self._left is not None else []) if f.height]
            frames = {f"d{len(self._later)}-{i}": f for i, f in enumerate(held + self._later)}
            # Names differ with what is left, so a name never changes its meaning.
            height = sum(frame.height for frame in frames.values())
            return Snapshot({f"{name}-{height}": f for name, f in frames.items()})
        return Snapshot(self.log.frames())

    def restore(self, snapshots: Sequence[Snapshot]) -> None:
        for snapshot in snapshots:
            for frame in snapshot.frames.values():
                mine = own_rows(frame, self.keys, self.subtask, self.subtasks)
                if self.keys or self.subtask == 0:
                    self.log.append(mine)

    def state_bytes(self) -> int:
        return self.log.num_bytes()

    def _grouped(self, frame: pl.DataFrame, exprs: Sequence[pl.Expr]) -> pl.DataFrame:
        if not self.keys:
            return frame.lazy().select(exprs).collect(engine="in-memory")
        grouped = frame.lazy().group_by(self.keys).agg(exprs)
        return grouped.collect(engine="in-memory")

    def _merge(self, frame: pl.DataFrame) -> pl.DataFrame:
        return self._grouped(frame, self._merge_exprs)

    def _empty_partial(self) -> pl.DataFrame:
        inputs = {n: t.type.to_polars() for n, t in self.operator.aggregation.inputs}
        return self._grouped(pl.DataFrame(schema=inputs or {"__none": pl.Int8}), self._partial)

    def _finished(self, partials: pl.DataFrame) -> pl.DataFrame:
        self.lowering = Lowering()
        values, errors = [], []
        for name, lowered in self.operator.aggregation.finish().items():
            values.append(lowered.value.alias(name))
            if lowered.error is not None:
                errors.append((name, lowered.error))
        if errors:
            values.append(self.lowering.column(self.operator.step, errors))
        extra = [ERROR_COLUMN] if errors else []
        names = [*self.keys, *self.operator.aggregation.output.names, *extra]
        return partials.lazy().with_columns(values).select(names).collect(engine="in-memory")


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
    def bind(cls, config: AggregateConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        schema, step = inputs[0], context.step
        if not config.measures and not config.group_by:
            raise ConfigError(f"step '{step}' has no measures", code="E0403", step=step)
        if config.emit == "updates" or (config.emit is None and not context.bounded):
            raise PlanError(
                f"step '{step}' would emit updates, which this version cannot do yet",
                code="E0314",
                step=step,
                help="read from bounded sources; results then come at the end of the run",
            )
        if not context.bounded:
            raise PlanError(
                f"step '{step}' cannot emit final results: its input has no end",
                code="E0316",
                step=step,
                help="bound the sources (for `generate`: rows), or leave the step out",
            )
        keys = _keys(config, schema, step)
        reserved([*keys, *config.measures], step)
        double = next((name for name in config.measures if name in keys), None)
        if double:
            raise ConfigError(
                f"step '{step}' has a group and a measure named '{double}'",
                code="E0404",
                step=step,
                spot=getattr(double, "spot", None),
            )
        aggregation = check_measures(config.measures, schema, step=step)
        derived = (*((f"__g{i}", typed) for i, typed in enumerate(keys.values())), *aggregation.inputs)
        operators = (
            *([Derive(step, derived)] if derived else []),
            Select(
                step,
                (
                    *((name, f"__g{i}") for i, name in enumerate(keys)),
                    *((name, name) for name, _ in aggregation.inputs),
                ),
            ),
        )
        output = Schema((*(Column(n, t.type) for n, t in keys.items()), *aggregation.output))
        return Bound(
            outputs={None: output},
            operators=operators,
            stateful=Aggregate(step, tuple(keys), aggregation),
        )


def _keys(config: AggregateConfig, schema: Schema, step: str) -> dict[str, Typed]:
    if isinstance(config.group_by, dict):
        return {str(n): check(e, schema, step=step) for n, e in config.group_by.items()}
    keys: dict[str, Typed] = {}
    for text in config.group_by:
        typed = check(text, schema, step=step)
        keys[typed.is_column or str(text)] = typed
    return keys
