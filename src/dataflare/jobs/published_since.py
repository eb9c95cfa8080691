"""Destinations that cannot go back to a savepoint: a run has published their file or added rows since, or the rows
to come do not fit those that are staged."""

from __future__ import annotations

from collections.abc import Sequence

from dataflare.checkpoint.manifest import Manifest
from dataflare.errors import CheckpointError, RunError
from dataflare.jobs.changes import StepChange
from dataflare.planner.physical import PhysicalPlan


def with_published(
    changes: Sequence[StepChange],
    plan: PhysicalPlan,
    manifest: Manifest,
    newest: Manifest | None = None,
) -> list[StepChange]:
    """The changes; a destination that would refuse the run is impossible. newest: the last checkpoint of the
    savepoint's lineage, if it is known. Reads files: blocking."""
    gone = staged_rows_gone(plan, manifest) | unfit_rows(plan, manifest)
    if newest is not None:
        gone |= rows_added_since(plan, manifest, newest)
    return [
        StepChange(change.step, "impossible", gone[change.step], change.was)
        if change.step in gone and change.outcome != "impossible"
        else change
        for change in changes
    ]


def refuse_published(place: str, plan: PhysicalPlan, manifest: Manifest) -> None:
    """Raise CheckpointError (E0704) if staged rows that a checkpoint refers to are gone, RunError (E0803) if the rows
    to come do not fit them. place: where it is, in words. Blocking."""
    for stage in plan.stages:
        if stage.destination is not None:
            staged = manifest.committables.get(stage.name, ())
            stage.destination.refuse_staged(staged, stage.written)
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


def unfit_rows(plan: PhysicalPlan, manifest: Manifest) -> dict[str, str]:
    """By destination, why the rows to come cannot be added to those that are staged."""
    reasons = {}
    for stage in plan.stages:
        if stage.destination is None:
            continue
        try:
            stage.destination.refuse_staged(
                manifest.committables.get(stage.name, ()), stage.written
            )
        except RunError as error:
            reasons[stage.name] = "; ".join([error.message, *error.notes])
    return reasons


def rows_added_since(plan: PhysicalPlan, manifest: Manifest, newest: Manifest) -> dict[str, str]:
    """By destination that cannot take rows back, that it has more of them than at the savepoint."""
    if newest.epoch <= manifest.epoch:
        return {}
    return {
        stage.name: (
            "it has rows that were added since the savepoint, and they cannot be taken back; a run without --from "
            f"goes on from checkpoint {newest.epoch}"
        )
        for stage in plan.stages
        if stage.destination is not None
        and stage.destination.adds_for_good
        and _rows(newest, stage.name) != _rows(manifest, stage.name)
    }


def _rows(manifest: Manifest, step: str) -> int:
    return sum(int(each.data["rows_total"]) for each in manifest.committables.get(step, ()))
