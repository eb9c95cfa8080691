"""Find which steps a new field of a source reaches, and so which sources to watch for new fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataflare.operators import registry as operators
from dataflare.sdk import registry as connectors
from dataflare.sdk.context import Policy
from dataflare.workflow.load import bind

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow


def reached(workflow: Workflow, source: str, policy: Policy | None = None) -> frozenset[str]:
    """The steps whose rows would have a field that is new in the source, with the source itself. A step
    that lists its output columns drops the field."""
    if not connectors.source(workflow.sources[source].type).finds_new_fields:
        return frozenset()
    steps, unvisited = {source}, [source]
    while unvisited:
        name = unvisited.pop()
        for step in workflow.steps():
            if step.name in steps or all(ref.step != name for ref in step.inputs):
                continue
            if step.name in workflow.transformations:
                class_ = operators.step(step.type, workflow.base, policy)
                if class_.names_its_columns(bind(class_.Config, step.config, step=step.name)):
                    continue
                unvisited.append(step.name)
            steps.add(step.name)
    return frozenset(steps)


def watched(
    workflow: Workflow, policy: Policy | None = None, end: str | None = None
) -> dict[str, frozenset[str]]:
    """The sources whose new fields reach a destination (or the step `end`), each with all the steps that
    they reach."""
    ends = frozenset(workflow.destinations) if end is None else frozenset((end,))
    all_reached = {name: reached(workflow, name, policy) for name in workflow.sources}
    return {name: steps for name, steps in all_reached.items() if steps & ends}
