"""The checkpoints and savepoints of a workflow, as the commands that show them need them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from dataflare.cli import common
from dataflare.errors import WorkflowError

if TYPE_CHECKING:
    from dataflare.checkpoint.manifest import Manifest, SourceSnapshot
    from dataflare.checkpoint.resolve import ManifestFact
    from dataflare.checkpoint.savepoints import Savepoints
    from dataflare.checkpoint.store import LocalStore


class History(Struct, frozen=True):
    """The checkpoints of a workflow's current lineage, newest first. store: None before its first run."""

    store: LocalStore | None
    facts: list[ManifestFact]
    finished: bool = False
    base_epoch: int = 0
    """Epochs up to this one belong to runs that finished."""
    savepoints: Savepoints | None = None

    @property
    def resumed(self) -> int | None:
        """The checkpoint that the next run resumes from."""
        if self.finished:
            return None
        run_facts = [fact for fact in self.facts if fact.epoch > self.base_epoch]
        return next((fact.epoch for fact in run_facts if fact.usable), None)

    def num_bytes(self, fact: ManifestFact) -> int | None:
        """The size of a checkpoint, with the state that it shares with others."""
        if self.store is None:
            return None
        if fact.manifest is not None:
            chunks = fact.manifest.chunks.values()
            return len(fact.manifest.to_text()) + sum(chunk.num_bytes for chunk in chunks)
        from dataflare.checkpoint.resolve import manifest_name

        try:
            return (self.store.home / manifest_name(fact.epoch)).stat().st_size
        except OSError:
            return None

    def source(self, snapshot: SourceSnapshot) -> SourceSnapshot:
        """A source of a checkpoint, with the parts that are in chunks where these can be read."""
        from dataflare.checkpoint.source_record import read_source
        from dataflare.errors import CheckpointError

        if self.store is None:
            return snapshot
        with contextlib.suppress(CheckpointError):
            return read_source(self.store, snapshot)
        return snapshot

    def to_json(self, fact: ManifestFact) -> dict[str, Any]:
        """A checkpoint as JSON."""
        manifest = fact.manifest
        return {
            "epoch": fact.epoch,
            "usable": fact.usable,
            "problem": fact.problem,
            "created_at": manifest.created_at if manifest else None,
            "final": manifest.final if manifest else None,
            "run_id": manifest.run_id if manifest else None,
            "lineage": manifest.lineage if manifest else None,
            "bytes": self.num_bytes(fact),
            "sources": {n: self.source(s).to_json() for n, s in manifest.sources.items()}
            if manifest
            else {},
            "state": state_of_steps(manifest) if manifest else {},
            "counters": dict(manifest.counters) if manifest else {},
        }


def history_of(workflow: str, *, thorough: bool) -> History:
    return history_in(common.workflow_folder(workflow), thorough)


def history_in(folder: Path, thorough: bool) -> History:
    from dataflare.checkpoint.opening import savepoints_of, store_of
    from dataflare.checkpoint.runs import RunLog

    current = RunLog(folder).current()
    if current is None:
        return History(None, [])
    store = store_of(folder, current)
    return History(
        store,
        store.list_manifests(thorough=thorough),
        current.finished,
        current.base_epoch,
        savepoints_of(folder, current),
    )


def one_of(
    workflow: str, history: History, which: str | None
) -> tuple[str | None, ManifestFact, History]:
    """A checkpoint by its epoch, or a savepoint by its name (then it has a name, and another store)."""
    for fact in history.facts:
        if which is None or which == str(fact.epoch):
            return None, fact, history
    for name, fact in savepoint_facts(history.savepoints, thorough=True):
        if name == which:
            assert history.savepoints is not None
            store = history.savepoints.read(name).store if fact.manifest is not None else None
            return name, fact, replace(history, store=store)
    epochs = [str(fact.epoch) for fact in history.facts]
    names = history.savepoints.names() if history.savepoints else []
    raise WorkflowError(
        f"workflow '{workflow}' has no checkpoint" + (f" {which}" if which else ""),
        code="E0122",
        notes=[f"its checkpoints: {', '.join([*epochs, *names]) or 'none'}"],
        help="name one of these, or leave it out to list them",
    )


def savepoint_facts(
    savepoints: Savepoints | None, *, thorough: bool
) -> list[tuple[str, ManifestFact]]:
    """The savepoints as the facts of checkpoints. thorough: all their state is read."""
    from dataflare.checkpoint.resolve import ManifestFact
    from dataflare.errors import CheckpointError

    facts = []
    for name in savepoints.names() if savepoints else ():
        assert savepoints is not None
        try:
            manifest = savepoints.read(name).manifest
        except CheckpointError as error:
            facts.append((name, ManifestFact(0, None, error.message, False)))
            continue
        problem = savepoints.problem(name) if thorough else None
        facts.append((name, ManifestFact(manifest.epoch, manifest, problem, problem is None)))
    return facts


def state_of_steps(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Rows and bytes of state by step."""
    state = {}
    for step, snapshots in manifest.operators.items():
        chunks = [chunk for snapshot in snapshots for chunk in snapshot.chunks]
        rows, num_bytes = sum(c.rows for c in chunks), sum(c.num_bytes for c in chunks)
        state[step] = {"subtasks": len(snapshots), "rows": rows, "bytes": num_bytes}
    return state
