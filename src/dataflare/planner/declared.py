"""Hand what a source's catalogue says of its columns to the destinations that they reach. Pure.

Always true: a column that a step changes, or may change, is not among them.
"""

from __future__ import annotations

from collections.abc import Callable

from dataflare.model.types import Schema
from dataflare.operators.base import RowOperator
from dataflare.operators.flatten import Flatten
from dataflare.operators.primitives import Conform, Derive, Filter, Select
from dataflare.operators.sample import Sample
from dataflare.planner.graph import (
    BranchNode,
    DestinationNode,
    Graph,
    Port,
    RowsNode,
    SourceNode,
    StatefulNode,
)
from dataflare.sdk.declarations import Declarations


def tell_destinations(graph: Graph) -> None:
    """Set `declarations` of each destination."""
    for node in graph:
        if isinstance(node, DestinationNode):
            found = reaching(graph, node.ports[0], _declared) if len(node.ports) == 1 else None
            for operator in node.conform[0] if found is not None and node.conform else ():
                found = _behind(operator, found) if found is not None else None
            node.connector.declarations = found


def _declared(node: SourceNode) -> Declarations | None:
    return node.connector.declarations()


def reaching(
    graph: Graph, port: Port, of_source: Callable[[SourceNode], Declarations | None]
) -> Declarations | None:
    """What is known of the columns at an output; None where they come from several places, or from a
    step that may change any of them. of_source: what is known of a source's."""
    node = graph.nodes[port.node]
    if isinstance(node, SourceNode):
        return of_source(node)
    if isinstance(node, BranchNode):
        found = reaching(graph, node.input, of_source)
        kept = _same(graph.schema(node.input), graph.schema(port))
        return found.renamed({name: name for name in kept}) if found is not None else None
    if isinstance(node, StatefulNode) and node.operator.passes_rows and len(node.ports) == 1:
        return reaching(graph, node.ports[0], of_source)
    if not isinstance(node, RowsNode):
        return None
    found = reaching(graph, node.input, of_source)
    for operator in node.operators:
        if found is None:
            return None
        found = _behind(operator, found)
    return found


def _behind(operator: RowOperator, found: Declarations) -> Declarations | None:
    """What is left behind a step."""
    match operator:
        case Filter() | Sample():
            return found
        case Flatten():
            return found.renamed({path[0]: name for name, path in operator.paths if len(path) == 1})
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
