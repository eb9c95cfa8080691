"""Which sources may give a TRUNCATE of their tables: those of which every step behind takes it. Pure.

A TRUNCATE passes all steps that work row by row, and removes all rows of a destination. It would remove rows of other
sources where these come together. A step that remembers rows takes it only where it can say which rows went.
"""

from __future__ import annotations

from collections.abc import Mapping

from dataflare.planner.change_order import HELPER, kept_in_front
from dataflare.planner.graph import (
    DestinationNode,
    Graph,
    Node,
    SourceNode,
    StatefulNode,
    UnionNode,
)
from dataflare.planner.stream_views import StreamView


def tell_sources_of_truncations(graph: Graph) -> None:
    """Set `not_truncated` and `not_ranged` of each source of changes."""
    readers: dict[str, list[Node]] = {}
    for node in graph:
        for port in node.inputs:
            readers.setdefault(port.node, []).append(node)
    waiting = kept_in_front(graph)

    def refusing(node: Node) -> str | None:
        """The first step behind a node that takes no TRUNCATE."""
        for reader in readers.get(node.id, []):
            match reader:
                case UnionNode() | DestinationNode() if len(reader.inputs) > 1:
                    return reader.step
                case DestinationNode() if reader.id in waiting:
                    continue  # what is kept in front of it gives deletes
                case DestinationNode():
                    capabilities = reader.connector.capabilities()
                    is_keyed = capabilities.parallel and capabilities.key
                    if not capabilities.truncates or is_keyed:
                        return reader.step
                case StatefulNode():
                    if not reader.operator.truncates or len(reader.inputs) > 1:
                        return reader.step
                    continue  # it gives deletes
            found = refusing(reader)
            if found is not None:
                return found
        return None

    for node in graph:
        if not isinstance(node, SourceNode):
            continue
        connector = node.connector
        stream = connector.stream.name if isinstance(connector, StreamView) else None
        step = refusing(node) if connector.capabilities().changelog else None
        connector.not_truncated = {} if step is None else {stream: step}
        capabilities = connector.capabilities()
        key = frozenset(capabilities.key)
        only = _refusing_rows(readers, node, key) if capabilities.changelog else None
        connector.not_ranged = {} if only is None else {stream: only}


def _refusing_rows(
    readers: Mapping[str, list[Node]], node: Node, key: frozenset[str]
) -> str | None:
    """The first step behind a source that could not take single rows again: what does not mirror the table by its key."""
    for reader in readers.get(node.id, []):
        if isinstance(reader, StatefulNode) and reader.step.endswith(HELPER):
            return _refusing_rows(readers, reader, key) or reader.step.removesuffix(HELPER)
        if not isinstance(reader, DestinationNode) or len(reader.inputs) > 1:
            return reader.step
        if (
            reader.connector.mode != "mirror"
            or not key
            or set(map(str, reader.connector.key)) != key
        ):
            return reader.step
    return None
