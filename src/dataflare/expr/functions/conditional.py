"""CASE, COALESCE and similar functions. A branch that is not evaluated cannot fail."""

from __future__ import annotations

import polars as pl

from dataflare.expr.casts import lower_cast
from dataflare.expr.check import Call
from dataflare.expr.conversions import convert, meeting_type
from dataflare.expr.functions.logic import compared, unorderable
from dataflare.expr.lowered import Lowered, first_error, only_where
from dataflare.expr.registry import register
from dataflare.expr.stages import bounded
from dataflare.expr.tree import Node
from dataflare.model import types as t

_NESTED = 16
"""After this many nested branches their size is checked."""


def _resolve_case(call: Call) -> Node:
    """Arguments: condition, value, condition, value, ... and the default, if any."""
    args = list(call.args)
    if len(args) % 2 == 0:
        args.append(Node("literal", t.NULL))
    conditions, values = args[:-1:2], [*args[1::2], args[-1]]
    for place, condition in enumerate(conditions):
        if condition.type.name not in ("bool", "null"):
            raise call.fail(f"WHEN expects a condition, this is {condition.type}", arg=2 * place)
    type_ = meeting_type(values)
    if type_ is None:
        raise _apart(call, values, [*range(1, len(call.args), 2), len(call.args) - 1])
    nodes: list[Node] = []
    for condition, value in zip(conditions, values, strict=False):
        nodes += [convert(condition, t.BOOL), convert(value, type_)]
    return call.node(type_, [*nodes, convert(values[-1], type_)])


def _apart(call: Call, values: list[Node], places: list[int]) -> Exception:
    for place, value in zip(places[1:], values[1:], strict=False):
        if meeting_type([values[0], value]) is None:
            return call.fail(
                f"the results do not fit together: {values[0].type} and {value.type}", arg=place,
                help="write CAST(... AS ...) around one of them",
            )  # fmt: skip
    return call.fail("the results do not fit together")


def _case(node: Node, *args: Lowered) -> Lowered:
    default = args[-1]
    value, error = default.value, default.error
    branches = list(zip(args[:-1:2], args[1::2], strict=True))
    for count, (condition, result) in enumerate(reversed(branches), 1):
        value = pl.when(condition.value).then(result.value).otherwise(value)
        if error is not None or result.error is not None:
            none = pl.lit(None, dtype=pl.UInt8)
            branch_error = none if result.error is None else result.error
            error = (
                pl.when(condition.value)
                .then(branch_error)
                .otherwise(none if error is None else error)
            )
        error = first_error([condition.error, error])
        if count % _NESTED == 0:
            value, error = (part := bounded(Lowered(value, error))).value, part.error
    return Lowered(value, error)


def _resolve_if(call: Call) -> Node:
    call.arity(3, 3)
    return Node("case", (node := _resolve_case(call)).type, node.args)


def _coalesce(node: Node, *args: Lowered) -> Lowered:
    error = None
    if any(arg.error is not None for arg in args):
        for count, arg in enumerate(reversed(args), 1):
            late = only_where(arg.value.is_null(), error)
            error = first_error([arg.error, late])
            if count % _NESTED == 0 and error is not None:
                error = bounded(Lowered(error)).value
    return Lowered(pl.coalesce([arg.value for arg in args]), error)


def _resolve_nullif(call: Call) -> Node:
    call.arity(2, 2)
    both = meeting_type(call.args)
    if both is None:
        raise unorderable(call, 0, 1)
    first = call.args[0]
    result_type = both if first.type.name == "null" else first.type
    return call.node(result_type, [convert(first, result_type), convert(call.args[1], both)])


def _nullif(node: Node, first_value: pl.Expr, right: pl.Expr) -> Lowered:
    """Both are compared in their common type. The result has the type of the first."""
    left = lower_cast(first_value, node.type, node.args[1].type)
    first, second = node.args
    equal = compared("=", first, second, left.value, right).fill_null(False)
    none = pl.lit(None, dtype=node.type.to_polars())
    return Lowered(pl.when(equal).then(none).otherwise(first_value), left.error)


register("case", "CASE WHEN condition THEN x [ELSE y] END", "The first value whose condition is true.",
         ("CASE WHEN 1 > 2 THEN 'a' ELSE 'b' END", "b"), ("CASE 3 WHEN 3 THEN 'three' END", "three"),
         group="conditional", resolve=_resolve_case, lower=_case, lazy=True)  # fmt: skip
register("if", "if(condition: bool, then: T, otherwise: T) -> T", "One or the other.", ("if(1 < 2, 'yes', 'no')", "yes"),
         group="conditional", resolve=_resolve_if, aliases=["iif"])  # fmt: skip
register("coalesce", "coalesce(x: T, others: T...) -> T", "The first that is not NULL.", ("coalesce(NULL, 2, 3)", 2),
         group="conditional", lower=_coalesce, lazy=True, aliases=["ifnull"])  # fmt: skip
register("nullif", "nullif(x: T, y: T) -> T", "NULL if both are equal, else the first.", ("nullif(3, 3)", None), ("nullif(3, 4)", 3),
         group="conditional", resolve=_resolve_nullif, lower=_nullif)  # fmt: skip
