"""Refuse `settings.degrade` for workflows that read changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataflare.errors import PlanError
from dataflare.planner.graph import Graph, SourceNode

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow


def refuse_sampled_changes(workflow: Workflow, graph: Graph) -> None:
    """Raise PlanError (E0342) where rows of a changelog would be left out: half of an update would leave a wrong row behind."""
    if workflow.settings.degrade is None:
        return
    for node in graph:
        if isinstance(node, SourceNode) and node.connector.capabilities().changelog:
            raise PlanError(
                f"'degrade' would leave out some of the changes that '{node.step}' reads, and what they change would stay as it was",
                code="E0342",
                step=node.step,
                help="read it in a workflow of its own, without settings.degrade",
            )
