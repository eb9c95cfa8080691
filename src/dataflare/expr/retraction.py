"""Aggregates that take rows back: by sums of what came and went, where that is exact.

`count`, and `sum` and `avg` of integers, booleans and decimals, are sums over rows with weights: a deleted row has
the weight -1. Others need the rows that are still there (`min` after the least one went), or would not be exact (a
sum of floats keeps the rounding of a row that went).

Always true: the state of a group is the sum of its rows' parts, in whatever order they came.
"""

from __future__ import annotations

import polars as pl

from dataflare.expr.aggregates import AggregateCall, limbs

_SUMMED = ("count", "sum", "avg")
_BY_ORDER = ("first", "last", "first_in_time", "last_in_time", "list", "string_agg")


def is_summed(call: AggregateCall) -> bool:
    """Whether its state is a sum from which rows can be taken."""
    plain = not call.distinct and not call.directions and call.name in _SUMMED
    return plain and not any(type_.is_float for type_ in call.types)


def depends_on_order(call: AggregateCall) -> bool:
    """Whether its result depends on the order in which rows came, which an update does not keep."""
    return call.name in _BY_ORDER and not call.directions and not call.distinct


def there(call: AggregateCall) -> str:
    """The state column with the number of values that are there, of a sum."""
    return f"{call.state[0]}_there"


def signed(call: AggregateCall, weight: pl.Expr) -> list[pl.Expr]:
    """The state of an `is_summed` aggregate over rows with weights, to be added up."""
    if not call.inputs:
        return [weight.sum().alias(call.state[0])]
    value = pl.col(call.inputs[0])
    number = (value.is_not_null().cast(pl.Int64) * weight).sum()
    if call.name == "count":
        return [number.alias(call.state[0])]
    wide = weight.cast(pl.Int128)
    parts = limbs(value, call.types[0])
    totals = [(part.cast(pl.Int128) * wide).sum().cast(pl.Decimal(38, 0)) for part in parts]
    if call.name == "avg":
        totals.append(number)
    named = [total.alias(name) for total, name in zip(totals, call.state, strict=True)]
    return named if call.name == "avg" else [*named, number.alias(there(call))]


def restored(call: AggregateCall) -> list[pl.Expr]:
    """The state columns as the aggregate's result is made of them: a sum of no values is NULL."""
    if call.name != "sum":
        return [pl.col(name) for name in call.state]
    return [pl.when(pl.col(there(call)) != 0).then(pl.col(n)).alias(n) for n in call.state]
