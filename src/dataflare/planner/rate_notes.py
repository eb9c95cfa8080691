"""What `plan` says of the rate of a source or a destination."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataflare.model import human

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow


def rate_notes(workflow: Workflow, step: str) -> list[str]:
    """step: the id of a node of the plan."""
    ends = {**workflow.sources, **workflow.destinations}
    limit = ends[step].rate if step in ends else None
    if limit is None:
        return []
    at_most = human.highest_rate(limit.rows, limit.bytes)
    family = step.partition(".")[0]
    shared = f", all tables of '{family}' together" if family != step else ""
    return [f"at most {at_most}{shared}"]
