"""Make a savepoint the checkpoint that a run resumes from: rename steps, move state into their columns of now.

Always true: only files are added before the destinations have agreed (`recover`), so a run that is refused, and one
that is killed here, leave the last checkpoint as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from msgspec import Struct
from msgspec.structs import replace

from dataflare.checkpoint.files import check_step
from dataflare.checkpoint.manifest import Manifest, OperatorSnapshot, StateChunk
from dataflare.checkpoint.runs import Current
from dataflare.checkpoint.savepoints import Savepoints
from dataflare.checkpoint.store import LocalStore, Storage
from dataflare.engine.deploy import layout_of
from dataflare.errors import CheckpointError
from dataflare.jobs.changes import (
    StepChange,
    chunks_by_table,
    compare,
    refuse_impossible,
    types_of,
)
from dataflare.jobs.published_since import refuse_published
from dataflare.operators.base import StatefulOperator
from dataflare.planner.change_order import HELPER
from dataflare.planner.physical import PhysicalPlan
from dataflare.state.layout import Layout, Moved, as_json, entry_of
from dataflare.workflow.model import Workflow

T = TypeVar("T")

UNCOUNTED_ATTEMPTS = 1000
"""Added to an attempt number where later attempts are unknown; a number that is too high does no harm."""


class Restored(Struct, frozen=True):
    """What a run goes on from. before: the state that the next run continues if this one is refused.
    warnings: what became of state that is not as it was. on_trial: the last checkpoint stays as it was until the
    run has a newer one, so that changes are accepted only by a run that goes on."""

    manifest: Manifest
    current: Current
    before: Current | None = None
    warnings: Sequence[str] = ()
    on_trial: bool = False


def from_savepoint(
    workflow: Workflow, plan: PhysicalPlan, storage: Path, name: str, last: Current | None
) -> Restored:
    """The checkpoint in a savepoint, for this workflow. Its files are given to the lineage's store. Blocking.

    Raises RunError (E0809, E0810) if there is no such savepoint or a state cannot be used, CheckpointError
    (E0701) for a damaged one, (E0704) for one whose staged rows are gone.
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
    refuse_published(f"savepoint '{name}'", plan, savepoint.manifest)
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
    if not any(change.moves for change in changes if change.was or change.tables):
        return None
    moved = resumable(workflow, plan, manifest, changes, store, current.attempt)
    return Restored(moved, current, None, _warnings(changes), on_trial=True)


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
    names = {former: change.step for former, change in steps.items()}
    operators = {}
    for former, shares in manifest.operators.items():
        if former in steps:
            change = steps[former]
            operators[change.step] = _moved(plan, change, shares, store, attempt)
        elif (kept := _helper(former, plan, names)) is not None:
            operators[kept] = tuple(shares)
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
        event_times=plan.event_times,
    )


def _helper(former: str, plan: PhysicalPlan, names: Mapping[str, str]) -> str | None:
    """The name of now of a stage in front of a destination, which is not a step of the file. None if there is none."""
    step = former.removesuffix(HELPER)
    name = f"{names.get(step, step)}{HELPER}"
    is_there = former.endswith(HELPER) and any(stage.name == name for stage in plan.stages)
    return name if is_there else None


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
    """The state of a step as the step of now uses it."""
    stage = next(stage for stage in plan.stages if stage.name == change.step)
    layout = layout_of(plan, stage)
    if stage.operator is None or layout is None or not change.moves:
        return tuple(shares)
    return moved_state(stage.operator, layout, change, shares, store, attempt)


def moved_state(
    operator: StatefulOperator,
    layout: Layout,
    change: StepChange,
    shares: Sequence[OperatorSnapshot],
    store: Storage,
    attempt: int,
) -> tuple[OperatorSnapshot, ...]:
    """State with another layout. What stays as it is keeps its chunks."""
    moving = _Moving(operator, layout, change)
    moved_shares = []
    for share in shares:
        by_table: dict[str, list[StateChunk]] = {}
        number = 0
        for table, chunks in sorted(chunks_by_table(share).items(), key=_natural):
            if moving.leaves_out(table):
                continue
            if not moving.moves(table):
                by_table.setdefault(table, []).extend(chunks)
                continue
            for chunk in chunks:
                groups = None if moving.reorders(table) else chunk.key_groups
                for name, frame in moving.frames(table, store.read_chunk(chunk)):
                    number += 1
                    file = (
                        f"{check_step(change.step)}-{share.subtask}-a{attempt}-moved-{number}.arrow"
                    )
                    chunk_now = store.write_chunk(file, frame, groups)
                    by_table.setdefault(name, []).append(chunk_now)
        facts = {
            **share.facts,
            "tables": {name: len(chunks) for name, chunks in by_table.items()},
            "values": moving.values(share.facts["values"]),
            "layout": as_json(layout),
        }
        chunks_now = [chunk for name in sorted(by_table) for chunk in by_table[name]]
        moved_shares.append(replace(share, chunks=tuple(chunks_now), facts=facts))
    return tuple(moved_shares)


def _natural(named: tuple[str, object]) -> list[str | tuple[int, str]]:
    """Tables in the order of the numbers in their names: rows of an earlier time first."""
    return [(len(part), part) for part in named[0].split(".")]


class _Moving:
    """The state of a step on its way to the layout of now."""

    def __init__(self, operator: StatefulOperator, layout: Layout, change: StepChange) -> None:
        self._operator, self._layout, self._change = operator, layout, change
        self._adaptation = change.adaptation

    def leaves_out(self, table: str) -> bool:
        return entry_of(self._layout, table) not in self._layout

    def reorders(self, table: str) -> bool:
        move = self._move(table)
        return move is not None and move.reordered

    def moves(self, table: str) -> bool:
        move = self._move(table)
        return self._adaptation.frames is not None or (move is not None and move.changes)

    def frames(self, table: str, frame: pl.DataFrame) -> Iterable[tuple[str, pl.DataFrame]]:
        """The rows of a table as rows of the tables of now."""
        move, entry = self._move(table), entry_of(self._layout, table)
        if move is not None and move.changes:
            initial = self._operator.initial(entry) if move.added else pl.DataFrame()
            frame = move.apply(frame, self._layout[entry], initial)
        if self._adaptation.frames is None:
            return [(table, frame)]
        return self._adaptation.frames(table, frame)

    def values(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        change = self._adaptation.values
        return values if change is None else change(values)

    def _move(self, table: str) -> Moved | None:
        return self._change.tables.get(entry_of(self._layout, table))


def _warnings(changes: Sequence[StepChange]) -> list[str]:
    """What a user must know of the state that the run goes on with."""
    return [
        f"step '{change.step}': {change.detail}"
        for change in changes
        if change.outcome in ("migrated", "dropped")
    ]
