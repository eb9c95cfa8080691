"""What a run says of itself while it lives: notices for its user, and a view of all of it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dataflare.engine.attempt import Attempt
from dataflare.engine.metrics import JobMetrics
from dataflare.engine.sampling import Sampling
from dataflare.engine.taps import Tap
from dataflare.errors import DataError, DataFlareError, RunError, from_here
from dataflare.jobs.autoscaling import Autoscaling
from dataflare.jobs.calls import Calls
from dataflare.jobs.closing import told_of
from dataflare.jobs.counting import metrics_of
from dataflare.jobs.degrading import degrading_of
from dataflare.jobs.disk_bound import DiskBound
from dataflare.jobs.hot_keys import HotKeys
from dataflare.jobs.kept_warnings import KeptWarnings
from dataflare.jobs.living_runs import look_every_s
from dataflare.jobs.options import RunOptions
from dataflare.jobs.progress import Reporter
from dataflare.jobs.rates import paces_of
from dataflare.jobs.recording import Recorder, hidden_columns
from dataflare.jobs.tapping import tap_of
from dataflare.model.run_status import LIVING, EndStatus, Status
from dataflare.observability.alerts import Alerts, Event
from dataflare.observability.logs import RunLogger
from dataflare.observability.resources import this_process
from dataflare.observability.view import ErrorView, RunView, StepView
from dataflare.planner import Plan
from dataflare.sdk.in_flight import InFlight
from dataflare.sdk.runtime import Runtime
from dataflare.security.hidden import HiddenValues
from dataflare.security.redact import Redactor

if TYPE_CHECKING:
    from dataflare.jobs.scaling import Scaled, Scaling, Size
    from dataflare.workflow.model import Workflow


T = TypeVar("T")
NO_ROWS = "E0813"
_ACCEPT = "; `dataflare run --accept-usual` takes what is there for usual from now on"
_REPORT_S, _ANSWER_S = 0.25, 1.0
"""The seconds between two reports to a listener, and where there is none."""


class Watch:
    """Of one run. plan and attempt: those under way. error: that ended it. metrics: its counts. calls: what becomes of those of its steps. status: as
    `RunView` says. interrupt: called on the event loop of the run, lets it take a checkpoint and end. recorder: keeps the course of the run."""

    def __init__(
        self, workflow: Workflow, run_id: str, options: RunOptions, interrupt: Callable[[], None]
    ) -> None:
        self.run_id, self.interrupt = run_id, interrupt
        self.status: Status = "starting"
        self.started_at, self._started = time.time(), time.monotonic()
        self.warnings = KeptWarnings()
        self.calls = Calls(self)
        self.hidden, self.in_flight = HiddenValues(), InFlight()
        self.restarts = self.restarts_at_start = 0
        self.is_resumed = False
        self._last_rows: dict[str, tuple[int, float]] = {}
        self.attempt: Attempt | None = None
        self.plan: Plan | None = None
        self.scaling: Scaling | None = None
        self.message: str | None = None
        self.error: DataFlareError | None = None
        self._last: RunView | None = None
        self._logged_epoch: int | None = None
        self._options, self.recorder = options, Recorder(self)
        self.use(workflow)

    def use(self, workflow: Workflow) -> None:
        """The workflow as it will run. Called before anything of it runs."""
        self.workflow = workflow
        self._redactor = Redactor(workflow.masked, self.hidden)
        self.log = RunLogger(workflow.name, self.run_id, self.redacted)
        self.alerts = Alerts(workflow.alerts)
        self.metrics: JobMetrics = metrics_of(workflow)
        if any(rule.fails for rule in workflow.alerts):
            self.metrics.judges.append(self._judge_shares)
        self.disk = DiskBound(workflow, (), self.warn)
        self._degraded: dict[str, str] = {}
        self._hot_keys = HotKeys(self)
        self._memory_short: str | None = None
        self.paces, self.sampling = paces_of(workflow), Sampling()
        self.degrading = degrading_of(workflow, self.sampling, self.metrics.degraded)
        autoscale = workflow.settings.cluster.autoscale
        self.autoscaling = Autoscaling(self, autoscale) if autoscale is not None else None
        self._reporter = Reporter(self.metrics, self._options.listener)
        self.calls.use(workflow)

    def grow(self, workflow: Workflow) -> None:
        """The same workflow with more tables."""
        self.workflow = workflow
        self.metrics.add_steps(metrics_of(workflow))
        self.paces = paces_of(workflow, self.paces)
        self.calls.grow(workflow)
        self.disk.use(workflow)

    @property
    def may_run_code(self) -> bool:
        """Whether workflows may run code of their own here."""
        return self._options.policy is None or self._options.policy.python

    @property
    def accepts_usual(self) -> bool:
        """As `RunOptions` says."""
        return self._options.accept_usual

    @property
    def has_ended(self) -> bool:
        """Whether no attempt follows."""
        return self.status not in LIVING

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def runtime(self) -> Runtime:
        """What the run has to itself."""
        return Runtime(
            masks=self._redactor,
            stdout=self._options.stdout,
            hidden=self.hidden,
            in_flight=self.in_flight,
        )

    def reads(self) -> bool:
        """Whether its sources may have been read."""
        return self.attempt is not None and self.attempt.coordinator is not None

    # -- notices -----------------------------------------------------------------------------------

    def say(
        self,
        message: str,
        *,
        level: str = "info",
        component: str = "run",
        step: str | None = None,
        **facts: Any,
    ) -> None:
        """Tell the user, and the log. level, component and facts: for the log."""
        self.message = message
        self.log.log(level, component, message, step, **facts)
        self._tell_listener(message)

    def warn(self, texts: Iterable[str]) -> None:
        """Tell the user, now and at the end. Each text once."""
        for text in texts:
            if self.warnings.add(text):
                self.say(text, level="warning")

    def restarting(self, error: DataFlareError, delay_s: float) -> None:
        """Another attempt follows one that failed."""
        reason = from_here(error.message)
        self.restarts += 1
        self.status = "restarting"
        self.warnings.append(f"restarted after {error.code}: {reason}")
        self.say(f"{reason}; restarting in {delay_s:g} s", level="error")

    def no_last_checkpoint(self, error: DataFlareError) -> None:
        """The run was stopped while a system failed."""
        self.warn(
            [
                f"stopped without a last checkpoint after {error.code}: {from_here(error.message)}; the next run goes on "
                "from the checkpoint before, and reads again what came since"
            ]
        )

    def alerted(self, event: Event) -> None:
        """Tell the user, and the log, that an alert fires or is resolved."""
        name, step = event.rule.name, event.step or None
        text = f"alert '{name}' ({event.rule.severity}) {event.status}: {event.message}"
        level = "warning" if event.status == "firing" else "info"
        self.say(text, level=level, component="alerts", step=step)

    def report(self) -> None:
        """Report progress to the listener, and checkpoints to the log."""
        self.guarded("the log of checkpoints", self._log_checkpoints)
        self.guarded("what steps warn of", self._tell_warnings)
        self._tell_listener()
        self.guarded("what is degraded", self._tell_degraded)
        self.guarded("the look at keys", self._hot_keys.look)
        self.guarded("what is said of the memory", self._tell_memory)
        self.guarded("the course of the run", self.recorder.look)

    def guarded(self, what: str, duty: Callable[[], None]) -> None:
        """Do something beside the rows. A run goes on, whatever becomes of it; it is warned of once."""
        try:
            duty()
        except Exception as error:
            self.failed_beside(what, error)

    def failed_beside(self, what: str, error: Exception) -> None:
        """Warn that something beside the rows has failed."""
        self.warn([self._failure(what, error)])

    def _failure(self, what: str, error: Exception) -> str:
        return self.redacted(f"{what} failed: {type(error).__name__}: {from_here(str(error))}")

    def _tell_listener(self, message: str | None = None) -> None:
        try:
            self._reporter.report(self.attempt if message is None else None, message)
        except Exception as error:
            text = self._failure("the listener of the run", error)
            if self.warnings.add(text):
                self.log.log("warning", "run", text)

    def _log_checkpoints(self) -> None:
        checkpoints = self.metrics.checkpoints
        epoch = checkpoints.last_epoch
        if epoch is not None and epoch != self._logged_epoch:
            first = epoch if self._logged_epoch is None else self._logged_epoch + 1
            named = f"checkpoint {epoch}" if first >= epoch else f"checkpoints {first} to {epoch}"
            took = (
                f"the last took {checkpoints.last_s:.3f} s and has {checkpoints.last_bytes:,} bytes"
            )
            self.log.log("debug", "checkpoint", f"{named} complete; {took}", epoch=epoch)
            self._logged_epoch = epoch

    def _tell_warnings(self) -> None:
        for name, warnings in self.metrics.warnings():
            self.warn(told_of(name, text, rows) for text, rows in warnings.items() if not rows)

    @property
    def report_every_s(self) -> float:
        """The seconds between two reports."""
        return look_every_s(_ANSWER_S if self._options.listener is None else _REPORT_S)

    def _tell_degraded(self) -> None:
        """Tell of steps that give less than they should, when that begins and when it ends."""
        now, before = dict(self.metrics.degraded), self._degraded
        self._degraded = now
        for step in now.keys() - before.keys():
            facts = {"event": "degraded"}
            self.say(f"step '{step}': {now[step]}", level="warning", step=step, **facts)
        for step in before.keys() - now.keys():
            verb = "takes" if step in self.workflow.destinations else "gives"
            self.say(f"step '{step}': it {verb} all again", step=step, event="recovered")

    def _tell_memory(self) -> None:
        """Tell that fewer tasks go on at once because memory is short, when that begins and when it ends."""
        told, before = self.metrics.memory_short, self._memory_short
        self._memory_short = told
        if told is not None and before is None:
            self.say(told, level="warning", event="memory_short")
        elif told is None and before is not None:
            self.say("memory: all tasks may go on at once again", event="memory_recovered")

    def ended(self, status: EndStatus, error: DataFlareError | None) -> None:
        """Write into the log how the run ended."""
        self.status, self.error = status, error
        # A destination says by this code that its system refuses a row.
        if error is not None and error.step and (error.is_of_row or error.code == "E0510"):
            self.metrics.end_by_row(error.step)
        text = f"{status} after {self.elapsed_s:.1f} s"
        if error is None:
            self.log.log("info", "run", text)
        else:
            facts = {"code": error.code}
            self.log.log("error", "run", f"{text}: {error.message}", error.step, **facts)

    # -- the view ----------------------------------------------------------------------------------

    def ask(self, patience_s: float = 5.0) -> RunView:
        """The run at this moment, for another thread. Raises TimeoutError where the event loop does not answer."""
        return self.on_loop(self.view, patience_s)

    def on_loop(self, call: Callable[[], T], patience_s: float = 5.0) -> T:
        """What a call gives on the event loop of the run, for another thread. Raises TimeoutError as `ask` does."""
        answer: Future[T] = Future()

        def answered() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(call())
                except Exception as error:
                    answer.set_exception(error)

        self._loop.call_soon_threadsafe(answered)
        try:
            return answer.result(patience_s)
        finally:
            answer.cancel()

    def tap(self, step: str, where: str | None, per_s: float) -> Tap:
        """Look at rows on their way into a step, or out of it; for another thread. Raises RunError as `tap_of` does."""

        def add() -> Tap:
            if self.attempt is None or self.plan is None or not self.reads():
                raise RunError("the run has no rows now", code=NO_ROWS, help="ask again later")
            tap = tap_of(self.attempt.plan, self.plan, step, where, per_s)
            self.attempt.taps.add(tap)
            return tap

        return self.on_loop(add)

    def scale(self, workers: int | None, parallelism: int | None) -> Future[Scaled]:
        """Give the run another size; for another thread. The answer comes when its tasks have it; it raises as `Scaling.to` does."""
        answer: Future[Scaled] = Future()

        def ended(asking: asyncio.Task[Scaled]) -> None:
            if asking.cancelled():
                answer.set_exception(TimeoutError())
            elif (error := asking.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(asking.result())

        def begin() -> None:
            if self.scaling is None:
                raise RunError("the run has no rows now", code=NO_ROWS, help="ask again later")
            scaled = self.scaled(workers, parallelism)
            self._loop.create_task(scaled, context=self._context).add_done_callback(ended)

        self.on_loop(begin)
        return answer

    async def scaled(
        self, workers: int | None, parallelism: int | None, *, keep_asking: bool = False
    ) -> Scaled:
        """Give the run another size. See `Scaling.to`."""
        assert self.scaling is not None
        stages = self.attempt.stages() if self.attempt is not None else ()
        state_bytes = sum(stage.state_bytes for stage in stages)
        now = self.workflow, self.plan, state_bytes
        return await self.scaling.to(*now, workers, parallelism, keep_asking=keep_asking)

    def size(self) -> Size | None:
        """How large the run is now; None where it has not begun."""
        return self.scaling.size(self.workflow) if self.scaling is not None else None

    def redacted(self, text: str) -> str:
        """The text without the secrets of the workflow."""
        return self._redactor.redact(text)

    def untap(self, tap: Tap) -> None:
        """End a look; for another thread."""

        def remove() -> None:
            if self.attempt is not None:
                self.attempt.taps.remove(tap)

        self.on_loop(remove)

    @contextlib.contextmanager
    def at_door(self) -> Iterator[None]:
        """Answer those who ask for the run, also before there is a plan. Of the event loop of the run."""
        self._loop = asyncio.get_running_loop()
        with self._options.door(self):
            yield

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Let those who asked for it observe the run."""
        with contextlib.ExitStack() as stack:
            for observer in self._options.observers:
                stack.enter_context(observer(self))
            yield

    def view(self) -> RunView:
        """The run at this moment."""
        view = RunView(
            self.workflow.name,
            self.run_id,
            self.status,
            time.time(),
            self.started_at,
            self.elapsed_s,
            this_process(),
            restarts=self.restarts,
            steps=self.step_views(),
            checkpoints=self.metrics.checkpoints,
            alerts=self.alerts.views(),
            warnings=self.warnings.shown(),
            message=self.message,
            file=str(self.workflow.file.absolute()) if self.workflow.file else None,
            failure=self._why(),
            is_resumed=self.is_resumed,
            memory_short=self.metrics.memory_short,
            memory_share=self.metrics.memory_share,
            workers=dict(self.metrics.workers),
        )
        if self.attempt is not None:
            view.bounded = self.attempt.plan.bounded
            view.stages, view.edges = self.attempt.stages(), self.attempt.edges()
        elif self._last is not None:
            view.bounded = self._last.bounded
            view.stages, view.edges = self._last.stages, self._last.edges
        return view

    def _why(self) -> ErrorView | None:
        error = self.error
        if error is None:
            return None
        named = f"{error.code} in step '{error.step}'" if error.step else error.code
        if any(step.type == "mask" for step in self.workflow.transformations.values()):
            # A value may stand in the message of any system.
            text = f"{named} (its message is not told, because the workflow masks columns)"
        else:
            message = from_here(error.message).removeprefix(f"step '{error.step}': ")
            text = self.redacted(f"{named}: {message}")
        return ErrorView(error.code, error.step, text)

    def begin(self, plan: Plan, folders: Sequence[Path]) -> None:
        """The run begins. folders: those of its files, the first one is its workflow's. Their size is checked from
        now on, and before each checkpoint."""
        self.plan, self.recorder.folder = plan, folders[0]
        self.restarts_at_start = self.restarts
        self._context = contextvars.copy_context()
        self.disk = DiskBound(self.workflow, folders, self.warn)

    def begin_attempt(self, attempt: Attempt) -> None:
        """Its rows are read from now on."""
        self.status = "running"
        if self.plan is not None:
            attempt.errors.hidden = frozenset(hidden_columns(self.plan)[0])
            if attempt.errors.hidden:
                self.hidden.own = str(self.workflow.to_json()).__contains__
            self.hidden.columns = attempt.errors.hidden

    def end_attempt(self) -> None:
        """Its tasks have ended. What they did is remembered."""
        self._last = view = self.view()
        self.attempt = None
        self.guarded("the look at keys", lambda: self._hot_keys.tell(view))

    def step_views(self) -> dict[str, StepView]:
        """By step, its counts at this moment."""
        committed_us, retried = self.metrics.committed_us(), self.calls.retried
        in_flight = self.in_flight.by_step()
        latencies = {name: times.latency for name, times in self.metrics.times.stages().items()}
        return {
            name: StepView(
                step.kind,
                step.rows_in,
                step.rows_out,
                step.bytes_out,
                step.errors,
                step.dead_letters,
                step.late,
                retries=retried[name].calls if name in retried else 0,
                held_back=self.calls.held_back.get(name, 0),
                is_held_back=self.calls.is_held_back(name),
                watermark_us=step.watermark_us,
                kept_bytes=step.kept_bytes,
                latency=latencies.get(name),
                is_done=step.done,
                committed_us=committed_us.get(name),
                degraded=step.degraded,
                is_degraded=self.metrics.degraded.get(name),
                diverted=dict(step.diverted),
                requests_under_way=in_flight[name].under_way if name in in_flight else None,
                requests_max=in_flight[name].limit if name in in_flight else None,
                shares=step.shares,
                last_row_at=self._last_row_at(name, (step.rows_in or 0) + (step.rows_out or 0)),
            )
            for name, step in self.metrics.processed.items()
        }

    def _last_row_at(self, step: str, rows: int) -> float | None:
        """When a look at the run last found more rows of the step."""
        before, at = self._last_rows.get(step, (0, 0.0))
        if rows > before:
            at = time.time()
            self._last_rows[step] = (rows, at)
        return at or None

    def _judge_shares(self, final: bool) -> None:
        """Raise DataError (E0531) for a rule that fails the run, before its rows are committed."""
        view = self.view()
        for name, metric in self.metrics.steps.items():  # without what was done again
            view.steps[name].shares, view.steps[name].rows_in = metric.shares, metric.rows_in
        view.status = "finished" if final else view.status
        failing = self.alerts.failing(view, is_final=final)
        if failing is not None:
            step, _, rule = failing.rule.name.partition(".")
            what = "too many rows" if failing.rule.condition.measure.whole else "its rows"
            raise DataError(
                f"step '{step}': {what} break the rule '{rule}': {failing.message}",
                code="E0531",
                step=step,
                notes=["the rows since the last checkpoint are not kept"],
                help="fix the data, raise 'allowed' of the rule, or set its on_fail to warn"
                + (_ACCEPT if failing.rule.condition.is_usual else ""),
            )
