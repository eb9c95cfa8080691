"""Hand what a source's catalogue says of its columns to the destinations that they reach. Pure.

Always true: a column that a step changes, or may change, is not among them.
"""

from __future__ import annotations

from dataflare.model.types import Schema
from dataflare.operators.base import RowOperator
from dataflare.operators.primitives import Conform, Derive, Filter, Select
from dataflare.planner.graph import DestinationNode, Graph, Port, RowsNode, SourceNode
from dataflare.sdk.declarations import Declarations


def tell_destinations(graph: Graph) -> None:
    """Set `declarations` of each destination."""
    for node in graph:
        if isinstance(node, DestinationNode):
            found = _reaching(graph, node.ports[0]) if len(node.ports) == 1 else None
            for operator in node.conform[0] if found is not None and node.conform else ():
                found = _behind(operator, found) if found is not None else None
            node.connector.declarations = found


def _reaching(graph: Graph, port: Port) -> Declarations | None:
    """What is known of the columns at an output; None where they come from several places, or from a
    step that may change any of them."""
    node = graph.nodes[port.node]
    if isinstance(node, SourceNode):
        return node.connector.declarations()
    if not isinstance(node, RowsNode):
        return None
    found = _reaching(graph, node.input)
    for operator in node.operators:
        if found is None:
            return None
        found = _behind(operator, found)
    return found


def _behind(operator: RowOperator, found: Declarations) -> Declarations | None:
    """What is left behind a step."""
    match operator:
        case Filter():
            return found
        case Derive():
            changed = {name for name, _ in operator.columns}
            return found.renamed({name: name for name in found.columns if name not in changed})
        case Select():
            sources = [old for _, old in operator.columns]
            once = {old: new for new, old in operator.columns if sources.count(old) == 1}
            return found.renamed(once)
        case Conform():
            return found.renamed({name: name for name in _same(operator.source, operator.target)})
    return None


def _same(source: Schema, target: Schema) -> list[str]:
    return [f.name for f in target if f.name in source and source[f.name] == f.type]
