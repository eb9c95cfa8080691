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
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Protocol

from msgspec import Struct, field

from dataflare.checkpoint.manifest import Manifest, OperatorSnapshot, SourceSnapshot, SplitState
from dataflare.checkpoint.source_record import SourceRecord
from dataflare.checkpoint.store import Storage
from dataflare.engine.discovery import Finder
from dataflare.engine.messages import (
    Assign,
    Checkpoint,
    Committed,
    Deploy,
    Fail,
    Found,
    Opened,
    Share,
    Wait,
)
from dataflare.engine.pool import ThreadPool
from dataflare.engine.split_queue import SplitQueue
from dataflare.errors import CheckpointError, Retry
from dataflare.model.new_fields import NewFields
from dataflare.model.progress import Barrier, Position, Split
from dataflare.observability.view import CheckpointView
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, Committer, Epoch
from dataflare.sdk.source import KnownSplits
from dataflare.sdk.tracing import below, inside, tracer
from dataflare.sdk.user_exits import kept_inside

_SETTLE_S = 10.0


class Identity(Struct, frozen=True):
    """Whose checkpoints these are. workflow: its name; "" for a preview or a test. types: of each step, its section and type. token: a chance text, another one in each attempt, so that two
    copies of one state folder are told apart."""

    lineage: str
    run_id: str
    attempt: int
    fingerprints: Mapping[str, str]
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    workflow: str = ""
    types: Mapping[str, str] = field(default_factory=dict)


Follower = Callable[[Mapping[str, Position]], Awaitable[None]]
"""Told of the position of each split that every destination has."""


class Member(Protocol):
    """A task as the coordinator sees it: what it was told to run, and a way to ask it for a cut."""

    @property
    def spec(self) -> Deploy: ...

    def checkpoint(self, asked: Checkpoint) -> None: ...

    def opened(self, opened: Opened) -> None: ...

    def found(self, found: Found) -> None: ...

    def committed(self, committed: Committed) -> None: ...

    def uncut(self) -> str | None: ...

    @property
    def has_news(self) -> bool: ...


class CannotCut(Exception):
    """A task stands where it cannot be cut, and does not go on."""


class _Pending(Struct):
    """An epoch that is being cut. whole: the shares of so many tasks are there."""

    barrier: Barrier
    tasks: int
    shares: dict[str, Share] = field(default_factory=dict)
    whole: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, share: Share) -> None:
        self.shares[share.task] = share
        if len(self.shares) == self.tasks:
            self.whole.set()


class Coordinator:
    """Of one attempt. Tasks are registered before anything runs. counters: what a manifest says of
    the rows so far; judge: raises when too many of them have failed. left_out: by step, how many
    rows of the run have failed by the end of an epoch. note: remembers,
    durably, that an epoch was published. may_publish: called before that, on a thread; raises what forbids it; published and committed: told of
    each epoch that is to happen, and that every destination has. followers: by source, told of the
    positions that every destination has. discovering: the sources that find splits while they are read.

    stats: counts the checkpoints. finders: what looks for these splits. wants_checkpoint: asks for one now; None where the run takes none
    before its end. wants_commit: asks for a checkpoint also there."""

    def __init__(
        self,
        identity: Identity,
        store: Storage,
        pool: ThreadPool,
        *,
        epoch: int,
        sources: Mapping[str, SourceRecord],
        committers: Mapping[str, Committer],
        retain: int,
        timeout_s: float,
        counters: Callable[[], Mapping[str, object]],
        judge: Callable[..., None],
        left_out: Callable[[int], Mapping[str, int]] = lambda epoch: {},
        note: Callable[[int], None],
        may_publish: Callable[[], None] = lambda: None,
        published: Callable[[int], None],
        committed: Callable[[int], None],
        followers: Mapping[str, Follower] = MappingProxyType({}),
        discovering: Set[str] = frozenset(),
        wants_checkpoint: Callable[[], None] | None = None,
        wants_commit: Callable[[], None] = lambda: None,
        stats: CheckpointView | None = None,
    ) -> None:
        self.identity, self.store, self.pool = identity, store, pool
        self.epoch = epoch
        self.sources, self.committers = sources, committers
        self.stats = stats or CheckpointView()
        self.members: dict[str, Member] = {}
        self.all_ended = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failed.add_done_callback(_looked_at)
        self.new_fields: dict[str, list[NewFields]] = {}
        self.fields_appeared = asyncio.Event()
        self._queues = {
            name: _queue(record, name in discovering) for name, record in sources.items()
        }
        self._idle: dict[str, set[str]] = {name: set() for name in discovering}
        self.finders: dict[str, Finder] = {}
        self._wants_checkpoint, self._wants_commit = wants_checkpoint, wants_commit
        self._awaits_commit = False
        self._cutting = asyncio.Lock()
        self._stands_uncut = False
        self._opened: set[str] = set()
        self._retain, self._timeout_s = retain, timeout_s
        self._counters, self._judge, self._note = counters, judge, note
        self._left_out, self._may_publish = left_out, may_publish
        self._published, self._committed, self._followers = published, committed, followers
        self._pending: _Pending | None = None
        self._storing: asyncio.Future[None] | None = None
        self._committing: asyncio.Future[None] | None = None
        self._collecting: asyncio.Future[None] | None = None
        self._last: dict[str, Share] = {}
        self._ended_before = -1

    def register(self, member: Member) -> None:
        """Know one more task."""
        self.members[member.spec.task] = member

    # -- what tasks say ----------------------------------------------------------------------------

    def share(self, share: Share) -> None:
        pending = self._pending
        if share.epoch is None:
            self._last[share.task] = share
            if len(self._last) == len(self.members):
                self.all_ended.set()
            self._ask_for_commit()
            if pending is not None:
                self._stand_in(share, pending)
        elif pending is not None and pending.barrier.epoch == share.epoch:
            pending.add(share)

    def fail(self, failure: Fail) -> None:
        if failure.new_fields:
            step = failure.step or self.members[failure.task].spec.stage.name
            self.new_fields.setdefault(step, []).extend(failure.new_fields)
            self.fields_appeared.set()
            if not failure.may_cut:
                self._stands_uncut = True
                if self._pending is not None:
                    self._pending.whole.set()
        elif failure.error is not None and not self.failed.done():
            self.failed.set_exception(failure.error)

    def want_checkpoint(self) -> None:
        if self._wants_checkpoint is not None:
            self._wants_checkpoint()

    def want_commit(self, task: str) -> None:
        self._awaits_commit = True
        self._ask_for_commit()

    def _ask_for_commit(self) -> None:
        """Ask for a checkpoint that a task awaits. Where commits wait, one may be taken when every source was read."""
        if self._awaits_commit and (
            self._wants_checkpoint is not None
            or all(t in self._last for t, m in self.members.items() if m.spec.stage.source)
        ):
            self._awaits_commit = False
            self._wants_commit()

    async def assign(self, source: str, task: str) -> Assign | Wait | None:
        queue = self._queues[source]
        taken = queue.take()
        if not queue and source not in self._opened:
            self._opened.add(source)
            for member in self._readers(source):
                member.opened(Opened(source))
        if not queue.discovers:
            return taken
        idle = self._idle[source]
        if taken is not None:
            idle.discard(task)
            return taken
        idle.add(task)
        if self._is_read(source) and len(self.sources[source].done) < len(queue.known):
            # Splits that follow these are found when a checkpoint says that they are done.
            if self._wants_checkpoint is not None:
                self._wants_checkpoint()
            else:
                self.finders[source].wake()
        return Wait()

    def _readers(self, source: str) -> list[Member]:
        return [m for m in self.members.values() if m.spec.stage.name == source]

    # -- splits that are found later ---------------------------------------------------------------

    def _is_read(self, source: str) -> bool:
        """Whether no split is left and none is being read."""
        going = {m.spec.task for m in self._readers(source)} - self._last.keys()
        return not self._queues[source] and going <= self._idle[source]

    async def known(self, source: str) -> KnownSplits:
        """What is known of a source's splits, between two epochs."""
        record, ids = self.sources[source], self._queues[source].known
        async with self._cutting:
            read = self._wants_checkpoint is None and self._is_read(source)
            return KnownSplits(
                record.splits, frozenset(ids), frozenset(ids if read else record.done)
            )

    def find(self, source: str, splits: Sequence[Split] | None) -> None:
        """A source has told splits, or (None) that it will find no others."""
        queue = self._queues[source]
        if splits is None:
            queue.discovers = False
        else:
            queue.find(splits)
        if queue or splits is None:
            for member in self._readers(source):
                member.found(Found(source))

    # -- epochs ------------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Whether an epoch that is cut now would have anything that the last one has not: rows, a position, a watermark, or
        a task that has ended."""
        return (
            self._ended_before != len(self._last)
            or any(queue.has_news for queue in self._queues.values())
            or any(m.has_news for m in self.members.values() if not self._has_its_last(m))
        )

    def _has_its_last(self, member: Member) -> bool:
        """Whether its share of each epoch to come is known. Writers answer also after their end: only they know what they
        hold."""
        return member.spec.task in self._last and member.spec.stage.destination is None

    def _stand_in(self, last: Share, pending: _Pending) -> None:
        """The last share of a task that has ended is its share of the epoch being cut."""
        if last.task not in pending.shares and self._has_its_last(self.members[last.task]):
            pending.add(last)

    async def checkpoint(self, *, final: bool = False, stops: bool = False) -> Manifest:
        """Cut, publish and commit one epoch. stops: sources read nothing after it. Raises
        CheckpointError (E0705) when it takes too long, and CannotCut."""
        before = {source: len(self.sources[source].done) for source in self.finders}
        async with self._cutting:
            try:
                with self._traced():
                    manifest = await self._checkpoint(final=final, stops=stops)
            except Exception as error:
                self.stats.failed += not isinstance(error, CannotCut)
                raise
        for source, finder in self.finders.items():
            if before[source] < len(self.sources[source].done) == len(self._queues[source].known):
                finder.wake()
        return manifest

    def _traced(self) -> AbstractContextManager[object]:
        """A span, of which commits are a part."""
        made = tracer()
        if made is None:
            return nullcontext()
        return inside(made.begin("checkpoint", attributes={"epoch": self.epoch + 1}))

    async def _checkpoint(self, *, final: bool, stops: bool) -> Manifest:
        if self._stands_uncut:
            raise CannotCut
        if self._collecting is not None:
            # Shares of this epoch name chunks that may be released before its manifest is there.
            await asyncio.shield(self._collecting)
        started = asyncio.get_running_loop().time()
        barrier = Barrier(self.epoch + 1, final, self._left_out(self.epoch + 1) if final else {})
        self._pending = pending = _Pending(barrier, len(self.members))
        self._ended_before = len(self._last)
        asked = Checkpoint(barrier, stops)
        for member in self.members.values():
            member.checkpoint(asked)
        for last in self._last.values():
            self._stand_in(last, pending)
        try:
            # `wait_for` of Python 3.11 loses a cancellation that comes when the wait is over.
            with below("cut"):
                async with asyncio.timeout(self._timeout_s):
                    await pending.whole.wait()
        except TimeoutError:
            raise self._too_slow(pending) from None
        if self._stands_uncut:
            raise CannotCut
        self._judge(final=final)
        self._published(barrier.epoch)
        await self._write_sources(pending)
        manifest = self._manifest(pending)
        crash_point("engine.before_manifest")
        self._storing = self.pool.submit(self._store, manifest)
        with below("store"):
            await asyncio.shield(self._storing)
        crash_point("engine.after_manifest")
        self.epoch = barrier.epoch
        self._pending = None
        with below("commit"):
            self._committing = asyncio.ensure_future(
                kept_inside(self._commit(manifest, pending.shares))
            )
            await asyncio.shield(self._committing)
        size = sum(chunk.num_bytes for chunk in manifest.chunks.values()) + len(manifest.to_text())
        self.stats.add(manifest.epoch, asyncio.get_running_loop().time() - started, size)
        self._collecting = self.pool.submit(self._collect)
        if final or stops:
            await asyncio.shield(self._collecting)
        return manifest

    def _too_slow(self, pending: _Pending) -> CheckpointError:
        missing = [task for task in self.members if task not in pending.shares]
        reasons = [r for task in missing if (r := self.members[task].uncut()) is not None]
        slow = "make the transactions of the source shorter" if reasons else "look at what is slow"
        return CheckpointError(
            f"checkpoint {pending.barrier.epoch} was not complete after {self._timeout_s:g} s",
            code="E0705",
            notes=[f"waiting for: {', '.join(missing)}", *reasons],
            help=f"raise settings.checkpoint.timeout, or {slow}",
            retry=Retry.LATER,
        )

    async def _write_sources(self, pending: _Pending) -> None:
        """Note how far the sources have come. What is long goes into chunks, before the manifest that names
        them."""
        for source, queue in self._queues.items():
            self.sources[source].update(SplitState(split) for split in queue.admitted())
        for task, member in self.members.items():
            stage = member.spec.stage
            if stage.source is not None:
                self.sources[stage.name].update(pending.shares[task].splits)
        epoch, attempt = pending.barrier.epoch, self.identity.attempt
        for step, record in self.sources.items():
            if record.must_write:
                self._storing = self.pool.submit(record.write, self.store, step, attempt, epoch)
                await asyncio.shield(self._storing)

    def _store(self, manifest: Manifest) -> None:
        self._may_publish()
        self.store.publish(manifest)
        self._note(manifest.epoch)

    def tell_committed(self, epoch: int) -> None:
        """Tell writers what is committed and what was refused then, where that is known only at the commit."""
        for name, committer in self.committers.items():
            members = [m for m in self.members.values() if m.spec.stage.name == name]
            if members and members[0].spec.stage.refuses_at_commit:
                refused = tuple(committer.take_refused())
                for member in members:
                    member.committed(Committed(epoch, refused))
                    refused = ()

    async def _commit(self, manifest: Manifest, shares: Mapping[str, Share]) -> None:
        await commit(self.committers, manifest)
        self.tell_committed(manifest.epoch)
        self._committed(manifest.epoch)
        for name, follower in self._followers.items():
            positions = {
                state.split.id: state.position
                for task, share in shares.items()
                if self.members[task].spec.stage.name == name
                for state in share.splits
                if state.position is not None
            }
            await follower(positions)

    async def settle(self, *, at_once: bool = False) -> None:
        """Wait for what has begun when the attempt fails: the storing of a manifest, because the next
        attempt decides by the manifests that are there, the deletion of old files, and a commit, because its rows may be visible
        and are counted. A commit that is still retried after a while is cancelled. at_once: it is cancelled now; the
        next attempt makes it again."""
        for begun in (self._storing, self._collecting):
            if begun is not None:
                await asyncio.gather(begun, return_exceptions=True)
        if self._committing is None:
            return
        if not at_once:
            await asyncio.wait([self._committing], timeout=_SETTLE_S)
        self._committing.cancel()
        await asyncio.gather(self._committing, return_exceptions=True)

    def _collect(self) -> None:
        self.store.collect(self._retain)

    def _manifest(self, pending: _Pending) -> Manifest:
        sources: dict[str, SourceSnapshot] = {}
        times: dict[str, str] = {}
        operators: dict[str, list[OperatorSnapshot]] = {}
        committables: dict[str, list[Committable]] = {}
        for task, member in self.members.items():
            stage, share = member.spec.stage, pending.shares[task]
            if stage.source is not None:
                sources[stage.name] = self.sources[stage.name].snapshot()
                if stage.event_time is not None:
                    times[stage.name] = stage.event_time
            elif stage.operator is not None:
                shares = operators.setdefault(stage.name, [])
                if share.state is not None:
                    shares.append(share.state)
            elif share.committable is not None:
                committables.setdefault(stage.name, []).append(share.committable)
        return Manifest(
            lineage=self.identity.lineage,
            run_id=self.identity.run_id,
            attempt=self.identity.attempt,
            epoch=pending.barrier.epoch,
            created_at=datetime.datetime.fromtimestamp(time.time(), datetime.UTC).isoformat(),
            final=pending.barrier.final,
            fingerprints=self.identity.fingerprints,
            types=self.identity.types,
            event_times=times,
            sources=sources,
            operators={name: tuple(shares) for name, shares in operators.items()},
            committables={name: tuple(shares) for name, shares in committables.items()},
            counters=self._counters(),
            left_out=self._left_out(pending.barrier.epoch),
        )


def _queue(record: SourceRecord, discovers: bool) -> SplitQueue:
    """The splits that are left to read."""
    listed = {split.id for split in record.splits}
    later = [state.split for id_, state in record.open.items() if id_ not in listed]
    positions = {id_: s.position for id_, s in record.open.items() if s.position is not None}
    times = {id_: state.event_time_us for id_, state in record.open.items()}
    done = frozenset(record.done)
    return SplitQueue([*record.splits, *later], positions, done, times, discovers=discovers)


async def commit(committers: Mapping[str, Committer], manifest: Manifest) -> None:
    """Commit a published epoch in every destination, one after the other."""
    epoch = Epoch(manifest.epoch, manifest.for_destinations(), manifest.final)
    for name, committer in committers.items():
        crash_point("engine.before_commit")
        await committer.commit(epoch, manifest.committables.get(name, ()))
        crash_point("engine.after_commit")


def _looked_at(future: asyncio.Future[None]) -> None:
    """An attempt that ends for another reason does not look at it."""
    if not future.cancelled():
        future.exception()
