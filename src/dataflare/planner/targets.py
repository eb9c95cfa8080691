"""No two destinations of a workflow write to one place, where they would overwrite each other. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataflare.errors import PlanError
from dataflare.planner.graph import DestinationNode, Graph
from dataflare.sdk.destination import Target

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow


def one_writer_each(graph: Graph, workflow: Workflow) -> None:
    """Raise PlanError (E0321) for a destination that writes where another one does."""
    seen: dict[str, tuple[str, Target]] = {}
    for node in graph:
        target = node.connector.writes_to() if isinstance(node, DestinationNode) else None
        if target is None:
            continue
        first, other = seen.setdefault(target.place, (node.id, target))
        if first == node.id or (target.shared and other.shared):
            continue
        spot = workflow.destinations[first].spot
        raise PlanError(
            f"destinations '{first}' and '{node.id}' both write to {target.place}",
            code="E0321",
            step=node.id,
            notes=[f"'{first}' begins in line {spot.line}"] if spot else [],
            help="give one destination both inputs, or write to two places",
        )
