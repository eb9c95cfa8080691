"""Destinations that cannot go back to a savepoint, because a run has published their file since."""

from __future__ import annotations

from collections.abc import Sequence

from dataflare.checkpoint.manifest import Manifest
from dataflare.errors import CheckpointError
from dataflare.jobs.changes import StepChange
from dataflare.planner.physical import PhysicalPlan


def with_published(
    changes: Sequence[StepChange], plan: PhysicalPlan, manifest: Manifest
) -> list[StepChange]:
    """The changes; a destination whose staged rows are gone is impossible. Reads files: blocking."""
    gone = staged_rows_gone(plan, manifest)
    return [
        StepChange(change.step, "impossible", gone[change.step], change.was)
        if change.step in gone and change.outcome != "impossible"
        else change
        for change in changes
    ]


def refuse_published(place: str, plan: PhysicalPlan, manifest: Manifest) -> None:
    """Raise CheckpointError (E0704) if staged rows that a checkpoint refers to are gone. place: where it is, in
    words. Blocking."""
    for step, reason in staged_rows_gone(plan, manifest).items():
        raise CheckpointError(
            f"{place} cannot be used: destination '{step}': {reason}",
            code="E0704",
            step=step,
            help="start over with --fresh, which writes the whole file again",
        )


def staged_rows_gone(plan: PhysicalPlan, manifest: Manifest) -> dict[str, str]:
    """By destination, why it cannot go on from a checkpoint. Blocking."""
    reasons = {
        stage.name: stage.destination.cannot_go_on(
            manifest.lineage, manifest.committables.get(stage.name, ())
        )
        for stage in plan.stages
        if stage.destination is not None
    }
    return {step: reason for step, reason in reasons.items() if reason is not None}
