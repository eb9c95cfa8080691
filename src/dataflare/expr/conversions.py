"""Implicit conversions, and the conversions that CAST allows.

Always true: an implicit conversion keeps the value, or its failure is an error of the row; literals are
converted here once, and not for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from msgspec.structs import replace

from dataflare.expr import sqltypes
from dataflare.expr.folding import literal_as
from dataflare.expr.tree import CAST, Node
from dataflare.model.types import DataType

IMPLICIT = "implicit"
"""The value of an implicit cast."""


def is_text_literal(node: Node) -> bool:
    return node.is_literal and node.type.is_text and isinstance(node.value, str)


def convert(node: Node, to: DataType) -> Node:
    """The node as that type. Literals are converted here, other nodes when they run."""
    if node.type == to:
        return node
    if node.is_literal:
        value, type_ = node.value, node.type
        if value is None:
            return replace(node, type=to)
        if to.is_integer and isinstance(value, int) and sqltypes.fits(value, to):
            return replace(node, type=to)
        if to.is_float and type_.is_numeric:
            return replace(node, type=to, value=float(value))
        if (
            to.name == "decimal"
            and isinstance(value, int | Decimal)
            and not isinstance(value, bool)
        ):
            return replace(node, type=to, value=Decimal(value))
        if to.is_text and type_.is_text:
            return replace(node, type=to)
        if is_text_literal(node) and to.is_temporal:
            constant = literal_as(value, to)
            if constant is not None:
                return replace(constant, shown=node.shown)
        if to.name == "timestamp" == type_.name and to.timezone is None and type_.timezone is None:
            return (
                replace(node, type=to)
                if to.unit in ("us", "ns")
                else Node(CAST, to, (node,), IMPLICIT)
            )
    return Node(CAST, to, (node,), value=IMPLICIT)


def castable(source: DataType, to: DataType) -> bool:
    """Whether CAST can convert this type to the other."""
    if source.name == "null" or source == to:
        return True
    if source.is_text:
        return to.name not in ("struct", "list", "duration", "interval", "null")
    if to.is_text:
        return source.name not in ("interval", "list", "struct", "duration")
    if source.is_numeric and (to.is_numeric or to.name == "bool"):
        return True
    if source.name == "bool" and to.is_numeric:
        return True
    if source.name in ("date", "timestamp") and to.name in ("date", "timestamp"):
        return True
    if source.name == "timestamp" and to.name == "time":
        return True
    if source.name == "duration" == to.name:
        return True
    if source.name == "list" == to.name and source.item is not None and to.item is not None:
        return castable(source.item, to.item)
    if source.name == "struct" == to.name and len(source.fields) == len(to.fields):
        return all(
            a.name == b.name and castable(a.type, b.type)
            for a, b in zip(source.fields, to.fields, strict=True)
        )
    return source.name == "binary" == to.name


def meeting_type(nodes: Sequence[Node]) -> DataType | None:
    """The common type of the nodes. An integer literal takes the type of the others if it fits."""
    fixed = [n for n in nodes if not _adapts(n)]
    base = sqltypes.unify_all(n.type for n in fixed)
    if base is None:
        return None
    for node in nodes:
        if not _adapts(node):
            continue
        if is_text_literal(node):
            if base.is_temporal:
                if literal_as(node.value, base) is None:
                    return None
                continue
        elif base.is_integer and sqltypes.fits(node.value, base):
            continue
        common = sqltypes.unify(base, node.type)
        if common is None:
            return None
        base = common
    return base


def _adapts(node: Node) -> bool:
    if is_text_literal(node):
        return True
    plain = node.is_literal and node.shown is None and node.value is not None
    return plain and node.type.is_integer
