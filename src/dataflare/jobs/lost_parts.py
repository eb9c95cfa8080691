"""The parts of an adopted checkpoint that its marker does not have: where they are, or why it cannot be used.

A marker holds the manifest without its chunks. The chunks come from the checkpoint storage if it can be
reached. If not, the listing of a source comes from the source, if that lists the same splits still; the
state of operators, and long values that a run was carried from, are lost.
"""

from __future__ import annotations

from msgspec.structs import replace

from dataflare.checkpoint.manifest import Manifest
from dataflare.checkpoint.snapshots import SourceSnapshot, SplitState, StoredParts, checksum_of
from dataflare.checkpoint.store import Storage
from dataflare.jobs.ownership import unadoptable
from dataflare.planner.physical import PhysicalPlan
from dataflare.sdk.source import SourceConnector
from dataflare.sdk.threads import in_thread
from dataflare.workflow.model import Workflow


async def with_parts(
    workflow: Workflow, plan: PhysicalPlan, manifest: Manifest, store: Storage
) -> Manifest:
    """The adopted checkpoint in a form of which every part can be read from `store`.

    Raises RunError (E0806), which says what is missing.
    """
    stored = await in_thread(_in_storage, store, manifest)
    if stored is not None:
        return stored
    if not manifest.final and manifest.state_chunks:
        steps = sorted(
            n for n, shares in manifest.operators.items() if any(s.chunks for s in shares)
        )
        raise unadoptable(
            workflow,
            f"its run had not finished, and the state of {', '.join(steps)} is in its state folder",
        )
    connectors = {stage.name: stage.source for stage in plan.stages if stage.source is not None}
    sources = dict(manifest.sources)
    for step, snapshot in manifest.sources.items():
        if snapshot.stored is not None and step in connectors:
            connector = connectors[step]
            sources[step] = await _from_source(workflow, step, connector, manifest, snapshot)
    operators = {} if manifest.final else manifest.operators
    rebuilt = replace(manifest, sources=sources, operators=operators)
    if rebuilt.chunks:
        raise unadoptable(
            workflow, f"a part of its checkpoint {manifest.epoch} is in its state folder"
        )
    if rebuilt != manifest:
        await in_thread(store.publish, rebuilt)
    return rebuilt


def _in_storage(store: Storage, manifest: Manifest) -> Manifest | None:
    """The checkpoint as the storage has it, or as the marker has it if all its chunks are there."""
    for fact in store.list_manifests(thorough=True):
        if fact.epoch == manifest.epoch and fact.manifest is not None and fact.usable:
            return fact.manifest
    return manifest if store.has_parts(manifest) else None


async def _from_source(
    workflow: Workflow,
    step: str,
    source: SourceConnector,
    manifest: Manifest,
    snapshot: SourceSnapshot,
) -> SourceSnapshot:
    """A source with the listing that it gives now, if that is the one of the run."""
    stored = snapshot.stored or StoredParts()
    if manifest.final and not source.carries():
        return SourceSnapshot()
    if stored.carried is not None:
        raise unadoptable(
            workflow, f"what earlier runs read of source '{step}' is in its state folder"
        )
    splits = snapshot.splits
    if stored.listing is not None or stored.done:
        splits = tuple(await source.splits(snapshot.carried))
        if checksum_of(splits) != stored.listed:
            raise unadoptable(
                workflow,
                f"the list of the {stored.listed[0]:,} splits of source '{step}' is in its state folder, and "
                "the source lists others now",
            )
    listed = {split.id: split for split in splits}
    states = dict(snapshot.states)
    for value in stored.tail:
        states[value["id"]] = SplitState.from_json(value, listed.get(value["id"]))
    for first, last in stored.done_listed:
        for split in splits[first : last + 1]:
            end = source.end_of(split)
            if end is None and source.carries():
                raise unadoptable(
                    workflow, f"where the splits of source '{step}' ended is in its state folder"
                )
            states[split.id] = SplitState(split, end, done=True)
    done = sum(chunk.rows for chunk in stored.done)
    if done != sum(last - first + 1 for first, last in stored.done_listed):
        raise unadoptable(workflow, f"a list of splits of source '{step}' is in its state folder")
    return SourceSnapshot(splits, states, snapshot.carried)
