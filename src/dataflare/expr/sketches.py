"""Approximate aggregates, and those that keep a few rows: their states are lists of plain values, one list a group.

A sketch is a list of its used buckets, so a small group has a small state, and partials are merged by columns like
those of any aggregate. Always true: the state does not depend on how the rows were cut into partials.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import polars as pl

from dataflare.expr.aggregates import AggregateCall, Exprs, Kind, distinct_merge, distinct_partial
from dataflare.model import types as t
from dataflare.model.hashing import canonical_bits

_REGISTERS = 4096
"""2 to the power of 12: a standard error of 1.04 / sqrt(4096), which is 1.6 %."""
_RANKS = 64
"""More than the greatest rank: a register is the number `bucket * 64 + rank`."""

_ACCURACY = 0.01
_GAMMA = (1 + _ACCURACY) / (1 - _ACCURACY)
_ONE = 40_000
"""The code of the bucket with 1.0. Codes of doubles above 0 are then above 0, and have the order of the values."""
_INFINITE, _NAN = 90_000, 100_000


def _exploded(state: pl.Expr) -> pl.Expr:
    return state.explode(empty_as_null=False, keep_nulls=False)


# -- distinct values: HyperLogLog (Flajolet et al. 2007), estimated as in Ertl, "New cardinality estimation
# -- algorithms for HyperLogLog sketches", 2017, algorithm 6


def _hashed(value: pl.Expr, type_: t.DataType) -> pl.Expr:
    """64 well mixed bits. Texts and nested values have a hash of their own; other bits are mixed."""
    bits = canonical_bits(value, type_.to_polars())
    if type_.is_text or type_.name in ("binary", "decimal", "list", "struct"):
        return bits
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits // (1 << shift))) * pl.lit(factor, pl.UInt64)
    return bits ^ (bits // (1 << 31))


def _registers(call: AggregateCall, x: Exprs) -> Sequence[pl.Expr]:
    hashed = _hashed(x[0].drop_nulls(), call.types[0])
    bucket = hashed // (1 << 52)
    rest = hashed % (1 << 52)
    rank = rest.bitwise_leading_zeros().cast(pl.Int64) - 12 + 1
    return [_greatest(bucket.cast(pl.Int64) * _RANKS + rank).cast(pl.Int32).implode()]


def _greatest(registers: pl.Expr) -> pl.Expr:
    """The greatest rank of each bucket."""
    ordered = registers.sort()
    bucket = ordered // _RANKS
    return ordered.filter(bucket.ne_missing(bucket.shift(-1)))


def _registers_merge(call: AggregateCall, s: Exprs) -> Sequence[pl.Expr]:
    return [_greatest(_exploded(s[0])).implode()]


def _registers_finish(call: AggregateCall, s: Exprs) -> pl.Expr:
    used = s[0].list.len().cast(pl.Float64).fill_null(0.0)
    total = s[0].list.eval(pl.lit(0.5).pow(pl.element() % _RANKS)).list.sum().fill_null(0.0)
    empty = (_REGISTERS - used) / _REGISTERS
    small = empty
    for power in range(1, 22):
        small = small + empty.pow(1 << power) * (1 << (power - 1))
    estimate = _REGISTERS**2 / (2 * log(2)) / (total + _REGISTERS * small)
    return pl.when(used > 0).then(estimate.round()).otherwise(0.0).cast(pl.Int64)


# -- quantiles: DDSketch (Masson, Rim and Lee, VLDB 2019), buckets on a logarithmic scale


def _buckets(call: AggregateCall, x: Exprs) -> Sequence[pl.Expr]:
    value = x[0].drop_nulls()
    power = (value.abs().log() / log(_GAMMA)).ceil().clip(-_ONE + 1, _ONE) + _ONE
    code = (
        pl.when(value.is_nan())
        .then(pl.lit(_NAN))
        .when(value.is_infinite())
        .then(pl.lit(_INFINITE) * value.sign())
        .when(value == 0)
        .then(pl.lit(0))
        .otherwise(power * value.sign())
    ).cast(pl.Int32)
    return [
        _counted(
            code, pl.lit(1, pl.Int64).repeat_by(1).explode().gather(pl.int_range(code.len()) * 0)
        )
    ]


def _counted(code: pl.Expr, count: pl.Expr) -> pl.Expr:
    """How many values each bucket has: running sums over the sorted buckets, where the code changes."""
    ordered = code.sort()
    running = count.sort_by(code).cum_sum()
    is_last = ordered.ne_missing(ordered.shift(-1))
    sums = running.filter(is_last)
    return pl.struct(
        ordered.filter(is_last).alias("bucket"), (sums - sums.shift(1, fill_value=0)).alias("n")
    ).implode()


def _buckets_merge(call: AggregateCall, s: Exprs) -> Sequence[pl.Expr]:
    rows = _exploded(s[0])
    return [_counted(rows.struct.field("bucket"), rows.struct.field("n"))]


def _buckets_finish(call: AggregateCall, s: Exprs) -> pl.Expr:
    count = pl.element().struct.field("n")
    place = ((count.sum() - 1) * float(call.options[0])).floor()
    reached = pl.element().struct.field("bucket").filter(count.cum_sum() > place)
    code = s[0].list.eval(reached.first()).list.first()
    size = code.abs()
    value = pl.lit(_GAMMA).pow(size - _ONE) * (2 / (1 + _GAMMA))
    return (
        pl.when(size == _NAN)
        .then(pl.lit(float("nan")))
        .when(size == _INFINITE)
        .then(pl.lit(float("inf")) * code.sign())
        .when(code == 0)
        .then(pl.lit(0.0))
        .otherwise(value * code.sign())
    )


# -- the first rows of an order


def _top(call: AggregateCall, value: pl.Expr, by: pl.Expr) -> Sequence[pl.Expr]:
    """Two lists side by side: the values, and what they are ordered by."""
    count = int(call.options[0])
    ordered = value.sort_by(by, descending=True, maintain_order=True)
    # `head` before `implode` reads beyond its group (Polars 2.1).
    kept = by.sort(descending=True)
    return [ordered.implode().list.head(count), kept.implode().list.head(count)]


def _top_partial(call: AggregateCall, x: Exprs) -> Sequence[pl.Expr]:
    is_set = x[-1].is_not_null()
    return _top(call, x[0].filter(is_set), x[-1].filter(is_set))


KINDS: dict[str, Kind] = {
    "approx_count_distinct": Kind(
        lambda call: [t.list_of(t.INT32)], _registers, _registers_merge, _registers_finish
    ),
    "approx_quantile": Kind(
        lambda call: [t.list_of(t.struct_of({"bucket": t.INT32, "n": t.INT64}))],
        _buckets,
        _buckets_merge,
        _buckets_finish,
    ),
    "count_distinct": Kind(
        lambda call: [t.list_of(call.types[0])],
        distinct_partial,
        distinct_merge,
        lambda call, s: s[0].list.len().cast(pl.Int64).fill_null(0),
    ),
    "top": Kind(
        lambda call: [t.list_of(call.types[0]), t.list_of(call.types[-1])],
        _top_partial,
        lambda call, s: _top(call, _exploded(s[0]), _exploded(s[1])),
        lambda call, s: pl.when(s[0].list.len() > 0).then(s[0]),
    ),
}
