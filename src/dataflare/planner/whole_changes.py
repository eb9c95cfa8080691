"""Where changes have the key of a row alone, and a step needs the row: the newest row of each key is kept behind the
source. Pure.

A source with `deletes_by_key` says no more of a row that is deleted than its key, and nothing of the row that an insert
replaces. A destination by that key needs no more, and a step that gives a row for each row does not either. A condition, an aggregate
or a join does: a row that no longer fulfils it must be taken back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dataflare.errors import PlanError
from dataflare.model.batch import INSERTS, Kinds
from dataflare.operators.history import History
from dataflare.operators.join_shape import RIGHT
from dataflare.operators.join_temporal import TemporalJoin
from dataflare.operators.stamp import Stamp
from dataflare.operators.whole_changes import WholeChanges
from dataflare.planner.change_keys import known_by
from dataflare.planner.change_order import HELPER, deletes_by_key, kept_in_front
from dataflare.planner.changelog import arriving_kinds, row_kinds
from dataflare.planner.event_time import stamp_of
from dataflare.planner.graph import (
    BranchNode,
    Graph,
    Node,
    Port,
    RowsNode,
    SourceNode,
    StatefulNode,
    moved,
)
from dataflare.planner.guarantees import upstream


def with_whole_changes(graph: Graph) -> Graph:
    """The graph in which such sources have a stage behind them, on the ways to the steps that need it. Raises
    PlanError (E0315) for a step that needs it behind a source whose key is not known, or which has an event time."""
    needing = [*_needing(graph)]
    for node in needing:
        _refuse(graph, node)
    if not needing:
        return graph
    sources = {source.id for node in needing for source in _sources(graph, node)}
    ways = {node.id for node in needing}.union(*(upstream(graph, node.id) for node in needing))
    nodes: dict[str, Node] = {}
    for node in graph:
        for port in node.inputs:
            if node.id in ways and port.node in sources:
                node = moved(node, port, Port(_id(port.node)))
        nodes[node.id] = node
        if node.id in sources and isinstance(node, SourceNode):
            name, key = f"{node.id}{HELPER}", node.connector.capabilities().key
            operator = WholeChanges(name, key, node.id)
            nodes[_id(node.id)] = StatefulNode(
                _id(node.id), name, node.type, node.outputs, (Port(node.id),), operator
            )
    return Graph(nodes, graph.effects)


def whole_changes_notes(graph: Graph) -> dict[str, str]:
    """By source, what a user should know of such a stage."""
    operators = (node.operator for node in graph if isinstance(node, StatefulNode))
    return {
        each.source: f"the newest row of each {', '.join(each.keys)} is kept, because deletes have the key alone and a "
        "step behind needs the row"
        for each in operators
        if isinstance(each, WholeChanges)
    }


def _id(source: str) -> str:
    return f"{source}/whole"


def _needing(graph: Graph) -> Iterator[Node]:
    """The nodes that need the rows which are replaced and deleted, and get their keys alone."""
    kinds, waiting = row_kinds(graph), kept_in_front(graph)
    for node in graph:
        if arriving_kinds(kinds, node) == INSERTS or not deletes_by_key(graph, node):
            continue
        if _ends_versions(graph, kinds, node):
            continue
        changes_number = isinstance(node, RowsNode) and not all(
            operator.keeps_rows for operator in node.operators
        )
        if changes_number or isinstance(node, BranchNode | StatefulNode) or node.id in waiting:
            yield node


def _ends_versions(graph: Graph, kinds: Mapping[str, Kinds], node: Node) -> bool:
    """Whether a delete ends the version of its key, and has all that is needed for it: the key and the time."""
    if not isinstance(node, StatefulNode):
        return False
    if isinstance(node.operator, History):
        timed, before = node.operator.time is not None, graph.nodes[node.inputs[0].node]
        return timed and _means_key(graph, kinds, before, frozenset(node.operator.keys))
    if not isinstance(node.operator, TemporalJoin):
        return False
    for source in _sources(graph, node):
        stamp = stamp_of(graph, source)
        changed_at = source.connector.capabilities().changed_at
        if not isinstance(stamp, Stamp) or changed_at is None or stamp.column != changed_at:
            return False
    table, keys = graph.nodes[node.ports[RIGHT].node], frozenset(node.operator.shape.right_keys)
    return _means_key(graph, kinds, table, keys)


def _means_key(graph: Graph, kinds: Mapping[str, Kinds], node: Node, keys: frozenset[str]) -> bool:
    """Whether these columns are all of the source's key, and no more."""
    return known_by(graph, kinds, node, keys) and not any(
        known_by(graph, kinds, node, keys - {name}) for name in keys
    )


def _sources(graph: Graph, node: Node) -> list[SourceNode]:
    """The sources in front of a node that give keys alone."""
    before = (graph.nodes[id_] for id_ in upstream(graph, node.id))
    return [
        each
        for each in before
        if isinstance(each, SourceNode) and each.connector.capabilities().deletes_by_key
    ]


def _refuse(graph: Graph, node: Node) -> None:
    for source in _sources(graph, node):
        if not source.connector.capabilities().key:
            why, help_ = (
                f"it is not known by which columns the rows of '{source.step}' differ",
                "write the source into a table with mode: mirror first, and read that table; or read the source "
                "without its deletes (`tombstones: null` or `skip` for kafka)",
            )
        elif stamp_of(graph, source) is not None:
            why, help_ = (
                f"a delete of '{source.step}' has no event time",
                "leave event_time out, or write the source into a table with mode: mirror first, and read that table; a temporal join "
                "by the key of the table needs no more than cdc: {metadata: [ts]} and event_time: {column: _ts}",
            )
        else:
            continue
        raise PlanError(
            f"step '{node.step}' needs the values of rows that are replaced and deleted, the changes of this source "
            f"have the key of such a row alone, and {why}",
            code="E0315",
            step=node.step,
            help=help_,
        )
