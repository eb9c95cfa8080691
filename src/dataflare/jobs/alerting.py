"""The alerts of a run: looked at each second, shown, kept for the next run, and told to the notifiers.

A notifier never harms the run: it is called beside it, again and again while it fails, and a warning at the end says
what was not told. Events of one notifier go out in their order.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from dataflare.checkpoint.files import write_whole
from dataflare.errors import DataFlareError, SystemError_, from_here
from dataflare.jobs.living_runs import look_every_s
from dataflare.jobs.usual_history import keep_history, kept_history, learn_from_runs
from dataflare.observability.alerts import Alerts, Event, Fired
from dataflare.observability.notifiers import Notice, Notifier, check_allowed
from dataflare.observability.tries import Try
from dataflare.observability.usual import History, Seen, key_of
from dataflare.resilience.policy import RetryPolicy
from dataflare.resilience.retry import Retried, Retrying
from dataflare.sdk.threads import completed, in_thread
from dataflare.workflow.alerts import unheard

if TYPE_CHECKING:
    from dataflare.jobs.watching import Watch

FILE = "alerts.json"
_LOOK_S = 1.0
_CLOSING_S = 5.0
"""How long a run that has ended waits for its notifiers."""
_CANCELLED_S = 1.0
_WAITING_MAX = 1_000
_POLICY = RetryPolicy.model_construct(max_attempts=10**9)
"""While the run lives: a notifier may be away for hours."""


@contextlib.asynccontextmanager
async def alerting(watch: Watch, folder: Path) -> AsyncIterator[None]:
    """Watch the alerts of a run until the end of the `with`. folder: of the workflow; its lock is held."""
    closing_s = _CLOSING_S
    alerts = _Alerting(watch, folder)
    await alerts.begin()
    looking = asyncio.ensure_future(alerts.looks())
    try:
        yield
    except asyncio.CancelledError:
        closing_s = _CANCELLED_S
        raise
    finally:
        looking.cancel()
        await completed(asyncio.gather(looking, return_exceptions=True))
        await completed(alerts.end(closing_s))


class _Alerting:
    def __init__(self, watch: Watch, folder: Path) -> None:
        self._watch, self._path = watch, folder / FILE
        self._tellers: dict[str, _Teller] = {}
        self._kept: list[Fired] = []
        self._forgotten: dict[str, list[Seen]] = {}

    async def begin(self) -> None:
        watch, workflow = self._watch, self._watch.workflow
        for name, notifier in workflow.notifiers.items():
            check_allowed(notifier, name, python=watch.may_run_code)
        try:
            before = await in_thread(_read, self._path)
        except (OSError, ValueError) as error:
            watch.warn([f"what alerts fired in the run before cannot be read: {error}"])
            before = []
        self._kept = [replace(fired, told=[*fired.told]) for fired in before]
        history = await self._history()
        watch.alerts = Alerts(workflow.alerts, before, history)
        for name, notifier in workflow.notifiers.items():
            self._tellers[name] = _Teller(name, notifier, watch)
        watch.warn(text for text in (unheard(workflow),) if text)
        endless = watch.plan is not None and not watch.plan.stages.bounded
        watch.warn(
            f"alert '{rule.name}' is judged when a run has finished, and this one has no end: add 'in 10m' to '{rule.condition.text}'"
            for rule in workflow.alerts
            if endless and rule.condition.is_of_whole_run
        )
        for rule in workflow.alerts:  # what a killed run could not tell any more
            fired = watch.alerts.fired_of(rule)
            if fired is not None and set(rule.notify) - {*fired.told}:
                event = Event("firing", rule, fired.message, fired.step, fired.value, fired.since, fired.since)  # fmt: skip
                self._tell(event, fired)

    async def _history(self) -> History:
        """What the runs before saw, for rules that compare with what is usual."""
        workflow, folder = self._watch.workflow, self._path.parent
        if not any(rule.condition.is_usual for rule in workflow.alerts):
            return History()
        try:
            history = await in_thread(kept_history, folder)
        except (OSError, ValueError) as error:
            self._watch.warn([f"what is usual cannot be read, and is learnt again: {error}"])
            history = History()
        try:
            await in_thread(learn_from_runs, history, folder, workflow)
        except OSError as error:
            self._watch.warn([f"what is usual cannot be learnt from the runs before: {error}"])
        if self._watch.accepts_usual:
            rules = [rule for rule in workflow.alerts if rule.fails]
            self._forgotten = history.forget([key_of(r.condition, r.step or "") for r in rules])
        return history

    async def looks(self) -> None:
        while True:
            if self._is_worth_a_look():
                try:
                    view = self._watch.view()
                    if self._watch.degrading is not None:
                        self._watch.degrading.look(view)
                    if self._watch.autoscaling is not None:
                        self._watch.autoscaling.look(view)
                    await self._changed(self._watch.alerts.look(view))
                except Exception as error:  # a run goes on, whatever its alerts do
                    self._watch.warn([f"alerts cannot be judged: {type(error).__name__}: {error}"])
            await asyncio.sleep(look_every_s(_LOOK_S))

    def _is_worth_a_look(self) -> bool:
        """Thousands of runs may live in a process. One that follows no log has nothing to look at for the alert that
        every run has."""
        watch = self._watch
        judged = watch.degrading is not None or watch.autoscaling is not None
        return judged or len(watch.alerts.rules) > 1 or watch.metrics.follows_logs

    async def end(self, closing_s: float) -> None:
        watch = self._watch
        await self._changed(watch.alerts.end(watch.view()))
        if watch.status != "finished":
            watch.alerts.history.take_back(self._forgotten)
        tellers = [*self._tellers.values()]
        await asyncio.gather(*(teller.end(closing_s) for teller in tellers))
        await self._keep()
        watch.warnings.extend(watch.alerts.closing())
        watch.warn(warning for teller in tellers if (warning := teller.warning()))

    async def _changed(self, events: list[Event]) -> None:
        for event in events:
            self._watch.alerted(event)
            self._tell(event, self._watch.alerts.fired_of(event.rule))
        await self._keep()

    def _tell(self, event: Event, fired: Fired | None) -> None:
        for name in event.rule.notify:
            teller = self._tellers.get(name)
            if teller is not None and not (fired is not None and name in fired.told):
                teller.add(event, fired)

    async def _keep(self) -> None:
        """Remember what was seen, what fires, and who knows it: a run that is killed here tells it again at most once."""
        history = self._watch.alerts.history
        if history.is_new:
            await self._kept_whole("what is usual", in_thread(keep_history, self._path.parent, history.kept()))  # fmt: skip
        firing = self._watch.alerts.firing()
        now = [(fired.name, *fired.told) for fired in firing]
        if now == [(fired.name, *fired.told) for fired in self._kept]:
            return
        self._kept = [replace(fired, told=[*fired.told]) for fired in firing]
        await self._kept_whole("alerts that fire", in_thread(write_whole, self._path, msgspec.json.encode(firing)))  # fmt: skip

    async def _kept_whole(self, what: str, writing: Awaitable[None]) -> None:
        try:
            await writing
        except OSError as error:
            self._watch.warn([f"{what} cannot be remembered: {error.strerror or error}"])


class _Teller:
    """Tells one notifier. Nothing is told twice while the process lives."""

    def __init__(self, name: str, notifier: Notifier, watch: Watch) -> None:
        self._name, self._notifier, self._watch = name, notifier, watch
        self._queue: asyncio.Queue[tuple[Event, Fired | None]] = asyncio.Queue()
        self._untold, self._last = 0, ""
        self._task: asyncio.Task[None] | None = None
        self._try: Try | None = None

    def add(self, event: Event, fired: Fired | None) -> None:
        if self._queue.qsize() >= _WAITING_MAX:
            self._untold += 1
            return
        self._queue.put_nowait((event, fired))
        if self._task is None:
            self._task = asyncio.ensure_future(self._work())

    async def end(self, closing_s: float) -> None:
        """Let it tell what is left, as far as there is time."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(closing_s):
                await self._queue.join()
        self._task.cancel()
        if self._try is not None:
            self._try.give_up()
        await asyncio.gather(self._task, return_exceptions=True)
        self._untold += self._queue.qsize()

    def warning(self) -> str | None:
        if not self._untold:
            return None
        alerts = "1 alert was" if self._untold == 1 else f"{self._untold:,} alerts were"
        return f"notifier '{self._name}': {alerts} not told{': ' if self._last else ''}{self._last}"

    async def _work(self) -> None:
        while True:
            event, fired = await self._queue.get()
            self._untold += 1
            try:
                await self._told(event)
                self._untold -= 1
                if fired is not None:
                    fired.told.append(self._name)
            except DataFlareError as error:
                self._failed(error, "given up")
            finally:
                self._queue.task_done()

    async def _told(self, event: Event) -> None:
        watch = self._watch
        notice = Notice(
            replace(event, message=watch.redacted(event.message)),
            watch.workflow.name,
            watch.run_id,
            socket.gethostname(),
        )

        async def attempt() -> None:
            try:
                limit = self._try = Try(self._notifier.timeout)
                await in_thread(self._notifier.send, notice, watch.workflow.base.absolute(), limit)
            except DataFlareError:
                raise
            except Exception as error:  # a run goes on, whatever a notifier does
                message = f"{type(error).__name__}: {error}"
                raise SystemError_(message, code="E0600", help="look at its options") from error

        await Retrying(self._name, _POLICY, on_retry=self._again).call(attempt)
        watch.log.log("info", "alerts", f"notifier '{self._name}' was told: {notice.title}")

    def _again(self, retried: Retried) -> None:
        self._failed(retried.error, f"trying again in {retried.wait_s:.3g} s")

    def _failed(self, error: DataFlareError, then: str) -> None:
        self._last = self._watch.redacted(from_here(error.message))
        text = f"notifier '{self._name}': {self._last}; {then}"
        self._watch.log.log("warning", "alerts", text, code=error.code)


def _read(path: Path) -> list[Fired]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Fired])
    except FileNotFoundError:
        return []
