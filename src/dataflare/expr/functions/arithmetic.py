"""`+ - * / // %` and the minus sign, over integers, floats, decimals and times.

Always true: a result of integers has the wider type, and overflow is an error of the row; `/` gives a
float; `%` and `//` truncate towards zero.
"""

from __future__ import annotations

import polars as pl

from dataflare.expr import rowerrors
from dataflare.expr.casts import as_scaled, physical_of
from dataflare.expr.check import Call
from dataflare.expr.conversions import convert, meeting_type
from dataflare.expr.division import divide
from dataflare.expr.fmod import fmod
from dataflare.expr.functions.times import add_times, negate_time, resolve_times
from dataflare.expr.lowered import Lowered, fail_where
from dataflare.expr.registry import register
from dataflare.expr.sql import operator
from dataflare.expr.sqltypes import RANGES, as_decimal
from dataflare.expr.tree import Node
from dataflare.model import types as t
from dataflare.model.types import DataType


def _resolve(call: Call) -> Node:
    call.arity(2, 2)
    time_node = resolve_times(call)
    if time_node is not None:
        return time_node
    for place, arg in enumerate(call.args):
        if not (arg.type.is_numeric or arg.type.name == "null"):
            other = call.args[1 - place].type
            raise call.fail(
                f"cannot apply '{call.function.name}' to {call.args[0].type} and {call.args[1].type}",
                arg=place,
                help=_help(call, place, other),
            )
    type_ = meeting_type(call.args) or t.FLOAT64
    name = call.function.name
    if type_.name == "null":
        return Node("literal", t.FLOAT64 if name in ("/", "//") else t.INT64)
    whole = name == "//" and all(arg.type.is_integer for arg in call.args)
    if whole and type_.name == "decimal":  # int64 and uint64 meet there
        return call.node(type_, [convert(arg, type_) for arg in call.args])
    if name in ("/", "//") and not (name == "//" and type_.is_integer):
        type_ = t.FLOAT32 if type_.name == "float32" else t.FLOAT64
    elif type_.name == "decimal":
        return _decimals(call)
    return call.node(type_, [convert(arg, type_) for arg in call.args])


def _help(call: Call, place: int, other: DataType) -> str | None:
    from dataflare.expr.check import shown_text

    if call.function.name == "+" and call.args[place].type.is_text:
        return "texts are joined with ||, and read as numbers with CAST(... AS float64)"
    if call.args[place].type.is_text and other.is_numeric:
        start, end = call.ast.args[place].span
        return f"write CAST({shown_text(call.checker.source, start, end)} AS {other})"
    return None


def _decimals(call: Call) -> Node:
    """Digits and scale of the result as in DuckDB. The operands are brought to that scale first."""
    (p1, s1), (p2, s2) = (
        as_decimal(arg.type if arg.type.name != "null" else t.INT32) for arg in call.args
    )
    if call.function.name == "*":
        if s1 + s2 > 38:
            raise call.fail(f"the product has {s1 + s2} decimal places, 38 are possible",
                            help="CAST one side to float64 or to fewer places")  # fmt: skip
        type_ = t.decimal(_digits_kept(p1 + p2, p1, p2, s1 + s2), s1 + s2)
        args = [
            arg if arg.type.name == "decimal" else convert(arg, t.decimal(digits, 0))
            for arg, digits in zip(call.args, (p1, p2), strict=True)
        ]
        return call.node(type_, args)
    scale = max(s1, s2)
    whole = max(p1 - s1, p2 - s2) + (0 if call.function.name == "%" else 1)
    type_ = t.decimal(min(38, whole + scale), scale)
    return call.node(type_, [convert(arg, type_) for arg in call.args])


def _digits_kept(digits: int, one: int, two: int, scale: int) -> int:
    """DuckDB computes products of 64-bit decimals in 64 bits (18 digits) if the scale allows it."""
    if digits > 18 and max(one, two) <= 18 and scale < 18:
        return 18
    return min(38, digits)


def _add(node: Node, a: pl.Expr, b: pl.Expr) -> Lowered | pl.Expr:
    if node.type.is_float:
        return a + b
    if node.type.name == "decimal":
        return _bounded(node, _digits(node, 0, a) + _digits(node, 1, b))
    if node.type.is_temporal:
        return add_times(node, a, b, 1)
    result = a + b
    if node.type.name.startswith("uint"):
        return Lowered(result, fail_where(result < a, rowerrors.OVERFLOW))
    return Lowered(result, fail_where(_wrapped(node, a, b, result), rowerrors.OVERFLOW))


def _wrapped(node: Node, a: pl.Expr, b: pl.Expr, result: pl.Expr) -> pl.Expr:
    """Whether a signed sum overflowed: its sign differs from that of both operands."""
    for arg, other in zip(node.args, (b, a), strict=True):
        if arg.is_literal and isinstance(arg.value, int):
            return result < other if arg.value >= 0 else result > other
    return ((a ^ result) & (b ^ result)) < 0


def _subtract(node: Node, a: pl.Expr, b: pl.Expr) -> Lowered | pl.Expr:
    if node.type.is_float:
        return a - b
    if node.type.name == "decimal":
        return _bounded(node, _digits(node, 0, a) - _digits(node, 1, b))
    if node.type.is_temporal or node.args[0].type.is_temporal:
        return add_times(node, a, b, -1)
    result = a - b
    if node.type.name.startswith("uint"):
        return Lowered(result, fail_where(a < b, rowerrors.OVERFLOW))
    right = node.args[1]
    if right.is_literal and isinstance(right.value, int):
        return Lowered(
            result, fail_where(result > a if right.value >= 0 else result < a, rowerrors.OVERFLOW)
        )
    return Lowered(result, fail_where(((a ^ b) & (a ^ result)) < 0, rowerrors.OVERFLOW))


def _multiply(node: Node, a: pl.Expr, b: pl.Expr) -> Lowered | pl.Expr:
    if node.type.is_float:
        return a * b
    if node.type.name == "duration":
        return Lowered(
            (a.cast(pl.Int64) * b.cast(pl.Int64)).cast(node.type.to_polars()),
            _far(a.cast(pl.Int64), b),
        )
    if node.type.name == "decimal":
        product = _digits(node, 0, a) * _digits(node, 1, b)
        precision, scale = as_decimal(node.type)
        if sum(as_decimal(arg.type)[0] for arg in node.args) <= precision:
            return as_scaled(product, precision, scale)
        near = (_digits(node, 0, a).cast(pl.Float64) * _digits(node, 1, b).cast(pl.Float64)).abs()
        fits = (near < 1.5e38) & (product.abs() < pl.lit(10**precision, dtype=pl.Int128))
        return Lowered(
            as_scaled(pl.when(fits).then(product), precision, scale),
            fail_where(~fits, rowerrors.OVERFLOW),
        )
    if node.type.name in ("int64", "uint64"):
        return Lowered(a * b, _far(a, b))
    low, high = RANGES[node.type.name]
    wide = a.cast(pl.Int64) * b.cast(pl.Int64)
    return Lowered(
        wide.cast(node.type.to_polars(), strict=False),
        fail_where(~wide.is_between(low, high), rowerrors.OVERFLOW),
    )


def _far(a: pl.Expr, b: pl.Expr) -> pl.Expr:
    """Whether a 64-bit product overflowed. It then differs from the product of the floats by at least
    2**64, and that product's relative error is below 2**-51. So any bound between them works."""
    apart = a.cast(pl.Float64) * b.cast(pl.Float64) - (a * b).cast(pl.Float64)
    return fail_where(apart.abs() > 2.0**60, rowerrors.OVERFLOW)


def _divide(node: Node, a: pl.Expr, b: pl.Expr) -> pl.Expr:
    return divide(a, b, node.type.to_polars())


def _divide_whole(node: Node, a: pl.Expr, b: pl.Expr) -> Lowered:
    zero = fail_where((b == 0) & a.is_not_null(), rowerrors.DIVISION_BY_ZERO)
    if node.type.is_float:
        return Lowered(divide(a, b, node.type.to_polars()), _unless_literal(node, zero))
    if node.type.name == "decimal":
        x, y = _digits(node, 0, a), _digits(node, 1, b)
        zero = fail_where((y == 0) & a.is_not_null(), rowerrors.DIVISION_BY_ZERO)
        return Lowered(as_scaled(x.truncdiv(y), *as_decimal(node.type)), zero)
    result = a.truncdiv(b)
    if node.type.name.startswith("uint"):
        return Lowered(result, _unless_literal(node, zero))
    right = node.args[1]
    if right.is_literal and right.value not in (0, -1, None):
        return Lowered(result)
    low = RANGES[node.type.name][0]
    wrapped = fail_where((b == -1) & (a == low), rowerrors.OVERFLOW)
    return Lowered(result, pl.coalesce(zero, wrapped))


def _unless_literal(node: Node, mask: pl.Expr) -> pl.Expr | None:
    right = node.args[1]
    return None if right.is_literal and right.value not in (0, None) else mask


def _remainder(node: Node, a: pl.Expr, b: pl.Expr) -> Lowered | pl.Expr:
    if node.type.is_float:
        return fmod(a, b).cast(node.type.to_polars())
    zero = fail_where((b == 0) & a.is_not_null(), rowerrors.DIVISION_BY_ZERO)
    if node.type.name == "decimal":
        x, y = _digits(node, 0, a), _digits(node, 1, b)
        precision, scale = as_decimal(node.type)
        zero = fail_where((y == 0) & a.is_not_null(), rowerrors.DIVISION_BY_ZERO)
        remainder = x - y * x.truncdiv(y)
        return Lowered(as_scaled(remainder, precision, scale), _unless_literal(node, zero))
    return Lowered(a - b * a.truncdiv(b), _unless_literal(node, zero))


def _digits(node: Node, place: int, value: pl.Expr) -> pl.Expr:
    return physical_of(value, node.args[place].type)


def _bounded(node: Node, digits: pl.Expr) -> Lowered | pl.Expr:
    """A sum's digits as a decimal. Only with 38 digits can it be too large."""
    precision, scale = as_decimal(node.type)
    if precision < 38:
        return as_scaled(digits, precision, scale)
    fits = digits.abs() < pl.lit(10**precision, dtype=pl.Int128)
    return Lowered(
        as_scaled(pl.when(fits).then(digits), precision, scale),
        fail_where(~fits, rowerrors.OVERFLOW),
    )


def _resolve_negate(call: Call) -> Node:
    type_ = call.args[0].type
    if not (type_.is_numeric or type_.name in ("null", "duration")):
        raise call.fail(f"cannot negate {type_}", arg=0)
    return call.node(type_, call.args)


def _negate(node: Node, a: pl.Expr) -> Lowered | pl.Expr:
    if node.type.name == "duration":
        return negate_time(node, a)
    if not node.type.is_integer:
        return -a
    if node.type.name.startswith("uint"):
        return Lowered(
            (pl.lit(0, dtype=node.type.to_polars()) - a), fail_where(a > 0, rowerrors.OVERFLOW)
        )
    return Lowered(-a, fail_where(a == RANGES[node.type.name][0], rowerrors.OVERFLOW))


_SQL = dict.fromkeys(("duckdb", "sqlite", "postgres"), operator)

register("+", "x + y", "The sum; a date or timestamp moved by an interval.", ("1 + 2", 3), ("1.5 + 1", "2.5"),
         group="operator", resolve=_resolve, lower=_add, sql=_SQL)  # fmt: skip
register("-", "x - y", "The difference; the days between dates, the duration between timestamps.", ("5 - 7", -2),
         group="operator", resolve=_resolve, lower=_subtract, sql=_SQL)  # fmt: skip
register("*", "x * y", "The product.", ("6 * 7", 42), ("1.50 * 1.5", "2.250"),
         group="operator", resolve=_resolve, lower=_multiply, aliases=["multiply"], sql=_SQL)  # fmt: skip
register("/", "x / y", "The quotient, always a float; x / 0 is inf, as in DuckDB.", ("7 / 2", 3.5),
         group="operator", resolve=_resolve, lower=_divide, aliases=["divide"], sql={"duckdb": operator})  # fmt: skip
register("//", "x // y", "The whole part of the quotient, towards zero.", ("-7 // 2", -3),
         group="operator", resolve=_resolve, lower=_divide_whole, sql={"duckdb": operator})  # fmt: skip
register("%", "x % y", "The remainder, with the sign of x.", ("-7 % 3", -1),
         group="operator", resolve=_resolve, lower=_remainder, aliases=["mod"], sql={"duckdb": operator})  # fmt: skip
register("negate", "-x", "The negative.", ("-(2 + 3)", -5),
         group="operator", resolve=_resolve_negate, lower=_negate)  # fmt: skip
