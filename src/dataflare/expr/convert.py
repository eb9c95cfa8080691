"""From sqlglot's tree to ours: the whitelist of what an expression may hold.

Always true: a sqlglot node without a rule here is refused, so a new version of sqlglot cannot add
to the language.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from sqlglot import exp
from sqlglot.tokens import Token

from dataflare.errors import ExpressionError
from dataflare.expr import problems, registry
from dataflare.expr.intervals import literal_interval
from dataflare.expr.problems import problem
from dataflare.expr.sqltypes import type_named
from dataflare.expr.tree import CAST, COLUMN, LITERAL, STAR, Ast, Span
from dataflare.model import types as t
from dataflare.model.text import SourceText

OPERATORS: dict[type[Any], str] = {
    exp.Add: "+",
    exp.Sub: "-",
    exp.Mul: "*",
    exp.Div: "/",
    exp.IntDiv: "//",
    exp.Mod: "%",
    exp.Pow: "power",
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.And: "and",
    exp.Or: "or",
    exp.NullSafeEQ: "is_not_distinct",
    exp.NullSafeNEQ: "is_distinct",
    exp.DPipe: "||",
    exp.RegexpLike: "regexp_matches",
    exp.StartsWith: "starts_with",
}
_NO_PARENS = {"current_date", "current_timestamp"}
_REFUSED: tuple[tuple[tuple[type[Any], ...], str], ...] = (
    ((exp.Subquery, exp.Select, exp.SetOperation, exp.Exists), "a subquery"),
    ((exp.Window, exp.WithinGroup), "a window clause (OVER)"),
    ((exp.Alias, exp.Aliases), "an alias"),
    ((exp.Lambda, exp.Comprehension), "a lambda"),
    ((exp.All, exp.Any), "ANY or ALL"),
    ((exp.Star,), "'*'"),
    ((exp.Placeholder, exp.Parameter), "a placeholder"),
)


class Converter:
    """One conversion. Holds the text for the places of errors."""

    def __init__(self, source: SourceText, tokens: list[Token]) -> None:
        self.source = source
        self.tokens = tokens
        self.variables = {v.placeholder.lower(): v for v in source.variables}

    def convert(self, tree: Any) -> Ast:
        rule = self._rules().get(type(tree))
        if rule is not None:
            return rule(tree)
        if type(tree) in OPERATORS:
            left, right = self.convert(tree.this), self.convert(tree.expression)
            return self.call(OPERATORS[type(tree)], (left, right), self.hull(left, right))
        span = self.span_of(tree)
        if isinstance(tree, exp.Placeholder | exp.Parameter):
            marks = [token for token in self.tokens if token.text in ("?", ":", "$", "@")]
            span = (marks[0].start, marks[-1].end + 1) if marks else span
        if isinstance(tree, (exp.Subquery, exp.Select, exp.SetOperation, exp.Exists)):
            span = self._from_select(span)
        for kinds, what in _REFUSED:
            if isinstance(tree, kinds):
                raise problem(
                    self.source,
                    span,
                    problems.NOT_ALLOWED,
                    f"{what} is not allowed in an expression",
                )
        raise problem(
            self.source,
            span,
            problems.NOT_ALLOWED,
            f"'{self.source.template[span[0] : span[1]]}' is not allowed in an expression",
        )

    def _rules(self) -> dict[type[Any], Callable[[Any], Ast]]:
        return {
            exp.Paren: lambda tree: self.convert(tree.this),
            exp.Column: self.column,
            exp.Identifier: self.column,
            exp.Dot: self.dot,
            exp.Bracket: self.bracket,
            exp.Literal: self.literal,
            exp.RawString: lambda tree: self.constant(tree, str(tree.this), t.STRING),
            exp.Boolean: lambda tree: self.constant(tree, bool(tree.this), t.BOOL),
            exp.Null: lambda tree: self.constant(tree, None, t.NULL),
            exp.Neg: self.negative,
            exp.Not: lambda tree: self.unary("not", tree),
            exp.Anonymous: self.function,
            exp.Filter: self.filter,
            exp.Case: self.case,
            exp.Cast: lambda tree: self.cast(tree, False),
            exp.TryCast: lambda tree: self.cast(tree, True),
            exp.In: self.is_in,
            exp.Between: self.between,
            exp.Is: self.is_,
            exp.Like: lambda tree: self.like("like", tree),
            exp.ILike: lambda tree: self.like("ilike", tree),
            exp.Escape: self.escape,
            exp.Extract: self.extract,
            exp.Interval: self.interval,
            exp.AtTimeZone: self.at_time_zone,
            exp.Array: self.array,
            exp.Struct: self.struct,
        }

    # places

    def hull(self, *parts: Ast) -> Span:
        return min(part.span[0] for part in parts), max(part.span[1] for part in parts)

    def span_of(self, tree: Any) -> Span:
        starts = [n.meta["start"] for n in tree.walk() if "start" in n.meta]
        ends = [n.meta["end"] for n in tree.walk() if "end" in n.meta]
        if not starts:
            return 0, len(self.source.template)
        start, end = min(starts), max(ends) + 1
        return start, self._closed(start, end)

    def _closed(self, start: int, end: int) -> int:
        """Take in the brackets that what stands from `start` to `end` opens."""
        depth = 0
        for token in self.tokens:
            if token.start < start:
                continue
            if token.start >= end and depth <= 0:
                break
            depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
            end = max(end, token.end + 1)
        return end

    def _from_select(self, span: Span) -> Span:
        """From the SELECT before what sqlglot knows the place of, to the end of its brackets."""
        for token in reversed(self.tokens):
            if token.start <= span[0] and token.text.lower() in ("select", "with", "from"):
                return token.start, self._closed(token.start, span[1])
        return span

    # leaves

    def constant(self, tree: Any, value: Any, type_: t.DataType, span: Span | None = None) -> Ast:
        return Ast(LITERAL, span or self.span_of(tree), value=value, type=type_)

    def column(self, tree: Any) -> Ast:
        parts = list(tree.parts) if isinstance(tree, exp.Column) else [tree]
        if any(not isinstance(part, exp.Identifier) for part in parts):
            raise problem(
                self.source,
                self.span_of(tree),
                problems.NOT_ALLOWED,
                f"'{tree.sql()}' is not allowed in an expression",
            )
        found = self.leaf(parts[0])
        for part in parts[1:]:
            found = self.field(found, part)
        return found

    def leaf(self, name: Any) -> Ast:
        span = (name.meta["start"], name.meta["end"] + 1)
        text = str(name.this)
        variable = self.variables.get(text.lower())
        if variable is not None:
            return Ast(
                LITERAL, span, value=variable.value, type=variable.type, shown=variable.shown
            )
        if not name.quoted and text.lower() in _NO_PARENS:
            return Ast(text.lower(), span, at=span)
        return Ast(COLUMN, span, value=text)

    def field(self, of: Ast, name: Any) -> Ast:
        if not isinstance(name, exp.Identifier) or "start" not in name.meta:
            raise problem(
                self.source, of.span, problems.NOT_ALLOWED, "a field's name is expected after '.'"
            )
        at = (name.meta["start"], name.meta["end"] + 1)
        key = Ast(LITERAL, at, value=str(name.this), type=t.STRING)
        return Ast("struct_extract", (of.span[0], at[1]), (of, key), at=at)

    def dot(self, tree: Any) -> Ast:
        return self.field(self.convert(tree.this), tree.expression)

    def literal(self, tree: Any) -> Ast:
        text = str(tree.this)
        if tree.is_string:
            return self.constant(tree, text, t.STRING)
        return self.constant(tree, *number(text))

    # calls

    def call(self, name: str, args: tuple[Ast, ...], span: Span, at: Span | None = None) -> Ast:
        return Ast(name, span, args, at=at)

    def unary(self, name: str, tree: Any) -> Ast:
        arg = self.convert(tree.this)
        return self.call(name, (arg,), self._with_prefix(arg.span))

    def _with_prefix(self, span: Span) -> Span:
        before = [token for token in self.tokens if token.end < span[0] and token.text != "("]
        return (before[-1].start if before else span[0]), span[1]

    def negative(self, tree: Any) -> Ast:
        arg = self.convert(tree.this)
        span = self._with_prefix(arg.span)
        numeric = arg.type is not None and arg.type.is_numeric and arg.shown is None
        if arg.op == LITERAL and numeric and arg.value >= 0:
            value, type_ = (-arg.value, arg.type)
            if isinstance(value, int):
                value, type_ = number(str(value))
            return replace(arg, span=span, value=value, type=type_)
        return self.call("negate", (arg,), span)

    def function(self, tree: Any) -> Ast:
        at = (tree.meta["start"], tree.meta["end"] + 1)
        name = str(tree.this)
        found = registry.lookup(name)
        if found is None:
            raise problem(
                self.source,
                at,
                problems.UNKNOWN_FUNCTION,
                f"unknown function '{name}'",
                help=registry.suggestion(name),
            )
        span = (at[0], self._closed(at[0], at[1] + 1))
        args: list[Ast] = []
        distinct = False
        for raw in tree.expressions:
            arg = raw
            if isinstance(arg, exp.Distinct):
                distinct = True
                for one in arg.expressions:
                    args.append(self.convert(one))
                continue
            if isinstance(arg, exp.Star) and found.name == "count":
                args.append(Ast(STAR, self.span_of(arg)))
                continue
            if isinstance(arg, exp.Order):
                raise problem(
                    self.source,
                    span,
                    problems.NOT_ALLOWED,
                    "ORDER BY is not allowed in an expression",
                    notes=["rows are aggregated in the order in which they arrive"],
                )
            if isinstance(arg, exp.PropertyEQ | exp.IgnoreNulls | exp.RespectNulls):
                raise problem(
                    self.source,
                    span,
                    problems.NOT_ALLOWED,
                    f"'{self.source.template[span[0] : span[1]]}' is not allowed in an expression",
                )
            if found.name == "position" and isinstance(arg, exp.In) and arg.args.get("field"):
                args.extend([self.convert(arg.args["field"]), self.convert(arg.this)])
                continue
            args.append(self.convert(arg))
        if distinct and found.group != "aggregate":
            raise problem(
                self.source,
                span,
                problems.NOT_ALLOWED,
                f"DISTINCT is for aggregate functions, {found.name}() is none",
            )
        return Ast(found.name, span, tuple(args), at=at, distinct=distinct)

    def filter(self, tree: Any) -> Ast:
        inner = self.convert(tree.this)
        where = self.convert(tree.expression.this)
        if registry.row(inner.op).group != "aggregate":
            raise problem(
                self.source,
                inner.point,
                problems.NOT_ALLOWED,
                f"FILTER is for aggregate functions, {inner.op}() is none",
            )
        return replace(inner, where=where)

    def case(self, tree: Any) -> Ast:
        args: list[Ast] = []
        subject = self.convert(tree.this) if tree.this is not None else None
        for branch in tree.args["ifs"]:
            when = self.convert(branch.this)
            if subject is not None:
                when = self.call("=", (subject, when), when.span)
            args += [when, self.convert(branch.args["true"])]
        default = tree.args.get("default")
        if default is not None:
            args.append(self.convert(default))
        hull = self.hull(*args)
        if subject is not None:
            hull = self.hull(subject, *args)
        return self.call("case", tuple(args), hull)

    def cast(self, tree: Any, attempt: bool) -> Ast:
        arg = self.convert(tree.this)
        to = tree.args["to"]
        if isinstance(to, exp.Var):
            at: Span = (to.meta["start"], to.meta["end"] + 1)
            text = str(to.this)
        else:  # DATE '2020-01-01'
            at, text = self._with_prefix(arg.span), to.sql(dialect="duckdb")
        wanted = type_named(text)
        if wanted is None:
            raise problem(
                self.source,
                at,
                problems.TYPE_MISMATCH,
                f"unknown type '{text}'",
                notes=[
                    "for example: int64, float64, string, bool, date, timestamp, decimal(10, 2)"
                ],
                help=problems.did_you_mean(
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
        span = self.hull(arg, Ast(LITERAL, at))
        typed_literal = not isinstance(to, exp.Var)
        return Ast(
            CAST,
            span,
            (arg,),
            value=attempt,
            type=wanted,
            at=at,
            shown="literal" if typed_literal else None,
        )

    def is_in(self, tree: Any) -> Ast:
        if tree.args.get("query") is not None:
            raise problem(
                self.source,
                self._from_select(self.span_of(tree.args["query"])),
                problems.NOT_ALLOWED,
                "a subquery is not allowed in an expression",
            )
        subject = self.convert(tree.this)
        if tree.args.get("field") is not None:
            within = self.convert(tree.args["field"])
            return self.call("list_contains", (within, subject), self.hull(subject, within))
        items = tuple(self.convert(item) for item in tree.expressions)
        if not items:
            raise problem(
                self.source,
                self._with_suffix(subject.span),
                problems.SYNTAX,
                "the list after IN is empty",
            )
        return self.call("in", (subject, *items), self.hull(subject, *items))

    def _with_suffix(self, span: Span) -> Span:
        """With the brackets that come next."""
        after = [token for token in self.tokens if token.start >= span[1] and token.text == "("]
        end = self._closed(after[0].start, after[0].end + 1) if after else span[1]
        return span[0], end

    def between(self, tree: Any) -> Ast:
        args = tuple(self.convert(tree.args[key]) for key in ("this", "low", "high"))
        return self.call("between", args, self.hull(*args))

    def is_(self, tree: Any) -> Ast:
        arg, right = self.convert(tree.this), tree.expression
        if isinstance(right, exp.Null):
            return self.call("is_null", (arg,), arg.span)
        if isinstance(right, exp.Boolean):
            return self.call("is_true" if right.this else "is_false", (arg,), arg.span)
        raise problem(
            self.source,
            self.span_of(tree),
            problems.SYNTAX,
            "after IS stands NULL, NOT NULL, TRUE, FALSE or [NOT] DISTINCT FROM",
        )

    def like(self, name: str, tree: Any, escape: Ast | None = None) -> Ast:
        args = [self.convert(tree.this), self.convert(tree.expression)]
        if escape is not None:
            args.append(escape)
        call = self.call(name, tuple(args), self.hull(*args))
        return self.call("not", (call,), call.span) if tree.args.get("negate") else call

    def escape(self, tree: Any) -> Ast:
        inner = tree.this
        if not isinstance(inner, exp.Like | exp.ILike):
            raise problem(
                self.source, self.span_of(tree), problems.SYNTAX, "ESCAPE is for LIKE and ILIKE"
            )
        name = "like" if isinstance(inner, exp.Like) else "ilike"
        return self.like(name, inner, self.convert(tree.expression))

    def extract(self, tree: Any) -> Ast:
        arg = self.convert(tree.expression)
        span = self._with_prefix(arg.span)
        part = Ast(LITERAL, span, value=str(tree.this.this).lower(), type=t.STRING)
        return self.call("date_part", (part, arg), span)

    def interval(self, tree: Any) -> Ast:
        unit = str(tree.args["unit"].this).lower() if tree.args.get("unit") is not None else None
        inner = tree.this
        if isinstance(inner, exp.Literal):
            span = self._interval_span(inner)
            found = literal_interval(str(inner.this), unit)
            if found is None:
                raise problem(
                    self.source,
                    span,
                    problems.BAD_LITERAL,
                    "cannot read the interval " + self.source.template[span[0] + 8 : span[1]].strip(),
                    help="write INTERVAL '1 day', INTERVAL '90 minutes', INTERVAL '1 month 2 days'",
                )
            return Ast(LITERAL, span, value=found[0], type=found[1])
        arg = self.convert(inner)
        part = Ast(LITERAL, arg.span, value=unit or "second", type=t.STRING)
        return self.call("make_interval", (arg, part), arg.span)

    def _interval_span(self, inner: Any) -> Span:
        """sqlglot splits the literal and forgets its place: take the next INTERVAL not yet taken."""
        words = [i for i, token in enumerate(self.tokens) if token.text.lower() == "interval"]
        for word in words:
            after = self.tokens[word + 1] if word + 1 < len(self.tokens) else self.tokens[word]
            if str(inner.this) in after.text:
                return self.tokens[word].start, after.end + 1
        return 0, len(self.source.template)

    def at_time_zone(self, tree: Any) -> Ast:
        args = (self.convert(tree.args["zone"]), self.convert(tree.this))
        return self.call("timezone", args, self.hull(*args))

    def bracket(self, tree: Any) -> Ast:
        if isinstance(tree.this, exp.DataType):
            raise problem(
                self.source, self.span_of(tree), problems.SYNTAX, "a column of this name is quoted"
            )
        of = self.convert(tree.this)
        if len(tree.expressions) != 1:
            raise problem(self.source, of.span, problems.SYNTAX, "one index is expected")
        index = tree.expressions[0]
        if isinstance(index, exp.Slice):
            parts = [
                self.convert(part) if part is not None else Ast(LITERAL, of.span, type=t.NULL)
                for part in (index.this, index.expression)
            ]
            return self.call("list_slice", (of, *parts), self.hull(of, *parts))
        at = self.convert(index)
        return self.call("list_extract", (of, at), (of.span[0], at.span[1] + 1))

    def array(self, tree: Any) -> Ast:
        items = tuple(self.convert(item) for item in tree.expressions)
        span = self.hull(*items) if items else (0, len(self.source.template))
        return self.call("list_value", items, span)

    def struct(self, tree: Any) -> Ast:
        args: list[Ast] = []
        for pair in tree.expressions:
            if not isinstance(pair, exp.PropertyEQ):
                raise problem(
                    self.source,
                    self.span_of(tree),
                    problems.SYNTAX,
                    "a struct is {'name': value, ...}",
                )
            value = self.convert(pair.expression)
            args += [Ast(LITERAL, value.span, value=pair.this.name, type=t.STRING), value]
        return self.call("struct_pack", tuple(args), self.hull(*args))


def number(text: str) -> tuple[Any, t.DataType]:
    """The value and type of a number as written: int32 or wider, decimal, or float64 (1e10)."""
    if re.fullmatch(r"-?\d+", text):
        value = int(text)
        for type_, low, high in (
            (t.INT32, -(2**31), 2**31 - 1),
            (t.INT64, -(2**63), 2**63 - 1),
            (t.UINT64, 0, 2**64 - 1),
        ):
            if low <= value <= high:
                return value, type_
        return (
            (Decimal(text), t.decimal(len(text.lstrip("-")), 0))
            if len(text) <= 38
            else (float(text), t.FLOAT64)
        )
    whole, _, fraction = text.partition(".")
    if "e" not in text.lower() and len((whole + fraction).lstrip("-")) <= 38:
        digits = len(whole.lstrip("-")) + len(fraction)
        return Decimal(text), t.decimal(digits, len(fraction))
    return float(text), t.FLOAT64


def error_type() -> type[ExpressionError]:
    return ExpressionError
