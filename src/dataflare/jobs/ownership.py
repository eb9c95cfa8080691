"""The owner of a destination: a run writes only where its own lineage or no lineage wrote before.

Always true:
- a run never appends to the rows of another lineage of its workflow and step: it is refused, adopts
  that lineage (`--adopt`), or begins a new one (`--fresh`);
- carried cursors belong to the destinations to which their rows were written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from msgspec import Struct

from dataflare.checkpoint.manifest import Damaged, Manifest
from dataflare.errors import Blame, RunError
from dataflare.jobs.closing import in_words
from dataflare.planner.physical import PhysicalPlan
from dataflare.sdk.destination import Committer, Owner
from dataflare.security.redact import redact
from dataflare.workflow.model import Workflow

_MARK = " #"
_DIGEST = 8
"""Hex digits: enough to detect a change, too few to guess a secret."""

_ADOPT = "use --adopt to continue where that lineage stopped, or --fresh to begin a new one"


class Adoption(Struct, frozen=True):
    """A lineage to adopt. attempt: its newest attempt that wrote to a destination."""

    manifest: Manifest
    attempt: int


async def owners_of(committers: Mapping[str, Committer]) -> dict[str, Owner]:
    """By step, the other lineage that wrote to the destination last."""
    owners = {name: await committer.owner() for name, committer in committers.items()}
    return {name: owner for name, owner in owners.items() if owner is not None}


def refuse_owned(workflow: Workflow, owners: Mapping[str, Owner]) -> None:
    """Raise RunError (E0806) if this run would append to rows of another lineage."""
    owned = {name: owner for name, owner in owners.items() if owner.rows}
    if not owned:
        return
    step, owner = next(iter(owned.items()))
    raise RunError(
        f"destination '{step}' holds {in_words(owner.rows)} that this workflow wrote with another state "
        f"folder (lineage {owner.lineage[:8]}), which is not here: this run would write rows twice",
        code="E0806",
        blame=Blame.USER,
        step=step,
        notes=[
            f"the last checkpoint there is {each.epoch}, of '{name}'"
            for name, each in owned.items()
        ],
        help=f"{_ADOPT}; or run with the DATAFLARE_HOME of that state folder",
    )


def adoption(workflow: Workflow, owners: Mapping[str, Owner]) -> Adoption | None:
    """The lineage to adopt. None if no destination has rows of another one.

    Raises RunError (E0806) if it cannot be adopted.
    """
    owned = {name: owner for name, owner in owners.items() if owner.rows}
    if not owned:
        return None
    lineages = {owner.lineage for owner in owned.values()}
    if len(lineages) > 1:
        lineage_texts = ", ".join(f"'{name}': {owner.lineage[:8]}" for name, owner in owned.items())
        raise unadoptable(
            workflow, f"its destinations have rows of several lineages ({lineage_texts})"
        )
    newest = max(owned.values(), key=lambda owner: owner.epoch)
    if newest.manifest is None:
        raise unadoptable(workflow, "the destination stores no checkpoint beside its rows")
    try:
        manifest = Manifest.from_text(newest.manifest)
    except Damaged as error:
        raise unadoptable(workflow, error.problem) from error
    return Adoption(manifest, max(owner.attempt for owner in owned.values()))


def unadoptable(workflow: Workflow, reason: str) -> RunError:
    """The error that says why a lineage cannot be adopted."""
    return RunError(
        f"the lineage that wrote to the destinations of '{workflow.name}' cannot be taken over: {reason}",
        code="E0806",
        blame=Blame.USER,
        help="restore its state folder (DATAFLARE_HOME), or clean the destinations and use --fresh; "
        "settings.checkpoint.storage can name a folder for checkpoints that outlives the machine",
    )


# -- cursors ---------------------------------------------------------------------------------------


def targets_of(plan: PhysicalPlan) -> dict[str, str]:
    """By destination, the place that it writes to, without secrets, and a digest of the complete place.
    Two places are equal if and only if their digests are."""
    targets = {}
    for stage in plan.stages:
        if stage.destination is not None:
            place = stage.destination.identity()
            if place is not None:
                place = f"{stage.destination.type}: {place}"
                digest = hashlib.sha256(place.encode()).hexdigest()[:_DIGEST]
                targets[stage.name] = f"{redact(place)}{_MARK}{digest}"
    return targets


def _is_same(before: str, now: str) -> bool:
    return before.rpartition(_MARK)[2] == now.rpartition(_MARK)[2]


def used_of(plan: PhysicalPlan, carried: Mapping[str, object]) -> dict[str, object]:
    """The carried values that sources use. A source that reads all rows again does not use its value."""
    sources = {stage.name: stage.source for stage in plan.stages if stage.source is not None}
    return {
        name: value
        for name, value in carried.items()
        if name in sources and not sources[name].reads_all()
    }


def carried_to(workflow: Workflow, carried: Mapping[str, object]) -> list[str]:
    """The destinations that rows of sources with a carried position reach."""
    reached = {name for name, value in carried.items() if value}
    changed = True
    while changed:
        next_steps = {
            step.name
            for step in workflow.transformations.values()
            if step.name not in reached and any(ref.step in reached for ref in step.inputs)
        }
        reached |= next_steps
        changed = bool(next_steps)
    return [
        step.name
        for step in workflow.destinations.values()
        if any(ref.step in reached for ref in step.inputs)
    ]


def refuse_other_targets(
    workflow: Workflow, before: Mapping[str, str], now: Mapping[str, str], steps: list[str]
) -> None:
    """Raise RunError (E0807) if a destination would not receive the rows that earlier runs read, because
    its place has changed. before, now: from `targets_of`."""
    for step in steps:
        if step in before and step in now and not _is_same(before[step], now[step]):
            new_place, old_place = (
                place.rpartition(_MARK)[0] for place in (now[step], before[step])
            )
            raise _elsewhere(
                workflow, step, f"it is {new_place} now, and was {old_place} in the last run"
            )
        if step not in before and before:
            raise _elsewhere(workflow, step, "it is new")


async def refuse_emptied(
    workflow: Workflow, committers: Mapping[str, Committer], steps: list[str]
) -> None:
    """Raise RunError (E0807) if a destination has lost the rows that earlier runs wrote."""
    for step in steps:
        if step in committers and await committers[step].is_empty():
            raise _elsewhere(workflow, step, "it has no rows that earlier runs wrote")


def _elsewhere(workflow: Workflow, step: str, change: str) -> RunError:
    return RunError(
        f"destination '{step}' has changed since the last run: {change}; its sources would continue after "
        "the rows that earlier runs read, so these would be missing there",
        code="E0807",
        blame=Blame.USER,
        step=step,
        spot=workflow.step(step).spot,
        help="use --fresh to read everything again, or --accept-changes to continue with new rows only; "
        'for environments with a state of their own: name: "NAME_${param:env}"',
    )
