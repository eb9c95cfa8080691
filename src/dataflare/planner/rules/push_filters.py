"""Push filters into sources that can leave rows unread by a condition of their own language.

Only conditions that cannot fail and whose meaning the source's language has exactly; never below
`event_time`, for a row left out there would move no watermark.
"""

from __future__ import annotations

from msgspec.structs import replace

from dataflare.operators.primitives import Filter
from dataflare.planner.graph import Effect, Graph, Port, RowsNode, SourceNode
from dataflare.sdk.source import SourceConnector, SupportsFilter


def push_filters(graph: Graph) -> Graph:
    for node in list(graph):
        if not isinstance(node, RowsNode):
            continue
        source = graph.nodes[node.input.node]
        if not isinstance(source, SourceNode) or graph.only_consumer(source.id) is None:
            continue
        connector, left, taken = _pushed(source, node)
        if not taken:
            continue
        texts = tuple(dict.fromkeys(taken))
        effects = [Effect("push_filters", f"{source.id}: {text}") for text in texts]
        changed = replace(
            source, connector=connector, pushed_filters=(*source.pushed_filters, *texts)
        )
        if left.operators:
            graph = graph.with_nodes({source.id: changed, node.id: left}, *effects)
        else:
            graph = graph.with_nodes({source.id: changed, node.id: None}, *effects)
            graph = graph.rewired(Port(node.id), Port(source.id))
    return graph


def _pushed(source: SourceNode, node: RowsNode) -> tuple[SourceConnector, RowsNode, list[str]]:
    """The connector with the leading filters it takes, the node without them, and their text."""
    connector: SourceConnector = source.connector
    operators = list(node.operators)
    taken: list[str] = []
    while operators and isinstance(connector, SupportsFilter):
        first = operators[0]
        if not isinstance(first, Filter) or first.can_fail or first.condition.needs:
            break
        kept = []
        for part in first.condition.conjuncts():
            copy = connector.with_filter(part) if not part.can_fail else None
            if copy is None:
                kept.append(part)
            else:
                connector = copy
                taken.append(part.shown)
        if kept:
            # What is left of the condition stays a filter of its own, one per part.
            operators[0:1] = [replace(first, condition=part) for part in kept]
            break
        operators.pop(0)
    return connector, replace(node, operators=tuple(operators)), taken
