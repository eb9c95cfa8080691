"""Tell each source how the destinations write its rows. Pure."""

from __future__ import annotations

from dataflare.planner.graph import DestinationNode, Graph, SourceNode


def tell_sources(graph: Graph) -> None:
    """Set `written_as` of each source: the destinations that its rows reach, with their modes."""
    modes: dict[str, dict[str, str | None]] = {}
    for node in graph:
        if isinstance(node, DestinationNode):
            for name in _behind(graph, node.id):
                modes.setdefault(name, {})[node.id] = node.connector.mode
    for node in graph:
        if isinstance(node, SourceNode):
            node.connector.written_as = modes.get(node.id, {})


def _behind(graph: Graph, end: str) -> set[str]:
    """All nodes before a node."""
    ids: set[str] = set()
    unvisited = [end]
    while unvisited:
        for port in graph.nodes[unvisited.pop()].inputs:
            if port.node not in ids:
                ids.add(port.node)
                unvisited.append(port.node)
    return ids
