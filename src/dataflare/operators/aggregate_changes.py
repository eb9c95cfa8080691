"""`aggregate` of a changelog: after each batch, the groups whose measures changed, as a changelog.

A measure that is a sum (`expr.retraction`) is kept as one row a group. If a step has another measure too, the
values that its measures read are kept, each with the number of times that it is there.

Always true: a group without rows has no result; without `group_by` there is always one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import polars as pl

from dataflare.errors import PlanError
from dataflare.expr.retraction import depends_on_order, is_summed, restored, signed
from dataflare.model.batch import CHANGES, Kinds
from dataflare.model.types import Schema
from dataflare.operators.aggregate import Aggregate, finished
from dataflare.operators.base import ERROR_COLUMN, Lowering
from dataflare.operators.by_key import TABLE, LiveByKey
from dataflare.operators.changes import repeated
from dataflare.state.layout import Layout, TableLayout
from dataflare.state.tables import Tables
from dataflare.state.weighted import HASH, WEIGHT, cancelled, summed

_SLICE_ROWS = 100_000


class AggregateChanges(Aggregate, frozen=True):
    """The same measures over rows that may be deleted."""

    bounded_only = False
    accepts = CHANGES
    goes_on = True

    @property
    def by_sums(self) -> bool:
        """Whether each measure is made of sums, so that no rows are kept."""
        return all(is_summed(call) for call in self.aggregation.calls)

    def open(self, tables: Tables) -> LiveAggregateChanges:
        return LiveAggregateChanges(self, tables)

    def makes(self, arriving: Kinds) -> Kinds:
        return CHANGES

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        keys = {key: f"{inputs[0][key]}" for key in self.keys}
        meanings = self.aggregation.meanings()
        columns = {name: f"{name}: {inputs[0][name]}" for name, _ in self.aggregation.inputs}
        if self.by_sums:
            columns = {
                name: f"{meanings[call.state[0]]}, {place}"
                for call in self.aggregation.calls
                for place, name in enumerate(_names(call))
            }
        own = {WEIGHT: "(how many rows)", HASH: "(hash of the key)"}
        # A sum that begins later cannot give back rows that came before it.
        what = "sums" if self.by_sums else "values"
        rule = f"{what} for {', '.join(sorted(set(meanings.values())))}"
        keyed = dict(zip(self.keys, self.meanings, strict=True))
        return {TABLE: TableLayout(keys, columns | own, rule=rule, key_meanings=keyed)}

    def shown(self, tables: Tables) -> Mapping[str, Iterator[pl.DataFrame]]:
        """The results as they are."""
        live = LiveAggregateChanges(self, tables)
        results = (live.results(rows, Lowering()) for rows in live.rows.parts())
        plain = (frame.drop(ERROR_COLUMN, strict=False) for frame in results)
        return {"groups": (part for frame in plain for part in frame.iter_slices(_SLICE_ROWS))}

    def describe(self) -> str:
        kept = "" if self.by_sums else "; the values of each group are kept"
        return f"{super().describe()}, updated with each batch{kept}"


class LiveAggregateChanges(LiveByKey):
    def __init__(self, operator: AggregateChanges, tables: Tables) -> None:
        self.operator, self._by_sums = operator, operator.by_sums
        merge = partial(_added, keys=operator.keys) if self._by_sums else cancelled
        super().__init__(operator.keys, tables, merge)
        self._alone = not self.keys and tables.subtask == 0

    def prepared(self, frame: pl.DataFrame) -> pl.DataFrame:
        if not self._by_sums:
            inputs = [name for name, _ in self.operator.aggregation.inputs]
            return summed(frame.select(*self.keys, *inputs, WEIGHT))
        calls = self.operator.aggregation.calls
        sums = [each for call in calls for each in signed(call, pl.col(WEIGHT))]
        return self._by(frame, [*sums, pl.col(WEIGHT).sum()])

    def results(self, rows: pl.DataFrame, lowering: Lowering) -> pl.DataFrame:
        aggregation = self.operator.aggregation
        if self._by_sums:
            total = _added(rows.drop(HASH), keys=self.keys) if self.keys else self._total(rows)
            there = total.filter(pl.col(WEIGHT) > 0) if self.keys else total
            calls = aggregation.calls
            partials = there.with_columns(each for call in calls for each in restored(call))
        else:
            there = repeated(cancelled(rows).drop(HASH))
            partials = self._by(_in_order(there, self.keys), aggregation.partial())
        return finished(aggregation, partials, self.keys, self.operator.step, lowering)

    def _total(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.drop(HASH).select(pl.all().sum())

    def _by(self, frame: pl.DataFrame, values: Sequence[pl.Expr]) -> pl.DataFrame:
        if not self.keys:
            return frame.lazy().select(values).collect(engine="in-memory")
        grouped = frame.lazy().group_by(self.keys, maintain_order=True).agg(values)
        return grouped.collect(engine="in-memory")

    def end(self, port: int) -> Iterator[pl.DataFrame]:
        """Without keys there is one result, also where no row came."""
        if self._alone and not self._answered.value:
            yield self._changes(self._none(), self._none())

    def _none(self) -> pl.DataFrame:
        inputs = {n: t.type.to_polars() for n, t in self.operator.aggregation.inputs}
        empty: pl.DataFrame = pl.DataFrame(schema={**inputs, WEIGHT: pl.Int64()})
        return self.rows.hashed(self.prepared(empty).clear())


def _names(call: object) -> list[str]:
    return [expr.meta.output_name() for expr in signed(call, pl.col(WEIGHT))]  # type: ignore[arg-type]


def _added(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """The sums of each group as one row. A group of which nothing is left is left out."""
    by = [*keys, *([HASH] if HASH in frame.columns else [])]
    values = [name for name in frame.columns if name not in by]
    grouped = frame.lazy().group_by(by, maintain_order=True).agg(pl.col(values).sum())
    left = grouped.filter(pl.any_horizontal(pl.col(name) != 0 for name in values))
    return left.collect(engine="in-memory").select(frame.columns)


def _in_order(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """The rows in an order that does not depend on when they came."""
    names = [
        name
        for name, dtype in frame.schema.items()
        if name not in keys and not dtype.is_nested() and dtype != pl.Null
    ]
    return frame.sort(names, nulls_last=True, maintain_order=True) if names else frame


def refuse_order(step: str, operator: Aggregate) -> None:
    """Raise PlanError (E0315) for a measure that depends on the order of rows."""
    for call in operator.aggregation.calls:
        if depends_on_order(call):
            name = call.name.removesuffix("_in_time")
            raise PlanError(
                f"step '{step}' receives a changelog, and {name}() depends on the order in which rows came, which "
                "a row that is updated does not keep",
                code="E0315",
                step=step,
                help=f"say the order, as {name}(value ORDER BY other), or take arg_max(value, time) or min, max"
                if name in ("list", "string_agg")
                else "take arg_min(value, time) or arg_max(value, time)",
            )
