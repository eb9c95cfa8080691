"""How far a field goes that a source's columns lack: which sources are worth watching for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataflare.operators import registry as operators
from dataflare.sdk import registry as connectors
from dataflare.sdk.context import Policy
from dataflare.workflow.load import bind

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow


def reached(workflow: Workflow, source: str, policy: Policy | None = None) -> frozenset[str]:
    """The steps whose rows would have a field that is new in the source's, the source among them.
    A step that names the columns that come out lets no other pass."""
    if not connectors.source(workflow.sources[source].type).finds_new_fields:
        return frozenset()
    found, waiting = {source}, [source]
    while waiting:
        name = waiting.pop()
        for step in workflow.steps():
            if step.name in found or all(ref.step != name for ref in step.inputs):
                continue
            if step.name in workflow.transformations:
                class_ = operators.step(step.type, workflow.base, policy)
                if class_.names_its_columns(bind(class_.Config, step.config, step=step.name)):
                    continue
                waiting.append(step.name)
            found.add(step.name)
    return frozenset(found)


def watched(
    workflow: Workflow, policy: Policy | None = None, end: str | None = None
) -> dict[str, frozenset[str]]:
    """The sources whose new fields would get to a destination (or to the step `end`), and the steps
    that they would reach."""
    ends = frozenset(workflow.destinations) if end is None else frozenset((end,))
    all_reached = {name: reached(workflow, name, policy) for name in workflow.sources}
    return {name: steps for name, steps in all_reached.items() if steps & ends}
