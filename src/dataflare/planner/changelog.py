"""Which edges carry a changelog, and the refusal of steps that would get one wrong. Pure."""

from __future__ import annotations

from dataflare.errors import PlanError
from dataflare.planner.graph import (
    BranchNode,
    DestinationNode,
    Graph,
    Node,
    RowsNode,
    SourceNode,
    StatefulNode,
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
