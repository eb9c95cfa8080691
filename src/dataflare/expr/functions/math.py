"""Numbers: rounding, powers, logarithms, angles."""

from __future__ import annotations

from typing import Any

import polars as pl

from dataflare.expr import rowerrors
from dataflare.expr.casts import as_scaled, physical_of, rescaled
from dataflare.expr.check import Call
from dataflare.expr.conversions import convert, meeting_type
from dataflare.expr.division import divide
from dataflare.expr.lowered import Lowered, fail_where
from dataflare.expr.registry import Example, register
from dataflare.expr.sqltypes import RANGES, as_decimal
from dataflare.expr.tree import Node
from dataflare.model import types as t


def _float(
    name: str, make: Any, summary: str, *examples: Example, aliases: tuple[str, ...] = ()
) -> None:
    register(name, f"{name}(x: float64) -> float64", summary, *examples, group="math",
             lower=lambda node, x: make(x), aliases=aliases)  # fmt: skip


def _domain(make: Any, outside: Any) -> Any:
    """A function for which arguments outside of its domain are errors, as in DuckDB."""
    return lambda node, *args: Lowered(make(*args), fail_where(outside(*args), rowerrors.DOMAIN))


def _abs(node: Node, x: pl.Expr) -> Lowered | pl.Expr:
    if node.type.name.startswith("int"):
        return Lowered(x.abs(), fail_where(x == RANGES[node.type.name][0], rowerrors.OVERFLOW))
    return x.abs()


def _whole(call: Call) -> Node:
    """ceil, floor, trunc, round(x). The result is float64 for integers (round: the integer), and a decimal
    without places for decimals."""
    call.arity(1, 2 if call.function.name in ("round", "trunc") else 1)
    if call.function.name == "round" and call.args[0].type.name.startswith("uint"):
        wide = t.decimal(20, 0) if call.args[0].type.name == "uint64" else t.INT64
        call.args[0] = convert(call.args[0], wide)
    type_ = call.args[0].type
    if not (type_.is_numeric or type_.name == "null"):
        raise call.fail(f"{call.function.name}() expects number, not {type_}", arg=0,
                        notes=[call.function.signature])  # fmt: skip
    digits = 0
    if len(call.args) == 2:
        digits = call.const(1, "the number of digits")
        if digits is None:
            return Node("literal", type_)
        if not isinstance(digits, int):
            raise call.fail("the number of digits is an integer", arg=1)
    result = type_
    if type_.name == "decimal":
        precision, scale = as_decimal(type_)
        result_scale = max(0, min(digits, scale))
        result = t.decimal(precision, result_scale)
    elif type_.is_integer and call.function.name in ("ceil", "floor"):
        return call.node(t.FLOAT64, [convert(call.args[0], t.FLOAT64)], 0)
    elif type_.name == "null":
        return Node("literal", t.FLOAT64)
    return call.node(result, call.args[:1], digits)


def _round(node: Node, x: pl.Expr) -> Lowered | pl.Expr:
    digits = int(node.value)
    type_ = node.args[0].type
    if type_.is_float:
        if digits >= 0:
            return x.round(min(digits, 300), mode="half_away_from_zero")
        step = 10.0 ** min(-digits, 300)
        return (x / step).round(0, mode="half_away_from_zero") * step
    if type_.name == "decimal":
        precision, scale = as_decimal(node.type)
        from_scale = type_.scale or 0
        if digits >= 0:
            return _fitted(node, rescaled(x, from_scale, scale))
        unit_digits = from_scale - digits
        if unit_digits > 37:
            return as_scaled(physical_of(x, type_) * 0, precision, scale)
        return _fitted(node, rescaled(x, unit_digits, 0) * pl.lit(10**-digits, dtype=pl.Int128))
    if digits >= 0:
        return x
    if -digits > 18:
        return x * 0
    unit = pl.lit(10**-digits, dtype=pl.Int128)
    half = 10**-digits // 2
    up, down = (
        pl.lit(each, dtype=pl.Int128) for each in (half, -half)
    )  # Polars negates no Int128.
    wide = x.cast(pl.Int128)
    rounded = ((wide + pl.when(wide < 0).then(down).otherwise(up)).truncdiv(unit) * unit).cast(
        node.type.to_polars(), strict=False
    )
    return Lowered(rounded, fail_where(rounded.is_null() & x.is_not_null(), rowerrors.OVERFLOW))


def _fitted(node: Node, digits: pl.Expr) -> Lowered | pl.Expr:
    precision, scale = as_decimal(node.type)
    given, given_scale = as_decimal(node.args[0].type)
    if given - given_scale + scale < precision:
        return as_scaled(digits, precision, scale)
    fits = digits.abs() < pl.lit(10**precision, dtype=pl.Int128)
    return Lowered(
        as_scaled(pl.when(fits).then(digits), precision, scale),
        fail_where(~fits, rowerrors.OVERFLOW),
    )


def _toward(kind: str) -> Any:
    def lower(node: Node, x: pl.Expr) -> Lowered | pl.Expr:
        type_ = node.args[0].type
        if type_.is_float:
            return (
                {"ceil": x.ceil, "floor": x.floor}[kind]()
                if kind != "trunc"
                else _trunc_float(node, x)
            )
        if type_.name != "decimal":
            return x if int(node.value) >= 0 else _trunc_int(node, x)
        _, scale = as_decimal(type_)
        result_scale = node.type.scale or 0
        drop = scale - result_scale
        if int(node.value) < 0:
            drop = scale - int(node.value)
        unit = pl.lit(10 ** min(drop, 38), dtype=pl.Int128)
        digits = x.to_physical()
        quotient = digits.truncdiv(unit)
        remainder = digits - quotient * unit
        if kind == "ceil":
            quotient = quotient + (remainder > 0).cast(pl.Int128)
        elif kind == "floor":
            quotient = quotient - (remainder < 0).cast(pl.Int128)
        if int(node.value) < 0:
            quotient = quotient * pl.lit(10 ** min(-int(node.value), 38), dtype=pl.Int128)
        return _fitted(node, quotient)

    return lower


def _trunc_float(node: Node, x: pl.Expr) -> pl.Expr:
    unit = 10.0 ** max(-300, min(300, int(node.value)))
    scaled = x if node.value == 0 else x * unit
    cut = pl.when(scaled < 0).then(scaled.ceil()).otherwise(scaled.floor())
    return (cut if node.value == 0 else divide(cut, pl.lit(unit))).cast(node.type.to_polars())


def _trunc_int(node: Node, x: pl.Expr) -> pl.Expr:
    if -int(node.value) > 18:
        return x * 0
    unit = pl.lit(10 ** -int(node.value), dtype=pl.Int128)
    return (x.cast(pl.Int128).truncdiv(unit) * unit).cast(node.type.to_polars(), strict=False)


def _extreme(call: Call) -> Node:
    call.arity(1)
    type_ = meeting_type(call.args)
    if type_ is None or type_.name in ("struct", "list"):
        raise call.fail(f"the arguments of {call.function.name}() do not fit together: "
                        + ", ".join(str(arg.type) for arg in call.args))  # fmt: skip
    return call.node(type_, [convert(arg, type_) for arg in call.args])


def _greatest(largest: bool) -> Any:
    """NaN is the greatest float."""
    across = pl.max_horizontal if largest else pl.min_horizontal

    def lower(node: Node, *args: pl.Expr) -> pl.Expr:
        if not node.type.is_float:
            return across(*args)
        best = across(*(arg.fill_nan(None) for arg in args))
        nan = pl.any_horizontal(*(arg.is_nan().fill_null(False) for arg in args))
        replaced = nan if largest else nan & best.is_null()
        return (
            pl.when(replaced)
            .then(pl.lit(float("nan"), dtype=node.type.to_polars()))
            .otherwise(best)
        )

    return lower


def _sign(node: Node, x: pl.Expr) -> pl.Expr:
    if node.args[0].type.name == "decimal":
        x = x.to_physical()
    above = x > 0 if not node.args[0].type.is_float else (x > 0) & x.is_not_nan()
    return above.cast(pl.Int8) - (x < 0).cast(pl.Int8)


def _power(node: Node, x: pl.Expr, y: pl.Expr) -> pl.Expr:
    """Avoids a fault of Polars: for an exponent of 0.5 it takes the square root, which is NaN for -inf."""
    root = (y == 0.5) & (x == float("-inf"))
    return pl.when(root).then(pl.lit(float("inf"))).otherwise(x.pow(y))


def _exact_log(logarithm: pl.Expr, x: pl.Expr, base: float) -> pl.Expr:
    """Polars' logarithm of 1000 is 2.9999999999999996, so whole powers are corrected."""
    whole = logarithm.round(0)
    return pl.when(pl.lit(base).pow(whole) == x).then(whole).otherwise(logarithm)


register("abs", "abs(x: number) -> number", "The value without its sign.", ("abs(-3)", 3), ("abs(-1.5)", "1.5"),
         group="math", lower=_abs)  # fmt: skip
register("ceil", "ceil(x: number) -> number", "The next whole number, upwards.", ("ceil(1.2)", "2"), ("ceil(-1.2e0)", -1.0),
         group="math", resolve=_whole, lower=_toward("ceil"), aliases=["ceiling"])  # fmt: skip
register("floor", "floor(x: number) -> number", "The next whole number, downwards.", ("floor(1.8)", "1"), ("floor(-1.2e0)", -2.0),
         group="math", resolve=_whole, lower=_toward("floor"))  # fmt: skip
register("round", "round(x: number, [digits: const int]) -> number", "Rounded; halves go away from zero.",
         ("round(2.5)", "3"), ("round(2.345, 2)", "2.35"), ("round(1250, -2)", 1300),
         group="math", resolve=_whole, lower=_round)  # fmt: skip
register("trunc", "trunc(x: number, [digits: const int]) -> number", "Cut towards zero.", ("trunc(-2.7)", "-2"),
         group="math", resolve=_whole, lower=_toward("trunc"))  # fmt: skip
register(
    "sign", "sign(x: number) -> int8", "-1, 0 or 1.", ("sign(-2.5)", -1), group="math", lower=_sign
)
register("greatest", "greatest(x: T, others: T...) -> T", "The greatest, NULLs left out.", ("greatest(1, NULL, 3)", 3),
         group="math", resolve=_extreme, lower=_greatest(True))  # fmt: skip
register("least", "least(x: T, others: T...) -> T", "The least, NULLs left out.", ("least('b', 'a')", "a"),
         group="math", resolve=_extreme, lower=_greatest(False))  # fmt: skip
_float("sqrt", lambda x: x.sqrt(), "The square root.", ("sqrt(16)", 4.0))
_float("cbrt", lambda x: x.cbrt(), "The cube root.", ("cbrt(27)", 3.0))
_float("exp", lambda x: x.exp(), "e to the power of x.", ("exp(0)", 1.0))
_float("ln", lambda x: x.log(), "The natural logarithm.", ("ln(1)", 0.0))
_float(
    "log10",
    lambda x: _exact_log(x.log10(), x, 10.0),
    "The logarithm to base 10.",
    ("log10(1000)", 3.0),
)
_float(
    "log2", lambda x: _exact_log(x.log(2.0), x, 2.0), "The logarithm to base 2.", ("log2(8)", 3.0)
)
register("log", "log(x: float64) -> float64\nlog(base: float64, x: float64) -> float64", "The logarithm, to base 10 unless given.",
         ("log(100)", 2.0), ("log(2, 8)", 3.0), group="math",
         lower=lambda node, a, b=None: _exact_log(a.log10(), a, 10.0) if b is None else b.log() / a.log())  # fmt: skip
register("power", "power(x: float64, y: float64) -> float64", "x to the power of y; also `x ** y`.", ("power(2, 10)", 1024.0), ("2 ** -1", 0.5),
         group="math", lower=_power, aliases=["pow"])  # fmt: skip
register("pi", "pi() -> float64", "3.14159...", ("round(pi(), 5)", 3.14159), group="math",
         lower=lambda node: pl.lit(3.141592653589793))  # fmt: skip
for _name, _text in (("sin", "sine"), ("cos", "cosine"), ("tan", "tangent")):
    _float(
        _name,
        (lambda name: lambda x: getattr(x, name)())(_name),
        f"The {_text} of an angle in radians.",
        (f"{_name}(0)", 1.0 if _name == "cos" else 0.0),
    )
for _name, _polars in (
    ("asin", "arcsin"),
    ("acos", "arccos"),
    ("atan", "arctan"),
    ("sinh", "sinh"),
    ("cosh", "cosh"),
    ("tanh", "tanh"),
):
    _float(
        _name,
        (lambda name: lambda x: getattr(x, name)())(_polars),
        f"The {_polars}.",
        (f"{_name}({1 if _name == 'acos' else 0})", 1.0 if _name == "cosh" else 0.0),
    )
register("atan2", "atan2(y: float64, x: float64) -> float64", "The angle of the point (x, y).", ("atan2(0, 1)", 0.0),
         group="math", lower=lambda node, y, x: pl.arctan2(y, x))  # fmt: skip
_float("degrees", lambda x: x.degrees(), "Radians as degrees.", ("degrees(pi())", 180.0))
_float("radians", lambda x: x.radians(), "Degrees as radians.", ("radians(0)", 0.0))
for _name, _method, _alias, _example in (
    ("is_nan", "is_nan", "isnan", ("is_nan(CAST('nan' AS float64))", True)),
    ("is_finite", "is_finite", "isfinite", ("is_finite(1.5e0)", True)),
    ("is_inf", "is_infinite", "isinf", ("is_inf(1 / 0)", True)),
):
    register(_name, f"{_name}(x: float64) -> bool", f"Whether the number {_name.replace('_', ' ')}.", _example, group="math",
             lower=(lambda method: lambda node, x: getattr(x, method)())(_method), aliases=[_alias])  # fmt: skip
