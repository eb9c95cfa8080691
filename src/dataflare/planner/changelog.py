"""Which edges carry a changelog or all rows there are, and the refusal of steps that would get a changelog
wrong. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from dataflare.errors import PlanError
from dataflare.operators.limit import Limit
from dataflare.operators.primitives import conformed
from dataflare.operators.sample import Sample
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


def changelogs(graph: Graph) -> set[str]:
    """The nodes whose rows have row kinds."""
    found: set[str] = set()
    for node in graph:
        if isinstance(node, SourceNode):
            if node.connector.capabilities().changelog:
                found.add(node.id)
        elif any(port.node in found for port in node.inputs):
            found.add(node.id)
    return found


def complete(graph: Graph) -> frozenset[str]:
    """The destinations that get every row there is: by the end of a run, a row that did not come is gone."""
    partial: set[str] = set()
    found: set[str] = set()
    for node in graph:
        if _leaves_out(node) or any(port.node in partial for port in node.inputs):
            partial.add(node.id)
        elif isinstance(node, DestinationNode):
            found.add(node.id)
    return frozenset(found)


def _leaves_out(node: Node) -> bool:
    """Whether rows are missing behind it that its source has, though no condition says which."""
    match node:
        case SourceNode():
            capabilities = node.connector.capabilities()
            whole = capabilities.bounded and not capabilities.changelog
            # A replay's source has the rows of dead letters only.
            return node.step.startswith("_replay_") or not whole or not node.connector.reads_all()
        case RowsNode():
            return any(isinstance(each, Sample) for each in node.operators)
        case StatefulNode():
            return isinstance(node.operator, Limit)
    return False


def joined_changelogs(graph: Graph) -> Graph:
    """The graph in which rows that join a changelog, in a union or a destination, say that they are
    inserts."""
    found = changelogs(graph)
    changed: dict[str, Node | None] = {}
    for node in graph:
        if isinstance(node, UnionNode | DestinationNode) and node.id in found:
            conform = tuple(
                operators
                if port.node in found
                else conformed(node.step, node.schema, graph.schema(port), inserts=True)
                for port, operators in zip(node.ports, node.conform, strict=True)
            )
            changed[node.id] = replace(node, conform=conform)
    return graph.with_nodes(changed)


def check_changelogs(graph: Graph) -> None:
    """Raise PlanError (E0315) for a step that would answer a changelog with wrong rows."""
    found = changelogs(graph)
    for node in graph:
        if node.id in found and not isinstance(node, SourceNode):
            reason = _trouble(node)
            if reason:
                raise PlanError(
                    f"step '{node.step}' receives a changelog (rows with updates and deletes), {reason}",
                    code="E0315",
                    step=node.step,
                    help="read the source without changes, or leave the step out",
                )


def _trouble(node: Node) -> str | None:
    match node:
        case RowsNode():
            for operator in node.operators:
                if not operator.changelog:
                    return f"and {operator.describe()} cannot retract what it made of a row"
                if operator.needs():
                    return "and an expression of it changes from call to call"
        case BranchNode():
            return "and cannot split the two halves of an update"
        case StatefulNode():
            return f"and {node.operator.describe()} cannot retract yet"
        case DestinationNode():
            if not node.connector.capabilities().changelog:
                return "which this mode does not take; use mode: upsert or mirror, or changelog: columns"
    return None
