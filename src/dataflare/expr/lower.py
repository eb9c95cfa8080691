"""From `Node` to Polars: one walk; each function's own lowering is in its registry row.

Always true: what comes out raises for no row, and has the node's type.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from dataflare.errors import InternalError
from dataflare.expr import aggregates, registry
from dataflare.expr.casts import lower_cast
from dataflare.expr.lowered import Lowered, first_error
from dataflare.expr.sqltypes import INTERVAL
from dataflare.expr.tree import AGGREGATE, CAST, COLUMN, LITERAL, Node
from dataflare.model.types import DataType

_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_PER_MICROSECOND = {"s": (1, 1000), "ms": (1, 1000), "us": (1, 1), "ns": (1000, 1)}


def lower(node: Node) -> Lowered:
    """Value and error mask of a typed expression."""
    if node.op == COLUMN:
        return Lowered(pl.col(node.value))
    if node.op == LITERAL:
        return Lowered(literal(node.value, node.type))
    if node.op == CAST:
        return _cast(node)
    if node.op == AGGREGATE:
        return aggregates.finish(node.value)
    function = registry.row(node.op)
    args = [lower(arg) for arg in node.args]
    assert function.lower is not None, node.op
    if function.lazy:
        found: Any = function.lower(node, *args)
        assert isinstance(found, Lowered)
        return found
    values = [arg.value for arg in args]
    if function.group in ("string", "list") and len(values) > 1 and _is_constant(node.args[0]):
        values[0] = _as_long(values[0], node.args[1:], values[1:])
    found = function.lower(node, *values)
    own = found if isinstance(found, Lowered) else Lowered(found)
    return Lowered(own.value, first_error([*(arg.error for arg in args), own.error]))


def lower_constant(node: Node) -> Lowered:
    """`lower` for an expression that reads no column: a scalar, so that any frame takes it."""
    made = lower(node)
    return Lowered(made.value.first(), None if made.error is None else made.error.first())


def _is_constant(node: Node) -> bool:
    return not any(each.op == COLUMN or each.op in ("now", "uuid") for each in node.walk())


def _as_long(value: pl.Expr, nodes: Sequence[Node], others: Sequence[pl.Expr]) -> pl.Expr:
    """Some of Polars' text functions do not stretch one value to the length of their arguments."""
    for node, other in zip(nodes, others, strict=True):
        if not _is_constant(node):
            return pl.when(other.is_null().is_not_null()).then(value)
    return value


def _cast(node: Node) -> Lowered:
    arg = lower(node.args[0])
    made = lower_cast(arg.value, node.args[0].type, node.type)
    if node.value is True:
        return Lowered(made.value, arg.error)
    return Lowered(made.value, first_error([arg.error, made.error]))


def literal(value: Any, type_: DataType) -> pl.Expr:
    """The literal as a Polars expression of exactly that type; an interval has none, only its
    operator reads it."""
    if type_ == INTERVAL:
        return pl.lit(None)
    dtype = type_.to_polars()
    if value is None:
        return pl.lit(None, dtype=dtype)
    match type_.name:
        case "timestamp":
            return pl.lit(_ticks(value, type_.unit or "us"), dtype=pl.Int64).cast(dtype)
        case "duration":
            assert isinstance(value, timedelta)
            up, down = _PER_MICROSECOND[type_.unit or "us"]
            return pl.lit(value // _MICROSECOND * up // down, dtype=pl.Int64).cast(dtype)
        case "decimal":
            return pl.lit(Decimal(value), dtype=dtype)
        case "list" | "struct":
            return pl.lit(pl.Series([value], dtype=dtype)).first()
    if isinstance(value, bool | int | float | str | bytes | date | time):
        return pl.lit(value, dtype=dtype)
    raise InternalError(f"no literal of type {type_} for a {type(value).__name__}")


def _ticks(value: Any, unit: str) -> int:
    if isinstance(value, datetime):
        moment = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    else:
        moment = datetime.combine(value, time())
    up, down = _PER_MICROSECOND[unit]
    return (moment - _EPOCH) // _MICROSECOND * up // down
