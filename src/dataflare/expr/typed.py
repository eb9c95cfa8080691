"""A checked expression: plain data that pickles and can be lowered to Polars or written as SQL."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from dataflare.errors import ExpressionError
from dataflare.expr import bounds, problems, registry, sqltypes
from dataflare.expr.check import Checker
from dataflare.expr.conversions import convert
from dataflare.expr.parse import Parsed, parse
from dataflare.expr.problems import problem
from dataflare.expr.shared import Shared
from dataflare.expr.sql import OPERATIONS_MAX
from dataflare.expr.text import ExprText
from dataflare.expr.tree import AGGREGATE, CAST, COLUMN, LITERAL, Node, as_text
from dataflare.model import types as t
from dataflare.model.record import Discreet
from dataflare.model.text import SourceText
from dataflare.model.types import DataType, Schema

if TYPE_CHECKING:
    from dataflare.expr.lowered import Lowered
    from dataflare.expr.sql import SqlText

Dialect = Literal["duckdb", "sqlite", "postgres", "mysql", "clickhouse"]


class Typed(Discreet, frozen=True, dict=True):
    """The meaning of an expression over one schema. It pickles; two are equal if their meaning is.

    `needs`: which of NOW_COLUMN and ROWKEY_COLUMN the rows must have beside their own columns.
    """

    hidden = ("node",)

    node: Node
    shown: str
    type: DataType
    columns: frozenset[str]
    needs: frozenset[str]

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.node.flat(), self.shown, self.type, self.columns, self.needs)

    @property
    def is_column(self) -> str | None:
        """The column's name, if the expression is only a column."""
        return str(self.node.value) if self.node.op == COLUMN else None

    @property
    def meaning(self) -> str:
        """The same text for the same meaning, whatever it is written like."""
        return as_text(self.node)

    @property
    def is_literal(self) -> bool:
        """Whether it reads no column, no clock and no aggregate."""
        if self.columns or self.needs:
            return False
        return all(node.op != AGGREGATE for node in self.node.walk())

    @property
    def can_fail(self) -> bool:
        """Whether a row can have an error."""
        return self.lower().error is not None

    def lower(self) -> Lowered:
        """The Polars expressions for value and error. They raise for no row. They are built once."""
        return self._lowered

    @cached_property
    def _lowered(self) -> Lowered:
        from dataflare.expr.lower import lower, lower_constant

        return lower_constant(self.node) if self.is_literal else lower(self.node)

    def to_sql(self, dialect: Dialect) -> SqlText | None:
        """The expression in a database's SQL. None if the result would not be exactly the same."""
        from dataflare.expr.sql import to_sql

        return None if self.needs or self.can_fail else to_sql(self.node, dialect)

    def conjuncts(self) -> tuple[Typed, ...]:
        """The conditions joined by AND at the top, from left to right. If they are very many, the whole
        condition, because no database accepts them."""
        parts, unvisited = [], [self.node]
        while unvisited:
            node = unvisited.pop()
            if node.op == "and":
                unvisited += node.args[::-1]
            else:
                parts.append(node)
        if len(parts) == 1 or len(parts) > OPERATIONS_MAX // 2:
            return (self,)
        return tuple(typed(part, self.shown) for part in parts)


def _unpickled(nodes: list[Any], *rest: Any) -> Typed:
    bounds.allow(20 * min(len(nodes), bounds.DEPTH_MAX))
    return Typed(Node.from_flat(nodes), *rest)


def typed(node: Node, shown: str) -> Typed:
    """The `Typed` of a node."""
    nodes = list(node.walk())
    return Typed(
        node=node,
        shown=shown,
        type=node.type,
        columns=frozenset(str(n.value) for n in nodes if n.op == COLUMN),
        needs=frozenset(
            need
            for n in nodes
            if n.op not in (COLUMN, LITERAL, CAST, AGGREGATE)
            for need in registry.row(n.op).needs
        ),
    )


def check(
    text: Parsed | ExprText | SourceText | str,
    schema: Schema,
    *,
    step: str | None = None,
    name: str = "",
) -> Typed:
    """Type an expression against the columns that reach it. Raises ExpressionError with its place.

    name: of the result, if a step has several expressions; it makes two uuid() of one row different.
    """
    parsed = parsed_in(text, step)
    shares = not parsed.source.variables and len(schema.fields) <= _COLUMNS_MAX
    key = (parsed.source.template, schema, step, name)
    known = _TYPED.get(key) if shares else None
    if known is not None:
        return known
    node = Checker(parsed.source, schema, step, name=name).node(parsed.ast)
    made = typed(result(parsed, node, step), parsed.source.shown)
    return _TYPED.keep(key, made) if shares else made


_COLUMNS_MAX = 64
"""With more columns it takes longer to look an expression up than to read it: the key has all columns."""
_TYPED: Shared[tuple[str, Schema, str | None, str], Typed] = Shared()


def parsed_in(text: Parsed | ExprText | SourceText | str, step: str | None) -> Parsed:
    """`parse`, with the step in its errors."""
    if isinstance(text, Parsed):
        return text
    try:
        return parse(text)
    except ExpressionError as error:
        raise error.at(step=step) from None


def result(parsed: Parsed, node: Node, step: str | None) -> Node:
    """The node of a result. Raises ExpressionError for an interval with months, which no column can hold."""
    if node.type == sqltypes.INTERVAL:
        raise problem(
            parsed.source,
            parsed.ast.span,
            problems.TYPE_MISMATCH,
            "an interval with months is not a value: add it to a date or timestamp",
            step=step,
        )
    return node


def check_condition(
    text: Parsed | ExprText | SourceText | str, schema: Schema, *, step: str | None = None
) -> Typed:
    """`check` for a condition. Raises ExpressionError (E0204) if the result is not a bool."""
    parsed = parsed_in(text, step)
    condition = check(parsed, schema, step=step)
    if condition.type.name == "null":
        return typed(convert(condition.node, t.BOOL), condition.shown)
    if condition.type.name != "bool":
        helps = {"string": f"{parsed} = '...'"}
        help = (
            f"write {parsed} <> 0" if condition.type.is_numeric else helps.get(condition.type.name)
        )
        raise problem(
            parsed.source,
            parsed.ast.span,
            problems.TYPE_MISMATCH,
            f"a condition is expected, this is {condition.type}",
            step=step,
            help=help if help is None or help.startswith("write") else f"write {help}",
        )
    return condition
