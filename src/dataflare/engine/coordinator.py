"""Cut epochs through all tasks, publish them, commit them.

The order is the delivery protocol's: every task answers, the manifest is published, every
destination commits. A crash between any two of these is repaired at the next start.

Always true: one epoch at a time; a manifest names a share of every live task; what has ended counts
with its last share.
"""

from __future__ import annotations

import asyncio
import datetime
import secrets
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct, field

from dataflare.checkpoint.manifest import Manifest, OperatorSnapshot, SourceSnapshot
from dataflare.checkpoint.store import LocalStore
from dataflare.engine.destination_task import DestinationTask
from dataflare.engine.operator_task import OperatorTask
from dataflare.engine.pool import WorkerPool
from dataflare.engine.source_task import SourceTask
from dataflare.engine.task import Answer, Task
from dataflare.errors import CheckpointError, Retry
from dataflare.model.new_fields import NewFields
from dataflare.model.progress import Barrier, Split
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, Committer, Epoch

_SETTLE_S = 10.0


class Identity(Struct, frozen=True):
    """Whose checkpoints these are. workflow: its name; "" for a preview or a test. token: a chance text, another one in each attempt, so that two
    copies of one state folder are told apart."""

    lineage: str
    run_id: str
    attempt: int
    fingerprints: Mapping[str, str]
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    workflow: str = ""


class SourceFacts(Struct):
    """What a manifest says of a source beside its readers' shares: the listing of the run's start,
    what was done before this attempt began, and what the run was carried from."""

    splits: Sequence[Split]
    before: SourceSnapshot
    carried: object = None


class CheckpointStats(Struct):
    completed: int = 0
    last_bytes: int = 0
    last_s: float | None = None
    last_epoch: int | None = None


class _Pending(Struct):
    barrier: Barrier
    answers: dict[str, Answer] = field(default_factory=dict)
    whole: asyncio.Event = field(default_factory=asyncio.Event)


class Coordinator:
    """Of one attempt. Tasks are registered before anything runs. counters: what a manifest says of
    the rows so far; judge: raises when too many of them have failed. left_out: by step, how many
    rows of the run have failed by the end of an epoch. note: remembers,
    durably, that an epoch was published; published and committed: told of
    each epoch that is to happen, and that every destination has."""

    def __init__(
        self,
        identity: Identity,
        store: LocalStore,
        pool: WorkerPool,
        *,
        epoch: int,
        sources: Mapping[str, SourceFacts],
        committers: Mapping[str, Committer],
        retain: int,
        timeout_s: float,
        counters: Callable[[], Mapping[str, object]],
        judge: Callable[[], None],
        left_out: Callable[[int], Mapping[str, int]] = lambda epoch: {},
        note: Callable[[int], None],
        published: Callable[[int], None],
        committed: Callable[[int], None],
    ) -> None:
        self.identity, self.store, self.pool = identity, store, pool
        self.epoch = epoch
        self.sources, self.committers = sources, committers
        self.stats = CheckpointStats()
        self.tasks: list[Task] = []
        self.all_ended = asyncio.Event()
        self.stopping = False
        self._retain, self._timeout_s = retain, timeout_s
        self._counters, self._judge, self._note = counters, judge, note
        self._left_out = left_out
        self._published, self._committed = published, committed
        self._pending: _Pending | None = None
        self._storing: asyncio.Future[None] | None = None
        self._committing: asyncio.Future[None] | None = None
        self.new_fields: dict[str, list[NewFields]] = {}
        self.fields_appeared = asyncio.Event()
        self._last_answers: dict[str, Answer] = {}

    @property
    def current(self) -> Barrier | None:
        return self._pending.barrier if self._pending else None

    def answered(self, task: Task, epoch: int, answer: Answer) -> None:
        if self._pending is None or self._pending.barrier.epoch != epoch:
            return
        self._pending.answers[task.id] = answer
        self._look()

    def ended(self, task: Task, answer: Answer) -> None:
        self._last_answers[task.id] = answer
        for other in self.tasks:
            # Whose inputs ended with this is asked by nobody else for the epoch being cut.
            other.request(self._pending.barrier) if self._pending else None
        if all(each.has_ended for each in self.tasks):
            self.all_ended.set()
        self._look()

    def appeared(self, step: str, found: Sequence[NewFields]) -> None:
        """A source has found fields that its columns lack, and stands still."""
        self.new_fields.setdefault(step, []).extend(found)
        self.fields_appeared.set()

    def _look(self) -> None:
        pending = self._pending
        if pending is None:
            return
        for task in self.tasks:
            if task.id in pending.answers:
                continue
            if task.has_ended and not isinstance(task, DestinationTask):
                pending.answers[task.id] = self._last_answers[task.id]
                continue
            return
        pending.whole.set()

    async def checkpoint(self, *, final: bool = False) -> Manifest:
        """Cut, publish and commit one epoch. Raises CheckpointError (E0705) when it takes too long."""
        started = asyncio.get_running_loop().time()
        barrier = Barrier(self.epoch + 1, final, self._left_out(self.epoch + 1) if final else {})
        self._pending = pending = _Pending(barrier)
        for task in self.tasks:
            task.request(barrier)
        self._look()
        try:
            await asyncio.wait_for(pending.whole.wait(), self._timeout_s)
        except TimeoutError:
            missing = [t.id for t in self.tasks if t.id not in pending.answers]
            raise CheckpointError(
                f"checkpoint {barrier.epoch} was not complete after {self._timeout_s:g} s",
                code="E0705",
                notes=[f"waiting for: {', '.join(missing)}"],
                help="raise settings.checkpoint.timeout, or look at what is slow",
                retry=Retry.LATER,
            ) from None
        self._judge()
        self._published(barrier.epoch)
        manifest = self._manifest(pending)
        crash_point("engine.before_manifest")
        self._storing = self.pool.submit(self._store, manifest)
        await asyncio.shield(self._storing)
        crash_point("engine.after_manifest")
        self.epoch = barrier.epoch
        self._pending = None
        self._committing = asyncio.ensure_future(self._commit(manifest))
        await asyncio.shield(self._committing)
        self.stats.completed += 1
        self.stats.last_epoch = manifest.epoch
        self.stats.last_bytes = sum(chunk.num_bytes for chunk in manifest.chunks.values())
        self.stats.last_bytes += len(manifest.to_text())
        self.stats.last_s = asyncio.get_running_loop().time() - started
        await self.pool.submit(self._collect)
        return manifest

    def _store(self, manifest: Manifest) -> None:
        self.store.publish(manifest)
        self._note(manifest.epoch)

    async def _commit(self, manifest: Manifest) -> None:
        await self.commit(manifest)
        self._committed(manifest.epoch)

    async def settle(self) -> None:
        """Wait for what has begun when the attempt fails: the storing of a manifest, because the next
        attempt decides by the manifests that are there, and a commit, because its rows may be visible
        and are counted. A commit that is still retried after a while is cancelled."""
        if self._storing is not None:
            await asyncio.gather(self._storing, return_exceptions=True)
        if self._committing is None:
            return
        await asyncio.wait([self._committing], timeout=_SETTLE_S)
        self._committing.cancel()
        await asyncio.gather(self._committing, return_exceptions=True)

    async def commit(self, manifest: Manifest) -> None:
        """Let every destination make the epoch's rows visible."""
        await commit(self.committers, manifest)

    def _collect(self) -> None:
        self.store.collect(self._retain)

    def _manifest(self, pending: _Pending) -> Manifest:
        sources: dict[str, SourceSnapshot] = {}
        operators: dict[str, list[OperatorSnapshot]] = {}
        committables: dict[str, list[Committable]] = {}
        for task in self.tasks:
            answer = pending.answers[task.id]
            if isinstance(task, SourceTask):
                facts = self.sources[task.name]
                known = sources.get(task.name) or SourceSnapshot(
                    tuple(facts.splits), dict(facts.before.states), facts.carried
                )
                states = {**known.states, **{state.split.id: state for state in answer.splits}}
                sources[task.name] = SourceSnapshot(known.splits, states, known.carried)
            elif isinstance(task, OperatorTask):
                kept = operators.setdefault(task.name, [])
                if answer.snapshot is not None:
                    kept.append(answer.snapshot)
            elif answer.committable is not None:
                committables.setdefault(task.name, []).append(answer.committable)
        return Manifest(
            lineage=self.identity.lineage,
            run_id=self.identity.run_id,
            attempt=self.identity.attempt,
            epoch=pending.barrier.epoch,
            created_at=datetime.datetime.now(datetime.UTC).isoformat(),
            final=pending.barrier.final,
            fingerprints=self.identity.fingerprints,
            sources=sources,
            operators={name: tuple(shares) for name, shares in operators.items()},
            committables={name: tuple(shares) for name, shares in committables.items()},
            counters=self._counters(),
            left_out=self._left_out(pending.barrier.epoch),
        )


async def commit(committers: Mapping[str, Committer], manifest: Manifest) -> None:
    """Commit a published epoch in every destination, one after the other."""
    epoch = Epoch(manifest.epoch, manifest.to_text(), manifest.final)
    for name, committer in committers.items():
        crash_point("engine.before_commit")
        await committer.commit(epoch, manifest.committables.get(name, ()))
        crash_point("engine.after_commit")
