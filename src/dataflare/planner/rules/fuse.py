"""Fuse neighbouring row steps into one chain, which becomes one lazy query per batch."""

from __future__ import annotations

from msgspec.structs import replace

from dataflare.planner.graph import Graph, Port, RowsNode


def fuse(graph: Graph) -> Graph:
    """Merge each row node into the row node before it, where nobody else reads that one."""
    for node in list(graph):
        if not isinstance(node, RowsNode):
            continue
        node_now = graph.nodes[node.id]
        assert isinstance(node_now, RowsNode)
        before = graph.nodes[node_now.input.node]
        if not isinstance(before, RowsNode) or graph.only_consumer(before.id) is None:
            continue
        merged = replace(
            node_now, input=before.input, operators=(*before.operators, *node_now.operators)
        )
        graph = graph.with_nodes({before.id: None, node_now.id: merged})
        graph = graph.rewired(Port(before.id), Port(node_now.id))
    return graph
