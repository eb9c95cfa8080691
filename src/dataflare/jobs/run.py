"""Run a workflow to its end, through as many attempts as its restart policy allows.

What a run continues: an unfinished run of this workflow's name is resumed from its latest usable
checkpoint. After a finished run a new one begins in the same lineage, with the values that its sources
carry over. `--fresh` begins a new lineage.

When a run counts as finished: when `current.json` says so, which is written after the last commit. Its
record is written last, after the result was reported to the user. If the process is killed in between,
the next command reports the result and does nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from dataflare.checkpoint.lock import RunLock
from dataflare.checkpoint.runs import RunRecord, new_run_id, utc_text
from dataflare.checkpoint.store import Storage
from dataflare.engine.attempt import Attempt, Ending, Resized, Start
from dataflare.engine.coordinator import Identity
from dataflare.errors import CheckpointError, DataFlareError, Retry
from dataflare.jobs.absent_tables import with_absent
from dataflare.jobs.alerting import alerting
from dataflare.jobs.closing import (
    doubts_of,
    ended,
    finished_before,
    letters_by_step,
    result_of,
    visible_at_once,
    what_is_visible,
)
from dataflare.jobs.counting import policies_of
from dataflare.jobs.failures import Restarts, as_dataflare_error, place, recorded_failure
from dataflare.jobs.going_on import state_before
from dataflare.jobs.interrupts import LeftEarly, happens_within, interruptible, unless_left
from dataflare.jobs.known_tables import expanded_to_run
from dataflare.jobs.learning import appeared_lines, refuse_more, with_fields
from dataflare.jobs.lineage import Lineage, scratch_of
from dataflare.jobs.living_runs import living
from dataflare.jobs.on_workers import host_of
from dataflare.jobs.options import RunOptions
from dataflare.jobs.recovery import (
    Recovered,
    carried_over,
    close_all,
    close_committers,
    open_committers,
    recover,
)
from dataflare.jobs.replaced_rows import nothing_to_replace_with
from dataflare.jobs.reporting import reporting
from dataflare.jobs.result import RunResult
from dataflare.jobs.scaling import Scaling, with_parallelism
from dataflare.jobs.starting import recorded_start, restarted
from dataflare.jobs.unread import unread
from dataflare.jobs.watching import Watch
from dataflare.model.new_fields import Columns, FieldsAppeared
from dataflare.model.new_tables import TablesAppeared
from dataflare.model.run_status import EndStatus
from dataflare.planner import Plan, plan_async
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committer
from dataflare.sdk.threads import completed, in_thread, own_threads

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow


def run(workflow: Workflow, options: RunOptions) -> RunResult:
    """Run a workflow in this process and return the result.

    Raises errors of the workflow and errors that prevent the start; a later error is in the result.
    SIGINT and SIGTERM take a checkpoint and end the run; a second signal ends it at once.
    """
    return asyncio.run(_Run(workflow, options).run(signals=True))


async def arun(workflow: Workflow, options: RunOptions) -> RunResult:
    """Run a workflow on the event loop of the caller, beside other runs and other work.

    As `run`, without signals: a run whose task is cancelled takes a checkpoint, ends, and then raises
    asyncio.CancelledError; the next run goes on from there. Cancelled a second time, it takes none, and raises when
    its tasks and blocking calls have ended.
    """
    job = _Run(workflow, options)
    running = asyncio.ensure_future(job.run(signals=False))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            if cancelled is not None:
                running.cancel()
            job.stop.set()
            job.leave.set()
            cancelled = error
    if cancelled is None:
        return running.result()
    if not running.cancelled():
        running.exception()
    raise cancelled


class _Run:
    def __init__(self, workflow: Workflow, options: RunOptions) -> None:
        self.options = options
        self.run_id = options.run_id or new_run_id()
        self._given = workflow  # without a step for each table
        self.interrupted = self.unread = self.has_met = False
        self.watch = Watch(workflow, self.run_id, options, self._interrupt)
        self.restarts = Restarts(workflow.settings.restart)
        self.scaling = Scaling(options.workers, options.follows, self._sized)
        self.watch.scaling = self.scaling
        self._use(workflow)
        self.resumed_from: int | None = None
        self.published: dict[str, Mapping[str, Any]] = {}
        self.notes: dict[str, Sequence[str]] = {}
        self.letters_at: Mapping[str, str] = {}
        self.stop = asyncio.Event()
        self._door = contextlib.ExitStack()
        self.leave = asyncio.Event()  # set where no row needs to be read before the end

    def _use(self, workflow: Workflow) -> None:
        self.workflow = workflow
        self.lineage = Lineage(workflow, self.options, self.run_id)
        self.watch.use(workflow)
        self.metrics, self.retries = self.watch.metrics, self.watch.calls.retries

    async def run(self, *, signals: bool) -> RunResult:
        """signals: SIGINT and SIGTERM stop the run."""
        with (
            living(),
            self.watch.runtime().entered(),
            interruptible(self._interrupt) if signals else contextlib.nullcontext(),
            RunLock.later(self.lineage.folder, self.run_id, utc_text(time.time())) as lock,
        ):
            async with own_threads():
                return await self._begun(lock)

    async def _begun(self, lock: RunLock) -> RunResult:
        learned = await in_thread(self.lineage.enter, lock)
        with self._door:
            self._door.enter_context(self.watch.at_door())
            async with own_threads():  # the lock is held until they are done
                try:
                    async with recorded_start(self.watch, lambda: self.lineage):
                        planned = partial(self._planned, learned)
                        begun = restarted(planned, self.watch, self.restarts)
                        plan = await unless_left(self.leave, begun)
                        last_state, late = await in_thread(self.lineage.last)
                        resume = late is None and await self.lineage.begin(plan, last_state)
                except LeftEarly:
                    return self._left()
                with unread(plan, self._nobody_reads):
                    return await (self._tell_late(late) if late else self._locked(plan, resume))

    async def _planned(self, learned: Mapping[str, Columns]) -> Plan:
        with_tables = await expanded_to_run(self._given, self.options, self.retries)
        if with_tables is not self.workflow:
            self._use(with_tables)
        plan = await self._plan(learned)
        if plan.stages.commits_wait:
            self.watch.say("all rows are committed at the end of the run: see `dataflare plan`")
        self.watch.warn(doubts_of(plan))
        self.letters_at = letters_by_step(plan.stages)
        return plan

    def _left(self) -> RunResult:
        """Say that the run was stopped before there was a plan: nothing of it needs to be recorded."""
        result = self._result(self._stopped_by(), None)
        self._door.close()
        for told in (self.options.tell, self.options.end):
            if told is not None:
                told(result)
        return result

    async def _sized(self, workflow: Workflow) -> Plan:
        return await self._plan(self.lineage.current.learned, workflow)

    async def _plan(self, learned: Mapping[str, Columns], workflow: Workflow | None = None) -> Plan:
        return await plan_async(
            workflow or self.workflow,
            home=self.options.home,
            policy=self.options.policy,
            retries=self.retries,
            learned=learned,
        )

    async def _locked(self, plan: Plan, resume: bool) -> RunResult:
        record = self.lineage.record()
        await in_thread(self.lineage.log.start, record)
        self.watch.begin(plan, self.lineage.folders())
        with recorded_failure(self.lineage, record):
            result, carried = await self._watched(plan, resume)
        await self.watch.recorder.end(result)
        result = replace(result, warnings=self.watch.warnings.shown())
        await self._tell(result, ended(record, result, carried))
        return result

    async def _watched(self, plan: Plan, resume: bool) -> tuple[RunResult, dict[str, Any] | None]:
        """Returns how the run ended, and the values that sources carry."""
        with self.watch.watched():
            async with alerting(self.watch, self.lineage.folder):
                self.watch.log.log("info", "run", f"run {self.run_id} has begun")
                try:
                    status, error, carried = await self._attempts(plan, resume)
                    if status == "finished" and self.lineage.adopted_finished:
                        # A new run of its lineage, with its carried values.
                        await self.lineage.keep(finished=True, carried=carried or {})
                        resume = await self.lineage.begin(plan, self.lineage.current)
                        status, error, carried = await self._attempts(plan, resume)
                finally:
                    await self.scaling.aclose()
                self.watch.ended(status, error)
                if status == "finished":
                    await self.lineage.keep(finished=True, carried=carried or {})
                    crash_point("run.finished")
        if status != "finished":
            self.metrics.rewind(keep=visible_at_once(plan.stages))
        if status == "failed":
            self.watch.warnings.extend(what_is_visible(plan.stages, self.metrics))
        return self._result(status, error), carried

    async def _tell(self, result: RunResult, record: RunRecord) -> None:
        """Say how the run ended, then record that it was said: the last act of a run. A process that
        is killed before that leaves it to the next command."""
        told = False
        self._door.close()
        try:
            if self.options.tell is not None:
                self.options.tell(result)
            told = True
        finally:
            crash_point("run.told")
            await in_thread(self._record_end, record, result, told)

    def _record_end(self, record: RunRecord, result: RunResult, told: bool) -> None:
        end = self.options.end if told else None
        self.lineage.log.finish(record, *([partial(end, result)] if end is not None else []))

    async def _tell_late(self, record: RunRecord) -> RunResult:
        """Report that the last run had finished, because its process was killed before it could."""
        counts = await in_thread(self.lineage.last_counts)
        result = finished_before(record, counts or self.metrics.to_json())
        carried = self.lineage.current.carried
        await self._tell(result, ended(record, result, carried))
        return result

    # -- attempts ----------------------------------------------------------------------------------

    async def _attempts(
        self, plan: Plan, resume: bool
    ) -> tuple[EndStatus, DataFlareError | None, dict[str, Any] | None]:
        """Run attempts until one is the last. Returns status, error and the values that sources carry."""
        replans, for_s, loop = 0, self.options.for_s, asyncio.get_running_loop()
        timer = loop.call_later(for_s, self.stop.set) if for_s is not None else None
        try:
            while True:
                try:
                    resized = await self.scaling.take(self.workflow, plan)
                    plan = self._with_size(resized) or plan
                    attempt = self._attempt(plan, resume)
                    return await unless_left(self.leave, attempt, is_begun=self.watch.reads)
                except LeftEarly:
                    self.watch.attempt = None
                    return self._stopped_by(), None, None
                except (asyncio.CancelledError, GeneratorExit):
                    raise
                except Resized as ended_at:
                    self.scaling.cut(ended_at.began_s, ended_at.epoch)
                    resume = True
                    await self._count_attempt()
                    continue
                except (FieldsAppeared, TablesAppeared) as appeared:
                    try:
                        if isinstance(appeared, TablesAppeared):
                            plan = await self._take_in(appeared)
                        else:
                            replans += 1
                            plan = await self._learn(plan, appeared, replans)
                        resume = True
                        continue
                    except DataFlareError as refused:
                        error = place(self.workflow, refused)
                except BaseException as raised:
                    error = place(self.workflow, as_dataflare_error(raised))
                former = self._with_size(self.scaling.give_up(self.workflow, error))
                if former is not None:
                    plan, resume = former, True
                    await self._count_attempt()
                    continue
                if self.stop.is_set() and error.retry is not Retry.NEVER:
                    return self._cut_short(error)
                delay = self.restarts.delay_s(error)
                if delay is None:
                    return "failed", error, None
                self.watch.restarting(error, delay)
                if await happens_within(self.stop, delay):
                    return self._cut_short(error)
                resume = True
                await self._count_attempt()
        finally:
            if timer is not None:
                timer.cancel()

    async def _count_attempt(self) -> None:
        await self.lineage.keep(attempt=self.lineage.current.attempt + 1)

    def _with_size(self, resized: tuple[Workflow, Plan] | None) -> Plan | None:
        """Give what follows another size. Returns its plan."""
        if resized is None:
            return None
        self.workflow, plan = resized
        self._given = with_parallelism(self._given, self.workflow.settings.parallelism)
        self.watch.workflow = self.workflow
        self.lineage.grow(self.workflow, self.options)
        return plan

    async def _take_in(self, appeared: TablesAppeared) -> Plan:
        """Make a plan with tables that came, as the next start would."""
        self.options = replace(self.options, fresh=False, savepoint=None)
        self.workflow = await expanded_to_run(self._given, self.options, self.retries)
        self.watch.grow(self.workflow)
        self.lineage.grow(self.workflow, self.options)
        plan = await self._plan(self.lineage.learned())
        await self.lineage.begin(plan, self.lineage.current)
        self.letters_at, self.has_met = letters_by_step(plan.stages), False
        self.watch.warn([appeared.told, *doubts_of(plan)])
        return plan

    async def _learn(self, plan: Plan, appeared: FieldsAppeared, replans: int) -> Plan:
        """Record the new fields durably, then make a plan with columns for them."""
        refuse_more(appeared, replans)
        crash_point("replan.before_learned")
        await self.lineage.keep(**with_fields(self.lineage.current, appeared, plan.stages))
        crash_point("replan.after_learned")
        if plan.stages.commits_wait or plan.stages.starts_over:
            self.metrics.start_over()
        now = await self._plan(self.lineage.current.learned)
        for line in appeared_lines(appeared, plan.written, now.written):
            self.watch.warn([line])
        return now

    def _cut_short(self, error: DataFlareError) -> tuple[EndStatus, DataFlareError | None, None]:
        """How a run ends that was stopped and could take no last checkpoint."""
        if self.interrupted:
            self.watch.no_last_checkpoint(error)
        return (self._stopped_by(), None, None) if self.interrupted else ("failed", error, None)

    async def _open(self, plan: Plan) -> tuple[dict[str, Committer], Identity]:
        """The committers of an attempt, and its identity."""
        identity = self.lineage.identity()
        store = self.lineage.store_of(self.lineage.current)
        facts = plan.stages, identity, store, self.retries, policies_of(self.workflow)
        return await open_committers(*facts), identity

    async def _attempt(
        self, plan: Plan, resume: bool
    ) -> tuple[EndStatus, DataFlareError | None, dict[str, Any] | None]:
        committers, identity = await self._open(plan)
        try:
            if not self.has_met:
                self.has_met = True
                if await self._meet(plan, committers):
                    resume = True
                    await close_committers(committers)
                    committers, identity = await self._open(plan)
            store = self.lineage.store_of(self.lineage.current)
            recovered = await self._recover(store, committers, resume)
            current = self.lineage.current
            if current.starts_over:
                crash_point("replan.after_taken_back")
                await self.lineage.keep(last_epoch=recovered.epoch, starts_over=False)
            if recovered.epoch != current.last_epoch:
                await in_thread(self.lineage.note_epoch, recovered.epoch)
            self._notice(recovered)
            manifest = recovered.manifest
            if manifest is not None and manifest.final:
                ending = Ending(True, manifest)
            elif manifest is None and await nothing_to_replace_with(plan, current.carried):
                return "finished", None, dict(current.carried)
            else:
                facts = (plan, store, current.base_epoch, current.carried, self.options, manifest)
                state, told = await in_thread(state_before, *facts)
                self.watch.warn(told)
                rest = (current.carried, self.lineage.note_epoch, state, self.watch.disk.check)
                start = Start(identity, recovered.epoch, manifest, *rest)
                ending = await self._run_tasks(plan, start, store, committers)
            if ending.finished:
                await self.watch.recorder.note_schemas(plan)
                for name, committer in committers.items():
                    self.published[name] = await committer.published()
        finally:
            await completed(close_all(plan.stages, committers, self.notes))
        if not ending.finished:
            return self._stopped_by(), None, None
        carried = await in_thread(carried_over, plan.stages, ending.manifest, store)
        return "finished", None, with_absent(self.workflow, carried, current.carried)

    async def _meet(self, plan: Plan, committers: Mapping[str, Committer]) -> bool:
        try:
            return await self.lineage.meet(plan, committers)
        except DataFlareError:
            await self.lineage.give_back()
            raise

    async def _recover(
        self, store: Storage, committers: Mapping[str, Committer], resume: bool
    ) -> Recovered:
        current, restored = self.lineage.current, self.lineage.to_try()
        try:
            recovered = await recover(
                store,
                committers,
                base_epoch=current.base_epoch,
                last_epoch=current.last_epoch,
                resume=resume,
                starts_over=current.starts_over,
                letters=[name for name in committers if name not in self.workflow.destinations],
                rebuilt=self.lineage.rebuilt,
                chosen=restored.manifest if restored is not None else None,
                on_trial=restored is not None and restored.on_trial,
            )
        except CheckpointError:
            await self.lineage.give_back()
            raise
        if restored is not None:
            self.watch.warn(restored.warnings)
            if not restored.on_trial:
                self.lineage.restored = None
        return recovered

    async def _run_tasks(
        self, plan: Plan, start: Start, store: Storage, committers: Mapping[str, Committer]
    ) -> Ending:
        self.watch.recorder.writes_with(plan)
        attempt = self.watch.attempt = Attempt(
            plan.stages,
            self.workflow.settings,
            start,
            store,
            committers,
            self.metrics,
            policies_of(self.workflow),
            self.retries,
            scratch=scratch_of(self.workflow, store),
            paces=self.watch.paces,
            sampling=self.watch.sampling,
            host=host_of(self.workflow, self.options, store, self.watch.calls.told_by_worker),
            on_begun=self.scaling.begun,
        )
        self.watch.begin_attempt(attempt)
        self.scaling.watch_over(attempt)
        answer = partial(self.lineage.answer_savepoints, attempt.checkpoint_now)
        reports = asyncio.ensure_future(reporting(self.watch, answer))
        try:
            return await attempt.run(self.stop)
        finally:
            reports.cancel()
            await completed(asyncio.gather(reports, return_exceptions=True))
            self.scaling.watch_over(None)
            self.watch.end_attempt()
            self.watch.report()

    def _notice(self, recovered: Recovered) -> None:
        self.watch.warn(recovered.notices)
        if recovered.manifest is not None:
            if self.resumed_from is None and not self.scaling.has_taken:
                self.resumed_from = recovered.manifest.epoch
                self.watch.is_resumed = self.watch.restarts == self.watch.restarts_at_start
            self.watch.say(f"resumed from checkpoint {recovered.manifest.epoch}")

    # -- the end -----------------------------------------------------------------------------------

    def _result(self, status: EndStatus, error: DataFlareError | None) -> RunResult:
        facts = self.resumed_from, self.published, self.notes, self.letters_at
        return result_of(self.watch, status, error, *facts)

    def _stopped_by(self) -> EndStatus:
        """The status of a run that was stopped."""
        return "interrupted" if self.interrupted else "unread" if self.unread else "stopped"

    def _nobody_reads(self) -> None:
        self.unread = True
        self.stop.set()

    def _interrupt(self) -> None:
        self.interrupted = True
        late = "after a checkpoint; once more to stop at once"
        self.watch.say(f"stopping {late if self.watch.reads() else 'before rows are read'}")
        self.stop.set()
        self.leave.set()
