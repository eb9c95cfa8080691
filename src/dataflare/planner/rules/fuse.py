"""Fuse adjacent row steps into one chain. It becomes one lazy query per batch."""

from __future__ import annotations

from msgspec.structs import replace

from dataflare.planner.graph import Graph, Port, RowsNode


def fuse(graph: Graph) -> Graph:
    """Merge each row node into the row node before it, if that one has no other reader."""
    for node in list(graph):
        if not isinstance(node, RowsNode):
            continue
        current = graph.nodes[node.id]
        assert isinstance(current, RowsNode)
        before = graph.nodes[current.input.node]
        if not isinstance(before, RowsNode) or graph.only_consumer(before.id) is None:
            continue
        merged = replace(
            current, input=before.input, operators=(*before.operators, *current.operators)
        )
        graph = graph.with_nodes({before.id: None, current.id: merged})
        graph = graph.rewired(Port(before.id), Port(current.id))
    return graph
