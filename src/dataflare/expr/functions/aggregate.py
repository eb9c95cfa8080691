"""The rows of the aggregate functions, with their types. Their states are in `aggregates`."""

from __future__ import annotations

from dataflare.expr.check import Call
from dataflare.expr.conversions import convert
from dataflare.expr.registry import Example, Resolver, register
from dataflare.expr.tree import STAR, Node
from dataflare.model import types as t
from dataflare.model.types import DataType


def _typed(
    call: Call, result: DataType, argument_type: DataType | None = None, *options: object
) -> Node:
    arg = call.args[0]
    return call.node(
        result, [arg if argument_type is None else convert(arg, argument_type)], options
    )


def _number(call: Call) -> DataType:
    call.arity(1, 1)
    type_ = call.args[0].type
    if type_.name == "null":
        return t.INT64
    if not (type_.is_numeric or type_.name == "bool"):
        raise call.fail(f"{call.function.name}() expects number, not {type_}", arg=0)
    return t.INT32 if type_.name == "bool" else type_


def _count(call: Call) -> Node:
    if not call.args or call.ast.args[0].op == STAR:
        return call.node(t.INT64, [], ())
    call.arity(1, 1)
    return _typed(call, t.INT64)


def _count_if(call: Call) -> Node:
    """A sum of ones and zeros, as in DuckDB: NULL if the condition is NULL in all rows."""
    call.arity(1, 1)
    if call.args[0].type.name not in ("bool", "null"):
        raise call.fail(f"count_if() expects a condition, not {call.args[0].type}", arg=0)
    condition = convert(call.args[0], t.BOOL)
    return Node("sum", t.INT64, (Node("cast", t.INT32, (condition,), False),), ())


def _sum(call: Call) -> Node:
    type_ = _number(call)
    result = (
        t.FLOAT64
        if type_.is_float
        else (t.decimal(38, type_.scale or 0) if type_.name == "decimal" else t.INT64)
    )
    return _typed(call, result, type_)


def _avg(call: Call) -> Node:
    return _typed(call, t.FLOAT64, _number(call))


def _same(call: Call) -> Node:
    call.arity(1, 1)
    type_ = call.args[0].type
    if call.function.name in ("min", "max") and type_.name in ("list", "struct"):
        raise call.fail(f"{call.function.name}() cannot order {type_}", arg=0)
    return _typed(call, type_)


def _floats(call: Call) -> Node:
    _number(call)
    return _typed(call, t.FLOAT64, t.FLOAT64)


def _fraction(call: Call) -> float:
    value = call.const(1, "the fraction")
    try:
        fraction = float(value)
    except (TypeError, ValueError):
        fraction = -1.0
    if not 0 <= fraction <= 1:
        raise call.fail(f"the fraction of {call.function.name}() is between 0 and 1", arg=1)
    return fraction


def _arg_best(call: Call) -> Node:
    call.arity(2, 2)
    if call.args[1].type.name in ("list", "struct"):
        raise call.fail(f"{call.function.name}() cannot order {call.args[1].type}", arg=1)
    return call.node(call.args[0].type, call.args, ())


def _median(call: Call) -> Node:
    _number(call)
    return _typed(call, t.FLOAT64, t.FLOAT64, 0.5)


def _quantile_cont(call: Call) -> Node:
    call.arity(2, 2)
    fraction = _fraction(call)
    call.args = call.args[:1]
    _number(call)
    return _typed(call, t.FLOAT64, t.FLOAT64, fraction)


def _quantile(call: Call) -> Node:
    call.arity(2, 2)
    return _typed(call, call.args[0].type, None, _fraction(call))


def _truth(call: Call) -> Node:
    call.arity(1, 1)
    if call.args[0].type.name not in ("bool", "null"):
        raise call.fail(
            f"{call.function.name}() expects a condition, not {call.args[0].type}", arg=0
        )
    return _typed(call, t.BOOL, t.BOOL)


def _string_agg(call: Call) -> Node:
    call.arity(1, 2)
    if not (call.args[0].type.is_text or call.args[0].type.name == "null"):
        raise call.fail(f"string_agg() expects string, not {call.args[0].type}", arg=0)
    separator = call.const(1, "the separator") if len(call.args) == 2 else ","
    return _typed(call, t.STRING, t.STRING, separator if separator is not None else "")


def _approx_quantile(call: Call) -> Node:
    call.arity(2, 2)
    fraction = _fraction(call)
    call.args = call.args[:1]
    _number(call)
    return _typed(call, t.FLOAT64, t.FLOAT64, fraction)


def _distinct_values(call: Call) -> Node:
    call.arity(1, 1)
    return call.node(t.INT64, call.args, ())


def _top(call: Call) -> Node:
    call.arity(2, 3)
    last = len(call.args) - 1
    count = call.const(last, "the number of values")
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 10_000:
        raise call.fail("top() keeps 1 to 10000 values", arg=last)
    if call.args[last - 1].type.name in ("list", "struct"):
        raise call.fail(f"top() cannot order {call.args[last - 1].type}", arg=last - 1)
    return call.node(t.list_of(call.args[0].type), call.args[:last], (count,))


def _list(call: Call) -> Node:
    call.arity(1, 1)
    return _typed(call, t.list_of(call.args[0].type))


def _add(
    name: str,
    signature: str,
    summary: str,
    resolve: Resolver,
    *examples: Example,
    aliases: tuple[str, ...] = (),
) -> None:
    register(
        name, signature, summary, *examples, group="aggregate", resolve=resolve, aliases=aliases
    )


_add(
    "count",
    "count(*) -> int64\ncount([DISTINCT] x: any) -> int64",
    "The number of rows, of values that are not NULL, or of distinct values.",
    _count,
)
_add(
    "count_if",
    "count_if(condition: bool) -> int64",
    "The number of rows for which it is true; NULL if it is NULL for all.",
    _count_if,
    aliases=("countif",),
)
_add(
    "sum",
    "sum([DISTINCT] x: number) -> int64 | float64 | decimal",
    "The sum, or the sum of distinct values; NULL if there are no rows. Overflow is an error.",
    _sum,
)
_add(
    "avg",
    "avg([DISTINCT] x: number) -> float64",
    "The mean, or the mean of distinct values; NULL if there are no rows.",
    _avg,
    aliases=("mean",),
)
_add(
    "mode", "mode(x: T) -> T", "The most frequent value; of several the one that came first.", _same
)
_add("min", "min(x: T) -> T", "The least.", _same)
_add("max", "max(x: T) -> T", "The greatest; NaN is the greatest float.", _same)
_add(
    "first",
    "first(x: T) -> T",
    "The value of the row that came first; in a window, of the row with the earliest event time.",
    _same,
)
_add(
    "last",
    "last(x: T) -> T",
    "The value of the row that came last; in a window, of the row with the latest event time.",
    _same,
)
_add(
    "any_value",
    "any_value(x: T) -> T",
    "A value that is not NULL.",
    _same,
    aliases=("arbitrary", "any"),
)
_add(
    "arg_max",
    "arg_max(x: T, by: any) -> T",
    "The value of the row where `by` is greatest.",
    _arg_best,
    aliases=("max_by", "argmax"),
)
_add(
    "arg_min",
    "arg_min(x: T, by: any) -> T",
    "The value of the row where `by` is least.",
    _arg_best,
    aliases=("min_by", "argmin"),
)
_add(
    "stddev_samp",
    "stddev_samp(x: float64) -> float64",
    "The standard deviation of a sample.",
    _floats,
    aliases=("stddev",),
)
_add(
    "stddev_pop",
    "stddev_pop(x: float64) -> float64",
    "The standard deviation of a population.",
    _floats,
)
_add(
    "var_samp",
    "var_samp(x: float64) -> float64",
    "The variance of a sample.",
    _floats,
    aliases=("variance", "var"),
)
_add("var_pop", "var_pop(x: float64) -> float64", "The variance of a population.", _floats)
_add(
    "median",
    "median(x: float64) -> float64",
    "The middle value, or the mean of the two in the middle.",
    _median,
)
_add(
    "quantile",
    "quantile(x: T, fraction: const float64) -> T",
    "The value below which that fraction of the values lies.",
    _quantile,
    aliases=("quantile_disc",),
)
_add(
    "quantile_cont",
    "quantile_cont(x: float64, fraction: const float64) -> float64",
    "The same, interpolated between values.",
    _quantile_cont,
)
_add(
    "approx_quantile",
    "approx_quantile(x: float64, fraction: const float64) -> float64",
    "The quantile, up to 1 % of the value. A group takes some kilobytes, however many values it has.",
    _approx_quantile,
)
_add(
    "count_distinct",
    "count_distinct(x: any) -> int64",
    "The number of distinct values that are not NULL, as count(DISTINCT x).",
    _distinct_values,
)
_add(
    "approx_count_distinct",
    "approx_count_distinct(x: any) -> int64",
    "About as many distinct values: the standard error is 1.6 %. A group takes at most 16 KiB.",
    _distinct_values,
)
_add(
    "top",
    "top(x: T, count: const int64) -> list<T>\ntop(x: T, by: any, count: const int64) -> list<T>",
    "The greatest values, or those of the rows where `by` is greatest, the greatest first.",
    _top,
)
_add("bool_and", "bool_and(x: bool) -> bool", "Whether all are true.", _truth)
_add("bool_or", "bool_or(x: bool) -> bool", "Whether one is true.", _truth)
_add(
    "string_agg",
    "string_agg([DISTINCT] text: string, [separator: const string] [ORDER BY ...]) -> string",
    "The texts joined, in the order of the rows or of ORDER BY.",
    _string_agg,
    aliases=("group_concat", "listagg"),
)
_add(
    "list",
    "list([DISTINCT] x: T [ORDER BY ...]) -> list<T>",
    "The values as a list, with NULLs, in the order of the rows or of ORDER BY; distinct values are sorted.",
    _list,
    aliases=("array_agg",),
)
