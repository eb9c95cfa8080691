"""Bring destinations to the state of the checkpoint that a run resumes from.

Every case ends alike: what later epochs left is cleared, the resumed epoch is committed once more
(which changes nothing where it was), and new rows follow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from dataflare.checkpoint.manifest import Manifest
from dataflare.checkpoint.resolve import MISSING, Refuse, Resume, decide_resume, with_missing
from dataflare.checkpoint.store import LocalStore
from dataflare.engine.attempt import destination_context
from dataflare.engine.committing import RetriedCommitter
from dataflare.engine.coordinator import Identity, commit
from dataflare.errors import RunError
from dataflare.jobs.learning import refuse_taking_back
from dataflare.planner.physical import PhysicalPlan
from dataflare.resilience.retry import Retries
from dataflare.sdk.destination import Committer, Marker


class Recovered(Struct, frozen=True):
    """manifest: resumed from, None for a run from its beginning. epoch: the last one that counts.
    notices: for the user, such as damaged checkpoints passed over."""

    manifest: Manifest | None
    epoch: int
    notices: tuple[str, ...] = ()


async def open_committers(
    plan: PhysicalPlan, identity: Identity, store: LocalStore, retries: Retries | None = None
) -> dict[str, Committer]:
    """The committer of each destination, by step."""
    committers: dict[str, Committer] = {}
    for stage in plan.stages:
        if stage.destination is not None:
            context = destination_context(stage, plan, identity, store)
            opening = partial(stage.destination.committer, context)
            retrying = (retries or Retries()).of(stage.name)
            committers[stage.name] = RetriedCommitter(await retrying.call(opening), retrying)
    return committers


async def recover(
    store: LocalStore,
    committers: Mapping[str, Committer],
    *,
    base_epoch: int,
    last_epoch: int,
    resume: bool,
    starts_over: bool = False,
) -> Recovered:
    """Decide what to resume and bring the destinations there.

    base_epoch: the last epoch of the finished run before; only what came after it is this run's.
    last_epoch: the newest one that was published, 0 if none was. starts_over: what this run wrote so
    far is taken back, and the run begins again.
    Raises CheckpointError when going on would lose or double rows.
    """
    markers: dict[str, Marker | None] = {}
    for name, committer in committers.items():
        marker = await committer.marker()
        markers[name] = marker if marker is not None and marker.epoch > base_epoch else None
    if starts_over:
        refuse_taking_back(markers)
        return await _begun(store, committers, base_epoch)
    listed = await asyncio.to_thread(store.list_manifests)
    found = with_missing(listed, base_epoch, last_epoch) if resume else []
    kept = await asyncio.to_thread(store.judge, markers)
    decision = decide_resume(found, markers, kept)
    if isinstance(decision, Refuse):
        raise decision.error
    if not isinstance(decision, Resume):
        return await _begun(store, committers, base_epoch)
    manifest = decision.manifest
    notices = [_said(epoch, why) for epoch, why in decision.skipped]
    if notices:
        notices.append(f"checkpoint {manifest.epoch} is used instead")
    if decision.from_destination:
        notices.append(f"checkpoint {manifest.epoch} was read back from where the rows are")
        await asyncio.to_thread(store.rewind, manifest.epoch - 1)
        await asyncio.to_thread(store.publish, manifest)
    await asyncio.to_thread(store.rewind, manifest.epoch)
    for name, committer in committers.items():
        await committer.recover(manifest.epoch, manifest.committables.get(name, ()))
    await commit(committers, manifest)
    return Recovered(manifest, manifest.epoch, tuple(notices))


async def _begun(
    store: LocalStore, committers: Mapping[str, Committer], base_epoch: int
) -> Recovered:
    """The run's beginning: nothing of it is left anywhere."""
    await asyncio.to_thread(store.rewind, base_epoch)
    for committer in committers.values():
        await committer.recover(base_epoch, ())
        await committer.begin(base_epoch)
    return Recovered(None, base_epoch)


def _said(epoch: int, why: str) -> str:
    return (
        f"checkpoint {epoch} is missing"
        if why == MISSING
        else f"checkpoint {epoch} is damaged ({why})"
    )


async def forget(plan: PhysicalPlan, identity: Identity, store: LocalStore) -> None:
    """`--fresh`: clear what an unfinished run left unpublished; what is published stays."""
    facts = await asyncio.to_thread(store.list_manifests)
    committers = await open_committers(plan, replace(identity, lineage=store.lineage), store)
    epoch = max((fact.epoch for fact in facts), default=0)
    for committer in committers.values():
        marker = await committer.marker()
        with contextlib.suppress(
            RunError
        ):  # another lineage owns the place: nothing of ours is left
            await committer.recover(max(epoch, marker.epoch if marker else 0), ())
        await committer.aclose()
