"""Which values of a source's changes may be left out because they did not change. Pure.

A log may lack a large value that an update left as it was. A destination that keeps the value which is there needs no
more, if the column comes to it as it is. A step that keeps the newest row of each key has the value.
"""

from __future__ import annotations

from dataflare.operators.base import RowOperator
from dataflare.operators.primitives import Conform, Derive, Select
from dataflare.planner.change_order import kept_in_front
from dataflare.planner.graph import (
    BranchNode,
    DestinationNode,
    Graph,
    Node,
    RowsNode,
    SourceNode,
    StatefulNode,
    UnionNode,
)
from dataflare.planner.stream_views import StreamView


def tell_sources_of_unchanged(graph: Graph) -> None:
    """Set `needs_unchanged` of each source of changes."""
    readers: dict[str, list[Node]] = {}
    for node in graph:
        for port in node.inputs:
            readers.setdefault(port.node, []).append(node)
    waiting = kept_in_front(graph)

    def needing(node: Node, column: str) -> str | None:
        """The first step behind a node that needs the value of a column in each row."""
        for reader in readers.get(node.id, []):
            found: str | None = None
            match reader:
                case UnionNode():
                    found = reader.step
                case StatefulNode():
                    if not reader.operator.fills_unchanged or len(reader.inputs) > 1:
                        return reader.step
                    continue
                case RowsNode():
                    step, name = _through(reader.operators, column)
                    found = step or (needing(reader, name) if name is not None else None)
                case BranchNode():
                    found = (
                        reader.step if column in reader.branch.reads else needing(reader, column)
                    )
                case DestinationNode():
                    found = _of_destination(reader, column, is_waiting=reader.id in waiting)
            if found is not None:
                return found
        return None

    for node in graph:
        if not isinstance(node, SourceNode) or not node.connector.capabilities().changelog:
            continue
        connector = node.connector
        stream = connector.stream.name if isinstance(connector, StreamView) else None
        steps = {name: needing(node, name) for name in node.schema.names}
        connector.needs_unchanged = {
            stream: {name: step for name, step in steps.items() if step is not None}
        }


def _of_destination(node: DestinationNode, column: str, *, is_waiting: bool) -> str | None:
    connector = node.connector
    step, name = _through(node.conform[0] if node.conform else (), column)
    if len(node.inputs) > 1 or is_waiting or not connector.capabilities().keeps_unchanged:
        return node.step
    return step or (node.step if name in connector.key else None)


def _through(operators: tuple[RowOperator, ...], column: str) -> tuple[str | None, str | None]:
    """The step that needs the value of a column; and its name behind the operators, None where it ends."""
    name: str | None = column
    for operator in operators:
        if name is None:
            break
        match operator:
            case Select():
                names = [new for new, old in operator.columns if old == name]
                if len(names) > 1:
                    return operator.step, None
                name = names[0] if names else None
            case Conform():
                name = name if name in operator.target else None
            case Derive():
                if name in operator.reads or name in dict(operator.columns):
                    return operator.step, None
            case _:
                if name in operator.reads or not operator.keeps_columns:
                    return operator.step, None
    return None, name
