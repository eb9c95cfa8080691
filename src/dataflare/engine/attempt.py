"""One attempt at running a plan: build the tasks, let them run, cut epochs, end.

Always true: a failed task ends the attempt; whatever ends it, no task of it runs on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from dataflare.checkpoint.manifest import Manifest, OperatorSnapshot, SourceSnapshot
from dataflare.checkpoint.store import LocalStore
from dataflare.engine import new_fields
from dataflare.engine.backpressure import BackpressureController
from dataflare.engine.batcher import AdaptiveBatcher
from dataflare.engine.channel import Channel, Inbox, MemoryBudget
from dataflare.engine.coordinator import Coordinator, Identity, SourceFacts
from dataflare.engine.destination_task import DestinationTask
from dataflare.engine.keyed import AskedTable, open_asked
from dataflare.engine.letters import letters
from dataflare.engine.metrics import JobMetrics
from dataflare.engine.operator_task import OperatorTask
from dataflare.engine.pool import SPARE_THREADS, WorkerPool
from dataflare.engine.row_errors import RowErrors
from dataflare.engine.segments import SegmentRunner, Tables
from dataflare.engine.source_task import SourceTask, hash_text
from dataflare.engine.split_queue import SplitQueue
from dataflare.engine.tables import load_tables
from dataflare.engine.task import Output, Task
from dataflare.model.progress import Position
from dataflare.operators.base import Snapshot
from dataflare.planner.physical import PhysicalPlan, Stage
from dataflare.resilience.retry import Retries
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import Committer

if TYPE_CHECKING:
    from dataflare.workflow.settings import Settings


_HOLD_SHARE = 0.33
"""Small batches of a live stream are held together for at most this share of the latency target.
At the default target that is 6.6 ms: rows wait half of it on average, and the fixed cost of a batch
is paid 150 times a second."""
_FLYING_SHARE = 2
"""Chunks in work may take this part of the budget; the rest is for rows on their way and state."""


class Start(Struct, frozen=True):
    """Where an attempt begins. manifest: resumed from, or None; epoch: the last one cut before;
    carried: by source, from the last finished run. note: remembers, durably, that an epoch was
    published."""

    identity: Identity
    epoch: int
    manifest: Manifest | None
    carried: Mapping[str, object]
    note: Callable[[int], None] = lambda epoch: None


class Ending(Struct, frozen=True):
    """finished: the input came to its end. positions: the last of each split, by source, for what
    the next run carries over."""

    finished: bool
    manifest: Manifest | None


class Attempt:
    """Built for one start; `run` is called once."""

    def __init__(
        self,
        plan: PhysicalPlan,
        settings: Settings,
        start: Start,
        store: LocalStore,
        committers: Mapping[str, Committer],
        metrics: JobMetrics,
        policies: Mapping[str, str],
        retries: Retries | None = None,
    ) -> None:
        self.plan, self.settings, self.start, self.store = plan, settings, start, store
        self.metrics, self.committers = metrics, committers
        self.pool = WorkerPool(settings.resources.threads + SPARE_THREADS)
        back = settings.backpressure
        self.controller = BackpressureController(
            mode=back.mode,
            initial_credits=back.initial_credits,
            min_credits=back.min_credits,
            max_credits=back.max_credits,
            refill_rate=back.refill_rate,
            refill_interval=back.refill_interval,
            memory_threshold=back.memory_threshold,
        )
        self.budget = MemoryBudget(settings.resources.memory, self.controller)
        self.errors = RowErrors(policies)
        self.retries = retries or Retries()
        self.coordinator: Coordinator | None = None
        self._asked: dict[int, dict[str, AskedTable]] = {}
        self._inboxes: dict[tuple[int, int], Inbox] = {}

    @property
    def backlog_rows(self) -> int:
        return sum(inbox.queued_rows for inbox in self._inboxes.values())

    async def run(self, stop: asyncio.Event) -> Ending:
        """Run to the end of input, or until `stop` is set: then a checkpoint is taken first."""
        blocking = ThreadPoolExecutor(thread_name_prefix="dataflare-io")
        asyncio.get_running_loop().set_default_executor(blocking)
        try:
            coordinator = await self._build()
            self.coordinator = coordinator
            running: list[asyncio.Future[None]] = [
                asyncio.ensure_future(task.run()) for task in coordinator.tasks
            ]
            leading = asyncio.ensure_future(self._lead(coordinator, stop))
            try:
                return await _all_or_first_error(leading, running)
            finally:
                leading.cancel()
                for future in running:
                    future.cancel()
                await asyncio.gather(leading, *running, return_exceptions=True)
                await coordinator.settle()
        finally:
            await self._release()
            await _joined(blocking)
            self.pool.close()

    async def _release(self) -> None:
        """Let every task close what it holds; an error there is not worth losing another for."""
        tasks = self.coordinator.tasks if self.coordinator else []
        await asyncio.gather(*(task.aclose() for task in tasks), return_exceptions=True)
        asked = [each for tables in self._asked.values() for each in tables.values()]
        await asyncio.gather(*(each.aclose() for each in asked), return_exceptions=True)

    async def _lead(self, coordinator: Coordinator, stop: asyncio.Event) -> Ending:
        """Cut epochs until the end. Raises FieldsAppeared for fields that the plan has no columns for."""
        interval = self.settings.checkpoint.interval
        ended = asyncio.ensure_future(coordinator.all_ended.wait())
        stopped = asyncio.ensure_future(stop.wait())
        appeared = asyncio.ensure_future(coordinator.fields_appeared.wait())
        manifest: Manifest | None = None
        try:
            while True:
                wait_s = None if self.plan.commits_wait else interval
                await asyncio.wait(
                    [ended, stopped, appeared],
                    timeout=wait_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if ended.done():
                    return Ending(True, await coordinator.checkpoint(final=True))
                if stopped.done():
                    if not self.plan.commits_wait:
                        coordinator.stopping = True
                        manifest = await coordinator.checkpoint()
                    return Ending(False, manifest)
                if appeared.done():
                    if not self.plan.commits_wait and not self.plan.starts_over:
                        # What was read so far is kept, so that no row is read or shown twice.
                        coordinator.stopping = True
                        await coordinator.checkpoint()
                    raise new_fields.appeared(coordinator.new_fields)
                manifest = await coordinator.checkpoint()
        finally:
            for waiting in (ended, stopped, appeared):
                waiting.cancel()

    # -- building ----------------------------------------------------------------------------------

    async def _build(self) -> Coordinator:
        sources, queues = await self._sources()
        checkpoint = self.settings.checkpoint
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
            published=self.metrics.publish,
            committed=self.metrics.commit,
        )
        for stage in self.plan.stages:
            for subtask in range(stage.parallelism):
                inbox = Inbox(f"{stage.name}[{subtask}]", self.controller, self.budget)
                self._inboxes[stage.id, subtask] = inbox
        self.metrics.begin(
            self.start.epoch, self.start.manifest.left_out if self.start.manifest else {}
        )
        outputs = self._outputs()
        tables: dict[int, Tables] = {}
        for stage in self.plan.stages:
            lookups = stage.body.lookups() if stage.body else []
            tables[stage.id] = await load_tables(
                lookups, self.pool, self.metrics, self.retries, self.errors
            )
            asked = self._asked.setdefault(stage.id, {})
            for lookup in lookups:
                if lookup.asked:
                    asked[lookup.step] = await open_asked(lookup, self.retries.of(lookup.step))
        for stage in self.plan.stages:
            for subtask in range(stage.parallelism):
                made = await self._task(
                    stage, subtask, outputs, tables[stage.id], queues, coordinator
                )
                coordinator.tasks.append(made)
                self.metrics.step(stage.name).tasks += 1
        return coordinator

    async def _sources(self) -> tuple[dict[str, SourceFacts], dict[str, SplitQueue]]:
        """The listing of each source: that of the checkpoint, or a new one."""
        facts: dict[str, SourceFacts] = {}
        queues: dict[str, SplitQueue] = {}
        for stage in self.plan.stages:
            if stage.source is None:
                continue
            known = self.start.manifest.sources.get(stage.name) if self.start.manifest else None
            if known is None:
                carried = self.start.carried.get(stage.name)
                listing = partial(stage.source.splits, carried)  # type: ignore[arg-type]
                listed = await self.retries.of(stage.name).call(listing)
                known = SourceSnapshot(tuple(listed), {}, carried)
            states = known.all_states()
            positions: dict[str, Position] = {
                s.split.id: s.position for s in states if s.position is not None and not s.done
            }
            done = frozenset(state.split.id for state in states if state.done)
            facts[stage.name] = SourceFacts(known.splits, known, known.carried)
            queues[stage.name] = SplitQueue([s.split for s in states], positions, done)
        return facts, queues

    def _outputs(self) -> dict[tuple[int, int], list[Output]]:
        """For each sending subtask its outputs, with a channel to every task it may send to."""
        found: dict[tuple[int, int], list[Output]] = {}
        by_id = {stage.id: stage for stage in self.plan.stages}
        for edge in self.plan.edges:
            sender, receiver = by_id[edge.from_stage], by_id[edge.to_stage]
            for subtask in range(sender.parallelism):
                if edge.exchange == "forward":
                    targets = [subtask % receiver.parallelism]
                else:
                    targets = list(range(receiver.parallelism))
                channels: list[Channel] = [
                    self._inboxes[receiver.id, target].channel(edge.id) for target in targets
                ]
                output = Output(edge.id, edge.exchange, edge.keys, tuple(channels), subtask)
                found.setdefault((sender.id, subtask), []).append(output)
        return found

    async def _task(
        self,
        stage: Stage,
        subtask: int,
        outputs: Mapping[tuple[int, int], list[Output]],
        tables: Tables,
        queues: Mapping[str, SplitQueue],
        coordinator: Coordinator,
    ) -> Task:
        common = {
            "outputs": outputs.get((stage.id, subtask), []),
            "inbox": self._inboxes[stage.id, subtask],
            "pool": self.pool,
            "metrics": self.metrics.of_task(),
            "coordination": coordinator,
            "letter_edges": stage.letters,
            "letters": partial(
                letters, run_id=self.start.identity.run_id, attempt=self.start.identity.attempt
            ),
        }
        if stage.destination is not None:
            on_error = self.errors.policy(stage.name)
            context = replace(
                destination_context(stage, self.plan, self.start.identity, self.store, subtask),
                sift=on_error != "fail",
            )
            restored = None
            if self.start.manifest is not None:
                shares = self.start.manifest.committables.get(stage.name, ())
                if len(shares) <= stage.parallelism:
                    restored = next((c for c in shares if c.subtask == subtask), None)
            retrying = self.retries.of(stage.name)
            writer = await retrying.call(partial(stage.destination.open, context, restored))
            return DestinationTask(
                stage.id,
                stage.name,
                subtask,
                writer=writer,
                on_error=on_error,
                retrying=retrying,
                **common,
            )
        assert stage.body is not None
        stateful = frozenset(s.name for s in self.plan.stages if s.operator is not None)
        runner = SegmentRunner(stage.body, tables, self.errors, stateful, self._asked[stage.id])
        if runner.waits:
            common["pool"] = self.pool.waiting()
        if stage.source is not None:
            return SourceTask(
                stage.id,
                stage.name,
                subtask,
                connector=stage.source,
                queue=queues[stage.name],
                runner=runner,
                batcher=self._batcher(),
                run_key=hash_text(self.start.identity.lineage),
                hold_s=self.settings.batch.latency_target * _HOLD_SHARE,
                retrying=self.retries.of(stage.name),
                schema_change=(
                    self.settings.schema_change if stage.name in self.plan.watched else None
                ),
                flying_bytes_max=self.settings.resources.memory // _FLYING_SHARE,
                **common,
            )
        assert stage.operator is not None
        live = stage.operator.open(subtask, stage.parallelism)
        live.sift = self.errors.policy(stage.name) != "fail"
        if self.start.manifest is not None:
            kept = self.start.manifest.operators.get(stage.name, ())
            if kept:
                live.restore(await self.pool.submit(self._loaded, kept))
        return OperatorTask(
            stage.id,
            stage.name,
            subtask,
            live=live,
            runner=runner,
            store=self.store,
            attempt=self.start.identity.attempt,
            budget=self.budget,
            **common,
        )

    def _loaded(self, shares: Sequence[OperatorSnapshot]) -> list[Snapshot]:
        return [
            Snapshot({c.name: self.store.read_chunk(c) for c in share.chunks}, share.facts or {})
            for share in shares
        ]

    def _batcher(self) -> AdaptiveBatcher:
        batch = self.settings.batch
        return AdaptiveBatcher(
            initial=batch.initial,
            min_rows=batch.min,
            max_rows=batch.max,
            latency_target=batch.latency_target,
            throughput_target=batch.throughput_target,
            adaptation_rate=batch.adaptation_rate,
            evaluation_interval=batch.evaluation_interval,
            stability_threshold=batch.stability_threshold,
        )


def destination_context(
    stage: Stage, plan: PhysicalPlan, identity: Identity, store: LocalStore, subtask: int = 0
) -> DestinationContext:
    """What a destination's writer or committer is told."""
    return DestinationContext(
        step=stage.name,
        lineage=identity.lineage,
        attempt=identity.attempt,
        schema=stage.schema,
        redo=store.redo_folder(stage.name),
        changelog=stage.name in plan.changelogs,
        bounded=plan.bounded,
        subtask=subtask,
        subtasks=stage.parallelism,
        token=identity.token,
        complete=stage.name in plan.complete,
        before=plan.complete.get(stage.name, frozenset()),
        workflow=identity.workflow,
    )


async def _joined(blocking: ThreadPoolExecutor) -> None:
    """Wait for blocking calls that outlived their task: a write of a dead attempt must not meet
    what the next one does to the same file."""
    asyncio.get_running_loop().set_default_executor(
        ThreadPoolExecutor(thread_name_prefix="dataflare-io")
    )
    await asyncio.to_thread(blocking.shutdown, wait=True, cancel_futures=True)


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
