"""Find the edges with a changelog and the destinations that receive all rows; refuse steps that cannot
process a changelog. Pure."""

from __future__ import annotations

from collections.abc import Container

from msgspec.structs import replace

from dataflare.errors import PlanError
from dataflare.operators.limit import Limit
from dataflare.operators.lookup import Lookup
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
    """The ids of nodes whose rows have row kinds."""
    ids: set[str] = set()
    for node in graph:
        if isinstance(node, SourceNode):
            if node.connector.capabilities().changelog:
                ids.add(node.id)
        elif any(port.node in ids for port in node.inputs):
            ids.add(node.id)
    return ids


def complete(graph: Graph) -> dict[str, frozenset[str]]:
    """The destinations that receive every row of their sources, and the steps that these rows depend on.
    At the end of a run in which none of these steps left out a row, a row that did not arrive is known to
    be deleted."""
    partial: set[str] = set()
    steps: dict[str, frozenset[str]] = {}
    for node in graph:
        steps[node.id] = frozenset({node.step, *_tables(node)}).union(
            *(steps[port.node] for port in node.inputs)
        )
        if _leaves_out(node) or any(port.node in partial for port in node.inputs):
            partial.add(node.id)
    return {
        node.id: steps[node.id]
        for node in graph
        if isinstance(node, DestinationNode) and node.id not in partial
    }


def _tables(node: Node) -> list[str]:
    """The tables that a node looks up in."""
    operators = node.operators if isinstance(node, RowsNode) else ()
    return [each.table.name for each in operators if isinstance(each, Lookup)]


def refuse_partial(graph: Graph, complete_ids: Container[str]) -> None:
    """Raise PlanError (E0324) for a destination that would delete the rows which a run does not read."""
    for node in graph:
        if not isinstance(node, DestinationNode) or node.id in complete_ids:
            continue
        if node.connector.capabilities().all_rows:
            raise PlanError(
                f"step '{node.step}' has mode mirror and is one file, which is written anew, and the run does "
                "not read all rows of its source",
                code="E0324",
                step=node.step,
                help="read the source as a whole (no incremental, new_only, limit or sample), or mirror it to "
                "a database, which keeps the other rows",
            )


def _leaves_out(node: Node) -> bool:
    """Whether a node leaves out rows without a condition that says which."""
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
    """The graph in which plain rows that join a changelog, in a union or a destination, are marked as
    inserts."""
    ids = changelogs(graph)
    changed: dict[str, Node | None] = {}
    for node in graph:
        if isinstance(node, UnionNode | DestinationNode) and node.id in ids:
            conform = tuple(
                operators
                if port.node in ids
                else conformed(node.step, node.schema, graph.schema(port), inserts=True)
                for port, operators in zip(node.ports, node.conform, strict=True)
            )
            changed[node.id] = replace(node, conform=conform)
    return graph.with_nodes(changed)


def check_changelogs(graph: Graph) -> None:
    """Raise PlanError (E0315) for a step that would give wrong rows for a changelog."""
    ids = changelogs(graph)
    for node in graph:
        if node.id in ids and not isinstance(node, SourceNode):
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
                    return f"and {operator.describe()} cannot retract its results"
                if operator.needs():
                    return "and one of its expressions changes from call to call"
        case BranchNode():
            return "and cannot split the two halves of an update"
        case StatefulNode():
            return f"and {node.operator.describe()} cannot retract yet"
        case DestinationNode():
            if not node.connector.capabilities().changelog:
                return "which this mode does not take; use mode: upsert or mirror, or changelog: columns"
    return None
