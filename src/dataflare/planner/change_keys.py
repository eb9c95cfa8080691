"""Whether a change with some values in a destination's key means the row that is there with them. Pure.

It does where at no moment two rows have equal values in these columns. Else a delete of one of them, or the first half
of an update that gives its values to another, would delete the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from dataflare.model.batch import INSERTS, Kinds
from dataflare.operators.aggregate import Aggregate
from dataflare.operators.base import RowOperator, StatefulOperator
from dataflare.operators.deduplicate_changes import DeduplicateChanges
from dataflare.operators.flatten import Explode
from dataflare.operators.history import History
from dataflare.operators.history_versions import VALID_FROM
from dataflare.operators.join_shape import LEFT, RIGHT
from dataflare.operators.join_updating import UpdatingJoin
from dataflare.operators.lookup import Lookup
from dataflare.operators.parted_updates import PartedUpdates
from dataflare.operators.primitives import Conform, Derive, Filter, Select
from dataflare.operators.sample import Sample
from dataflare.operators.stamp import Stamp
from dataflare.operators.whole_changes import WholeChanges
from dataflare.operators.window import Window
from dataflare.operators.window_rows import WINDOW_COLUMNS
from dataflare.planner.graph import (
    BranchNode,
    DestinationNode,
    Graph,
    Node,
    RowsNode,
    SourceNode,
    StatefulNode,
    UnionNode,
)
from dataflare.planner.guarantees import upstream


def key_of_rows(graph: Graph, kinds: Mapping[str, Kinds], node: Node) -> tuple[str, ...]:
    """The key of the source whose changes reach a node, under the same names; empty where it is not known. Changes that
    have the key alone have an update of it as a delete and an insert already."""
    before = [graph.nodes[each] for each in upstream(graph, node.id)]
    sources = [each.connector.capabilities() for each in before if isinstance(each, SourceNode)]
    if len(sources) != 1 or sources[0].deletes_by_key:
        return ()
    key = tuple(sources[0].key)
    is_there = bool(key) and set(key) <= set(node.schema.names)
    return key if is_there and known_by(graph, kinds, node, frozenset(key)) else ()


def known_by(graph: Graph, kinds: Mapping[str, Kinds], node: Node, columns: frozenset[str]) -> bool:
    """Whether it is known that no two of the rows behind a node have equal values in these columns. Rows that are
    never deleted do no harm, however many there are."""
    if kinds[node.id] == INSERTS:
        return True
    match node:
        case SourceNode():
            return node.connector.changes_by(columns)
        case RowsNode():
            traced: frozenset[str] | None = columns
            for operator in reversed(node.operators):
                traced = _in_front(operator, traced)
            before = graph.nodes[node.input.node]
            return traced is not None and known_by(graph, kinds, before, traced)
        case BranchNode():
            return known_by(graph, kinds, graph.nodes[node.input.node], columns)
        case UnionNode() | DestinationNode():
            # A row of one input may have the values of a row of another.
            alone = len(node.inputs) == 1
            return alone and known_by(graph, kinds, graph.nodes[node.inputs[0].node], columns)
        case StatefulNode(operator=UpdatingJoin() as join):
            return _pairs_known_by(graph, kinds, node, join, columns)
        case StatefulNode():
            key = _key_of(node.operator)
            return key is not None and key <= columns
    return False


def _key_of(operator: StatefulOperator) -> frozenset[str] | None:
    """The columns of which a step gives equal values once."""
    match operator:
        case Aggregate() | DeduplicateChanges() | WholeChanges():
            return frozenset(operator.keys)
        case History():
            return frozenset({*operator.keys, VALID_FROM})
        case Window():
            # Windows of one group neither begin together nor, of one kind, overlap in any other way.
            bounded = operator.grid is not None or operator.gap is not None
            return frozenset({*operator.names, *(WINDOW_COLUMNS[:1] if bounded else ())})
    return None


def _pairs_known_by(
    graph: Graph,
    kinds: Mapping[str, Kinds],
    node: StatefulNode,
    join: UpdatingJoin,
    columns: frozenset[str],
) -> bool:
    """A pair is known where the columns tell the row of one side, and its key and they the row of the other."""
    shape = join.shape
    own = dict(zip(shape.left_keys, shape.right_keys, strict=True))
    left = frozenset(name for name in columns if name in shape.left)
    right = frozenset(old for old, new in shape.right_names.items() if new in columns)
    right |= frozenset(own[name] for name in left if name in own)
    sides = [graph.nodes[port.node] for port in node.ports]

    def is_known(side: int, by: frozenset[str]) -> bool:
        return known_by(graph, kinds, sides[side], by)

    if shape.kind in ("semi", "anti"):
        return is_known(LEFT, left)
    return (is_known(LEFT, left) and is_known(RIGHT, right | set(shape.right_keys))) or (
        is_known(RIGHT, right) and is_known(LEFT, left | set(shape.left_keys))
    )


def _in_front(operator: RowOperator, columns: frozenset[str] | None) -> frozenset[str] | None:
    """The columns in front of an operator that tell apart what these tell apart behind it; None if not known."""
    if columns is None:
        return None
    match operator:
        case Filter() | Sample() | PartedUpdates() | Conform() | Stamp():
            return columns
        case Derive():
            return None if columns & {name for name, _ in operator.columns} else columns
        case Lookup():
            added = {name for name, _ in operator.added}
            return None if columns & added or operator.on_many == "all" else columns
        case Explode():
            is_numbered = operator.index is not None and operator.index in columns
            if not is_numbered or operator.column in columns:
                return None
            return columns - {operator.index}
        case Select():
            names = dict(operator.columns)
            return frozenset(names[n] for n in columns) if columns <= names.keys() else None
    return None
