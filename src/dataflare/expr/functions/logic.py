"""Comparison, AND OR NOT, IS, IN, BETWEEN, LIKE: with three-valued logic, and lazy as in SQL."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from dataflare.errors import ExpressionError
from dataflare.expr import problems, sql
from dataflare.expr.check import Call, shown_text
from dataflare.expr.conversions import convert, is_text_literal, meeting_type
from dataflare.expr.literals import literals
from dataflare.expr.lowered import Lowered, first_error, only_where
from dataflare.expr.registry import register
from dataflare.expr.tree import AGGREGATE, COLUMN, Node
from dataflare.model import types as t


def unorderable(call: Call, left: int, right: int) -> ExpressionError:
    """The error for two arguments that cannot be compared, with a help."""
    one, two = call.args[left].type, call.args[right].type
    for place in (left, right):
        arg, other = call.args[place], call.args[left if place == right else right]
        if is_text_literal(arg) and other.type.is_temporal:
            return call.fail(
                f"{arg.shown or repr(arg.value)} is not a {other.type}",
                arg=place,
                code=problems.BAD_LITERAL,
                help="write it as '2024-12-31', '2024-12-31 23:59:59' or, with a zone, '2024-12-31T23:59:59Z'",
            )
    help = None
    if "timestamp" in (one.name, two.name) and one.is_temporal and two.is_temporal:
        naive = left if one.timezone is None else right
        zone = (one.timezone or two.timezone) or "UTC"
        naive_text = _written(call, naive)
        help = f"say which zone the naive one is in: {naive_text} AT TIME ZONE '{zone}'"
    elif one.is_text or two.is_text:
        text = left if one.is_text else right
        other_type = two if text == left else one
        number = call.args[left if text == right else right]
        arg = call.args[text]
        if is_text_literal(arg) and arg.shown is None and re.fullmatch(r"-?\d+(\.\d+)?", arg.value):
            help = f"write {arg.value} without quotes"
        elif number.is_literal and number.shown is None and number.type.is_numeric:
            help = f"write '{number.value}', or CAST({_written(call, text)} AS {other_type})"
        else:
            help = f"write CAST({_written(call, text)} AS {other_type})"
    return call.fail(f"cannot compare {one} with {two}", help=help)


def _written(call: Call, place: int) -> str:
    start, end = call.ast.args[place].span
    return shown_text(call.checker.source, start, end)


def _resolve_comparison(call: Call) -> Node:
    call.arity(2, 2)
    both = meeting_type(call.args)
    if both is None:
        raise unorderable(call, 0, 1)
    equality = call.function.name in ("=", "<>", "is_distinct", "is_not_distinct")
    if both.name == "struct" or (both.name == "list" and not equality):
        raise call.fail(f"cannot compare {both}")
    if call.function.name not in ("=", "<>") and both.name == "json":
        both = t.STRING
    return call.node(t.BOOL, [convert(arg, both) for arg in call.args])


def _resolve_logic(call: Call) -> Node:
    for place, arg in enumerate(call.args):
        if arg.type.name not in ("bool", "null"):
            raise call.fail(
                f"{call.function.name.upper()} expects conditions, this is {arg.type}",
                arg=place,
                help=f"write {_written(call, place)} <> 0" if arg.type.is_numeric else None,
            )
    return call.node(t.BOOL, [convert(arg, t.BOOL) for arg in call.args])


def _and(node: Node, a: Lowered, b: Lowered) -> Lowered:
    late = None if b.error is None else only_where(a.value.fill_null(True), b.error)
    return Lowered(a.value & b.value, first_error([a.error, late]))


def _or(node: Node, a: Lowered, b: Lowered) -> Lowered:
    late = None if b.error is None else only_where(~a.value.fill_null(False), b.error)
    return Lowered(a.value | b.value, first_error([a.error, late]))


def _resolve_in(call: Call) -> Node:
    type_ = meeting_type(call.args)
    if type_ is None:
        for place in range(1, len(call.args)):
            if meeting_type([call.args[0], call.args[place]]) is None:
                raise unorderable(call, 0, place)
        raise call.fail("the values after IN do not fit together")
    return call.node(t.BOOL, [convert(arg, type_) for arg in call.args])


def _in(node: Node, value: Lowered, *items: Lowered) -> Lowered:
    raw = node.args[1:]
    if all(item.is_literal for item in raw):
        constants = [item for item in raw if not item.is_null]
        type_ = raw[0].type
        if len(constants) > 2 and type_.name not in ("list", "struct"):
            contained = value.value.is_in(
                literals([item.value for item in constants], type_).implode()
            )
        else:
            known_items = [i for i, r in zip(items, raw, strict=True) if not r.is_null]
            contained = _any_equal(node.args[0], constants, value, known_items)
        if len(constants) < len(raw):
            contained = contained | pl.lit(None, dtype=pl.Boolean)
        return Lowered(contained, value.error)
    return Lowered(
        _any_equal(node.args[0], raw, value, items),
        first_error([value.error, *(item.error for item in items)]),
    )


def _any_equal(
    of: Node, nodes: Sequence[Node], value: Lowered, items: Sequence[Lowered]
) -> pl.Expr:
    """Whether one of the items is equal. NULL where the value is NULL, even without items."""
    if not items:
        return pl.lit(False) & (value.value.is_not_null() | pl.lit(None, dtype=pl.Boolean))
    pairs_of = zip(nodes, items, strict=True)
    parts = [compared("=", of, node, value.value, item.value) for node, item in pairs_of]
    while len(parts) > 1:  # by halves, since Polars walks the tree by recursion
        pairs = [a | b for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[len(pairs) * 2 :]
    return parts[0]


def _resolve_between(call: Call) -> Node:
    type_ = meeting_type(call.args)
    if type_ is None:
        place = 1 if meeting_type(call.args[:2]) is None else 2
        raise unorderable(call, 0, place)
    return call.node(t.BOOL, [convert(arg, type_) for arg in call.args])


def _resolve_any(call: Call) -> Node:
    call.arity(1, 1)
    return call.node(t.BOOL, call.args)


def like_regex(pattern: str, escape: str | None) -> str | None:
    """The pattern as a regex over the whole text, or None if it ends in its escape character."""
    out, place = [], 0
    while place < len(pattern):
        char = pattern[place]
        if escape is not None and char == escape:
            place += 1
            if place >= len(pattern):
                return None
            out.append(re.escape(pattern[place]))
        else:
            out.append({"%": ".*", "_": "."}.get(char) or re.escape(char))
        place += 1
    return f"^(?:{''.join(out)})$"


def _resolve_like(call: Call) -> Node:
    call.arity(2, 3)
    for place, arg in enumerate(call.args):
        if not (arg.type.is_text or arg.type.name == "null"):
            raise call.fail(f"LIKE expects text, this is {arg.type}", arg=place,
                            help=f"write CAST({_written(call, place)} AS string)")  # fmt: skip
    pattern = call.const(1, "the pattern")
    escape = call.const(2, "the escape") if len(call.args) == 3 else None
    if pattern is None:
        return Node("literal", t.BOOL)
    if escape is not None and len(escape) > 1:
        raise call.fail("the ESCAPE is one character", arg=2, code=problems.BAD_LITERAL)
    if like_regex(pattern, escape or None) is None:
        raise call.fail(
            "the pattern ends with its escape character", arg=1, code=problems.BAD_LITERAL
        )
    return call.node(t.BOOL, call.args, escape or None)


def _like(node: Node, value: pl.Expr, *rest: pl.Expr) -> pl.Expr:
    pattern = str(node.args[1].value)
    escape = node.value
    if node.op == "like" and not (escape and escape in pattern):
        body = pattern.strip("%")
        if not re.search(r"[%_]", body) and body:
            start, end = pattern.startswith("%"), pattern.endswith("%")
            if start and end:
                return value.str.contains(body, literal=True)
            if end:
                return value.str.starts_with(body)
            if start:
                return value.str.ends_with(body)
            return value == body
    flags = "(?s)" if node.op == "like" else "(?si)"
    return value.str.contains(flags + (like_regex(pattern, escape) or ""))


def _strict(make: Any) -> Any:
    return lambda node, *values: make(*values)


Compare = Callable[[pl.Expr, pl.Expr], pl.Expr]


def compared(op: str, a: Node, b: Node, x: pl.Expr, y: pl.Expr) -> pl.Expr:
    """A comparison with the side that reads columns on the left. Avoids a fault of Polars 2.1: it gives
    one row for a literal compared with an expression that is NULL in all rows."""
    if is_constant(a) and not is_constant(b):
        return _COMPARE[_FLIPPED.get(op, op)](y, x)
    return _COMPARE[op](x, y)


def is_constant(node: Node) -> bool:
    return not any(each.op in (COLUMN, AGGREGATE, "now", "uuid") for each in node.walk())


_COMPARE: dict[str, Compare] = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "is_distinct": lambda a, b: a.ne_missing(b),
    "is_not_distinct": lambda a, b: a.eq_missing(b),
}
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def _compare(node: Node, x: pl.Expr, y: pl.Expr) -> pl.Expr:
    return compared(node.op, node.args[0], node.args[1], x, y)


def _between(node: Node, x: pl.Expr, low: pl.Expr, high: pl.Expr) -> pl.Expr:
    of, least, most = node.args
    return compared(">=", of, least, x, low) & compared("<=", of, most, x, high)


for _name, _text, _example in (
    ("=", "Whether both are equal; NULL if one is NULL. `==` is the same.", ("2 = 1 + 1", True)),
    ("<>", "Whether both differ; NULL if one is NULL. `!=` is the same.", ("'a' <> 'b'", True)),
    ("<", "Less than; NaN is the greatest number.", ("1 < 2.5", True)),
    ("<=", "Less than or equal.", ("2 <= 2", True)),
    (">", "Greater than.", ("DATE '2024-02-01' > '2024-01-31'", True)),
    (">=", "Greater than or equal.", ("1 >= NULL", None)),
):
    register(_name, f"x {_name} y", _text, _example, group="operator",
             resolve=_resolve_comparison, lower=_compare, sql=sql.COMPARISON)  # fmt: skip
register("is_distinct", "x IS DISTINCT FROM y", "Whether both differ, NULL being a value like others.",
         ("NULL IS DISTINCT FROM 1", True), group="operator", resolve=_resolve_comparison,
         lower=_compare, sql=sql.DISTINCT)  # fmt: skip
register("is_not_distinct", "x IS NOT DISTINCT FROM y", "Whether both are equal, NULL being equal to NULL.",
         ("NULL IS NOT DISTINCT FROM NULL", True), group="operator", resolve=_resolve_comparison,
         lower=_compare, sql=sql.DISTINCT)  # fmt: skip
register("and", "x AND y", "Whether both are true.", ("true AND NULL", None), ("false AND NULL", False),
         group="operator", resolve=_resolve_logic, lower=_and, lazy=True, sql=sql.LOGIC)  # fmt: skip
register("or", "x OR y", "Whether one is true.", ("true OR NULL", True),
         group="operator", resolve=_resolve_logic, lower=_or, lazy=True, sql=sql.LOGIC)  # fmt: skip
register("not", "NOT x", "Whether it is false.", ("NOT false", True),
         group="operator", resolve=_resolve_logic, lower=_strict(lambda a: ~a), sql=sql.LOGIC)  # fmt: skip
register("is_null", "x IS NULL", "Whether it is NULL.", ("NULL IS NULL", True),
         group="operator", resolve=_resolve_any, lower=_strict(lambda a: a.is_null()), sql=sql.LOGIC)  # fmt: skip
register("is_true", "x IS TRUE", "Whether it is true, and not NULL.", ("NULL IS TRUE", False),
         group="operator", resolve=_resolve_logic, lower=_strict(lambda a: a.fill_null(False)))  # fmt: skip
register("is_false", "x IS FALSE", "Whether it is false, and not NULL.", ("NULL IS FALSE", False),
         group="operator", resolve=_resolve_logic, lower=_strict(lambda a: ~a.fill_null(True)))  # fmt: skip
register("in", "x IN (y, ...)", "Whether it equals one of them.", ("2 IN (1, 2)", True), ("2 IN (1, NULL)", None),
         group="operator", resolve=_resolve_in, lower=_in, lazy=True, sql=sql.COMPARISON)  # fmt: skip
register("between", "x BETWEEN low AND high", "Whether it is in the range, both ends included.",
         ("2 BETWEEN 1 AND 3", True), group="operator", resolve=_resolve_between,
         lower=_between, sql=sql.COMPARISON)  # fmt: skip
register("like", "text LIKE pattern [ESCAPE c]", "Whether the whole text fits; % is any text, _ one character.",
         ("'data' LIKE 'd_t%'", True), ("'5%' LIKE '5!%' ESCAPE '!'", True),
         group="operator", resolve=_resolve_like, lower=_like, sql=sql.LIKE)  # fmt: skip
register("ilike", "text ILIKE pattern [ESCAPE c]", "LIKE, whatever the case.", ("'Data' ILIKE 'dAT%'", True),
         group="operator", resolve=_resolve_like, lower=_like)  # fmt: skip
