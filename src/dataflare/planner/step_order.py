"""The order in which the steps of a workflow are bound. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataflare.workflow.model import TransformationStep, Workflow


def in_order(workflow: Workflow) -> list[TransformationStep]:
    """The transformations in the file's order, but inputs before the steps that read them."""
    ordered: dict[str, TransformationStep] = {}

    def visit(step: TransformationStep) -> None:
        if step.name in ordered:
            return
        for ref in step.inputs:
            if ref.step in workflow.transformations:
                visit(workflow.transformations[ref.step])
        ordered[step.name] = step

    for step in workflow.transformations.values():
        visit(step)
    return list(ordered.values())
