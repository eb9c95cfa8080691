"""No destination writes where another one does, or where the workflow reads. Pure.

What is read and written at once would be lost, or doubled by the next run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataflare.errors import PlanError
from dataflare.planner.graph import DestinationNode, Graph, SourceNode
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


def nothing_in_place(graph: Graph, workflow: Workflow) -> None:
    """Raise PlanError (E0322) for a destination whose files a source reads."""
    sources = [node for node in graph if isinstance(node, SourceNode)]
    for node in graph:
        target = node.connector.writes_to() if isinstance(node, DestinationNode) else None
        if target is None or target.sample is None:
            continue
        for source in sources:
            if not source.connector.reads(target.sample):
                continue
            step = workflow.destinations.get(node.id)
            read = workflow.sources[source.id].spot_of("config", "path")
            raise PlanError(
                f"destination '{node.id}' writes to {target.place}, which source '{source.id}' reads",
                code="E0322",
                step=node.id,
                spot=step.spot_of("config", "path") if step else None,
                notes=[f"what '{source.id}' reads stands in line {read.line}"] if read else [],
                help="write to another place, and read a pattern that does not match it",
            )
