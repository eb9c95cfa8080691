"""What the next run of a workflow continues: read at the start, kept up to date durably while a run
goes on.

Always true: what is in the state folder is never passed over in silence. Only `--fresh` begins a new
lineage where there is an old one.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from dataflare.checkpoint.files import workflow_folder
from dataflare.checkpoint.runs import Current, RunLog, RunRecord, learned_by
from dataflare.checkpoint.store import LocalStore, lineages_in
from dataflare.engine.coordinator import Identity
from dataflare.errors import Blame, CheckpointError, RunError
from dataflare.jobs.options import RunOptions
from dataflare.jobs.recovery import forget
from dataflare.model.new_fields import Columns
from dataflare.planner import Plan
from dataflare.workflow.model import Workflow


class Lineage:
    """Of one workflow in its home. `current` is what the next run would continue."""

    def __init__(self, workflow: Workflow, options: RunOptions, run_id: str) -> None:
        self.workflow, self.options, self.run_id = workflow, options, run_id
        self.folder = workflow_folder(options.home, workflow.name)
        self.log = RunLog(self.folder)
        self.current: Current
        self._writing = threading.Lock()

    def unreported(self) -> RunRecord | None:
        """The record of the last run, when it finished and its process ended before it had said so.
        Blocking."""
        current = self._read()
        if current is None or not current.finished:
            return None
        self.current = current
        record = self.log.read(current.run_id)
        return record if record is not None and record.status == "running" else None

    def last_counts(self) -> Mapping[str, Any] | None:
        """Rows by step of the run that `current` names, as its last checkpoint has them. Blocking."""
        manifests = self.store_of(self.current).list_manifests()
        newest = manifests[0].manifest if manifests else None
        if newest is None or newest.run_id != self.current.run_id:
            return None
        return newest.counters

    async def begin(self, plan: Plan) -> bool:
        """Decide what this run continues. True when it resumes an unfinished run.

        Raises CheckpointError when the state folder is damaged, RunError (E0803) when a step has
        changed since the checkpoint.
        """
        before = self._read()
        if self.options.fresh and before is not None:
            await self._forget(plan, before)
            before = None
        resume = before is not None and not before.finished
        current = before or Current(str(uuid.uuid4()), 0, self.run_id)
        store = self.store_of(current)
        if current.finished:
            epochs = [fact.epoch for fact in await asyncio.to_thread(store.list_manifests)]
            current = replace(
                current,
                base_epoch=max([current.base_epoch, current.last_epoch, *epochs]),
                finished=False,
            )
        current = replace(current, run_id=self.run_id, attempt=current.attempt + 1)
        if resume:
            self._refuse_changes(store, current)
        self.current = current
        await self.keep()
        return resume

    def learned(self) -> Mapping[str, Columns]:
        """By source, the columns that earlier runs found in its rows."""
        return {} if self.options.fresh else learned_by(self.options.home, self.workflow.name)

    def store_of(self, current: Current) -> LocalStore:
        """Where the checkpoints of a lineage are."""
        return LocalStore(self._storage(), current.lineage)

    async def keep(self, **changes: Any) -> None:
        """Decide what the next run continues."""
        await asyncio.to_thread(self._write, **changes)

    def note_epoch(self, epoch: int) -> None:
        """Remember the newest checkpoint, so that the next run notices when it is gone."""
        if epoch != self.current.last_epoch:
            self._write(last_epoch=epoch)

    def _write(self, **changes: Any) -> None:
        """Change what the next run continues, durably. A thread of an attempt that has failed may
        still note its epoch while the next attempt begins."""
        with self._writing:
            self.current = replace(self.current, **changes)
            self.log.set_current(self.current)

    def _read(self) -> Current | None:
        """What the last run left. With `--fresh` what cannot be read is forgotten like the rest."""
        try:
            current = self.log.current()
            if current is None:
                self._refuse_orphans()
            return current
        except CheckpointError:
            if not self.options.fresh:
                raise
            for folder in {self.folder, self._storage()}:
                LocalStore(folder, str(uuid.uuid4())).clear()
            return None

    def _refuse_orphans(self) -> None:
        """Raise CheckpointError (E0701) when there are checkpoints, and `current.json`, which says
        what they are, is gone."""
        for folder in (self.folder, self._storage()):
            orphans = lineages_in(folder)
            if orphans:
                raise CheckpointError(
                    f"{self.folder / 'current.json'} is gone, which says what the next run continues, "
                    f"and checkpoints of an earlier run are in {orphans[0]}",
                    code="E0701",
                    help="restore the file from a backup, or start over with --fresh",
                )

    def _storage(self) -> Path:
        storage = self.workflow.settings.checkpoint.storage
        if storage is None:
            return self.folder
        return (self.workflow.base / storage).absolute() / self.workflow.name

    async def _forget(self, plan: Plan, current: Current) -> None:
        store = self.store_of(current)
        identity = Identity(current.lineage, self.run_id, current.attempt + 1, {})
        await forget(plan.stages, identity, store)
        await asyncio.to_thread(LocalStore(self.folder, current.lineage).clear)
        await asyncio.to_thread(store.clear)

    def _refuse_changes(self, store: LocalStore, current: Current) -> None:
        """Raise RunError (E0803) when a step is not what it was when the checkpoint was taken."""
        if self.options.accept_changes:
            return
        manifests = [
            fact.manifest
            for fact in store.list_manifests()
            if fact.manifest is not None and fact.epoch > current.base_epoch
        ]
        if not manifests:
            return
        before, now = manifests[0].fingerprints, self.workflow.fingerprints()
        changed = [n for n in now if n in before and before[n] != now[n]]
        changed += [f"{n} (new)" for n in now if n not in before]
        changed += [f"{n} (gone)" for n in before if n not in now]
        if changed:
            name = changed[0].partition(" ")[0]
            spot = self.workflow.step(name).spot if name in now else None
            raise RunError(
                f"the unfinished run of '{self.workflow.name}' cannot go on: step '{name}' has changed",
                code="E0803",
                blame=Blame.USER,
                step=name,
                spot=spot,
                notes=[f"changed since checkpoint {manifests[0].epoch}: {', '.join(changed)}"],
                help="undo the change, or use --accept-changes to go on, or --fresh to start over",
            )
