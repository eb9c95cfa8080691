"""Whether what comes last for a key of a destination is what is left of its rows, and what sees to it where not. Pure.

A destination with a key keeps what came last for it. Changes of one row come in their order along one path. They may
not where the row goes another way after a change: to another task, because it was spread by a column that changed,
or to another output of a branch that a union brings together again. And changes of two rows may have the same key, if
it is not known to be the key of the changes: a delete of one would delete the other. There the rows of each key are
kept in front of the destination, and what is written is what is left of them.

Always true: changes of rows with equal values in the columns of `orders` are in order at a node; None says that it is
not known by which columns they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from dataflare.errors import PlanError
from dataflare.model.batch import INSERTS, Kinds
from dataflare.model.types import Schema
from dataflare.operators.aggregate import Aggregate
from dataflare.operators.base import RowOperator
from dataflare.operators.deduplicate_changes import DeduplicateChanges
from dataflare.operators.flatten import Explode
from dataflare.operators.history import History
from dataflare.operators.join_updating import UpdatingJoin
from dataflare.operators.left_by_key import LeftByKey
from dataflare.operators.lookup import Lookup
from dataflare.operators.parted_updates import PartedUpdates
from dataflare.operators.primitives import Conform, Derive, Filter, Select
from dataflare.operators.sample import Sample
from dataflare.operators.stamp import Stamp
from dataflare.operators.whole_changes import WholeChanges
from dataflare.operators.window import Window
from dataflare.planner.change_keys import known_by
from dataflare.planner.changelog import arriving_kinds, kinds_of_port, row_kinds
from dataflare.planner.graph import (
    DestinationNode,
    Graph,
    Node,
    Port,
    RowsNode,
    SourceNode,
    StatefulNode,
    UnionNode,
)
from dataflare.planner.guarantees import upstream

Columns = frozenset[str] | None

HELPER = "--changes"
"""Ends the name of the stage that stands before a destination: no step's."""


def orders(graph: Graph) -> dict[str, Columns]:
    """By node, the columns of which equal values mean that changes are in order."""
    kinds = row_kinds(graph)
    found: dict[str, Columns] = {}
    for node in graph:
        arriving = [
            frozenset() if kinds_of_port(kinds, port) == INSERTS else found[port.node]
            for port in node.inputs
        ]
        match node:
            case RowsNode():
                columns = arriving[0]
                for operator in node.operators:
                    columns = _behind(operator, columns)
            case StatefulNode():
                columns = _of_results(node, arriving)
            case _:
                columns = _together(graph, node.inputs, arriving)
        found[node.id] = columns
    return found


def _together(graph: Graph, ports: Sequence[Port], arriving: Sequence[Columns]) -> Columns:
    """The columns of several inputs together. Two ways from one source may swap what they carry."""
    if len(ports) > 1:
        before = [{port.node, *upstream(graph, port.node)} for port in ports]
        if any(one & other for place, one in enumerate(before) for other in before[:place]):
            return None
    return _joined(arriving)


def _joined(arriving: Sequence[Columns]) -> Columns:
    known = [columns for columns in arriving if columns is not None]
    return frozenset().union(*known) if len(known) == len(arriving) else None


def _of_results(node: StatefulNode, arriving: Sequence[Columns]) -> Columns:
    """A step that keeps the rows of a key brings their changes into an order, whatever it was."""
    operator = node.operator
    match operator:
        case Aggregate() | DeduplicateChanges() | WholeChanges() | History():
            return frozenset(operator.keys)
        case Window():
            return frozenset(operator.names) if operator.keys else frozenset()
        case UpdatingJoin():
            before = _joined(arriving)
            return None if before is None else before | set(operator.keys)
    return frozenset() if not operator.keys else None


def _behind(operator: RowOperator, columns: Columns) -> Columns:
    """The columns by their names behind an operator; None where one is gone."""
    if not columns:
        return columns
    match operator:
        case Filter() | Sample() | PartedUpdates() | Conform() | Stamp():
            return columns
        case Derive():
            changed = {name for name, _ in operator.columns}
        case Lookup():
            changed = {name for name, _ in operator.added}
        case Explode():
            changed = {operator.column, *([operator.index] if operator.index else [])}
        case Select():
            names = {old: new for new, old in operator.columns}
            return frozenset(names[n] for n in columns) if columns <= names.keys() else None
        case _:
            return None
    return None if columns & changed else columns


class Kept(NamedTuple):
    """The rows of each key are kept. why: in words, for `plan`."""

    key: tuple[str, ...]
    why: str


_DISORDERED = (
    "changes of a row may come out of order, so the rows of each key are kept in front of it"
)
_UNKNOWN = (
    "its key is not known to be the key of the changes: a delete of one row could delete another, so the rows of each "
    "key are kept in front of it"
)


def kept_in_front(graph: Graph) -> dict[str, Kept]:
    """The destinations in front of which the rows of each key are kept."""
    kinds, found = row_kinds(graph), orders(graph)
    kept = {}
    for node in graph:
        if not isinstance(node, DestinationNode) or kinds[node.id] == INSERTS:
            continue
        keeps, key = node.connector.keeps_last, tuple(map(str, node.connector.key))
        columns = found[node.id]
        if keeps is None:
            continue
        if columns is None or not columns <= set(key):
            kept[node.id] = Kept(key, _DISORDERED)
        elif (
            keeps == "mirror"
            and node.connector.newest_by is None
            and not _means_rows(graph, kinds, node, frozenset(key))
        ):
            kept[node.id] = Kept(key, _UNKNOWN)
    return kept


def _means_rows(graph: Graph, kinds: Mapping[str, Kinds], node: Node, key: frozenset[str]) -> bool:
    """Whether a change with some values in the key means the row that is there with them."""
    if not deletes_by_key(graph, node):
        return known_by(graph, kinds, node, key)
    sources = (graph.nodes[each] for each in upstream(graph, node.id))
    for source in sources:
        if isinstance(source, SourceNode) and not source.connector.capabilities().key:
            return True  # by which columns its rows differ is the user's word
    # An update of a column that is not in the source's key, and is in this one, would leave the old row there.
    return known_by(graph, kinds, node, key) and not any(
        known_by(graph, kinds, node, key - {name}) for name in key
    )


def deletes_by_key(graph: Graph, node: Node) -> bool:
    """Whether deletes of some source have no values by which a row could be found."""
    return any(_gives_keys_alone(graph, port.node) for port in node.inputs)


def _gives_keys_alone(graph: Graph, id_: str) -> bool:
    match graph.nodes[id_]:
        case SourceNode() as source:
            return source.connector.capabilities().deletes_by_key
        case StatefulNode(operator=WholeChanges()):
            return False
        case node:
            return any(_gives_keys_alone(graph, port.node) for port in node.inputs)


def check_lookups(graph: Graph) -> None:
    """Raise PlanError (E0315) for a step that finds deleted rows again by their values, behind a lookup, which may
    find others when a row is deleted than it found when it came."""
    kinds, waiting = row_kinds(graph), kept_in_front(graph)
    for node in graph:
        keeps = isinstance(node, StatefulNode) and arriving_kinds(kinds, node) != INSERTS
        if not keeps and node.id not in waiting:
            continue
        for before in (graph.nodes[id_] for id_ in upstream(graph, node.id)):
            operators = before.operators if isinstance(before, RowsNode) else ()
            lookup = next((each for each in operators if isinstance(each, Lookup)), None)
            if lookup is None or arriving_kinds(kinds, before) == INSERTS:
                continue
            where = "" if keeps else " (the rows of each key are kept in front of it, see `plan`)"
            raise PlanError(
                f"step '{node.step}' takes rows back by their values{where}, and the lookup '{lookup.step}' may find "
                "other values when a row is deleted than when it came",
                code="E0315",
                step=node.step,
                help="make the table a source and take a step of type join in place of the lookup: it keeps what it "
                "joined; or put the lookup behind this step",
            )


def ordered(graph: Graph, kept: Mapping[str, Kept]) -> Graph:
    """The graph in which the rows of each key are kept in front of these destinations."""
    nodes: dict[str, Node] = {}
    for node in graph:
        if isinstance(node, DestinationNode) and node.id in kept:
            all_id, id_ = f"{node.id}/all", f"{node.id}/changes"
            name = f"{node.step}{HELPER}"
            outputs: dict[str | None, Schema] = {None: node.schema}
            nodes[all_id] = UnionNode(
                all_id, node.step, node.type, outputs, node.ports, node.conform
            )
            operator = LeftByKey(name, kept[node.id].key, True, None, node.step)
            nodes[id_] = StatefulNode(id_, name, node.type, outputs, (Port(all_id),), operator)
            node = replace(node, ports=(Port(id_),), conform=((),))
        nodes[node.id] = node
    return Graph(nodes, graph.effects)
