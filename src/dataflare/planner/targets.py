"""No destination writes where another one does, or where the workflow reads. Pure.

What is read and written at once would be lost, or doubled by the next run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dataflare.errors import PlanError, Spot
from dataflare.planner.graph import DestinationNode, Graph
from dataflare.sdk.destination import DestinationConnector, Target
from dataflare.sdk.source import SourceConnector

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


def nothing_in_place(
    graph: Graph, workflow: Workflow, sources: Mapping[str, SourceConnector]
) -> None:
    """Raise PlanError (E0322) for a destination whose files a source or a lookup reads, or that
    swaps new rows into a table that one reads. sources: by the step that describes them."""
    for node in graph:
        if not isinstance(node, DestinationNode):
            continue
        target, replaced = node.connector.writes_to(), None
        if getattr(node.connector.config, "mode", None) == "overwrite":
            replaced = _table(node.connector)
        for name, source in sources.items():
            if target is not None and target.sample is not None and source.reads(target.sample):
                place, key = target.place, "path"
                help_ = "write to another place, and read a pattern that does not match it"
            elif replaced is not None and _table(source) == replaced:
                place, key = f"the table {replaced[1]}", "table"
                help_ = "write to another table, or update rows by key: mode: upsert"
            else:
                continue
            step = workflow.destinations.get(node.id)
            read = _read(workflow, name, key)
            kind = "source" if name in workflow.sources else "lookup"
            raise PlanError(
                f"destination '{node.id}' writes to {place}, which {kind} '{name}' reads",
                code="E0322",
                step=node.id,
                spot=step.spot_of("config", key) if step else None,
                notes=[f"what '{name}' reads stands in line {read.line}"] if read else [],
                help=help_,
            )


def _read(workflow: Workflow, name: str, key: str) -> Spot | None:
    """Where it is said what a source or a lookup reads."""
    if name in workflow.sources:
        return workflow.sources[name].spot_of("config", key)
    return workflow.transformations[name].spot_of("config", "source", key)


def _table(connector: SourceConnector | DestinationConnector) -> tuple[str, str] | None:
    """The database and the table that a config names; None where it names none. Upper and lower
    case are one; two spellings of one server's address are not known to be the same."""
    config = connector.config
    table = getattr(config, "table", None)
    path, server = (getattr(config, name, None) for name in ("path", "connection_string"))
    if not isinstance(table, str):
        return None
    if isinstance(path, str):
        return os.path.realpath(connector.context.base / path), table.casefold()
    if isinstance(server, str):
        return server, table.casefold().removeprefix("public.")
    return None
