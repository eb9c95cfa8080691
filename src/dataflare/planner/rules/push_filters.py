"""Push filters into sources that can filter rows in their own query language.

A condition is pushed only if it cannot fail and has exactly the same meaning in that language. It is
never pushed below `event_time`, because a row that is filtered there does not move the watermark.
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
        connector, remaining, pushed = _pushed(source, node)
        if not pushed:
            continue
        texts = tuple(dict.fromkeys(pushed))
        effects = [Effect("push_filters", f"{source.id}: {text}") for text in texts]
        changed = replace(
            source, connector=connector, pushed_filters=(*source.pushed_filters, *texts)
        )
        if remaining.operators:
            graph = graph.with_nodes({source.id: changed, node.id: remaining}, *effects)
        else:
            graph = graph.with_nodes({source.id: changed, node.id: None}, *effects)
            graph = graph.rewired(Port(node.id), Port(source.id))
    return graph


def _pushed(source: SourceNode, node: RowsNode) -> tuple[SourceConnector, RowsNode, list[str]]:
    """The connector with the leading filters that it accepts, the node without them, and their texts."""
    connector: SourceConnector = source.connector
    operators = list(node.operators)
    pushed: list[str] = []
    while operators and isinstance(connector, SupportsFilter):
        first = operators[0]
        if not isinstance(first, Filter) or first.can_fail or first.condition.needs:
            break
        remaining = []
        for part in first.condition.conjuncts():
            copy = connector.with_filter(part)
            if copy is None:
                remaining.append(part)
            else:
                connector = copy
                pushed.append(part.shown)
        if remaining:
            # Each remaining part of the condition stays a filter.
            operators[0:1] = [replace(first, condition=part) for part in remaining]
            break
        operators.pop(0)
    return connector, replace(node, operators=tuple(operators)), pushed
