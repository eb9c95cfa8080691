"""Lower a `Node` to Polars in one walk. The lowering of each function is in its registry row.

Always true: the result raises for no row, and has the node's type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from dataflare.expr import aggregates, registry
from dataflare.expr.casts import lower_cast
from dataflare.expr.literals import literal
from dataflare.expr.lowered import Lowered, first_error
from dataflare.expr.stages import TREE_MAX, Stages
from dataflare.expr.tree import AGGREGATE, CAST, COLUMN, LITERAL, Node
from dataflare.model.types import DataType


def lower(node: Node) -> Lowered:
    """Value and error mask of a typed expression."""
    with Stages() as stages:
        return stages.whole(_lower(node, stages, {})[0], node.type)


def _lower(
    node: Node, stages: Stages, lowered: dict[int, tuple[Lowered, int]]
) -> tuple[Lowered, int]:
    """The lowered node, and the number of its operations since the last stage. lowered: the results by
    node, because a node may be used in several places."""
    if node.op == COLUMN:
        return Lowered(pl.col(node.value)), 1
    if node.op == LITERAL:
        return Lowered(literal(node.value, node.type)), 1
    if node.op == AGGREGATE:
        return aggregates.finish(node.value), 1
    if id(node) in lowered:
        return lowered[id(node)]
    parts = [_lower(arg, stages, lowered) for arg in node.args]
    args = [part for part, _ in parts]
    if node.op == CAST or registry.row(node.op).group != "operator":
        # It may use an argument several times: two functions of a large tree then make a very large one.
        args = [
            stages.bounded(part, TREE_MAX // 4) if 1 < size < _SMALL else part
            for part, size in parts
        ]
    operation = _cast(node, args[0]) if node.op == CAST else _called(node, args)
    if _is_foldable(node, lowered):
        lowered[id(node)] = _folded(operation, node.type), _CONSTANT
        return lowered[id(node)]
    count = sum(size for _, size in parts) + 1
    bounded = operation if count < _SMALL else stages.bounded(operation)
    lowered[id(node)] = bounded, (count if bounded is operation else 1)
    return lowered[id(node)]


def _is_foldable(node: Node, lowered: dict[int, tuple[Lowered, int]]) -> bool:
    """Whether it is an operation over constants, of a type whose literals Polars keeps as literals."""
    plain = node.type.is_numeric or node.type.name in ("bool", "string", "date")
    if not plain or not node.args or (node.op != CAST and registry.row(node.op).needs):
        return False
    return all(
        arg.op == LITERAL or (id(arg) in lowered and lowered[id(arg)][1] == _CONSTANT)
        for arg in node.args
    )


def _folded(operation: Lowered, type_: DataType) -> Lowered:
    """The value as a literal. Polars 2.1 loses the length of a comparison between a function of
    literals and a column that is NULL in all rows."""
    none = pl.lit(None, dtype=pl.UInt8)
    row = pl.select(
        value=operation.value, error=none if operation.error is None else operation.error
    ).row(0)
    value, error = row
    folded = pl.lit(value, dtype=type_.to_polars())
    return Lowered(folded, None if error is None else pl.lit(error, dtype=pl.UInt8))


_CONSTANT = 0
"""The size of a part that was folded to a literal."""
_SMALL = 4
"""Parts of fewer operations become a stage only as an argument."""


def _called(node: Node, args: list[Lowered]) -> Lowered:
    function = registry.row(node.op)
    assert function.lower is not None, node.op
    if function.lazy:
        combined: Any = function.lower(node, *args)
        assert isinstance(combined, Lowered)
        return combined
    values = [arg.value for arg in args]
    if function.group in ("string", "list") and len(values) > 1 and _is_constant(node.args[0]):
        values[0] = _as_long(values[0], node.args[1:], values[1:])
    result = function.lower(node, *values)
    own_result = result if isinstance(result, Lowered) else Lowered(result)
    return Lowered(own_result.value, first_error([*(arg.error for arg in args), own_result.error]))


def lower_constant(node: Node) -> Lowered:
    """`lower` for an expression that reads no column. The result is a scalar, which fits any frame."""
    lowered = lower(node)
    return Lowered(lowered.value.first(), None if lowered.error is None else lowered.error.first())


def _is_constant(node: Node) -> bool:
    return not any(each.op == COLUMN or each.op in ("now", "uuid") for each in node.walk())


def _as_long(value: pl.Expr, nodes: Sequence[Node], others: Sequence[pl.Expr]) -> pl.Expr:
    """A constant as a column, because some of Polars' text functions do not broadcast it."""
    for node, other in zip(nodes, others, strict=True):
        if not _is_constant(node):
            return pl.when(other.is_null().is_not_null()).then(value)
    return value


def _cast(node: Node, arg: Lowered) -> Lowered:
    cast = lower_cast(arg.value, node.args[0].type, node.type)
    if node.value is True:
        return Lowered(cast.value, arg.error)
    return Lowered(cast.value, first_error([arg.error, cast.error]))
