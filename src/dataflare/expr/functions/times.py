"""Arithmetic of dates, timestamps, durations and intervals.

Always true: months move the calendar date (at most to the last day of the month), and other intervals move
the instant.
"""

from __future__ import annotations

import polars as pl

from dataflare.expr import rowerrors
from dataflare.expr.calendar import local, localise
from dataflare.expr.check import Call
from dataflare.expr.conversions import convert, is_text_literal
from dataflare.expr.lowered import Lowered, fail_where
from dataflare.expr.sqltypes import INTERVAL, finer
from dataflare.expr.tree import Node
from dataflare.model import types as t
from dataflare.model.types import DataType

_YEAR_1, _YEAR_9999 = -62_135_596_800, 253_402_300_799
_PER_SECOND = {"ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}


def resolve_times(call: Call) -> Node | None:
    """The typed node if a side is a time, else None. Raises ExpressionError for an invalid pair."""
    left, right = call.args
    name = call.function.name
    kinds = (left.type.name, right.type.name)
    if not any(kind in ("date", "timestamp", "duration", "interval", "time") for kind in kinds):
        return None
    if name == "*" and "duration" in kinds:
        amount, other = (left, right) if kinds[0] == "duration" else (right, left)
        if other.type.is_integer:
            return call.node(amount.type, [amount, convert(other, t.INT64)])
    if name in "+-" and len(name) == 1:
        if name == "+" and kinds[1] in ("date", "timestamp"):
            left, right = right, left
        moved = _moved(call, left, right)
        if moved is not None:
            return moved
    hint = None
    if "date" in kinds or "timestamp" in kinds:
        hint = "write x + INTERVAL '1 day' or x - INTERVAL '2 hours'"
    raise call.fail(f"cannot apply '{name}' to {kinds_text(call)}", help=hint)


def kinds_text(call: Call) -> str:
    return f"{call.args[0].type} and {call.args[1].type}"


def _moved(call: Call, left: Node, right: Node) -> Node | None:
    name = call.function.name
    step = right.type.name
    if left.type.name == "date" and right.type.is_integer:
        return call.node(t.DATE, [left, convert(right, t.INT64)])
    if left.type.name in ("date", "timestamp") and step in ("duration", "interval"):
        base = left if left.type.name == "timestamp" else convert(left, t.TIMESTAMP)
        # A step has microseconds, so that a time in milliseconds may come to have them.
        unit = finer(base.type.unit, "us" if step == "interval" else right.type.unit)
        base = convert(base, t.timestamp(unit, base.type.timezone))
        if step == "interval":
            return call.node(base.type, [base, right])
        return call.node(
            base.type,
            [base, convert(right, t.duration(local_unit(base.type)))],
        )
    if name == "-" and left.type.name in ("date", "timestamp"):
        if is_text_literal(right):
            right = convert(right, left.type)
        if left.type.name == right.type.name == "date":
            return call.node(t.INT64, [left, right])
        from dataflare.expr.sqltypes import unify

        both = unify(left.type, right.type)
        if both is None or not right.type.is_temporal:
            return None
        return call.node(t.duration(both.unit or "us"), [convert(left, both), convert(right, both)])
    if left.type.name == step == "duration":
        both = t.duration(finer(left.type.unit, right.type.unit))
        return call.node(both, [convert(left, both), convert(right, both)])
    return None


def add_times(node: Node, a: pl.Expr, b: pl.Expr, sign: int) -> Lowered:
    """`a` moved by `b`, forward or backward, or the difference of both."""
    left, right = node.args
    if right.type == INTERVAL:
        months, microseconds = right.value
        return add_months(node, a, sign * months, sign * microseconds)
    x = a.to_physical().cast(pl.Int64)
    y = b.to_physical().cast(pl.Int64)
    result = x + y if sign > 0 else x - y
    crossed = ((x ^ result) & (y ^ result)) if sign > 0 else ((x ^ y) & (x ^ result))
    if left.type.name == "date" and node.type.name == "int64":
        return Lowered(result)
    if node.type.name == "date":
        days = pl.when(y.abs() < 2**40).then(result)
        date = days.cast(pl.Int32, strict=False)
        inside = date.is_between(-719_162, 2_932_896)
        return Lowered(
            pl.when(inside).then(date).cast(pl.Date),
            fail_where(~inside.fill_null(False) & result.is_not_null(), rowerrors.DATE),
        )
    return Lowered(result.cast(node.type.to_polars()), fail_where(crossed < 0, rowerrors.OVERFLOW))


def add_months(node: Node, a: pl.Expr, months: int, microseconds: int) -> Lowered:
    """Add months on the calendar of the column's zone, then the rest to the instant."""
    type_ = node.type
    unit = local_unit(type_)
    seconds = a.to_physical() // _PER_SECOND[unit]
    inside = seconds.is_between(_YEAR_1, _YEAR_9999)
    moved = pl.when(inside).then(local(a, type_)).dt.offset_by(f"{months}mo")
    if microseconds:
        moved = moved + pl.duration(microseconds=microseconds, time_unit=unit)  # type: ignore[arg-type]
    zoned = moved if type_.timezone is None else localise(moved, type_.timezone)
    return Lowered(zoned, fail_where(~inside, rowerrors.DATE))


def local_unit(type_: DataType) -> str:
    """The unit in which Polars stores it."""
    return "ms" if type_.unit == "s" else type_.unit or "us"


def negate_time(node: Node, a: pl.Expr) -> pl.Expr:
    return (pl.lit(0, dtype=pl.Int64) - a.cast(pl.Int64)).cast(node.type.to_polars())
