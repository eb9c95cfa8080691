"""Convert sqlglot's tree to an `Ast`, by a list of the allowed nodes.

Always true: a sqlglot node without a rule here is refused, so a new version of sqlglot cannot extend
the language.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

from msgspec.structs import replace
from sqlglot import exp
from sqlglot.tokenizer_core import Token

from dataflare.expr import forms, problems, registry
from dataflare.expr.problems import problem
from dataflare.expr.tree import COLUMN, LITERAL, STAR, Ast, Span
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
_SHORT = 8
"""A chain of AND or OR up to this length is not balanced."""
_ORDERED = ("list", "string_agg")
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
    """One conversion, with the text for the places of errors."""

    def __init__(self, source: SourceText, tokens: list[Token]) -> None:
        self.source = source
        self.tokens = tokens
        self.starts = [token.start for token in tokens]
        self.intervals = [i for i, token in enumerate(tokens) if token.text.lower() == "interval"]
        self.rules = self._rules()
        self.variables = {v.placeholder.lower(): v for v in source.variables}

    def convert(self, tree: Any) -> Ast:
        while type(tree) is exp.Paren:
            tree = tree.this
        rule = self.rules.get(type(tree))
        if rule is not None:
            return rule(tree)
        if type(tree) in (exp.And, exp.Or):
            return self.balanced(tree)
        if type(tree) in OPERATORS:
            return self.chain(tree)
        span = self.span_of(tree)
        if isinstance(tree, exp.Placeholder | exp.Parameter):
            marks = [token for token in self.tokens if token.text in ("?", ":", "$", "@")]
            span = (marks[0].start, marks[-1].end + 1) if marks else span
        if isinstance(tree, (exp.Subquery, exp.Select, exp.SetOperation, exp.Exists)):
            span = self.from_select(span)
        for kinds, construct in _REFUSED:
            if isinstance(tree, kinds):
                raise problem(
                    self.source,
                    span,
                    problems.NOT_ALLOWED,
                    f"{construct} is not allowed in an expression",
                )
        raise problem(
            self.source,
            span,
            problems.NOT_ALLOWED,
            f"'{self.source.template[span[0] : span[1]]}' is not allowed in an expression",
        )

    def chain(self, tree: Any) -> Ast:
        """`a + b - c`, from left to right. A long chain is a deep tree, so it is walked without
        recursion."""
        outer = []
        while type(tree) in OPERATORS and type(tree) not in (exp.And, exp.Or):
            outer.append(tree)
            tree = tree.this
        left = self.convert(tree)
        for each in reversed(outer):
            right = self.convert(each.expression)
            left = self.call(OPERATORS[type(each)], (left, right), self.hull(left, right))
        return left

    def balanced(self, tree: Any) -> Ast:
        """A chain of AND or of OR as a balanced tree. The grouping does not change the result, and left
        terms are still evaluated first."""
        kind, name = type(tree), OPERATORS[type(tree)]
        parts = []
        while type(tree) is kind:
            parts.append(tree.expression)
            tree = tree.this
        terms = [self.convert(each) for each in (tree, *reversed(parts))]
        if len(terms) <= _SHORT:
            left = terms[0]
            for right in terms[1:]:
                left = self.call(name, (left, right), self.hull(left, right))
            return left
        while len(terms) > 1:
            pairs = list(zip(terms[::2], terms[1::2], strict=False))
            paired = [self.call(name, pair, self.hull(*pair)) for pair in pairs]
            terms = paired + terms[2 * len(paired) :]
        return terms[0]

    def _rules(self) -> dict[type[Any], Callable[[Any], Ast]]:
        return {
            exp.Column: self.column,
            exp.Identifier: self.column,
            exp.Dot: self.dot,
            exp.Bracket: partial(forms.bracket, self),
            exp.Literal: self.literal,
            exp.RawString: lambda tree: self.constant(tree, str(tree.this), t.STRING),
            exp.Boolean: lambda tree: self.constant(tree, bool(tree.this), t.BOOL),
            exp.Null: lambda tree: self.constant(tree, None, t.NULL),
            exp.Neg: self.negative,
            exp.Not: lambda tree: self.unary("not", tree),
            exp.Anonymous: self.function,
            exp.Filter: self.filter,
            exp.Case: partial(forms.case, self),
            exp.Cast: lambda tree: forms.cast(self, tree, False),
            exp.TryCast: lambda tree: forms.cast(self, tree, True),
            exp.In: partial(forms.is_in, self),
            exp.Between: partial(forms.between, self),
            exp.Is: partial(forms.is_, self),
            exp.Like: lambda tree: forms.like(self, "like", tree),
            exp.ILike: lambda tree: forms.like(self, "ilike", tree),
            exp.Escape: partial(forms.escape, self),
            exp.Extract: partial(forms.extract, self),
            exp.Interval: partial(forms.interval, self),
            exp.AtTimeZone: partial(forms.at_time_zone, self),
            exp.Array: partial(forms.array, self),
            exp.Struct: partial(forms.struct, self),
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
        return start, self.closed(start, end)

    def closed(self, start: int, end: int) -> int:
        """The end of the text from `start` to `end`, with the closing brackets of all brackets in it."""
        depth = 0
        for place in range(bisect_left(self.starts, start), len(self.tokens)):
            token = self.tokens[place]
            if token.start >= end and depth <= 0:
                break
            depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
            end = max(end, token.end + 1)
        return end

    def from_select(self, span: Span) -> Span:
        """The span from the SELECT before `span` to the end of its brackets."""
        for token in reversed(self.tokens):
            if token.start <= span[0] and token.text.lower() in ("select", "with", "from"):
                return token.start, self.closed(token.start, span[1])
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
        column = self.leaf(parts[0])
        for part in parts[1:]:
            column = self.field(column, part)
        return column

    def leaf(self, name: Any) -> Ast:
        span = (name.meta["start"], name.meta["end"] + 1)
        text = str(name.this)
        variable = self.variables.get(text.lower())
        if variable is not None:
            return Ast(
                LITERAL, span, value=variable.value, type=variable.type, shown=variable.shown
            )
        called = None if name.quoted or text.lower() not in _NO_PARENS else registry.lookup(text)
        if called is not None:
            return Ast(called.name, span, at=span)
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
        return self.call(name, (arg,), self.with_prefix(arg.span))

    def with_prefix(self, span: Span) -> Span:
        place = bisect_left(self.starts, span[0]) - 1
        while place >= 0 and self.tokens[place].text == "(":
            place -= 1
        return (self.starts[place] if place >= 0 else span[0]), span[1]

    def negative(self, tree: Any) -> Ast:
        arg = self.convert(tree.this)
        span = self.with_prefix(arg.span)
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
        called = registry.lookup(name)
        if called is None:
            raise problem(
                self.source,
                at,
                problems.UNKNOWN_FUNCTION,
                f"unknown function '{name}'",
                help=registry.suggestion(name),
            )
        span = (at[0], self.closed(at[0], at[1] + 1))
        args: list[Ast] = []
        distinct = False
        order: list[Any] = []
        for raw in tree.expressions:
            arg = raw
            if isinstance(arg, exp.Order):
                order, arg = arg.expressions, arg.this
            if isinstance(arg, exp.Distinct):
                distinct = True
                for value in arg.expressions:
                    args.append(self.convert(value))
                continue
            if isinstance(arg, exp.Star) and called.name == "count":
                args.append(Ast(STAR, self.span_of(arg)))
                continue
            if isinstance(arg, exp.PropertyEQ | exp.IgnoreNulls | exp.RespectNulls):
                raise problem(
                    self.source,
                    span,
                    problems.NOT_ALLOWED,
                    f"'{self.source.template[span[0] : span[1]]}' is not allowed in an expression",
                )
            if called.name == "position" and isinstance(arg, exp.In) and arg.args.get("field"):
                args.extend([self.convert(arg.args["field"]), self.convert(arg.this)])
                continue
            args.append(self.convert(arg))
        if distinct and called.group != "aggregate":
            raise problem(
                self.source,
                span,
                problems.NOT_ALLOWED,
                f"DISTINCT is for aggregate functions, and {called.name}() is not one",
            )
        if order and called.name not in _ORDERED:
            raise problem(
                self.source,
                span,
                problems.NOT_ALLOWED,
                f"ORDER BY is possible in {' and '.join(_ORDERED)}, not in {called.name}()",
                notes=["rows are aggregated in the order in which they arrive"],
            )
        return Ast(
            called.name, span, tuple(args), at=at, distinct=distinct,
            order=tuple(self.convert(each.this) for each in order),
            directions=tuple((bool(e.args.get("desc")), bool(e.args.get("nulls_first"))) for e in order),
        )  # fmt: skip

    def filter(self, tree: Any) -> Ast:
        inner = self.convert(tree.this)
        where = self.convert(tree.expression.this)
        if registry.row(inner.op).group != "aggregate":
            raise problem(
                self.source,
                inner.point,
                problems.NOT_ALLOWED,
                f"FILTER is for aggregate functions, and {inner.op}() is not one",
            )
        return replace(inner, where=where)


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
