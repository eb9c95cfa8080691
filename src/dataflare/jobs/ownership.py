"""Whose destinations these are: a run writes where its own lineage wrote, or where nobody did.

Always true:
- a run never appends to what another lineage of its workflow and step wrote: it is refused, takes
  that lineage over (`--adopt`), or begins a new one (`--fresh`);
- cursors that were carried over belong to the destinations they were written to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from msgspec import Struct

from dataflare.checkpoint.manifest import Damaged, Manifest
from dataflare.errors import Blame, RunError
from dataflare.planner.physical import PhysicalPlan
from dataflare.sdk.destination import Committer, Owner
from dataflare.security.redact import redact
from dataflare.workflow.model import Workflow

_MARK = " #"
_DIGEST = 8
"""Hex digits: enough to notice a change, too few to find a secret by."""

_ADOPT = "use --adopt to go on where that lineage stopped, or --fresh to begin a new one"


class Adoption(Struct, frozen=True):
    """A lineage to take over. attempt: the newest that a destination has seen of it."""

    manifest: Manifest
    attempt: int


async def owners_of(committers: Mapping[str, Committer]) -> dict[str, Owner]:
    """By step, the other lineages that wrote to the destinations last."""
    found = {name: await committer.owner() for name, committer in committers.items()}
    return {name: owner for name, owner in found.items() if owner is not None}


def refuse_owned(workflow: Workflow, owners: Mapping[str, Owner]) -> None:
    """Raise RunError (E0806) where another lineage wrote rows that this run would append to."""
    owned = {name: owner for name, owner in owners.items() if owner.rows}
    if not owned:
        return
    step, owner = next(iter(owned.items()))
    raise RunError(
        f"destination '{step}' holds {owner.rows:,} rows that this workflow wrote with another state "
        f"folder (lineage {owner.lineage[:8]}), which is not here: going on would write rows twice",
        code="E0806",
        blame=Blame.USER,
        step=step,
        notes=[f"destination '{name}' holds epoch {each.epoch}" for name, each in owned.items()],
        help=f"{_ADOPT}; or run with the DATAFLARE_HOME that wrote it",
    )


def adoption(workflow: Workflow, owners: Mapping[str, Owner]) -> Adoption | None:
    """The lineage to take over; None where no destination holds rows of another one.

    Raises RunError (E0806) when it cannot be taken over.
    """
    owned = {name: owner for name, owner in owners.items() if owner.rows}
    if not owned:
        return None
    lineages = {owner.lineage for owner in owned.values()}
    if len(lineages) > 1:
        told = ", ".join(f"'{name}': {owner.lineage[:8]}" for name, owner in owned.items())
        raise _unadoptable(workflow, f"its destinations are of several lineages ({told})")
    newest = max(owned.values(), key=lambda owner: owner.epoch)
    if newest.manifest is None:
        raise _unadoptable(workflow, "the destination keeps no checkpoint beside its rows")
    try:
        manifest = Manifest.from_text(newest.manifest)
    except Damaged as error:
        raise _unadoptable(workflow, error.what) from error
    return Adoption(manifest, max(owner.attempt for owner in owned.values()))


def refuse_lost_state(workflow: Workflow, manifest: Manifest) -> None:
    """Raise RunError (E0806) for an unfinished run whose operators' state lay in the lost home."""
    if manifest.final or not manifest.chunks:
        return
    steps = sorted(manifest.operators)
    raise _unadoptable(
        workflow,
        f"its run had not finished, and the state of {', '.join(steps)} lay in its state folder",
    )


def _unadoptable(workflow: Workflow, why: str) -> RunError:
    return RunError(
        f"the lineage that wrote to the destinations of '{workflow.name}' cannot be taken over: {why}",
        code="E0806",
        blame=Blame.USER,
        help="put its state folder back (DATAFLARE_HOME), or clean the destinations and use --fresh",
    )


# -- cursors ---------------------------------------------------------------------------------------


def targets_of(plan: PhysicalPlan) -> dict[str, str]:
    """By destination, the place that it writes to: without its secrets, and with a digest of the whole,
    which alone says whether two places are the same."""
    found = {}
    for stage in plan.stages:
        if stage.destination is not None:
            place = stage.destination.identity()
            if place is not None:
                place = f"{stage.destination.type}: {place}"
                digest = hashlib.sha256(place.encode()).hexdigest()[:_DIGEST]
                found[stage.name] = f"{redact(place)}{_MARK}{digest}"
    return found


def _is_same(before: str, now: str) -> bool:
    return before.rpartition(_MARK)[2] == now.rpartition(_MARK)[2]


def used_of(plan: PhysicalPlan, carried: Mapping[str, object]) -> dict[str, object]:
    """What sources would go on from. One that reads all rows again does not use what it carried."""
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
        more = {
            step.name
            for step in workflow.transformations.values()
            if step.name not in reached and any(ref.step in reached for ref in step.inputs)
        }
        reached |= more
        changed = bool(more)
    return [
        step.name
        for step in workflow.destinations.values()
        if any(ref.step in reached for ref in step.inputs)
    ]


def refuse_other_targets(
    workflow: Workflow, before: Mapping[str, str], now: Mapping[str, str], steps: list[str]
) -> None:
    """Raise RunError (E0807) where rows that were read by earlier runs would not come to a
    destination, because it is another one now. before, now: as `targets_of`."""
    for step in steps:
        if step in before and step in now and not _is_same(before[step], now[step]):
            here, there = (place.rpartition(_MARK)[0] for place in (now[step], before[step]))
            raise _elsewhere(workflow, step, f"it is {here} now, and was {there} in the last run")
        if step not in before and before:
            raise _elsewhere(workflow, step, "it is new")


async def refuse_emptied(
    workflow: Workflow, committers: Mapping[str, Committer], steps: list[str]
) -> None:
    """Raise RunError (E0807) where a destination has lost what earlier runs wrote."""
    for step in steps:
        if step in committers and await committers[step].is_empty():
            raise _elsewhere(workflow, step, "it holds nothing of what earlier runs wrote")


def _elsewhere(workflow: Workflow, step: str, what: str) -> RunError:
    return RunError(
        f"destination '{step}' is not as the last run left it: {what}; its sources would go on after "
        "the rows that earlier runs read, so these would be missing there",
        code="E0807",
        blame=Blame.USER,
        step=step,
        spot=workflow.step(step).spot,
        help="use --fresh to read everything again, or --accept-changes to go on with new rows only; "
        'for environments with a state of their own: name: "NAME_${param:env}"',
    )
