"""Which destinations can be together in one run, and in one place. Pure.

No destination writes where another one writes, or where the workflow reads: rows in such a place
would be lost, or be read again and doubled by the next run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from dataflare.errors import PlanError, Spot
from dataflare.planner.graph import DestinationNode, Graph
from dataflare.sdk.places import Target
from dataflare.sdk.source import SourceConnector

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow


def never_ends(workflow: Workflow, endless: Collection[str]) -> bool:
    """Whether some destination gets rows without end, and so the run has none. One file that is renamed
    at the end of the run would never appear. endless: the steps that give rows without end."""
    steps = workflow.destinations.values()
    return any(ref.step in endless for step in steps for ref in step.inputs)


def one_writer_each(graph: Graph, workflow: Workflow) -> None:
    """Raise PlanError (E0321) for a destination that writes to the place of another one."""
    writers: dict[str, tuple[str, Target]] = {}
    for node in graph:
        target = node.connector.writes_to() if isinstance(node, DestinationNode) else None
        if target is None:
            continue
        place = target.folded or target.place
        first, other = writers.setdefault(place, (node.id, target))
        is_one_name = target.place == other.place
        # Tables of one family that would become one are a mistake, also where rows are only added.
        is_meant = is_one_name or _family(first) != _family(node.id)
        if first == node.id or (is_meant and target.shared and other.shared):
            continue
        spot = workflow.destinations[first].spot
        raise PlanError(
            f"destinations '{first}' and '{node.id}' both write to {target.place}"
            + (
                ""
                if is_one_name
                else f", which is {other.place} too: case makes no difference there"
            ),
            code="E0321",
            step=node.id,
            notes=[f"'{first}' begins in line {spot.line}"] if spot else [],
            help="give one destination both inputs, or write to two places",
        )


def _family(node: str) -> str:
    """The destination that a node is, or of which it is one table."""
    return node.partition(".")[0]


def nothing_in_place(
    graph: Graph, workflow: Workflow, sources: Mapping[str, SourceConnector]
) -> None:
    """Raise PlanError (E0322) for a destination that writes files, or replaces a table, that a source or
    a lookup reads. sources: by the step that describes them."""
    for node in graph:
        if not isinstance(node, DestinationNode):
            continue
        target = node.connector.writes_to()
        replaced = node.connector.table() if node.connector.mode == "overwrite" else None
        for name, source in sources.items():
            if target is not None and target.sample is not None and source.reads(target.sample):
                place, key = target.place, "path"
                help_ = "write to another place, and read a pattern that does not match it"
            elif replaced is not None and source.table() == replaced:
                place, key = f"the table {replaced.name}", "table"
                help_ = "write to another table, or update rows by key: mode: upsert"
            else:
                continue
            step = workflow.destinations.get(node.id)
            read_spot = _read(workflow, name, key)
            kind = "source" if name in workflow.sources else "lookup"
            raise PlanError(
                f"destination '{node.id}' writes to {place}, which {kind} '{name}' reads",
                code="E0322",
                step=node.id,
                spot=step.spot_of("config", key) if step else None,
                notes=[f"what '{name}' reads stands in line {read_spot.line}"] if read_spot else [],
                help=help_,
            )


def _read(workflow: Workflow, name: str, key: str) -> Spot | None:
    """The place in the file that says what a source or a lookup reads."""
    if name in workflow.sources:
        return workflow.sources[name].spot_of("config", key)
    return workflow.transformations[name].spot_of("config", "source", key)
