"""A run of new rows alone does not replace what earlier runs wrote into a destination with mode overwrite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataflare.errors import PlanError
from dataflare.planner import Plan
from dataflare.planner.graph import DestinationNode, SourceNode
from dataflare.planner.guarantees import upstream


async def nothing_to_replace_with(plan: Plan, carried: Mapping[str, Any]) -> bool:
    """Whether the run would replace rows by nothing, because earlier runs have read all files. carried:
    by source, from the last finished run. Raises PlanError (E0324) for a run that would replace the rows of a
    destination by those which earlier runs have not read."""
    stages = plan.stages.stages
    sources = {stage.name: stage.source for stage in stages if stage.source is not None}
    replaces = any(
        stage.destination is not None and stage.destination.mode == "overwrite" for stage in stages
    )
    if not replaces or any(
        not source.lists_only_new
        or source.reads_all()
        or not source.capabilities().bounded
        or not carried.get(name)
        for name, source in sources.items()
    ):
        _refuse_new_rows_alone(plan, carried)
        return False
    for name, source in sources.items():
        if await source.splits(carried[name]):
            return False
    return True


def _refuse_new_rows_alone(plan: Plan, carried: Mapping[str, Any]) -> None:
    """Raise PlanError (E0324) for a destination that the run would replace by new rows."""
    for node in plan.graph:
        if not isinstance(node, DestinationNode) or node.connector.mode != "overwrite":
            continue
        for name in upstream(plan.graph, node.id):
            source = plan.graph.nodes[name]
            if not isinstance(source, SourceNode) or source.connector.reads_all():
                continue
            if source.connector.lists_only_new:  # only where the file says so: `new_only: true`
                continue
            if carried.get(source.step):
                raise PlanError(
                    f"destination '{node.step}' is written anew by each run, and '{source.step}' gives only rows that earlier "
                    "runs have not read: this run would replace theirs",
                    code="E0324",
                    step=node.step,
                    spot=plan.workflow.step(node.step).spot,
                    help="set mode: append, or write a folder or a table by key; --fresh reads all rows again, as far "
                    "as the source still has them",
                )
