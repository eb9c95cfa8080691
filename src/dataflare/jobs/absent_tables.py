"""What is remembered of tables that their source does not have at the moment. Pure.

Always true: where such a table comes back, it is read from where it was left, and no row of it is written twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataflare.workflow.model import Workflow


def with_absent(
    workflow: Workflow, now: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """The values by step, with those of before for the steps of tables that are away."""
    families = workflow.families or {}
    names = {step.name for step in workflow.steps()}
    away = {
        name: value
        for name, value in before.items()
        if name not in names and name.partition(".")[0] in families
    }
    return {**away, **now}
