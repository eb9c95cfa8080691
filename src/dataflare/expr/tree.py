"""The two trees: `Ast`, what was written and where; `Node`, what it means, typed.

Always true: an `Ast` holds half-open spans into the template; a `Node` is plain data that pickles
and holds neither text positions nor Polars objects. Every name of an operation, in both, is a
function's name in the registry or one of COLUMN, LITERAL and CAST.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from dataflare.model.types import DataType

Span = tuple[int, int]

COLUMN, LITERAL, CAST, STAR = "column", "literal", "cast", "star"

AGGREGATE = "aggregate"
"""The operation of a node that stands for an aggregate's result; its value is the AggregateCall."""

NOW_COLUMN = "__dataflare_now"
ROWKEY_COLUMN = "__dataflare_rowkey"


class Ast(Struct, frozen=True):
    """One piece of what was written.

    `op`: a function's name, or COLUMN (value: its name), LITERAL (value: the Python value; type:
    its type), CAST (value: whether it is TRY_CAST; type: the target), STAR.
    `at`: the characters to point to when this very operation is wrong (a function's name); `span`:
    all of it.
    """

    op: str
    span: Span
    args: tuple[Ast, ...] = ()
    value: Any = None
    type: DataType | None = None
    at: Span | None = None
    shown: str | None = None
    distinct: bool = False
    where: Ast | None = None

    @property
    def point(self) -> Span:
        return self.at or self.span

    def walk(self) -> Iterator[Ast]:
        yield self
        for arg in self.args:
            yield from arg.walk()
        if self.where is not None:
            yield from self.where.walk()


class Node(Struct, frozen=True):
    """One typed operation. `value`: a column's name, a literal's value, whether a cast is TRY_CAST.

    `shown`: for a literal that came from a variable, what to print in its place.
    """

    op: str
    type: DataType
    args: tuple[Node, ...] = ()
    value: Any = None
    shown: str | None = None

    def walk(self) -> Iterator[Node]:
        yield self
        for arg in self.args:
            yield from arg.walk()

    @property
    def is_literal(self) -> bool:
        return self.op == LITERAL

    @property
    def is_null(self) -> bool:
        return self.op == LITERAL and self.value is None
