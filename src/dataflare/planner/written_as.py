"""How the rows of each source are written in the end. Pure."""

from __future__ import annotations

from dataflare.planner.graph import DestinationNode, Graph, SourceNode


def tell_sources(graph: Graph) -> None:
    """Tell each source which destinations its rows reach, and how these write them."""
    found: dict[str, dict[str, str | None]] = {}
    for node in graph:
        if isinstance(node, DestinationNode):
            for name in _behind(graph, node.id):
                found.setdefault(name, {})[node.id] = node.connector.mode
    for node in graph:
        if isinstance(node, SourceNode):
            node.connector.written_as = found.get(node.id, {})


def _behind(graph: Graph, end: str) -> set[str]:
    """All nodes that a node's rows come from."""
    seen: set[str] = set()
    waiting = [end]
    while waiting:
        for port in graph.nodes[waiting.pop()].inputs:
            if port.node not in seen:
                seen.add(port.node)
                waiting.append(port.node)
    return seen
