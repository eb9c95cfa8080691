"""Bring destinations to the state of the checkpoint that a run resumes from.

Every case ends in the same way: the rows of later epochs are cleared, the resumed epoch is committed
again (which changes nothing if it was committed), and new rows follow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from dataflare.checkpoint.manifest import Manifest
from dataflare.checkpoint.resolve import (
    MISSING,
    ManifestFact,
    Refuse,
    Resume,
    decide_resume,
    with_missing,
)
from dataflare.checkpoint.source_record import SourceRecord
from dataflare.checkpoint.store import LocalStore, Storage
from dataflare.engine.committing import RetriedCommitter
from dataflare.engine.coordinator import Identity, commit
from dataflare.engine.deploy import destination_context
from dataflare.errors import CheckpointError, RunError
from dataflare.jobs.learning import refuse_taking_back
from dataflare.planner.physical import PhysicalPlan
from dataflare.resilience.retry import Retries
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committer, Epoch, Marker, NoCommitter
from dataflare.sdk.threads import completed, in_thread


class Recovered(Struct, frozen=True):
    """manifest: the one that was resumed, None for a run from the beginning. epoch: the last valid one.
    notices: for the user, such as skipped damaged checkpoints."""

    manifest: Manifest | None
    epoch: int
    notices: tuple[str, ...] = ()


async def open_committers(
    plan: PhysicalPlan,
    identity: Identity,
    store: Storage,
    retries: Retries | None = None,
    policies: Mapping[str, str] = {},
) -> dict[str, Committer]:
    """The committer of each destination, by step. policies: by step, its `on_error`."""
    committers: dict[str, Committer] = {}
    contexts = await in_thread(_contexts, plan, identity, store)
    try:
        for stage in plan.stages:
            if stage.destination is not None:
                context = contexts[stage.name]
                context = replace(context, sift=policies.get(stage.name, "fail") != "fail")
                opening = partial(stage.destination.committer, context)
                retrying = (retries or Retries()).of(stage.name)
                committer = await retrying.call(opening, is_counted=lambda: False)
                if not isinstance(committer, NoCommitter):
                    committer = RetriedCommitter(committer, retrying)
                committers[stage.name] = committer
    except BaseException:
        await completed(close_committers(committers))
        raise
    return committers


def _contexts(
    plan: PhysicalPlan, identity: Identity, store: Storage
) -> dict[str, DestinationContext]:
    """By step, what the committer of each destination is told. Blocking."""
    return {
        stage.name: destination_context(stage, plan, identity, store)
        for stage in plan.stages
        if stage.destination is not None
    }


async def close_all(
    plan: PhysicalPlan, committers: Mapping[str, Committer], notes: dict[str, Sequence[str]]
) -> None:
    """Close committers and sources. notes: what the sources say in the end, by step, is added here."""
    await close_committers(committers)
    for stage in plan.stages:
        if stage.source is not None:
            notes[stage.name] = stage.source.notes()
            await stage.source.aclose()


async def close_committers(committers: Mapping[str, Committer]) -> None:
    """Release their connections."""
    for committer in committers.values():
        await committer.aclose()


async def recover(
    store: Storage,
    committers: Mapping[str, Committer],
    *,
    base_epoch: int,
    last_epoch: int,
    resume: bool,
    starts_over: bool = False,
    letters: Collection[str] = (),
    rebuilt: Manifest | None = None,
    chosen: Manifest | None = None,
    on_trial: bool = False,
) -> Recovered:
    """Decide what to resume, and bring the destinations to that state.

    base_epoch: the last epoch of the previous finished run; only later epochs belong to this run.
    last_epoch: the newest published one, 0 if there is none. starts_over: the rows that this run wrote
    are removed, and the run starts from the beginning. letters: the destinations of dead letters.
    rebuilt: the adopted checkpoint, in the store without what was lost with its state folder.
    chosen: the checkpoint to resume from, whatever the store holds; it is published when the destinations can
    go on from it. on_trial: it is not published, so that the store keeps its last checkpoint until the run has a
    newer one.
    Raises CheckpointError if this would lose or double rows.
    """
    markers: dict[str, Marker | None] = {}
    for name, committer in committers.items():
        marker = await committer.marker()
        markers[name] = marker if marker is not None and marker.epoch > base_epoch else None
    if starts_over:
        refuse_taking_back(markers)
        return await _begun(store, committers, base_epoch)
    marker_facts: Mapping[str, ManifestFact]
    if chosen is not None:
        stored, marker_facts = [ManifestFact(chosen.epoch, chosen)], {}
    else:
        listed, marker_facts = await in_thread(_facts, store, markers)
        stored = with_missing(listed, base_epoch, last_epoch) if resume else []
    decision = decide_resume(stored, markers, marker_facts)
    if isinstance(decision, Refuse):
        if isinstance(store, LocalStore) and stored:
            decision.error.notes.append(f"its checkpoints are in {store.home}")
        if chosen is not None and not on_trial and decision.error.code == "E0702":
            decision.error.help = (
                "`dataflare run FILE` without --from goes on from the last checkpoint; or take these rows out of the "
                "destination and start over with --fresh"
            )
        raise decision.error
    if not isinstance(decision, Resume):
        return await _begun(store, committers, base_epoch)
    manifest = decision.manifest
    notices = [_said(epoch, problem) for epoch, problem in decision.skipped]
    if notices and not decision.from_destination:
        notices.append(
            f"the run goes on from checkpoint {manifest.epoch}, and reads again what came after it"
        )
    if decision.from_destination or manifest == rebuilt:
        notices.append(f"checkpoint {manifest.epoch} was read from the destination")
        await in_thread(store.rewind, manifest.epoch - 1)
        manifest = await _without_lost_letters(manifest, committers, letters, notices)
        await in_thread(store.publish, manifest)
    if chosen is not None and not on_trial:
        await in_thread(store.publish, chosen)
        crash_point("savepoint.after_publish")
    await in_thread(store.rewind, manifest.epoch)
    for name, committer in committers.items():
        await committer.recover(manifest.epoch, manifest.committables.get(name, ()))
    await commit(committers, manifest)
    return Recovered(manifest, manifest.epoch, tuple(notices))


def _facts(
    store: Storage, markers: Mapping[str, Marker | None]
) -> tuple[list[ManifestFact], Mapping[str, ManifestFact]]:
    """The checkpoints of the store, and those that destinations have. Blocking."""
    return store.list_manifests(), store.judge(markers)


async def _without_lost_letters(
    manifest: Manifest,
    committers: Mapping[str, Committer],
    letters: Collection[str],
    notices: list[str],
) -> Manifest:
    """The manifest without the dead letters whose staged files are gone. They lay in the state folder that
    was lost, and the rows of the other destinations do not depend on them."""
    epoch = Epoch(manifest.epoch, manifest.for_destinations(), manifest.final)
    for name in letters:
        shares = manifest.committables.get(name, ())
        if not shares or name not in committers:
            continue
        await committers[name].recover(manifest.epoch, shares)
        try:
            await committers[name].commit(epoch, shares)
        except CheckpointError as error:
            if error.code != "E0704":
                raise
            others = {n: each for n, each in manifest.committables.items() if n != name}
            manifest = replace(manifest, committables=others)
            notices.append(
                f"the dead letters of checkpoint {manifest.epoch} are lost with the state folder that held "
                "them: their rows are in no destination"
            )
    return manifest


async def _begun(store: Storage, committers: Mapping[str, Committer], base_epoch: int) -> Recovered:
    """Remove everything that this run wrote, and begin at the run's beginning."""
    await in_thread(store.rewind, base_epoch)
    for committer in committers.values():
        await committer.recover(base_epoch, ())
        await committer.begin(base_epoch)
    return Recovered(None, base_epoch)


def _said(epoch: int, problem: str) -> str:
    return (
        f"checkpoint {epoch} is missing"
        if problem == MISSING
        else f"checkpoint {epoch} is damaged ({problem})"
    )


async def forget(plan: PhysicalPlan, identity: Identity, store: Storage) -> None:
    """For `--fresh`: remove the unpublished rows of an unfinished run. Published rows stay."""
    facts = await in_thread(store.list_manifests)
    committers = await open_committers(plan, replace(identity, lineage=store.lineage), store)
    epoch = max((fact.epoch for fact in facts), default=0)
    for committer in committers.values():
        marker = await committer.marker()
        with contextlib.suppress(
            RunError
        ):  # another lineage owns the place: there is nothing to clear
            await committer.recover(max(epoch, marker.epoch if marker else 0), ())
        await committer.aclose()


def carried_over(plan: PhysicalPlan, manifest: Manifest | None, store: Storage) -> dict[str, Any]:
    """By source, the value that the next run starts from. Blocking."""
    carried_values: dict[str, Any] = {}
    for stage in plan.stages:
        if stage.source is None or manifest is None or stage.name not in manifest.sources:
            continue
        if not stage.source.carries():
            continue
        record = SourceRecord.read(store, manifest.sources[stage.name])
        stage.source.started_from = record.carried
        carried = stage.source.carry(record.positions(store))
        if carried is not None:
            carried_values[stage.name] = dict(carried)
    return carried_values
