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
    all of it. order, directions: of an aggregate's ORDER BY, whether descending and whether NULLs are
    first.
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
    order: tuple[Ast, ...] = ()
    directions: tuple[tuple[bool, bool], ...] = ()

    @property
    def point(self) -> Span:
        return self.at or self.span

    def walk(self) -> Iterator[Ast]:
        """Each part once, also one that stands in several places: the subject of a CASE."""
        left, seen = [self], set[int]()
        while left:
            ast = left.pop()
            if id(ast) not in seen:
                seen.add(id(ast))
                yield ast
                left += [*ast.order, *([ast.where] if ast.where is not None else [])]
                left += ast.args[::-1]


Flat = tuple[str, DataType, tuple[int, ...], Any, str | None]


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
        """Each part once, also one that stands in several places."""
        left, seen = [self], set[int]()
        while left:
            node = left.pop()
            if id(node) not in seen:
                seen.add(id(node))
                yield node
                left += node.args[::-1]

    def flat(self) -> list[Flat]:
        """The nodes, each after its arguments, which are told by their places: pickle goes down a tree
        by recursion, and not as far as an expression may."""
        places: dict[int, int] = {}
        nodes: list[Flat] = []
        left = [self]
        while left:
            node = left[-1]
            waiting = [arg for arg in node.args if id(arg) not in places]
            if id(node) in places or not waiting:
                left.pop()
            else:
                left += waiting[::-1]
            if id(node) not in places and not waiting:
                places[id(node)] = len(nodes)
                args = tuple(places[id(arg)] for arg in node.args)
                nodes.append((node.op, node.type, args, node.value, node.shown))
        return nodes

    @classmethod
    def from_flat(cls, nodes: list[Flat]) -> Node:
        done: list[Node] = []
        for op, type_, places, value, shown in nodes:
            done.append(cls(op, type_, tuple(done[place] for place in places), value, shown))
        return done[-1]

    @property
    def is_literal(self) -> bool:
        return self.op == LITERAL

    @property
    def is_null(self) -> bool:
        return self.op == LITERAL and self.value is None
