"""Run a workflow to its end, through as many attempts as its restart policy allows.

What a run continues: an unfinished run of this workflow's name is resumed from its latest good
checkpoint; after a finished one a new run begins in the same lineage, with what its sources carry
over. `--fresh` begins a new lineage.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from dataflare.checkpoint.files import make_state_folder, workflow_folder
from dataflare.checkpoint.lock import RunLock
from dataflare.checkpoint.manifest import Manifest
from dataflare.checkpoint.runs import Current, RunFailure, RunLog, RunRecord, new_run_id, utc_text
from dataflare.checkpoint.store import LocalStore
from dataflare.engine.attempt import Attempt, Ending, Start
from dataflare.engine.coordinator import Identity
from dataflare.engine.metrics import JobMetrics
from dataflare.errors import (
    Blame,
    CheckpointError,
    DataFlareError,
    InternalError,
    Retry,
    RunError,
    SystemError_,
    from_here,
)
from dataflare.jobs.breakers import circuit_breakers
from dataflare.jobs.interrupts import interruptible
from dataflare.jobs.progress import Progress, Reporter
from dataflare.jobs.recovery import Recovered, forget, open_committers, recover
from dataflare.jobs.result import RunResult
from dataflare.jobs.unread import unread
from dataflare.model.progress import Position
from dataflare.planner import Plan, plan_async
from dataflare.planner.dead_letters import error_handling
from dataflare.resilience.retry import AFTER_MAX_S, Retried, Retries
from dataflare.sdk.context import Policy
from dataflare.sdk.destination import Committer
from dataflare.workflow.places import mentioned

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow

_REPORT_S = 0.25


class RunOptions(Struct, frozen=True):
    """home: where state, checkpoints and history lie. for_s: stop after this long."""

    home: Path
    fresh: bool = False
    accept_changes: bool = False
    for_s: float | None = None
    listener: Callable[[Progress], None] | None = None
    policy: Policy | None = None


def run(workflow: Workflow, options: RunOptions) -> RunResult:
    """Run it here and now, and say how it went.

    Raises what is wrong with the workflow or forbids to begin; what goes wrong later is in the
    result. SIGINT and SIGTERM take a checkpoint and end the run; a second one ends it at once.
    """
    return asyncio.run(_Run(workflow, options).run())


class _Run:
    def __init__(self, workflow: Workflow, options: RunOptions) -> None:
        self.workflow, self.options = workflow, options
        self.run_id = new_run_id()
        self.folder = workflow_folder(options.home, workflow.name)
        self.log = RunLog(self.folder)
        self.interrupted = self.unread = False
        self.warnings: list[str] = []
        self.started = time.monotonic()
        self.metrics = JobMetrics({step.name: step.kind for step in workflow.steps()})
        self.metrics.errors_max = {
            step.name: handling.max_errors
            for step in workflow.steps()
            if (handling := error_handling(workflow, step.name)).max_errors is not None
        }
        self.reporter = Reporter(self.metrics, options.listener)
        self.retried: dict[str, list[Retried]] = {}
        self.retries = Retries(
            {s.name: error_handling(workflow, s.name).retries for s in workflow.steps()},
            self._retried,
            breakers=circuit_breakers(workflow, self._held_back),
        )
        self.held_back: dict[str, int] = {}
        self.resumed_from: int | None = None
        self.checkpoints = 0
        self.last_bytes = 0
        self.published: dict[str, Mapping[str, Any]] = {}
        self.stop: asyncio.Event
        self.current: Current
        self._writing = threading.Lock()

    async def run(self) -> RunResult:
        self.stop = asyncio.Event()
        with interruptible(self._interrupt):
            plan = await plan_async(
                self.workflow,
                home=self.options.home,
                policy=self.options.policy,
                retries=self.retries,
            )
            if plan.stages.commits_wait:
                self.reporter.say(
                    "everything is committed at the end of the run: see `dataflare plan`"
                )
            make_state_folder(self.folder)
            with (
                unread(plan, self._nobody_reads),
                RunLock(self.folder, self.run_id, utc_text(time.time())),
            ):
                return await self._locked(plan)

    async def _locked(self, plan: Plan) -> RunResult:
        current = self._current()
        if self.options.fresh and current is not None:
            await self._forget(plan, current)
            current = None
        resume = current is not None and not current.finished
        if current is None:
            current = Current(str(uuid.uuid4()), 0, self.run_id)
        store = LocalStore(self._storage(), current.lineage)
        if current.finished:
            epochs = [f.epoch for f in await asyncio.to_thread(store.list_manifests)]
            current = replace(
                current,
                base_epoch=max([current.base_epoch, current.last_epoch, *epochs]),
                finished=False,
            )
        current = replace(current, run_id=self.run_id, attempt=current.attempt + 1)
        record = RunRecord(
            self.run_id,
            self.workflow.name,
            current.lineage,
            current.attempt,
            utc_text(time.time()),
            file=str(self.workflow.file.absolute()) if self.workflow.file else None,
            fingerprints=self.workflow.fingerprints(),
        )
        if resume:
            self._refuse_changes(store, current)
        self.current = current
        await self._keep()
        await asyncio.to_thread(self.log.start, record)
        status, error, carried = await self._attempts(plan, store, current, resume)
        if status == "finished":
            await self._keep(finished=True, carried=carried or {})
        return await self._close(record, status, error, carried)

    async def _keep(self, **changes: Any) -> None:
        """Decide what the next run continues."""
        await asyncio.to_thread(self._write_down, **changes)

    def _note_epoch(self, epoch: int) -> None:
        """Remember the newest checkpoint, so that the next run notices when it is gone."""
        if epoch != self.current.last_epoch:
            self._write_down(last_epoch=epoch)

    def _write_down(self, **changes: Any) -> None:
        """Change what the next run continues, durably. A thread of an attempt that has failed may
        still note its epoch while the next attempt begins."""
        with self._writing:
            self.current = replace(self.current, **changes)
            self.log.set_current(self.current)

    def _current(self) -> Current | None:
        """What the last run left. With `--fresh` what cannot be read is forgotten like the rest."""
        try:
            return self.log.current()
        except CheckpointError:
            if not self.options.fresh:
                raise
            LocalStore(self.folder, str(uuid.uuid4())).clear()
            return None

    def _storage(self) -> Path:
        storage = self.workflow.settings.checkpoint.storage
        if storage is None:
            return self.folder
        return (self.workflow.base / storage).absolute() / self.workflow.name

    async def _forget(self, plan: Plan, current: Current) -> None:
        store = LocalStore(self._storage(), current.lineage)
        identity = Identity(current.lineage, self.run_id, current.attempt + 1, {})
        await forget(plan.stages, identity, store)
        await asyncio.to_thread(LocalStore(self.folder, current.lineage).clear)
        await asyncio.to_thread(store.clear)

    def _refuse_changes(self, store: LocalStore, current: Current) -> None:
        """Raise RunError (E0803) when a step is not what it was when the checkpoint was taken."""
        if self.options.accept_changes:
            return
        found = [
            f.manifest
            for f in store.list_manifests()
            if f.manifest is not None and f.epoch > current.base_epoch
        ]
        if not found:
            return
        before, now = found[0].fingerprints, self.workflow.fingerprints()
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
                notes=[f"changed since checkpoint {found[0].epoch}: {', '.join(changed)}"],
                help="undo the change, or use --accept-changes to go on, or --fresh to start over",
            )

    # -- attempts ----------------------------------------------------------------------------------

    async def _attempts(
        self, plan: Plan, store: LocalStore, current: Current, resume: bool
    ) -> tuple[str, DataFlareError | None, dict[str, Any] | None]:
        """Run attempts until one ends for good. Returns status, error and what sources carry."""
        policy = self.workflow.settings.restart
        failures: list[float] = []
        self.attempt = current.attempt
        timer = self._timer()
        try:
            while True:
                try:
                    return await self._attempt(plan, store, current, resume)
                except asyncio.CancelledError:
                    raise
                except Exception as raised:
                    error = self._placed(known(raised))
                    now = time.monotonic()
                    failures = [t for t in failures if now - t < policy.window] + [now]
                    if error.retry is Retry.NEVER or len(failures) > policy.attempts:
                        return "failed", error, None
                    delay = min(policy.max_delay, policy.delay * 2 ** (len(failures) - 1))
                    delay = max(delay, min(error.retry_after_s or 0.0, AFTER_MAX_S))
                    said = from_here(error.message)
                    self.warnings.append(f"restarted after {error.code}: {said}")
                    self.reporter.say(f"{said}; restarting in {delay:g} s")
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.stop.wait(), delay)
                    if self.stop.is_set():
                        return "failed", error, None
                    resume = True
                    self.attempt += 1
                    await self._keep(attempt=self.attempt)
        finally:
            if timer is not None:
                timer.cancel()

    def _placed(self, error: DataFlareError) -> DataFlareError:
        """Fill in where in the workflow file the step stands that an error names; without a step,
        the one step whose path or query it mentions."""
        if error.spot is not None or error.blame is Blame.INTERNAL:
            return error
        steps = {step.name: step for step in self.workflow.steps()}
        if error.step in steps:
            return error.at(spot=steps[error.step].place_of(error))
        found = {name: mentioned(step, error) for name, step in steps.items()}
        likely = [(name, spot) for name, spot in found.items() if spot is not None]
        if error.step is None and len(likely) == 1:
            error.at(step=likely[0][0], spot=likely[0][1])
        return error

    def _timer(self) -> asyncio.TimerHandle | None:
        if self.options.for_s is None:
            return None
        return asyncio.get_running_loop().call_later(self.options.for_s, self.stop.set)

    async def _attempt(
        self, plan: Plan, store: LocalStore, current: Current, resume: bool
    ) -> tuple[str, DataFlareError | None, dict[str, Any] | None]:
        identity = Identity(
            current.lineage, self.run_id, self.attempt, self.workflow.fingerprints()
        )
        committers = await open_committers(plan.stages, identity, store, self.retries)
        try:
            recovered = await recover(
                store,
                committers,
                base_epoch=current.base_epoch,
                last_epoch=self.current.last_epoch,
                resume=resume,
            )
            await asyncio.to_thread(self._note_epoch, recovered.epoch)
            self._notice(recovered)
            manifest = recovered.manifest
            if manifest is not None and manifest.final:
                ending = Ending(True, manifest)
            else:
                start = Start(
                    identity, recovered.epoch, manifest, current.carried, self._note_epoch
                )
                ending = await self._run_tasks(plan, start, store, committers)
            if ending.finished:
                for name, committer in committers.items():
                    self.published[name] = await committer.published()
        finally:
            for committer in committers.values():
                await committer.aclose()
            for stage in plan.stages.stages:
                if stage.source is not None:
                    await stage.source.aclose()
        if not ending.finished:
            return self._stopped_by(), None, None
        return "finished", None, _carried(plan, ending.manifest)

    async def _run_tasks(
        self, plan: Plan, start: Start, store: LocalStore, committers: Mapping[str, Committer]
    ) -> Ending:
        policies = {
            step.name: error_handling(self.workflow, step.name).on_error
            for step in self.workflow.steps()
        }
        attempt = Attempt(
            plan.stages,
            self.workflow.settings,
            start,
            store,
            committers,
            self.metrics,
            policies,
            self.retries,
        )
        reporting = asyncio.ensure_future(self._report(attempt))
        try:
            return await attempt.run(self.stop)
        finally:
            reporting.cancel()
            if attempt.coordinator is not None:
                stats = attempt.coordinator.stats
                self.checkpoints += stats.completed
                self.reporter.checkpoints = self.checkpoints
                self.last_bytes = stats.last_bytes or self.last_bytes
            self.reporter.report(None)

    async def _report(self, attempt: Attempt) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += _REPORT_S
            await asyncio.sleep(max(0.0, due - loop.time()))
            self.reporter.report(attempt)

    def _retried(self, retried: Retried) -> None:
        self.retried.setdefault(retried.step, []).append(retried)
        self.reporter.say(from_here(f"step '{retried.step}': {retried}"))

    def _held_back(self, step: str, recovery_s: float) -> None:
        self.held_back[step] = self.held_back.get(step, 0) + 1
        self.reporter.say(f"step '{step}': too many calls fail; none is made for {recovery_s:g} s")

    def _notice(self, recovered: Recovered) -> None:
        self.warnings.extend(recovered.notices)
        for notice in recovered.notices:
            self.reporter.say(notice)
        if recovered.manifest is not None:
            if self.resumed_from is None:
                self.resumed_from = recovered.manifest.epoch
            self.reporter.say(f"resumed from checkpoint {recovered.manifest.epoch}")

    # -- the end -----------------------------------------------------------------------------------

    async def _close(
        self,
        record: RunRecord,
        status: str,
        error: DataFlareError | None,
        carried: dict[str, Any] | None,
    ) -> RunResult:
        for name, retried in self.retried.items():
            times = "once" if len(retried) == 1 else f"{len(retried):,} times"
            last = retried[-1].error
            said = from_here(last.message)
            self.warnings.append(f"step '{name}': tried again {times} after {last.code}: {said}")
        for name, count in self.held_back.items():
            times = "once" if count == 1 else f"{count:,} times"
            self.warnings.append(f"step '{name}': its circuit breaker opened {times}")
        for name, metric in self.metrics.steps.items():
            for warning, rows in metric.warnings.items():
                self.warnings.append(f"step '{name}': {warning} in {counted(rows)}")
            if metric.errors:
                were = "was" if metric.errors == 1 else "were"
                self.warnings.append(
                    f"step '{name}': {counted(metric.errors)} failed and {were} left out"
                )
        result = RunResult(
            workflow=self.workflow.name,
            run_id=self.run_id,
            status=status,
            resumed_from=self.resumed_from,
            duration_s=time.monotonic() - self.started,
            steps=self.metrics.to_json(),
            checkpoints=self.checkpoints,
            last_checkpoint_bytes=self.last_bytes,
            error=error,
            warnings=self.warnings,
            published=self.published,
        )
        ended = replace(
            record,
            status="stopped" if status in ("interrupted", "unread") else status,
            ended_at=utc_text(time.time()),
            resumed_from=self.resumed_from,
            counts=self.metrics.to_json(),
            carried=carried or {},
            error=RunFailure.of(error) if error is not None else None,
        )
        await asyncio.to_thread(self.log.finish, ended)
        return result

    def _stopped_by(self) -> str:
        """The status of a run that was asked to stop."""
        return "interrupted" if self.interrupted else "unread" if self.unread else "stopped"

    def _nobody_reads(self) -> None:
        self.unread = True
        self.stop.set()

    def _interrupt(self) -> None:
        self.interrupted = True
        self.reporter.say("stopping after a checkpoint; once more to stop at once")
        self.stop.set()


def _carried(plan: Plan, manifest: Manifest | None) -> dict[str, Any]:
    """What each source gives the next run."""
    found: dict[str, Any] = {}
    for stage in plan.stages.stages:
        if stage.source is None or manifest is None or stage.name not in manifest.sources:
            continue
        states = manifest.sources[stage.name].all_states()
        positions: dict[str, Position] = {
            s.split.id: s.position for s in states if s.position is not None
        }
        carried = stage.source.carry(positions)
        if carried is not None:
            found[stage.name] = dict(carried)
    return found


def counted(rows: int) -> str:
    """A number of rows, in words that fit it."""
    return "1 row" if rows == 1 else f"{rows:,} rows"


def known(raised: Exception) -> DataFlareError:
    """Any exception as one of ours. What nobody expected asks for a report."""
    if isinstance(raised, DataFlareError):
        return raised
    if isinstance(raised, OSError):
        import errno

        if raised.errno == errno.ENOSPC:
            return SystemError_(
                f"disk full: {raised.filename or raised}",
                code="E0603",
                help="free some space and run again: it goes on from the last checkpoint",
            )
        return SystemError_(
            f"the system refused: {raised}",
            code="E0602",
            help="see who may read and write there, and how many files may be open",
        )
    error = InternalError(
        f"{type(raised).__name__}: {raised}",
        help="this is a bug in DataFlare; please report it, with the output of --debug",
    )
    error.__cause__ = raised
    return error
