"""The state of each aggregate: rows become a partial, partials become one partial, this becomes the result.

Always true: partials of any parts of the rows merge to the same state as one partial of all rows (first,
last and list: in the order of the partials); a state's columns survive Arrow IPC.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.expr import rowerrors
from dataflare.expr.casts import as_scaled, physical_of
from dataflare.expr.division import divide
from dataflare.expr.lowered import Lowered, fail_where
from dataflare.model import types as t
from dataflare.model.event_time import TIME_COLUMN
from dataflare.model.types import DataType

_WIDE = t.decimal(38, 0)
_LIMB = 10**19


class AggregateCall(Struct, frozen=True):
    """One aggregate in the measures: its name, its input columns, its state columns."""

    name: str
    inputs: tuple[str, ...]
    types: tuple[DataType, ...]
    result: DataType
    state: tuple[str, ...]
    options: tuple[Any, ...] = ()
    distinct: bool = False
    directions: tuple[tuple[bool, bool], ...] = ()
    """For each value of an ORDER BY: descending, NULLs first. The values are the inputs after the first."""


Exprs = Sequence[pl.Expr]


class Kind(Struct, frozen=True):
    """An aggregate's state: its columns' types, and the three steps over expressions."""

    state: Callable[[AggregateCall], Sequence[DataType]]
    partial: Callable[[AggregateCall, Exprs], Sequence[pl.Expr]]
    merge: Callable[[AggregateCall, Exprs], Sequence[pl.Expr]]
    finish: Callable[[AggregateCall, Exprs], Lowered | pl.Expr]


def kind_of(call: AggregateCall) -> Kind:
    if call.distinct and call.name not in ("min", "max"):
        return DISTINCT
    if call.directions:
        return ORDERED
    if call.name not in KINDS:
        from dataflare.expr import sketches

        KINDS.update(sketches.KINDS)
    return KINDS[call.name]


def state_types(call: AggregateCall) -> Sequence[DataType]:
    return kind_of(call).state(call)


def partial(call: AggregateCall) -> list[pl.Expr]:
    expressions = kind_of(call).partial(call, [pl.col(name) for name in call.inputs])
    return [expr.alias(name) for expr, name in zip(expressions, call.state, strict=True)]


def merge(call: AggregateCall) -> list[pl.Expr]:
    expressions = kind_of(call).merge(call, [pl.col(name) for name in call.state])
    return [expr.alias(name) for expr, name in zip(expressions, call.state, strict=True)]


def finish(call: AggregateCall) -> Lowered:
    finished = kind_of(call).finish(call, [pl.col(name) for name in call.state])
    return finished if isinstance(finished, Lowered) else Lowered(finished)


def _some(x: pl.Expr, value: pl.Expr) -> pl.Expr:
    """The value, null if all values of the group are null."""
    return pl.when(x.count() > 0).then(value)


def _count_merge(call: AggregateCall, s: Exprs) -> Sequence[pl.Expr]:
    return [s[0].sum().cast(pl.Int64)]


def _count_partial(call: AggregateCall, x: Exprs) -> Sequence[pl.Expr]:
    return [x[0].count().cast(pl.Int64) if x else pl.len().cast(pl.Int64)]


def _sum_state(call: AggregateCall) -> Sequence[DataType]:
    type_ = call.types[0]
    if type_.is_float:
        return [t.FLOAT64]
    if type_.name == "decimal" and (type_.precision or 38) > 18:
        return [_WIDE, _WIDE]
    return [_WIDE]


def limbs(x: pl.Expr, type_: DataType) -> list[pl.Expr]:
    """Digits as Int128, in two halves of 19 digits where one column could overflow."""
    digits = physical_of(x, type_)
    if type_.name == "decimal" and (type_.precision or 38) > 18:
        limb = pl.lit(_LIMB, dtype=pl.Int128)
        high = digits.truncdiv(limb)
        return [high, digits - high * limb]
    return [digits]


def _sum_partial(call: AggregateCall, x: Exprs) -> Sequence[pl.Expr]:
    type_ = call.types[0]
    if type_.is_float:
        return [_some(x[0], x[0].cast(pl.Float64).sum())]
    if type_.name != "decimal" and type_.name not in ("int64", "uint64"):
        return [_some(x[0], _wide(x[0].cast(pl.Int64).sum()))]
    return [_some(x[0], _wide(limb.sum())) for limb in limbs(x[0], type_)]


def _wide(total: pl.Expr) -> pl.Expr:
    return total.cast(pl.Decimal(38, 0), strict=False)


def _sum_merge(call: AggregateCall, s: Exprs) -> Sequence[pl.Expr]:
    return [_some(part, part.sum()) for part in s]


def _sum_finish(call: AggregateCall, s: Exprs) -> Lowered | pl.Expr:
    type_ = call.types[0]
    if type_.is_float:
        return s[0]
    if type_.name == "decimal":
        scale = type_.scale or 0
        if len(s) == 1:
            return as_scaled(s[0].to_physical(), 38, scale)
        near, total = _joined(s)
        fits = (near.abs() < 1.5e38) & (total.abs() < pl.lit(10**38, dtype=pl.Int128))
        return Lowered(
            as_scaled(pl.when(fits).then(total), 38, scale), fail_where(~fits, rowerrors.OVERFLOW)
        )
    total = s[0].to_physical().cast(pl.Int64, strict=False)
    return Lowered(total, fail_where(total.is_null() & s[0].is_not_null(), rowerrors.OVERFLOW))


def _joined(s: Exprs) -> tuple[pl.Expr, pl.Expr]:
    """The two halves as one number: approximately, and exactly if it is below 1.5e38."""
    near = s[0].cast(pl.Float64) * float(_LIMB) + s[1].cast(pl.Float64)
    return near, s[0].to_physical() * pl.lit(_LIMB, dtype=pl.Int128) + s[1].to_physical()


def _avg_finish(call: AggregateCall, s: Exprs) -> pl.Expr:
    type_ = call.types[0]
    total = s[0].cast(pl.Float64)
    if len(s) == 3:
        # Large halves of opposite signs cancel: only the exact sum keeps their small difference.
        near, exact = _joined(s)
        total = pl.when(near.abs() < 1.5e38).then(exact.cast(pl.Float64)).otherwise(near)
    if type_.name == "decimal":
        total = divide(total, pl.lit(10.0 ** (type_.scale or 0)))
    return pl.when(s[-1] > 0).then(divide(total, s[-1]))


def _extreme(largest: bool) -> Kind:
    def step(call: AggregateCall, x: Exprs) -> Sequence[pl.Expr]:
        if largest and call.types[0].is_float:
            return [x[0].nan_max()]
        return [x[0].max() if largest else x[0].min()]

    return Kind(lambda call: [call.result], step, step, lambda call, s: s[0])


def _edge(last: bool) -> Kind:
    """first, last: a NULL counts; a partial of no rows does not."""

    def partial(call: AggregateCall, x: Exprs) -> Sequence[pl.Expr]:
        return [x[0].last() if last else x[0].first(), pl.len().cast(pl.Int64)]

    def merge(call: AggregateCall, s: Exprs) -> Sequence[pl.Expr]:
        full = s[0].filter(s[1] > 0)
        return [full.last() if last else full.first(), s[1].sum()]

    return Kind(lambda call: [call.result, t.INT64], partial, merge, lambda call, s: s[0])


def _edge_in_time(last: bool) -> Kind:
    """first, last: by the event time of the row. Of several rows with that time, the first or last that came."""

    def step(call: AggregateCall, value: pl.Expr, time: pl.Expr) -> Sequence[pl.Expr]:
        ordered = value.sort_by(time, maintain_order=True)
        return [ordered.last() if last else ordered.first(), time.max() if last else time.min()]

    def merge(call: AggregateCall, s: Exprs) -> Sequence[pl.Expr]:
        """A partial of no rows has no time. Without the filter it would be the first."""
        has_rows = s[1].is_not_null()
        return step(call, s[0].filter(has_rows), s[1].filter(has_rows))

    return Kind(
        lambda call: [call.result, t.INT64],
        lambda call, x: step(call, x[0], pl.col(TIME_COLUMN)),
        merge,
        lambda call, s: s[0],
    )


def _any_step(call: AggregateCall, x: Exprs) -> Sequence[pl.Expr]:
    return [x[0].drop_nulls().first()]


def _moments_partial(call: AggregateCall, x: Exprs) -> Sequence[pl.Expr]:
    value = x[0]
    return [value.count().cast(pl.Int64), value.mean(), ((value - value.mean()) ** 2).sum()]


def _moments_merge(call: AggregateCall, s: Exprs) -> Sequence[pl.Expr]:
    """Weighted mean, and squares plus the differences of the means (Chan, Golub and LeVeque, 1979)."""
    count, mean, squares = s
    some = count > 0
    total = count.sum()
    overall = (mean.filter(some) * count.filter(some)).sum() / total
    apart = ((mean.filter(some) - overall) ** 2 * count.filter(some)).sum()
    return [total, pl.when(total > 0).then(overall), squares.sum() + apart]


def _spread(sample: bool, root: bool) -> Kind:
    def end(call: AggregateCall, s: Exprs) -> Lowered:
        count, _, squares = s
        degrees = count - (1 if sample else 0)
        variance = pl.when(degrees > 0).then(divide(squares, degrees))
        value = variance.sqrt() if root else variance
        return Lowered(value, fail_where(~value.is_finite(), rowerrors.OVERFLOW))

    return Kind(lambda call: [t.INT64, t.FLOAT64, t.FLOAT64], _moments_partial, _moments_merge, end)


def _gathered(
    finish: Callable[[AggregateCall, Exprs], Lowered | pl.Expr], *, nulls: bool = False
) -> Kind:
    """Aggregates that keep all their values, as a list."""

    def partial(call: AggregateCall, x: Exprs) -> Sequence[pl.Expr]:
        return [(x[0] if nulls else x[0].drop_nulls()).implode()]

    def merge(call: AggregateCall, s: Exprs) -> Sequence[pl.Expr]:
        return [s[0].explode(empty_as_null=False, keep_nulls=False).implode()]

    return Kind(lambda call: [t.list_of(call.types[0])], partial, merge, finish)


def _list_finish(call: AggregateCall, s: Exprs) -> pl.Expr:
    return pl.when(s[0].list.len() > 0).then(s[0])


def _join_finish(call: AggregateCall, s: Exprs) -> pl.Expr:
    return pl.when(s[0].list.len() > 0).then(s[0].list.join(str(call.options[0])))


def _quantile_cont(call: AggregateCall, s: Exprs) -> pl.Expr:
    """Between the two nearest values, by distance; NaN is the greatest."""
    ordered, place = _ordered(call, s)
    low, high = place.floor(), place.ceil()
    below = ordered.list.get(low.cast(pl.Int64), null_on_oob=True)
    above = ordered.list.get(high.cast(pl.Int64), null_on_oob=True)
    between = below + (above - below) * (place - low)
    return pl.when(low == high).then(below).otherwise(between)


def _quantile_disc(call: AggregateCall, s: Exprs) -> pl.Expr:
    ordered = s[0].list.sort()
    count = s[0].list.len().cast(pl.Int64)
    place = (count.cast(pl.Float64) * float(call.options[0])).ceil().cast(pl.Int64) - 1
    return ordered.list.get(place.clip(lower_bound=0), null_on_oob=True)


def _ordered(call: AggregateCall, s: Exprs) -> tuple[pl.Expr, pl.Expr]:
    ordered = s[0].list.sort()
    last_index = s[0].list.len().cast(pl.Int64) - 1
    return ordered, last_index.clip(lower_bound=0).cast(pl.Float64) * float(call.options[0])


def _arg_best(largest: bool) -> Kind:
    """arg_max, arg_min: the value and its key. Rows with a NULL in either are left out."""

    def step(call: AggregateCall, x: Exprs) -> Sequence[pl.Expr]:
        both_set = x[0].is_not_null() & x[1].is_not_null()
        value, key = x[0].filter(both_set), x[1].filter(both_set)
        ordered = value.sort_by(key, descending=largest, maintain_order=True)
        if call.types[1].is_float:  # max_by does not take NaN for the greatest
            return [ordered.first(), key.nan_max() if largest else key.min()]
        best = value.max_by(key) if largest else value.min_by(key)
        return [best, key.max() if largest else key.min()]

    return Kind(lambda call: [call.types[0], call.types[1]], step, step, lambda call, s: s[0])


def _truth(every: bool) -> Kind:
    def step(call: AggregateCall, x: Exprs) -> Sequence[pl.Expr]:
        value = x[0].drop_nulls()
        return [_some(x[0], value.all() if every else value.any())]

    return Kind(lambda call: [t.BOOL], step, step, lambda call, s: s[0])


def distinct_partial(call: AggregateCall, x: Exprs) -> Sequence[pl.Expr]:
    """Distinct values in the order of their first rows. A list also has NULL."""
    values = x[0] if call.name == "list" else x[0].drop_nulls()
    return [values.unique(maintain_order=True).implode()]


def distinct_merge(call: AggregateCall, s: Exprs) -> Sequence[pl.Expr]:
    values = s[0].explode(empty_as_null=False, keep_nulls=False)
    return [values.unique(maintain_order=True).implode()]


def _distinct_finish(call: AggregateCall, s: Exprs) -> Lowered | pl.Expr:
    if call.name == "count":
        return s[0].list.len().cast(pl.Int64).fill_null(0)
    if call.name in ("sum", "avg"):
        # In a fixed order, so that a sum of floats does not depend on how rows were split.
        values = s[0].list.sort()
        parts = [values.list.eval(x).list.first() for x in _sum_partial(call, [pl.element()])]
        if call.name == "sum":
            return _sum_finish(call, parts)
        return _avg_finish(call, [*parts, values.list.len().cast(pl.Int64).fill_null(0)])
    values = s[0]
    if call.directions:
        descending, nulls_first = call.directions[0]
        values = values.list.sort(descending=descending, nulls_last=not nulls_first)
    elif call.name == "list":
        values = values.list.sort(nulls_last=True)
    return (
        _join_finish(call, [values]) if call.name == "string_agg" else _list_finish(call, [values])
    )


DISTINCT = Kind(
    lambda call: [t.list_of(call.types[0])], distinct_partial, distinct_merge, _distinct_finish
)


def _row_type(call: AggregateCall) -> DataType:
    return t.struct_of({f"f{place}": type_ for place, type_ in enumerate(call.types)})


def _ordered_partial(call: AggregateCall, x: Exprs) -> Sequence[pl.Expr]:
    row = pl.struct(*(value.alias(f"f{place}") for place, value in enumerate(x)))
    return [(row if call.name == "list" else row.filter(x[0].is_not_null())).implode()]


def _ordered_merge(call: AggregateCall, s: Exprs) -> Sequence[pl.Expr]:
    return [s[0].explode(empty_as_null=False, keep_nulls=False).implode()]


def _ordered_finish(call: AggregateCall, s: Exprs) -> Lowered | pl.Expr:
    row = pl.element()
    ordered = row.sort_by(
        [row.struct.field(f"f{place}") for place in range(1, len(call.types))],
        descending=[descending for descending, _ in call.directions],
        nulls_last=[not first for _, first in call.directions],
        maintain_order=True,
    )
    values = s[0].list.eval(ordered.struct.field("f0"))
    return (
        _join_finish(call, [values]) if call.name == "string_agg" else _list_finish(call, [values])
    )


ORDERED = Kind(
    lambda call: [t.list_of(_row_type(call))], _ordered_partial, _ordered_merge, _ordered_finish
)


def _mode_finish(call: AggregateCall, s: Exprs) -> pl.Expr:
    return s[0].list.eval(pl.element().mode(maintain_order=True).first()).list.first()


_COUNT = Kind(
    lambda call: [t.INT64], _count_partial, _count_merge, lambda call, s: s[0].fill_null(0)
)

KINDS: dict[str, Kind] = {
    "count": _COUNT,
    "sum": Kind(_sum_state, _sum_partial, _sum_merge, _sum_finish),
    "avg": Kind(
        lambda call: [*_sum_state(call), t.INT64],
        lambda call, x: [*_sum_partial(call, x), x[0].count().cast(pl.Int64)],
        lambda call, s: [*_sum_merge(call, s[:-1]), s[-1].sum().cast(pl.Int64)],
        _avg_finish,
    ),
    "min": _extreme(False),
    "max": _extreme(True),
    "first": _edge(False),
    "last": _edge(True),
    "first_in_time": _edge_in_time(False),
    "last_in_time": _edge_in_time(True),
    "arg_max": _arg_best(True),
    "arg_min": _arg_best(False),
    "any_value": Kind(lambda call: [call.result], _any_step, _any_step, lambda call, s: s[0]),
    "stddev_samp": _spread(True, True),
    "stddev_pop": _spread(False, True),
    "var_samp": _spread(True, False),
    "var_pop": _spread(False, False),
    "median": _gathered(_quantile_cont),
    "quantile_cont": _gathered(_quantile_cont),
    "quantile": _gathered(_quantile_disc),
    "bool_and": _truth(True),
    "bool_or": _truth(False),
    "mode": _gathered(_mode_finish),
    "string_agg": _gathered(_join_finish),
    "list": _gathered(_list_finish, nulls=True),
}
