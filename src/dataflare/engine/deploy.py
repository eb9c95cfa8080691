"""Make tasks from their descriptions: channels between them, and the body of each.

`deployed` says which tasks a plan becomes; a `Worker` runs all of them, or those that are in its process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Container, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Protocol

from msgspec.structs import replace

from dataflare.checkpoint.manifest import Manifest, OperatorSnapshot
from dataflare.checkpoint.store import Storage
from dataflare.engine.asked_tables import AskedTable, open_asked
from dataflare.engine.backpressure import BackpressureController
from dataflare.engine.batcher import AdaptiveBatcher
from dataflare.engine.body import Body
from dataflare.engine.channel import Channel, Inbox, MemoryBudget, WritableChannel
from dataflare.engine.clocks import Drift
from dataflare.engine.computing import hash_text
from dataflare.engine.coordinator import Identity
from dataflare.engine.easing import Easing
from dataflare.engine.hosting import Hosted, TaskView
from dataflare.engine.letters import letters
from dataflare.engine.lookup_tables import load_tables
from dataflare.engine.messages import Control, Deploy, Inlet, Outlet
from dataflare.engine.metrics import JobMetrics
from dataflare.engine.operating import ChunkFolder, Operating, refuse_other_layout, share_of
from dataflare.engine.pace import Paces
from dataflare.engine.paced_writing import PacedWriting
from dataflare.engine.queries import LookupTables
from dataflare.engine.reading import Reading
from dataflare.engine.sampling import Thinner
from dataflare.engine.segments import SegmentRunner
from dataflare.engine.taps import Taps
from dataflare.engine.task import Output, Task
from dataflare.engine.writing import Writing
from dataflare.planner.physical import PhysicalPlan, Segment, Stage
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.source import SourceConnector, SupportsDiscovery
from dataflare.sdk.threads import in_thread
from dataflare.sdk.user_exits import kept_inside
from dataflare.state.layout import Layout
from dataflare.state.points import point_stores
from dataflare.state.tables import Tables

_HOLD_SHARE = 0.33
"""Small batches of a live stream are held together for at most this share of the latency target.
At the default target that is 6.6 ms: rows wait half of it on average, and the fixed cost of a batch
is paid 150 times a second."""
STATE_SHARE = 0.5
"""All tables of a process together keep so much of its budget in memory; the rest of them is in storage."""
_SPARE_READERS = 4
"""At least so many splits that never end may be found while a run goes on."""
_POINTS_SHARE = 0.25
"""Of what the tables of a task may keep, what each store of `state.backend` takes."""
_FLYING_SHARE = 0.5
"""Chunks in work may take this part of the budget; the rest is for rows on their way and state."""


def deployed(
    plan: PhysicalPlan,
    manifest: Manifest | None,
    epoch: int = 0,
    before: Mapping[str, Sequence[OperatorSnapshot]] | None = None,
) -> list[Deploy]:
    """The tasks of a plan, with what each goes on from. before: without a manifest, the state of some steps."""
    names = {s.id: [f"{s.name}[{n}]" for n in range(s.parallelism)] for s in plan.stages}
    inlets: dict[str, list[Inlet]] = {}
    outlets: dict[str, list[Outlet]] = {}
    made: list[Inlet] = []
    for edge in plan.edges:
        receivers = tuple(names[edge.to_stage])
        for subtask, sender in enumerate(names[edge.from_stage]):
            one = edge.exchange != "hash"
            targets = (receivers[subtask % len(receivers)],) if one else receivers
            if edge.exchange == "gather":
                targets = receivers[:1]
            outlets.setdefault(sender, []).append(
                Outlet(edge.id, edge.exchange, edge.keys, targets)
            )
            # One object for all receivers: a plan may have a million channels.
            inlet = Inlet(edge.id, sender, edge.port)
            made.append(inlet)
            for target in targets:
                inlets.setdefault(target, []).append(inlet)
    origins = _origins(names.values(), inlets)
    known = {id(inlet): replace(inlet, origins=origins[inlet.sender]) for inlet in made}
    shared: dict[tuple[int, ...], tuple[Inlet, ...]] = {}
    specs = []
    for stage in plan.stages:
        state: Sequence[OperatorSnapshot] = ()
        if manifest is not None and stage.operator is not None:
            state = manifest.operators.get(stage.name, ())
        elif before is not None:
            state = before.get(stage.name, ())
        for subtask, name in enumerate(names[stage.id]):
            restored = None
            if manifest is not None and stage.destination is not None:
                shares = manifest.committables.get(stage.name, ())
                if len(shares) <= stage.parallelism:
                    restored = next((c for c in shares if c.subtask == subtask), None)
            # Tasks with the same senders have one tuple, which goes to a worker once.
            ids = tuple(map(id, inlets.get(name, ())))
            if ids not in shared:
                shared[ids] = tuple(known[each] for each in ids)
            specs.append(
                Deploy(
                    name,
                    stage,
                    subtask,
                    shared[ids],
                    tuple(outlets.get(name, ())),
                    restored,
                    tuple(state),
                    epoch,
                )
            )
    return specs


def _origins(
    names: Iterable[Sequence[str]], inlets: Mapping[str, Sequence[Inlet]]
) -> dict[str, frozenset[str]]:
    """By task, the tasks without inputs that its rows come from."""
    found: dict[str, frozenset[str]] = {}
    # Behind an exchange all tasks of a stage have the same senders.
    of_senders: dict[tuple[str, ...], frozenset[str]] = {}

    def of(task: str) -> frozenset[str]:
        if task not in found:
            senders = tuple(inlet.sender for inlet in inlets.get(task, ()))
            if senders not in of_senders:
                of_senders[senders] = frozenset[str]().union(*map(of, senders))
            found[task] = of_senders[senders] or frozenset([task])
        return found[task]

    for task in chain.from_iterable(names):
        of(task)
    return found


def widened(plan: PhysicalPlan, splits: Mapping[str, int]) -> PhysicalPlan:
    """The plan with a reader for each split of the sources whose splits never end, and spare readers for splits that
    are found later. splits: by source, how many are not read to their end."""
    stages = []
    for stage in plan.stages:
        source = stage.source
        if source is not None and _reads_at_once(source):
            known = splits.get(stage.name, 0)
            spare = max(known, _SPARE_READERS) if isinstance(source, SupportsDiscovery) else 0
            readers = max(stage.parallelism, known + spare)
            stage = replace(stage, parallelism=readers)
        stages.append(stage)
    return replace(plan, stages=tuple(stages))


def _reads_at_once(source: SourceConnector) -> bool:
    able = source.capabilities()
    return able.at_once and not able.bounded


class Elsewhere(Protocol):
    """The ways to tasks in other processes. number: of the channel among all of the plan; every process counts them in the
    same order."""

    def writable(self, number: int, task: str) -> WritableChannel:
        """The channel to a task that is not here."""

    def feed(self, number: int, sender: str, channel: Channel) -> None:
        """What a task sends that is not here comes out of this channel."""


class Worker:
    """Runs tasks of one attempt in this process: all, or those that are `here`; then elsewhere: how the others are
    reached."""

    def __init__(
        self, hosted: Hosted, here: Container[str] | None = None, elsewhere: Elsewhere | None = None
    ) -> None:
        self.plan, self.identity = hosted.plan, hosted.identity
        self.store, self.pool, self.metrics = hosted.store, hosted.pool, hosted.metrics
        self.errors, self.retries = hosted.errors, hosted.retries
        self.control: Control = hosted.control
        self.settings = settings = hosted.settings
        self._scratch, self._paces = hosted.scratch, Paces(hosted.plan, hosted.paces)
        self._sampling = hosted.sampling
        self._here, self._elsewhere = here, elsewhere
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
        self.tasks: list[Task] = []
        self.taps = Taps()
        self._drift = Drift()
        self._easing = Easing(settings, self.pool, self.controller, self.metrics)
        self._inboxes: dict[str, Inbox] = {}
        self._tables: dict[int, LookupTables] = {}
        self._asked: dict[int, dict[str, AskedTable]] = {}
        self._readers = self._stateful = 0

    async def deploy(self, specs: Sequence[Deploy]) -> Sequence[Task]:
        mine = [spec for spec in specs if self._here is None or spec.task in self._here]
        self._readers = sum(spec.stage.source is not None for spec in mine)
        self._stateful = sum(spec.stage.operator is not None for spec in mine)
        for spec in mine:
            self._inboxes[spec.task] = Inbox(spec.task, self.controller, self.budget)
            pace = self._paces.of(spec.stage)
            if pace is not None:
                self.controller.limit(spec.task, pace.rows_at_once)
            if spec.stage.id not in self._tables:
                # Of several processes one counts the rows of a table.
                await self._load_tables(spec.stage, is_counted=spec.subtask == 0)
        outputs = self._outputs(specs, mine)
        for spec in mine:
            self.tasks.append(await self._task(spec, outputs[spec.task]))
        return self.tasks

    def lives(self) -> Sequence[Awaitable[None]]:
        self._easing.start(self.tasks)
        return [kept_inside(task.run(), task.name) for task in self.tasks]

    def views(self) -> Sequence[TaskView]:
        state_bytes = self.budget.state_bytes
        return [
            TaskView(
                task.id,
                task.spec.stage.id,
                task.inbox.queued_rows,
                state_bytes.get(task.id, 0),
                task.rows_sent,
                {edge: each.counts for edge, each in task.samplers.items()},
            )
            for task in self.tasks
        ]

    def queued_rows(self) -> int:
        return sum(task.inbox.queued_rows for task in self.tasks)

    def leave(self) -> None:
        self.retries.leaving.begin()

    def note_holding(self) -> None:
        for task in self.tasks:
            reason = task.body.holding()
            if reason is not None:
                task.metrics.step(task.name).warnings[reason] = 0

    async def aclose(self) -> None:
        await self._easing.aclose()
        await asyncio.gather(*(task.aclose() for task in self.tasks), return_exceptions=True)
        asked = [each for tables in self._asked.values() for each in tables.values()]
        await asyncio.gather(*(each.aclose() for each in asked), return_exceptions=True)

    async def _load_tables(self, stage: Stage, *, is_counted: bool) -> None:
        """What the lookups of a stage look up in."""
        lookups = stage.lookups()
        metrics = self.metrics if is_counted else JobMetrics(dict(self.metrics.kinds))
        self._tables[stage.id] = await load_tables(
            lookups, self.pool, metrics, self.retries, self.errors
        )
        asked = self._asked.setdefault(stage.id, {})
        for lookup in lookups:
            if lookup.asked:
                asked[lookup.step] = await open_asked(
                    lookup, self.retries.of(lookup.step), self.metrics.degraded
                )

    def _outputs(self, specs: Sequence[Deploy], mine: Sequence[Deploy]) -> dict[str, list[Output]]:
        """By task that is here, its channels to every task it may send to."""
        # By edge and sender; the tasks of a stage come in the order of the outlets' tasks.
        channels: dict[tuple[int, str], list[WritableChannel]] = {}
        # By the inlets of a task, which many share, the places of those whose sender is here.
        sent_here: dict[int, list[int]] = {}
        before = 0
        for spec in specs:
            inbox, inlets = self._inboxes.get(spec.task), spec.inlets
            if id(inlets) not in sent_here:
                sent_here[id(inlets)] = [
                    n for n, i in enumerate(inlets) if i.sender in self._inboxes
                ]
            for place in range(len(inlets)) if inbox is not None else sent_here[id(inlets)]:
                inlet, number = inlets[place], before + place + 1
                sends = inlet.sender in self._inboxes
                if inbox is not None:
                    channel = inbox.channel(inlet.port, inlet.origins)
                    if sends:
                        channels.setdefault((inlet.edge, inlet.sender), []).append(channel)
                    elif self._elsewhere is not None:
                        self._elsewhere.feed(number, inlet.sender, channel)
                elif sends and self._elsewhere is not None:
                    writable = self._elsewhere.writable(number, spec.task)
                    channels.setdefault((inlet.edge, inlet.sender), []).append(writable)
            before += len(inlets)
        return {
            spec.task: [
                Output(
                    outlet.edge,
                    outlet.exchange,
                    outlet.keys,
                    tuple(channels.pop((outlet.edge, spec.task))),
                )
                for outlet in spec.outlets
            ]
            for spec in mine
        }

    async def _task(self, spec: Deploy, outputs: Sequence[Output]) -> Task:
        pool = self.pool
        if self._asked[spec.stage.id]:
            pool = pool.waiting()
        metrics = self.metrics.of_task(spec.stage.name)
        metrics.step(spec.stage.name).tasks += 1
        return Task(
            spec,
            await self._body(spec),
            outputs=outputs,
            inbox=self._inboxes[spec.task],
            pool=pool,
            metrics=metrics,
            control=self.control,
            taps=self.taps,
            paces=self._paces.behind(spec.stage),
            thinner=Thinner(self._sampling) if spec.stage.source is not None else None,
            letters=partial(letters, run_id=self.identity.run_id, attempt=self.identity.attempt),
        )

    async def _body(self, spec: Deploy) -> Body:
        if spec.stage.destination is not None:
            return await self._writing(spec)
        if spec.stage.source is not None:
            return self._reading(spec.stage)
        return await self._operating(spec)

    async def _writing(self, spec: Deploy) -> Writing:
        stage = spec.stage
        assert stage.destination is not None
        on_error = self.errors.policy(stage.name)
        described = await in_thread(
            destination_context, stage, self.plan, self.identity, self.store, spec.subtask
        )
        most = self.metrics.errors_max.get(stage.name)
        context = replace(
            described,
            sift=on_error != "fail",
            epoch=spec.epoch,
            refused_max=most if isinstance(most, int) else None,
        )
        retrying = self.retries.of(stage.name)
        opening = partial(stage.destination.open, context, spec.restored)
        # Many writers connect with their first rows.
        writer = await retrying.call(opening, is_counted=lambda: False)
        run_id = (stage.run_column, self.identity.run_id) if stage.run_column else None
        pace = self._paces.of(stage)
        make = Writing if pace is None else partial(PacedWriting, pace)
        put_redo = partial(self.store.put_redo, stage.name) if self.store.puts_redo else None
        return make(
            writer,
            on_error,
            retrying,
            run_id,
            refuses_at_commit=stage.refuses_at_commit,
            epoch=spec.epoch,
            diverted=stage.diverted,
            degraded=self.metrics.degraded,
            put_redo=put_redo,
        )

    def _reading(self, stage: Stage) -> Reading:
        assert stage.source is not None
        watched = stage.name in self.plan.watched
        bodies = {None: stage.body} if stage.body else stage.sides
        return Reading(
            stage.source,
            {name: self._runner(stage, body) for name, body in bodies.items()},
            self._batcher(),
            self.retries.of(stage.name),
            run_key=hash_text(self.identity.run_id),
            hold_s=self.settings.batch.latency_target * _HOLD_SHARE,
            schema_change=self.settings.schema_change if watched else None,
            flying_bytes_max=int(self.settings.resources.memory * _FLYING_SHARE / self._readers),
            drift=self._drift,
            turns=self._easing.turns_of(stage),
            pace=self._paces.of(stage),
        )

    async def _operating(self, spec: Deploy) -> Operating:
        stage = spec.stage
        assert stage.operator is not None
        layout = layout_of(self.plan, stage)
        refuse_other_layout(stage.name, spec.state, layout)
        chunks = ChunkFolder(self.store, stage.name, spec.subtask, self.identity.attempt)
        state_max = int(self.settings.resources.memory * STATE_SHARE / self._stateful)
        backend = self.settings.state.backend
        tables = Tables(
            spec.subtask,
            stage.parallelism,
            storage=chunks,
            shares=[share_of(snapshot) for snapshot in spec.state],
            folder=self._scratch,
            points=point_stores(backend, self._scratch, int(state_max * _POINTS_SHARE)),
        )
        live = await self.pool.submit(stage.operator.open, tables)
        live.sift = self.errors.policy(stage.name) != "fail"
        return Operating(
            live,
            tables,
            chunks,
            self._runner(stage),
            self.budget,
            state_max,
            sides={name: self._runner(stage, body) for name, body in stage.sides.items()},
            timed=stage.operator.timed,
            layout=layout,
        )

    def _runner(self, stage: Stage, body: Segment | None = None) -> SegmentRunner:
        """What runs a chain of a stage. body: that behind the main output by default."""
        body = body or stage.body
        assert body is not None
        # Sources, stateful steps and destinations count their own rows.
        heads = frozenset(stage.name for stage in self.plan.stages)
        tables, asked = self._tables[stage.id], self._asked[stage.id]
        timed = frozenset(edge.id for edge in self.plan.out_of(stage.id) if edge.timed)
        return SegmentRunner(body, tables, self.errors, heads, asked, timed)

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


def layout_of(plan: PhysicalPlan, stage: Stage) -> Layout | None:
    """What the state of a stage's operator means; None if it says nothing of it."""
    assert stage.operator is not None
    by_port = {edge.port: edge.schema for edge in plan.into(stage.id)}
    return stage.operator.layout([by_port[port] for port in sorted(by_port)])


def destination_context(
    stage: Stage, plan: PhysicalPlan, identity: Identity, store: Storage, subtask: int = 0
) -> DestinationContext:
    """What a destination's writer or committer is told."""
    return DestinationContext(
        step=stage.name,
        lineage=identity.lineage,
        attempt=identity.attempt,
        schema=stage.written,
        redo=store.redo_folder(stage.name),
        changelog=stage.name in plan.changelogs,
        bounded=plan.bounded,
        subtask=subtask,
        subtasks=stage.parallelism,
        token=identity.token,
        complete=stage.name in plan.complete,
        before=plan.complete.get(stage.name, frozenset()),
        workflow=identity.workflow,
        run_id=identity.run_id,
    )
