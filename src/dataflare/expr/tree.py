"""The two trees: `Ast` is the text with places, `Node` is its typed meaning.

Always true: an `Ast` has half-open spans of the template; a `Node` is plain data that pickles, without text
positions and Polars objects. The name of an operation in both is a function's name in the registry or one
of COLUMN, LITERAL and CAST.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from dataflare.model.types import DataType

Span = tuple[int, int]

COLUMN, LITERAL, CAST, STAR = "column", "literal", "cast", "star"

AGGREGATE = "aggregate"
"""The operation of a node for an aggregate's result. Its value is the AggregateCall."""

NOW_COLUMN = "__dataflare_now"
ROWKEY_COLUMN = "__dataflare_rowkey"


class Ast(Struct, frozen=True):
    """One part of the text.

    `op`: a function's name, or COLUMN (value: its name), LITERAL (value: the Python value; type:
    its type), CAST (value: whether it is TRY_CAST; type: the target), STAR.
    `at`: the characters for an error of this operation (a function's name); `span`: all its characters.
    order: the values of an aggregate's ORDER BY; directions: of each, whether it is descending and whether
    NULLs are first.
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
        unvisited, visited = [self], set[int]()
        while unvisited:
            ast = unvisited.pop()
            if id(ast) not in visited:
                visited.add(id(ast))
                yield ast
                unvisited += [*ast.order, *([ast.where] if ast.where is not None else [])]
                unvisited += ast.args[::-1]


Flat = tuple[str, DataType, tuple[int, ...], Any, str | None]


class Node(Struct, frozen=True):
    """One typed operation. `value`: a column's name, a literal's value, whether a cast is TRY_CAST.

    `shown`: for a literal from a variable, the text to show instead of its value.
    """

    op: str
    type: DataType
    args: tuple[Node, ...] = ()
    value: Any = None
    shown: str | None = None

    def walk(self) -> Iterator[Node]:
        """Each part once, also one that stands in several places."""
        unvisited, visited = [self], set[int]()
        while unvisited:
            node = unvisited.pop()
            if id(node) not in visited:
                visited.add(id(node))
                yield node
                unvisited += node.args[::-1]

    def flat(self) -> list[Flat]:
        """The nodes, each after its arguments, which are stored by index. Otherwise pickle would walk the
        tree by recursion, and an expression may be deeper than its limit."""
        places: dict[int, int] = {}
        nodes: list[Flat] = []
        unvisited = [self]
        while unvisited:
            node = unvisited[-1]
            waiting = [arg for arg in node.args if id(arg) not in places]
            if id(node) in places or not waiting:
                unvisited.pop()
            else:
                unvisited += waiting[::-1]
            if id(node) not in places and not waiting:
                places[id(node)] = len(nodes)
                args = tuple(places[id(arg)] for arg in node.args)
                nodes.append((node.op, node.type, args, node.value, node.shown))
        return nodes

    @classmethod
    def from_flat(cls, nodes: list[Flat]) -> Node:
        built: list[Node] = []
        for op, type_, places, value, shown in nodes:
            built.append(cls(op, type_, tuple(built[place] for place in places), value, shown))
        return built[-1]

    @property
    def is_literal(self) -> bool:
        return self.op == LITERAL

    @property
    def is_null(self) -> bool:
        return self.op == LITERAL and self.value is None


def as_text(node: Node) -> str:
    """The meaning as text: the same text for the same meaning. For messages and comparisons, not parsed."""
    if node.op == COLUMN:
        return str(node.value)
    if node.op == LITERAL:
        text = "NULL" if node.value is None else f"{node.value!r}"
        if node.shown is None:
            return text
        # A secret must not be in a checkpoint. The digits tell one value from another.
        return f"{node.shown}#{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    args = ", ".join(as_text(arg) for arg in node.args)
    if node.op == CAST:
        return f"{'try_' if node.value else ''}cast({args} as {node.type})"
    more = "" if node.value is None else f" {node.value!r}"
    return f"{node.op}({args}){more}"
