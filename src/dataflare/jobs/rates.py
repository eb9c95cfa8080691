"""The rates of a run's steps, from its workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataflare.engine.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dataflare.workflow.model import AnyStep, Workflow


def paces_of(workflow: Workflow, before: Mapping[str, Pace] | None = None) -> dict[str, Pace]:
    """By step that has a rate, its pace. The steps of many tables that were one step share it. before: those that the
    run has."""
    shared = {_family(name): pace for name, pace in (before or {}).items()}
    paces: dict[str, Pace] = {}
    for step in workflow.steps():
        if step.rate is not None:
            paces[step.name] = shared.setdefault(_family(step.name), _pace(step))
    return paces


def _pace(step: AnyStep) -> Pace:
    assert step.rate is not None
    return Pace(step.rate.rows, step.rate.bytes)


def _family(step: str) -> str:
    return step.partition(".")[0]
