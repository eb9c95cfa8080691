"""The state that the next run of a workflow continues. A run reads it at its start and updates it
durably.

Always true: existing state is never ignored without an error. Only `--fresh` begins a new lineage if
there is an old one.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from dataflare.checkpoint.files import make_state_folder, workflow_folder
from dataflare.checkpoint.lock import RunLock
from dataflare.checkpoint.manifest import Manifest
from dataflare.checkpoint.object_store import Bucket, ObjectStore, fetch_lineages
from dataflare.checkpoint.runs import Current, RunLog, RunRecord, learned_by, utc_text
from dataflare.checkpoint.savepoints import Savepoints
from dataflare.checkpoint.shared_bucket import SharedBucketStore
from dataflare.checkpoint.shared_store import SharedStore
from dataflare.checkpoint.source_record import read_source
from dataflare.checkpoint.store import LocalStore, Storage, lineages_in, newest_manifest
from dataflare.engine.coordinator import Identity
from dataflare.errors import Blame, CheckpointError, RunError
from dataflare.jobs.absent_tables import with_absent
from dataflare.jobs.changes import compare, types_of
from dataflare.jobs.from_savepoint import (
    UNCOUNTED_ATTEMPTS,
    Restored,
    from_savepoint,
    with_changes,
)
from dataflare.jobs.lost_parts import with_parts
from dataflare.jobs.options import RunOptions
from dataflare.jobs.ownership import (
    adoption,
    carried_to,
    owners_of,
    refuse_emptied,
    refuse_other_targets,
    refuse_owned,
    targets_of,
    used_of,
)
from dataflare.jobs.recovery import forget
from dataflare.jobs.savepoint_requests import answer, asked_names, may_be_asked
from dataflare.jobs.stream_tables import added_steps, of_streams, removed_steps
from dataflare.model.new_fields import Columns
from dataflare.planner import Plan
from dataflare.sdk.destination import Committer
from dataflare.sdk.threads import in_thread
from dataflare.workflow.model import Workflow

_IN_BUCKET: Mapping[Any, Callable[[Bucket, Path, str], Storage]] = {
    LocalStore: ObjectStore,
    SharedStore: SharedBucketStore,
}
"""By the kind of a store in a folder, the one in a bucket. Those of tests have none."""


class Lineage:
    """The lineage of one workflow in its home. `current` is the state that the next run would continue."""

    def __init__(self, workflow: Workflow, options: RunOptions, run_id: str) -> None:
        self.workflow, self.options, self.run_id = workflow, options, run_id
        self.folder = workflow_folder(options.home, workflow.name)
        self.log = RunLog(self.folder)
        self.current: Current
        self.adopted: Manifest | None = None
        self.rebuilt: Manifest | None = None
        self.restored: Restored | None = None
        self._bucket: Bucket | None = None
        self._writing = threading.Lock()

    def identity(self) -> Identity:
        """Of an attempt of this run."""
        current = self.current
        return Identity(
            current.lineage, self.run_id, current.attempt, self.workflow.fingerprints(),
            workflow=self.workflow.name, types=types_of(self.workflow),
        )  # fmt: skip

    def record(self) -> RunRecord:
        """Of this run, which begins now."""
        return self.record_of(self.current.lineage, self.current.attempt)

    def record_of(self, lineage: str, attempt: int) -> RunRecord:
        """Of a run in this lineage that begins now."""
        file = self.workflow.file
        return RunRecord(
            self.run_id, self.workflow.name, lineage, attempt, utc_text(time.time()),
            file=str(file.absolute()) if file else None, fingerprints=self.workflow.fingerprints(),
        )  # fmt: skip

    def grow(self, workflow: Workflow, options: RunOptions) -> None:
        """The same workflow with more tables. options: of a run that goes on."""
        self.workflow, self.options = workflow, options

    def enter(self, lock: RunLock) -> Mapping[str, Columns]:
        """Make the folder and take its lock. Gives what `learned` does. Blocking."""
        make_state_folder(self.folder)
        lock.acquire()
        return self.learned()

    def last(self) -> tuple[Current | None, RunRecord | None]:
        """The state of the last run, None before the first one; and its record, if it finished but its process ended before
        it reported this. Blocking."""
        current = self._read()
        begins_anew = self.options.fresh or self.options.savepoint is not None
        if current is None or not current.finished or begins_anew:
            return current, None
        self.current = current
        record = self.log.read(current.run_id)
        if record is None or (record.reported and record.status != "running"):
            return current, None
        return current, record

    def last_counts(self) -> Mapping[str, Any] | None:
        """By step, the counts of the run in `current`, from its last checkpoint. Blocking."""
        manifests = self.store_of(self.current).list_manifests()
        newest = manifests[0].manifest if manifests else None
        if newest is None or newest.run_id != self.current.run_id:
            return None
        return newest.counters

    async def begin(self, plan: Plan, last_state: Current | None) -> bool:
        """Decide what this run continues. last_state: as `last` gives it. Returns True if it resumes an unfinished run.

        Raises CheckpointError if the state folder is damaged, RunError (E0803) if a step has changed
        since the checkpoint.
        """
        if self.options.fresh and last_state is not None:
            await self._forget(plan, last_state)
            last_state = None
        if self.options.savepoint is not None:
            await self._restore(plan, self.options.savepoint, last_state)
            return True
        resume = last_state is not None and not last_state.finished
        current = last_state or Current(str(uuid.uuid4()), 0, self.run_id)
        store = self.store_of(current)
        if current.finished:
            epochs = [fact.epoch for fact in await in_thread(store.list_manifests)]
            current = replace(
                current,
                base_epoch=max([current.base_epoch, current.last_epoch, *epochs]),
                finished=False,
            )
        storage = "" if self._storage() == self.folder else str(self._storage())
        storage = bucket_of(self.workflow.settings.checkpoint.storage) or storage
        current = replace(current, run_id=self.run_id, attempt=current.attempt + 1, storage=storage)
        if resume and self.options.accept_changes:
            accepted = partial(with_changes, self.workflow, plan.stages, store, current)
            self.restored = await in_thread(accepted)
        elif resume:
            await in_thread(self._refuse_changes, plan, store, current)
        self.current = current
        await self.keep()
        return resume

    async def _restore(self, plan: Plan, savepoint: str, last_state: Current | None) -> None:
        """Go on from a savepoint."""
        arguments = (self.workflow, plan.stages, self._storage(), savepoint, last_state)
        self.restored = await in_thread(from_savepoint, *arguments)
        self.current = replace(self.restored.current, run_id=self.run_id)
        await self.keep()

    async def answer_savepoints(self, checkpoint: Callable[[], Awaitable[Manifest | None]]) -> None:
        """Take the savepoints that users asked for through the folder. checkpoint: takes a checkpoint."""
        if not may_be_asked(self.folder):
            return
        names = await in_thread(asked_names, self.folder)
        if not names:
            return
        manifest = await checkpoint()
        store = self.store_of(self.current)
        if not isinstance(store, LocalStore):
            store = LocalStore(self._storage(), self.current.lineage)
        savepoints = Savepoints(self._storage())
        for name in names:
            keep = partial(answer, self.folder, name, savepoints, manifest, store, self.current)
            await in_thread(keep)

    def to_try(self) -> Restored | None:
        """What this attempt goes on from in place of the last checkpoint. Changes that were accepted are in each
        checkpoint that the run has taken."""
        tried = self.restored
        if tried is None or not tried.on_trial:
            return tried
        self.restored = tried if self.current.last_epoch <= tried.manifest.epoch else None
        return self.restored

    async def give_back(self) -> None:
        """The run from a savepoint was refused: the next run continues what it would have continued."""
        before = self.restored.before if self.restored is not None else None
        if before is not None:
            same = before.lineage == self.current.lineage
            attempt = self.current.attempt if same else before.attempt
            self.current = replace(before, attempt=attempt)
            await self.keep()

    def learned(self) -> Mapping[str, Columns]:
        """By source, the columns that earlier runs found in its rows."""
        return {} if self.options.fresh else learned_by(self.options.home, self.workflow.name)

    async def meet(self, plan: Plan, committers: Mapping[str, Committer]) -> bool:
        """Check which lineage owns the destinations, before the run writes. Returns True if another
        lineage was adopted: the caller must then open committers again.

        Raises RunError (E0806, E0807) if this run must not write to a destination.
        """
        owners = await owners_of(committers)
        if owners and self._adopts and not self.options.fresh:
            adopted = adoption(self.workflow, owners)
            if adopted is not None:
                await self._adopt(plan, adopted.manifest, adopted.attempt)
                return True
        if owners and not self.options.fresh:
            refuse_owned(self.workflow, owners)
        current = self.current
        targets = with_absent(self.workflow, targets_of(plan.stages), current.targets)
        if not self.options.accept_changes:
            carried = used_of(plan.stages, current.carried)
            positions = {name: [value] for name, value in carried.items()}
            added = added_steps(self.workflow, plan.stages, positions)
            steps = [s for s in carried_to(self.workflow, carried) if s not in added]
            refuse_other_targets(self.workflow, current.targets, targets, steps)
            if current.last_epoch <= current.base_epoch:  # this run has written nothing yet
                steps_with_rows = [step for step in steps if step in await in_thread(self._written)]
                await refuse_emptied(self.workflow, committers, steps_with_rows)
        for name in owners:
            await committers[name].supersede(current.base_epoch)
        if targets != current.targets:
            await self.keep(targets=targets)
        return False

    def _written(self) -> set[str]:
        """The steps that received rows in earlier runs of this lineage, by the records that still exist.
        Blocking."""
        return {
            name
            for record in self.log.list()
            if record.lineage == self.current.lineage
            for name, counts in record.counts.items()
            if counts.get("rows_in") != 0
        }

    @property
    def adopted_finished(self) -> bool:
        """Whether the adopted run had finished."""
        return self.adopted is not None and self.adopted.final

    @property
    def _adopts(self) -> bool:
        return self.options.adopt or self.workflow.settings.state.adopt == "auto"

    async def _adopt(self, plan: Plan, manifest: Manifest, attempt: int) -> None:
        """Adopt a lineage at one of its checkpoints."""
        if not manifest.final:
            self._refuse_changed(plan, self._store(self._storage(), manifest.lineage), manifest)
        store = self._store(self._storage(), manifest.lineage)
        of_marker = manifest
        manifest = await with_parts(self.workflow, plan.stages, of_marker, store)
        self.rebuilt = None if manifest == of_marker else manifest
        await self.keep(
            lineage=manifest.lineage,
            attempt=max(attempt, manifest.attempt) + 1,
            finished=False,
            carried=await in_thread(_carried, store, manifest),
            base_epoch=0,
            last_epoch=manifest.epoch,
            targets={},
        )
        self.adopted = manifest

    def folders(self) -> list[Path]:
        """Where the run has files that are not its destinations'."""
        own = [self.folder, self._storage()]
        return [*own, scratch_of(self.workflow, self._store(self.folder, self.current.lineage))]

    def _store(self, folder: Path, lineage: str) -> Storage:
        url = bucket_of(self.workflow.settings.checkpoint.storage)
        in_bucket = _IN_BUCKET.get(self.options.storage)
        if url is None or in_bucket is None:
            return self.options.storage(folder, lineage)
        if self._bucket is None:
            self._bucket = Bucket(url)
        return in_bucket(self._bucket, folder, lineage)

    def store_of(self, current: Current) -> Storage:
        """The store of a lineage's checkpoints."""
        return self._store(self._storage(), current.lineage)

    async def keep(self, **changes: Any) -> None:
        """Store durably what the next run continues."""
        await in_thread(self._write, **changes)

    def note_epoch(self, epoch: int) -> None:
        """Record the newest checkpoint, so that the next run detects if it is missing."""
        if epoch != self.current.last_epoch:
            self._write(last_epoch=epoch)

    def _write(self, **changes: Any) -> None:
        """Change durably what the next run continues. It needs a lock, because a thread of a failed
        attempt may still record its epoch while the next attempt begins."""
        with self._writing:
            self.current = replace(self.current, **changes)
            self.log.set_current(self.current)

    def _read(self) -> Current | None:
        """Read the state of the last run. With `--fresh`, state that cannot be read is deleted."""
        try:
            current = self.log.current()
            return current if current is not None else self._orphaned()
        except CheckpointError:
            if not self.options.fresh:
                raise
            for folder in {self.folder, self._storage()}:
                self._store(folder, str(uuid.uuid4())).clear()
            return None

    def _orphaned(self) -> Current | None:
        """What to continue if `current.json` is gone. None if there are no checkpoints.

        If there are, raises CheckpointError (E0701); with `--adopt` it adopts the newest of them.
        """
        url = bucket_of(self.workflow.settings.checkpoint.storage)
        if url is not None:
            fetch_lineages(Bucket(url), self.folder)
        for folder in (self.folder, self._storage()):
            orphans = lineages_in(folder)
            if not orphans:
                continue
            newest = newest_manifest(orphans[0]) if len(orphans) == 1 else None
            if self._adopts and newest is not None:
                self.adopted = newest
                return Current(
                    newest.lineage,
                    newest.attempt + UNCOUNTED_ATTEMPTS,
                    newest.run_id,
                    carried=_carried(self._store(folder, newest.lineage), newest),
                    last_epoch=newest.epoch,
                )
            raise CheckpointError(
                f"{self.folder / 'current.json'} is gone, which says what the next run continues, "
                f"and checkpoints of an earlier run are in {orphans[0]}",
                code="E0701",
                help="use --adopt to resume from the newest of them, restore the file from a backup, or "
                "start over with --fresh",
            )
        return None

    def _storage(self) -> Path:
        return storage_of(self.workflow, self.options.home)

    async def _forget(self, plan: Plan, current: Current) -> None:
        store = self.store_of(current)
        identity = Identity(current.lineage, self.run_id, current.attempt + 1, {})
        await forget(plan.stages, identity, store)
        await in_thread(self._store(self.folder, current.lineage).clear)
        await in_thread(store.clear)

    def _refuse_changes(self, plan: Plan, store: Storage, current: Current) -> None:
        """Raise RunError (E0803) if a step has changed since the checkpoint. Blocking."""
        if self.options.accept_changes:
            return
        manifests = [
            fact.manifest
            for fact in store.list_manifests()
            if fact.manifest is not None and fact.epoch > current.base_epoch
        ]
        if manifests:
            self._refuse_changed(plan, store, manifests[0])

    def _refuse_changed(self, plan: Plan, store: Storage, manifest: Manifest) -> None:
        """Raise RunError (E0803) if a step has changed since a checkpoint. Blocking."""
        if self.options.accept_changes:
            return
        before, now = manifest.fingerprints, self.workflow.fingerprints()
        sources = {
            name: read_source(store, each)
            for name, each in manifest.sources.items()
            if name in of_streams(plan.stages)
        }
        positions = {
            name: [
                *([] if each.carried is None else [each.carried]),
                *(s.position.value for s in each.states.values() if s.position is not None),
            ]
            for name, each in sources.items()
        }
        added = added_steps(self.workflow, plan.stages, positions)
        removed = removed_steps(self.workflow, plan.stages, before)
        changed = [n for n in now if n in before and before[n] != now[n]]
        changed += [f"{n} (new)" for n in now if n not in before and n not in added]
        changed += [f"{n} (gone)" for n in before if n not in now and n not in removed]
        if changed:
            name = changed[0].partition(" ")[0]
            spot = self.workflow.step(name).spot if name in now else None
            changes = compare(self.workflow, plan.stages, manifest)
            lost = [f"step '{c.step}': {c.detail}" for c in changes if c.outcome == "impossible"]
            cure = "use --accept-changes to resume anyway"
            if lost:
                lost.insert(0, "--accept-changes is refused, because of the state of these steps:")
                cure = "give these steps new names, so that they begin without state, and use --accept-changes"
            raise RunError(
                f"the unfinished run of '{self.workflow.name}' cannot resume: step '{name}' has changed",
                code="E0803",
                blame=Blame.USER,
                step=name,
                spot=spot,
                notes=[f"changed since checkpoint {manifest.epoch}: {', '.join(changed)}", *lost],
                help=f"undo the change, or {cure}, or --fresh to start over",
            )


def _carried(store: Storage, manifest: Manifest) -> dict[str, Any]:
    """By source, the value that the run of a checkpoint was carried from. Blocking."""
    sources = {step: read_source(store, source) for step, source in manifest.sources.items()}
    return {step: source.carried for step, source in sources.items() if source.carried is not None}


def scratch_of(workflow: Workflow, store: Storage) -> Path:
    """The folder of files that a run of the workflow needs only while it lives."""
    path = workflow.settings.state.path
    return store.scratch if path is None else (workflow.base / path).absolute() / workflow.name


def newest_of(workflow: Workflow, home: Path, lineage: str) -> Manifest | None:
    """The last checkpoint of a lineage that can be used. Blocking."""
    facts = LocalStore(storage_of(workflow, home), lineage).list_manifests()
    return next((fact.manifest for fact in facts if fact.usable), None)


def bucket_of(storage: str | None) -> str | None:
    """The URL in `settings.checkpoint.storage`, if it is one."""
    return storage if storage is not None and "://" in storage else None


def storage_of(workflow: Workflow, home: Path) -> Path:
    """The folder of a workflow's checkpoints."""
    storage = workflow.settings.checkpoint.storage
    if storage is None or bucket_of(storage):  # a bucket has a copy in the workflow's folder
        return workflow_folder(home, workflow.name)
    return (workflow.base / storage).absolute() / workflow.name
