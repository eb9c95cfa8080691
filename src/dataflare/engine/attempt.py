"""One attempt at running a plan: build the tasks, let them run, cut epochs, end.

Always true: a failed task ends the attempt; whatever ends it, no task of it runs on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dataflare.checkpoint.manifest import Manifest, OperatorSnapshot, SourceSnapshot
from dataflare.checkpoint.source_record import SourceRecord
from dataflare.checkpoint.store import Storage
from dataflare.engine import new_fields
from dataflare.engine.coordinator import CannotCut, Coordinator, Follower, Identity
from dataflare.engine.deploy import Worker, deployed, widened
from dataflare.engine.discovery import Finder, interval_of
from dataflare.engine.hosting import Host, Hosted, HostMaker, TaskView
from dataflare.engine.hot_keys import joined
from dataflare.engine.metrics import JobMetrics
from dataflare.engine.pace import Pace
from dataflare.engine.pool import SPARE_THREADS, ThreadPool
from dataflare.engine.row_errors import HIDDEN, RowErrors
from dataflare.engine.sampling import Sampling
from dataflare.engine.taps import Taps
from dataflare.model.width import columns_bounded
from dataflare.observability.times import StageTimes
from dataflare.observability.view import EdgeView, StageView
from dataflare.planner.physical import PhysicalPlan, Stage
from dataflare.resilience.retry import Retries, Retrying
from dataflare.sdk.destination import Committer
from dataflare.sdk.source import SupportsCommits, SupportsDiscovery
from dataflare.sdk.threads import completed, in_thread, own_threads
from dataflare.sdk.user_exits import kept_inside

if TYPE_CHECKING:
    from dataflare.workflow.settings import Settings


_REST = 0.25
"""Checkpoints begin an interval apart; behind one that takes long, this share of the interval is without one."""
_SPREAD = 0.1
"""The first checkpoint of an attempt is later by up to this share of the interval."""


def pause(interval: float, took: float) -> float:
    """The seconds from the end of a checkpoint to the beginning of the next one."""
    return max(interval - took, interval * _REST)


class Start(Struct, frozen=True):
    """Where an attempt begins. manifest: resumed from, or None; epoch: the last one cut before;
    carried: by source, from the last finished run. note: remembers, durably, that an epoch was
    published. state: of the steps that go on from the last finished run, where there is no manifest. may_publish:
    called on a thread before an epoch is published; raises what forbids it."""

    identity: Identity
    epoch: int
    manifest: Manifest | None
    carried: Mapping[str, object]
    note: Callable[[int], None] = lambda epoch: None
    state: Mapping[str, Sequence[OperatorSnapshot]] = {}
    may_publish: Callable[[], None] = lambda: None


class Ending(Struct, frozen=True):
    """finished: the input came to its end. manifest: the last checkpoint, if there was one."""

    finished: bool
    manifest: Manifest | None


class Resized(Exception):
    """Ends an attempt so that the next one has another size. Not a failure. began_s: when its last checkpoint began, of
    `time.monotonic`; epoch: that checkpoint."""

    def __init__(self, began_s: float, epoch: int) -> None:
        super().__init__(began_s, epoch)
        self.began_s, self.epoch = began_s, epoch


class Attempt:
    """Built for one start; `run` is called once. scratch: a folder for files that it needs only while it lives;
    None: the store's. paces: by step, how fast it may go, and sampling: which rows go on; they live as long as the run. host: makes what runs its tasks. on_begun: called when they run."""

    def __init__(
        self,
        plan: PhysicalPlan,
        settings: Settings,
        start: Start,
        store: Storage,
        committers: Mapping[str, Committer],
        metrics: JobMetrics,
        policies: Mapping[str, str],
        retries: Retries | None = None,
        *,
        scratch: Path | None = None,
        paces: Mapping[str, Pace] | None = None,
        sampling: Sampling | None = None,
        host: HostMaker = Worker,
        on_begun: Callable[[], None] = lambda: None,
    ) -> None:
        self._paces, self._sampling = paces or {}, sampling or Sampling()
        self.plan, self.settings, self.start, self.store = plan, settings, start, store
        self.metrics, self.committers = metrics, committers
        self.pool = ThreadPool(settings.resources.threads + SPARE_THREADS)
        of_streams = {stream: source for source, names in plan.streams.items() for stream in names}
        metrics.add_streams(of_streams)
        like_source = {stream: policies[source] for stream, source in of_streams.items()}
        options = {
            stage.name: frozenset(stage.source.Config.model_fields)
            for stage in plan.stages
            if stage.source is not None
        }
        self.errors = RowErrors({**policies, **like_source}, options)
        self.retries = retries or Retries()
        self.coordinator: Coordinator | None = None
        self._scratch = scratch or store.scratch
        self._wanted, self._resizing = asyncio.Event(), asyncio.Event()
        self._on_begun = on_begun
        self._waiting: list[asyncio.Future[Manifest]] = []
        self._make_host = host
        self._host: Host | None = None

    def tasks(self) -> Sequence[TaskView]:
        """Its tasks at this moment."""
        return self._host.views() if self._host is not None else ()

    @property
    def backlog_rows(self) -> int:
        return self._host.queued_rows() if self._host is not None else 0

    @property
    def taps(self) -> Taps:
        """Looks at the rows on its edges. Those of an attempt that is not built yet see nothing."""
        return self._host.taps if self._host is not None else Taps()

    def stages(self) -> list[StageView]:
        """The stages, and what their tasks do."""
        times = self.metrics.times.stages()
        views = {}
        for stage in self.plan.stages:
            known = times.get(stage.name, StageTimes())
            kind = "source" if stage.source else "destination" if stage.destination else "operator"
            views[stage.id] = StageView(
                stage.name,
                kind,
                stage.steps,
                stage.parallelism,
                known.alive,
                known.spent,
                lived_s=known.lived_s,
                rate=str(pace) if (pace := self._paces.get(stage.name)) else None,
                rate_used_s=pace.used_s if pace else 0.0,
            )
        for task in self.tasks():
            view = views[task.stage]
            view.queued_rows += task.queued_rows
            view.state_bytes += task.state_bytes
        return list(views.values())

    def edges(self) -> list[EdgeView]:
        """The edges, and how many rows went over them in this attempt."""
        names = {stage.id: stage.name for stage in self.plan.stages}
        tasks = self.tasks()
        sent: dict[int, int] = {}
        for task in tasks:
            for edge, rows in task.rows_sent.items():
                sent[edge] = sent.get(edge, 0) + rows
        views = []
        for e in self.plan.edges:
            counts = joined(task.keys[e.id] for task in tasks if e.id in task.keys)
            key, share = counts.hottest or (None, None)
            if key is not None and not self.errors.hidden.isdisjoint(e.keys):
                key = HIDDEN
            rows = sent.get(e.id, 0)
            view = EdgeView(names[e.from_stage], names[e.to_stage], e.exchange, rows, key, share)
            views.append(view)
        return views

    async def checkpoint_now(self) -> Manifest | None:
        """Take a checkpoint, as soon as the one that is being taken is done. None if this run takes none
        before its end."""
        if self.plan.commits_wait:
            return None
        future: asyncio.Future[Manifest] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._wanted.set()
        return await future

    def resize(self) -> None:
        """End with a checkpoint, and `Resized`."""
        self._resizing.set()

    async def run(self, stop: asyncio.Event) -> Ending:
        """Run to the end of input, or until `stop` is set: then a checkpoint is taken first. Cancelled, it takes
        none, and raises when its tasks and threads have ended."""
        cancelled = False
        try:
            # A write of a dead attempt must not meet what the next one does to the same file.
            bounded = columns_bounded(self.settings.resources.columns)
            with bounded:
                async with own_threads():
                    return await self._run(stop)
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            if cancelled:
                await completed(in_thread(self.pool.close, wait=True))
            else:
                self.pool.close()

    async def _run(self, stop: asyncio.Event) -> Ending:
        try:
            coordinator = await self._build()
            self.coordinator = coordinator
            assert self._host is not None
            lives = [*self._host.lives()]
            lives += [kept_inside(each.run(), name) for name, each in coordinator.finders.items()]
            running: list[asyncio.Future[None]] = [asyncio.ensure_future(live) for live in lives]
            self._on_begun()
            leading = asyncio.ensure_future(kept_inside(self._lead(coordinator, stop)))
            cancelled = False
            try:
                return await _all_or_first_error(leading, [*running, coordinator.failed])
            except asyncio.CancelledError:
                cancelled = True
                raise
            finally:
                leading.cancel()
                for future in running:
                    future.cancel()
                await completed(asyncio.gather(leading, *running, return_exceptions=True))
                await completed(coordinator.settle(at_once=cancelled))
        finally:
            if self._host is not None:
                self._host.taps.end()
                await completed(self._host.aclose())

    async def _lead(self, coordinator: Coordinator, stop: asyncio.Event) -> Ending:
        """Cut epochs until the end. Raises FieldsAppeared for fields that the plan has no columns for, and Resized."""
        interval = self.settings.checkpoint.interval
        clock = asyncio.get_running_loop().time
        # Jobs that start together must not cut together for ever: each cut takes the event loop 0.5 ms.
        next_s = interval * (1 + _SPREAD * random.random())
        ended = asyncio.ensure_future(coordinator.all_ended.wait())
        stopped = asyncio.ensure_future(stop.wait())
        stopped.add_done_callback(self._leave)
        wanted = asyncio.ensure_future(self._wanted.wait())
        appeared = asyncio.ensure_future(coordinator.fields_appeared.wait())
        resizing = asyncio.ensure_future(self._resizing.wait())
        manifest: Manifest | None = None
        try:
            while True:
                await asyncio.wait(
                    [ended, stopped, appeared, wanted, resizing],
                    timeout=None if self.plan.commits_wait else next_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                began = clock()
                if ended.done():
                    return Ending(True, await coordinator.checkpoint(final=True))
                if stopped.done():
                    assert self._host is not None
                    self._host.note_holding()
                    if not self.plan.commits_wait:
                        manifest = await coordinator.checkpoint(stops=True)
                    return Ending(False, manifest)
                if appeared.done():
                    if not self.plan.commits_wait and not self.plan.starts_over:
                        # What was read so far is kept, so that no row is read or shown twice.
                        await coordinator.checkpoint(stops=True)
                    raise new_fields.appeared(coordinator.new_fields)
                if resizing.done():
                    began_s = time.monotonic()
                    raise Resized(began_s, (await coordinator.checkpoint(stops=True)).epoch)
                if wanted.done():
                    self._wanted.clear()
                    wanted = asyncio.ensure_future(self._wanted.wait())
                elif not coordinator.has_news:
                    self.metrics.check_errors()  # a rule may ask for rows that do not come
                    self.metrics.checkpoints.not_needed_at = time.time()
                    next_s = interval
                    continue
                asked, self._waiting = self._waiting, []
                manifest = await coordinator.checkpoint()
                for future in asked:
                    if not future.done():
                        future.set_result(manifest)
                next_s = pause(interval, clock() - began)
        except CannotCut:
            # New fields stand inside a transaction: what was read of it is read again.
            raise new_fields.appeared(coordinator.new_fields) from None
        finally:
            for waiting in (ended, stopped, appeared, wanted, resizing):
                waiting.cancel()
            for future in self._waiting:
                future.cancel()

    def _leave(self, stopped: asyncio.Future[Any]) -> None:
        """The run stops: no wait for a system that fails holds it up."""
        if not stopped.cancelled():
            self.retries.leaving.begin()
            if self._host is not None:
                self._host.leave()

    async def _build(self) -> Coordinator:
        checkpoint = self.settings.checkpoint
        sources = await self._sources()
        self.plan = widened(self.plan, {name: record.unread for name, record in sources.items()})
        looks = self._looks()
        coordinator = Coordinator(
            self.start.identity,
            self.store,
            self.pool,
            epoch=self.start.epoch,
            sources=sources,
            committers=self.committers,
            retain=checkpoint.retain,
            timeout_s=checkpoint.timeout,
            counters=self.metrics.to_json,
            judge=self.metrics.check_errors,
            left_out=self.metrics.left_out,
            note=self.start.note,
            may_publish=self.start.may_publish,
            published=self.metrics.publish,
            committed=self.metrics.commit,
            followers=await self._followers(sources),
            discovering=looks.keys(),
            wants_checkpoint=None if self.plan.commits_wait else self._wanted.set,
            wants_commit=self._wanted.set,
            stats=self.metrics.checkpoints,
        )
        for stage in self.plan.stages:
            if stage.name in looks:
                coordinator.finders[stage.name] = self._finder(
                    stage, looks[stage.name], coordinator
                )
        self.metrics.begin(
            self.start.epoch, self.start.manifest.left_out if self.start.manifest else {}
        )
        hosted = Hosted(
            self.plan,
            self.settings,
            self.start.identity,
            self.errors,
            self.retries,
            self._scratch,
            self.store,
            self.pool,
            self.metrics,
            coordinator,
            self._paces,
            self._sampling,
        )
        self._host = self._make_host(hosted)
        specs = deployed(self.plan, self.start.manifest, self.start.epoch, self.start.state)
        for member in await self._host.deploy(specs):
            coordinator.register(member)
        coordinator.tell_committed(self.start.epoch)
        return coordinator

    async def _sources(self) -> dict[str, SourceRecord]:
        """The listing of each source: that of the checkpoint, or a new one."""
        records: dict[str, SourceRecord] = {}
        for stage in self.plan.stages:
            if stage.source is None:
                continue
            manifest = self.start.manifest
            known = manifest.sources.get(stage.name) if manifest is not None else None
            if known is None:
                carried = self.start.carried.get(stage.name)
                listing = partial(stage.source.splits, carried)  # type: ignore[arg-type]
                listed = await self.retries.of(stage.name).call(listing)
                known = SourceSnapshot(tuple(listed), {}, carried)
            if known.stored is None:
                records[stage.name] = SourceRecord(known)
            else:
                records[stage.name] = await self.pool.submit(SourceRecord.read, self.store, known)
        return records

    def _looks(self) -> dict[str, float]:
        """The sources that find splits while they are read, with the seconds between two looks."""
        intervals = {
            stage.name: interval_of(stage.source, stage.name)
            for stage in self.plan.stages
            if stage.source is not None
        }
        return {name: each for name, each in intervals.items() if each is not None}

    def _finder(self, stage: Stage, interval_s: float, coordinator: Coordinator) -> Finder:
        source, record = stage.source, coordinator.sources[stage.name]
        assert source is not None
        assert isinstance(source, SupportsDiscovery)
        source.started_from = record.carried
        return Finder(
            source,
            interval_s,
            self.retries.of(stage.name),
            known=partial(coordinator.known, stage.name),
            found=partial(coordinator.find, stage.name),
            # A listing of this moment has what is there; that of a checkpoint may lack some.
            at_once=self.start.manifest is not None or not record.splits,
        )

    async def _followers(self, records: Mapping[str, SourceRecord]) -> dict[str, Follower]:
        """The sources that are told what is committed. They are told first what the checkpoint has that
        this attempt resumes from."""
        followers: dict[str, Follower] = {}
        for stage in self.plan.stages:
            source = stage.source
            if source is None or not isinstance(source, SupportsCommits):
                continue
            follower = _told(self.retries.of(stage.name), source)
            if self.start.manifest is not None:
                positions = records[stage.name].positions
                await follower(await self.pool.submit(positions, self.store))
            followers[stage.name] = follower
        return followers


def _told(retrying: Retrying, source: SupportsCommits) -> Follower:
    return lambda positions: retrying.call(partial(source.committed, positions))


async def _all_or_first_error(
    leading: asyncio.Future[Ending], running: list[asyncio.Future[None]]
) -> Ending:
    """The leader's result, unless a task fails first."""
    waiting: set[asyncio.Future[object]] = {leading, *running}  # type: ignore[arg-type]
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            if future is not leading:
                future.result()
        if leading in done:
            return leading.result()
