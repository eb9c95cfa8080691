"""The retry policy of each step: that of the workflow, or else the connector's default."""

from __future__ import annotations

from collections.abc import Mapping

from dataflare.errors import DataFlareError
from dataflare.planner.dead_letters import error_handling
from dataflare.resilience.policy import RetryPolicy
from dataflare.sdk import registry as connectors
from dataflare.workflow.model import Workflow


def retry_policies(workflow: Workflow) -> Mapping[str, RetryPolicy | None]:
    """By step, its policy; None if its calls are made once."""
    return {
        step.name: error_handling(workflow, step.name).retries or _default(workflow, step.name)
        for step in workflow.steps()
    }


def _default(workflow: Workflow, step: str) -> RetryPolicy | None:
    source = workflow.sources.get(step)
    try:
        tries_again = source is not None and connectors.source(source.type).tries_again
    except DataFlareError:  # an unknown type is reported when the step is bound
        tries_again = False
    return RetryPolicy() if tries_again else None
