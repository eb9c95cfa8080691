"""What is counted of the steps of a run, and what becomes of their bad rows. Pure."""

from __future__ import annotations

from dataflare.engine.metrics import JobMetrics
from dataflare.planner.dead_letters import error_handling
from dataflare.workflow.model import Workflow


def metrics_of(workflow: Workflow) -> JobMetrics:
    """The counts of all steps, with the most errors that each may have."""
    metrics = JobMetrics({step.name: step.kind for step in workflow.steps()})
    handlings = {step.name: error_handling(workflow, step.name) for step in workflow.steps()}
    metrics.errors_max = {
        name: handling.max_errors
        for name, handling in handlings.items()
        if handling.max_errors is not None
    }
    return metrics


def policies_of(workflow: Workflow) -> dict[str, str]:
    """By step, `on_error`."""
    return {step.name: error_handling(workflow, step.name).on_error for step in workflow.steps()}
