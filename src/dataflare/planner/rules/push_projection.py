"""Let sources read only the columns that some step reads."""

from __future__ import annotations

from msgspec.structs import replace

from dataflare.model.types import Schema
from dataflare.operators.primitives import Select
from dataflare.planner.graph import Effect, Graph, Node, Port, RowsNode, SourceNode
from dataflare.sdk.source import SupportsProjection


def push_projection(graph: Graph) -> Graph:
    """Give each source its columns. A source that cannot leave out columns is followed by a select."""
    for node in list(graph):
        if not isinstance(node, SourceNode) or len(node.schema) == node.all_columns:
            continue
        names = node.schema.names
        text = f"{node.id}: reads {len(names)} of {node.all_columns} columns"
        if isinstance(node.connector, SupportsProjection):
            connector = node.connector.with_columns(names)
            changed = replace(node, connector=connector, read_columns=names)
            graph = graph.with_nodes({node.id: changed}, Effect("push_projection", text))
        else:
            graph = _selected(graph, node, node.schema)
    return graph


def _selected(graph: Graph, source: SourceNode, schema: Schema) -> Graph:
    """Put a select behind the source."""
    select = RowsNode(
        id=f"{source.id}/columns",
        step=source.step,
        type="select",
        outputs={None: schema},
        input=Port(source.id),
        operators=(Select(source.step, tuple((n, n) for n in schema.names)),),
    )
    rewired = graph.rewired(Port(source.id), Port(select.id))
    nodes: dict[str, Node] = {}
    for id_, node in rewired.nodes.items():
        nodes[id_] = node
        if id_ == source.id:
            nodes[select.id] = select
    return Graph(nodes, graph.effects)
