"""The forms of SQL that are not calls: CASE, CAST, IN, BETWEEN, LIKE, INTERVAL, brackets, and others.

Always true: each becomes a call of a registry row, or a cast. Other forms are refused with their place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlglot import exp

from dataflare.errors import did_you_mean
from dataflare.expr import problems
from dataflare.expr.intervals import literal_interval
from dataflare.expr.problems import problem
from dataflare.expr.sqltypes import type_named
from dataflare.expr.tree import CAST, LITERAL, Ast, Span
from dataflare.model import types as t

if TYPE_CHECKING:
    from dataflare.expr.convert import Converter


def case(c: Converter, tree: Any) -> Ast:
    args: list[Ast] = []
    subject = c.convert(tree.this) if tree.this is not None else None
    for branch in tree.args["ifs"]:
        condition = c.convert(branch.this)
        if subject is not None:
            condition = c.call("=", (subject, condition), condition.span)
        args += [condition, c.convert(branch.args["true"])]
    default = tree.args.get("default")
    if default is not None:
        args.append(c.convert(default))
    hull = c.hull(*args)
    if subject is not None:
        hull = c.hull(subject, *args)
    return c.call("case", tuple(args), hull)


def cast(c: Converter, tree: Any, attempt: bool) -> Ast:
    arg = c.convert(tree.this)
    to = tree.args["to"]
    if isinstance(to, exp.Var):
        at: Span = (to.meta["start"], to.meta["end"] + 1)
        text = str(to.this)
    else:  # DATE '2020-01-01'
        at, text = c.with_prefix(arg.span), to.sql(dialect="duckdb")
    target = type_named(text)
    if target is None:
        raise problem(
            c.source,
            at,
            problems.TYPE_MISMATCH,
            f"unknown type '{text}'",
            notes=["for example: int64, float64, string, bool, date, timestamp, decimal(10, 2)"],
            help=did_you_mean(
                text,
                (
                    "bigint",
                    "integer",
                    "double",
                    "varchar",
                    "string",
                    "int64",
                    "int32",
                    "float64",
                    "timestamp",
                    "date",
                    "boolean",
                    "decimal",
                ),
            ),
        )
    span = c.hull(arg, Ast(LITERAL, at))
    typed_literal = not isinstance(to, exp.Var)
    return Ast(
        CAST,
        span,
        (arg,),
        value=attempt,
        type=target,
        at=at,
        shown="literal" if typed_literal else None,
    )


def is_in(c: Converter, tree: Any) -> Ast:
    if tree.args.get("query") is not None:
        raise problem(
            c.source,
            c.from_select(c.span_of(tree.args["query"])),
            problems.NOT_ALLOWED,
            "a subquery is not allowed in an expression",
        )
    subject = c.convert(tree.this)
    if tree.args.get("field") is not None:
        within = c.convert(tree.args["field"])
        return c.call("list_contains", (within, subject), c.hull(subject, within))
    items = tuple(c.convert(item) for item in tree.expressions)
    if not items:
        raise problem(
            c.source,
            _with_suffix(c, subject.span),
            problems.SYNTAX,
            "the list after IN is empty",
        )
    return c.call("in", (subject, *items), c.hull(subject, *items))


def _with_suffix(c: Converter, span: Span) -> Span:
    """The span with the brackets that follow it."""
    after = next((t for t in c.tokens if t.start >= span[1] and t.text == "("), None)
    end = c.closed(after.start, after.end + 1) if after else span[1]
    return span[0], end


def between(c: Converter, tree: Any) -> Ast:
    args = tuple(c.convert(tree.args[key]) for key in ("this", "low", "high"))
    return c.call("between", args, c.hull(*args))


def is_(c: Converter, tree: Any) -> Ast:
    arg, right = c.convert(tree.this), tree.expression
    if isinstance(right, exp.Null):
        return c.call("is_null", (arg,), arg.span)
    if isinstance(right, exp.Boolean):
        return c.call("is_true" if right.this else "is_false", (arg,), arg.span)
    raise problem(
        c.source,
        c.span_of(tree),
        problems.SYNTAX,
        "IS is followed by NULL, NOT NULL, TRUE, FALSE or [NOT] DISTINCT FROM",
    )


def like(c: Converter, name: str, tree: Any, escape: Ast | None = None) -> Ast:
    args = [c.convert(tree.this), c.convert(tree.expression)]
    if escape is not None:
        args.append(escape)
    call = c.call(name, tuple(args), c.hull(*args))
    return c.call("not", (call,), call.span) if tree.args.get("negate") else call


def escape(c: Converter, tree: Any) -> Ast:
    inner = tree.this
    if not isinstance(inner, exp.Like | exp.ILike):
        raise problem(c.source, c.span_of(tree), problems.SYNTAX, "ESCAPE is for LIKE and ILIKE")
    name = "like" if isinstance(inner, exp.Like) else "ilike"
    return like(c, name, inner, c.convert(tree.expression))


def extract(c: Converter, tree: Any) -> Ast:
    arg = c.convert(tree.expression)
    span = c.with_prefix(arg.span)
    part = Ast(LITERAL, span, value=str(tree.this.this).lower(), type=t.STRING)
    return c.call("date_part", (part, arg), span)


def interval(c: Converter, tree: Any) -> Ast:
    unit = str(tree.args["unit"].this).lower() if tree.args.get("unit") is not None else None
    inner = tree.this
    if isinstance(inner, exp.Literal):
        span = _interval_span(c, inner)
        constant = literal_interval(str(inner.this), unit)
        if constant is None:
            raise problem(
                c.source,
                span,
                problems.BAD_LITERAL,
                "cannot read the interval " + c.source.template[span[0] + 8 : span[1]].strip(),
                help="write INTERVAL '1 day', INTERVAL '90 minutes', INTERVAL '1 month 2 days'",
            )
        return Ast(LITERAL, span, value=constant[0], type=constant[1])
    arg = c.convert(inner)
    part = Ast(LITERAL, arg.span, value=unit or "second", type=t.STRING)
    return c.call("make_interval", (arg, part), arg.span)


def _interval_span(c: Converter, inner: Any) -> Span:
    """The place of an interval. sqlglot loses it, so take the next INTERVAL that is not used yet."""
    for place, word in enumerate(c.intervals):
        after = c.tokens[word + 1] if word + 1 < len(c.tokens) else c.tokens[word]
        if str(inner.this) in after.text:
            del c.intervals[: place + 1]
            return c.tokens[word].start, after.end + 1
    return 0, len(c.source.template)


def at_time_zone(c: Converter, tree: Any) -> Ast:
    args = (c.convert(tree.args["zone"]), c.convert(tree.this))
    return c.call("timezone", args, c.hull(*args))


def bracket(c: Converter, tree: Any) -> Ast:
    if isinstance(tree.this, exp.DataType):
        raise problem(c.source, c.span_of(tree), problems.SYNTAX, "a column of this name is quoted")
    of = c.convert(tree.this)
    if len(tree.expressions) != 1:
        raise problem(c.source, of.span, problems.SYNTAX, "one index is expected")
    index = tree.expressions[0]
    if isinstance(index, exp.Slice):
        parts = [
            c.convert(part) if part is not None else Ast(LITERAL, of.span, value=end, type=t.INT64)
            for part, end in ((index.this, 1), (index.expression, -1))
        ]
        return c.call("list_slice", (of, *parts), c.hull(of, *parts))
    at = c.convert(index)
    return c.call("list_extract", (of, at), (of.span[0], at.span[1] + 1))


def array(c: Converter, tree: Any) -> Ast:
    items = tuple(c.convert(item) for item in tree.expressions)
    span = c.hull(*items) if items else (0, len(c.source.template))
    return c.call("list_value", items, span)


def struct(c: Converter, tree: Any) -> Ast:
    args: list[Ast] = []
    for pair in tree.expressions:
        if not isinstance(pair, exp.PropertyEQ):
            raise problem(
                c.source,
                c.span_of(tree),
                problems.SYNTAX,
                "a struct is {'name': value, ...}",
            )
        value = c.convert(pair.expression)
        args += [Ast(LITERAL, value.span, value=pair.this.name, type=t.STRING), value]
    span = c.hull(*args) if args else c.span_of(tree)
    return c.call("struct_pack", tuple(args), span)
