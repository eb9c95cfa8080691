"""Make a savepoint the checkpoint that a run resumes from: rename steps, move state into their columns of now.

Always true: only files are added before the destinations have agreed (`recover`), so a run that is refused, and one
that is killed here, leave the last checkpoint as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from dataflare.checkpoint.manifest import Manifest, OperatorSnapshot, StateChunk
from dataflare.checkpoint.runs import Current
from dataflare.checkpoint.savepoints import Savepoints
from dataflare.checkpoint.store import LocalStore, Storage
from dataflare.engine.deploy import layout_of
from dataflare.errors import CheckpointError
from dataflare.jobs.changes import StepChange, compare, refuse_impossible, types_of
from dataflare.planner.physical import PhysicalPlan
from dataflare.workflow.model import Workflow

T = TypeVar("T")

UNCOUNTED_ATTEMPTS = 1000
"""Added to an attempt number where later attempts are unknown; a number that is too high does no harm."""


class Restored(Struct, frozen=True):
    """What a run goes on from. before: the state that the next run continues if this one is refused.
    warnings: what became of state that is not as it was."""

    manifest: Manifest
    current: Current
    before: Current | None = None
    warnings: Sequence[str] = ()


def from_savepoint(
    workflow: Workflow, plan: PhysicalPlan, storage: Path, name: str, last: Current | None
) -> Restored:
    """The checkpoint in a savepoint, for this workflow. Its files are given to the lineage's store. Blocking.

    Raises RunError (E0809, E0810) if there is no such savepoint or a state cannot be used, CheckpointError
    (E0701) for a damaged one.
    """
    savepoints = Savepoints(storage)
    savepoint, former = savepoints.read(name), savepoints.current(name)
    problem = savepoints.problem(name)
    if problem is not None:
        raise CheckpointError(
            f"savepoint '{name}' cannot be used: {problem}",
            code="E0701",
            help="restore its folder from a backup, or use another savepoint",
        )
    changes = compare(workflow, plan, savepoint.manifest)
    refuse_impossible(workflow, f"savepoint '{name}'", changes)
    attempt = max(former.attempt + UNCOUNTED_ATTEMPTS, last.attempt if last is not None else 0) + 1
    store = LocalStore(storage, savepoint.manifest.lineage)
    savepoints.put_files_back(savepoint, store)
    manifest = resumable(workflow, plan, savepoint.manifest, changes, store, attempt)
    current = replace(
        former, attempt=attempt, finished=False, last_epoch=manifest.epoch, starts_over=False
    )
    return Restored(manifest, current, last, _warnings(changes))


def with_changes(
    workflow: Workflow, plan: PhysicalPlan, store: Storage, current: Current
) -> Restored | None:
    """The checkpoint that an unfinished run resumes from although steps have changed. None if no state has
    to be moved. Blocking. Raises RunError (E0810) if a state cannot be used."""
    facts = [fact for fact in store.list_manifests() if fact.epoch > current.base_epoch]
    manifest = next((fact.manifest for fact in facts if fact.usable), None)
    if manifest is None:
        return None
    changes = compare(workflow, plan, manifest)
    refuse_impossible(workflow, f"checkpoint {manifest.epoch}", changes)
    if not any(move.changes for change in changes for move in change.tables.values()):
        return None
    moved = resumable(workflow, plan, manifest, changes, store, current.attempt)
    return Restored(moved, current, None, _warnings(changes))


def resumable(
    workflow: Workflow,
    plan: PhysicalPlan,
    manifest: Manifest,
    changes: Sequence[StepChange],
    store: Storage,
    attempt: int,
) -> Manifest:
    """The manifest to resume from. State that moves is written to `store`. Blocking."""
    steps = {
        change.was or change.step: change
        for change in changes
        if change.outcome in ("kept", "migrated")
    }
    operators = {}
    for former, shares in manifest.operators.items():
        if former in steps:
            change = steps[former]
            operators[change.step] = _moved(plan, change, shares, store, attempt)
    names = {former: change.step for former, change in steps.items()}
    return replace(
        manifest,
        sources=_renamed(manifest.sources, names),
        operators=operators,
        # Those of dead letters belong to no step of the file.
        committables={
            names.get(name, name): each
            for name, each in manifest.committables.items()
            if name in names or name not in manifest.fingerprints
        },
        counters=_renamed(manifest.counters, names),
        left_out=_renamed(manifest.left_out, names),
        fingerprints=workflow.fingerprints(),
        types=types_of(workflow),
    )


def _renamed(values: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    """The values of the steps that are there, under their names of now."""
    return {names[former]: value for former, value in values.items() if former in names}


def _moved(
    plan: PhysicalPlan,
    change: StepChange,
    shares: Sequence[OperatorSnapshot],
    store: Storage,
    attempt: int,
) -> tuple[OperatorSnapshot, ...]:
    """The state of a step with its columns of now. State that stays as it is keeps its chunks."""
    stage = next(stage for stage in plan.stages if stage.name == change.step)
    operator = stage.operator
    layout = layout_of(plan, stage)
    if operator is None or layout is None or not any(m.changes for m in change.tables.values()):
        return tuple(shares)
    moved_shares = []
    for share in shares:
        chunks: list[StateChunk] = []
        place = 0
        for name, count in sorted(share.facts["tables"].items()):
            old = share.chunks[place : place + count]
            place += count
            move = change.tables.get(name)
            if move is None or not move.changes:
                chunks += old
                continue
            initial = operator.initial(name)
            for chunk in old:
                frame = move.apply(store.read_chunk(chunk), layout[name], initial)
                new_name = f"{change.step}-{share.subtask}-a{attempt}-moved-{len(chunks)}.arrow"
                chunks.append(store.write_chunk(new_name, frame, chunk.key_groups))
        facts = {**share.facts, "layout": {n: table.to_json() for n, table in layout.items()}}
        moved_shares.append(replace(share, chunks=tuple(chunks), facts=facts))
    return tuple(moved_shares)


def _warnings(changes: Sequence[StepChange]) -> list[str]:
    """What a user must know of the state that the run goes on with."""
    return [
        f"step '{change.step}': {change.detail}"
        for change in changes
        if change.outcome in ("migrated", "dropped")
    ]
