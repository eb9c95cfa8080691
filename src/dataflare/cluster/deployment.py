"""The tasks of one attempt in a worker's process, and what they say to their job.

Always true: whatever ends the attempt, no task of it runs on when `run` has returned; it ends when the job says so, or when
the link to it is lost.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from ssl import SSLContext
from typing import Any, TypeVar

from dataflare.checkpoint.shared_store import SharedStore
from dataflare.cluster.channels import Entry, RemoteChannel
from dataflare.cluster.link import Link, LinkLost
from dataflare.cluster.looks import WorkerLooks
from dataflare.cluster.meeting import answer_mark, refuse_other_versions, unreached
from dataflare.cluster.orders import (
    Answer,
    Ask,
    Begin,
    Built,
    Closed,
    Cut,
    Ended,
    Failed,
    Finish,
    Go,
    Leave,
    Look,
    LookEnd,
    Meet,
    Met,
    NoteHolding,
    Report,
    Shared,
    Thin,
    Told,
    ToTask,
    Trip,
    Want,
    Warm,
    Warmed,
    packed,
    sendable,
    unpacked,
)
from dataflare.cluster.reports import Reports
from dataflare.cluster.tls import Tls, client_context
from dataflare.engine.channel import Channel
from dataflare.engine.deploy import Worker
from dataflare.engine.hosting import Hosted
from dataflare.engine.messages import Assign, Committed, Fail, Found, Opened, Share, Wait
from dataflare.engine.metrics import JobMetrics
from dataflare.engine.pace import Pace
from dataflare.engine.pool import SPARE_THREADS, ThreadPool
from dataflare.engine.sampling import Sampling
from dataflare.engine.task import Task
from dataflare.errors import ConfigError, DataFlareError
from dataflare.model.width import columns_bounded
from dataflare.resilience.retry import Retries
from dataflare.sdk.in_flight import InFlight
from dataflare.sdk.runtime import Runtime
from dataflare.sdk.threads import completed, in_thread, own_threads
from dataflare.security.hidden import HiddenValues
from dataflare.security.redact import Redactor

_JOINED_S = 6.0
"""So long a link to another worker may take. Both are there, and a loop that stands still for 2.5 s is a lost worker."""
T = TypeVar("T")

Joined = Callable[[str, int], Awaitable[Link]]
"""The link that another worker of an attempt makes to this one."""


class Deployment:
    """token: of the job's links. joined: see `Joined`. runtime: of the run; None: it gets one of its own. tls: of the links."""

    def __init__(
        self,
        control: Link,
        token: bytes,
        joined: Joined,
        runtime: Runtime | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._control, self._token, self._joined = control, token, joined
        self._runtime, self._tls = runtime, tls
        loop = asyncio.get_running_loop()
        self._meet: asyncio.Future[Meet] = loop.create_future()
        self._begin: asyncio.Future[Begin] = loop.create_future()
        self._go, self._finish = asyncio.Event(), asyncio.Event()
        self._tasks: dict[str, Task] = {}
        self._worker: Worker | None = None
        self._store: SharedStore | None = None
        self._reports: Reports | None = None
        self._warming: asyncio.Future[None] | None = None
        self._looks: WorkerLooks | None = None
        self._retries: Retries | None = None
        self._links: dict[int, Link] = {}
        self._asked: dict[int, asyncio.Future[Assign | Wait | None]] = {}
        self._numbers = count()
        self._sampling = Sampling()
        self._paces: dict[str, tuple[Pace, float]] = {}

    async def run(self) -> None:
        """Take part in an attempt, until it is over."""
        self._control.on_message = self._heard
        self._control.lost.add_done_callback(lambda lost: self._finish.set())
        try:
            meet = await self._first(self._meet)
            if meet is not None:
                await self._meet_others(meet)
            begin = await self._first(self._begin)
            if begin is not None:
                await self._inside(begin)
        except Exception as error:
            # The job is told why, and not only that a worker is gone.
            self._say(Ended(sendable(error)))
            await self._finish.wait()
        finally:
            for link in self._links.values():
                await completed(link.aclose())
        if not self._control.lost.done():
            self._say(Closed())
            await self._control.aclose()

    async def _meet_others(self, meet: Meet) -> None:
        """Make sure of what `meeting` says, and tell the job."""
        other = None
        try:
            refuse_other_versions(meet.versions, meet.worker)
            mark = meet.place, meet.mark, meet.name, meet.me, meet.worker
            await in_thread(answer_mark, *mark)
            tls = await client_context(self._tls)
            for other in meet.joins:
                self._links[other] = await self._link_to(meet, other, tls)
        except DataFlareError as error:
            self._say(Met(error, other))
        else:
            self._say(Met())

    def _accused(self) -> int | None:
        """The worker whose link was lost, if there is one."""
        lost = (n for n, link in self._links.items() if link.lost.done() and link.lost.exception())
        return next(lost, None)

    async def _inside(self, begin: Begin) -> None:
        """Take part inside of the run's context."""
        if self._runtime is not None:
            inside = self._runtime.joined()
        else:
            hidden = HiddenValues()
            hidden.columns = begin.errors.hidden
            masks = Redactor(begin.outfit.secrets, hidden)
            inside = Runtime(masks=masks, hidden=hidden, in_flight=InFlight()).entered()
        bounded = columns_bounded(begin.settings.resources.columns)
        with inside, bounded, tempfile.TemporaryDirectory(prefix="dataflare-worker-") as scratch:
            async with own_threads():
                await self._take_part(begin, Path(scratch))

    async def _first(self, order: asyncio.Future[T]) -> T | None:
        """An order of the job, or None when the attempt is over before it comes."""
        finished = asyncio.ensure_future(self._finish.wait())
        waiting: set[asyncio.Future[Any]] = {order, finished}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finished.cancel()
        return order.result() if order.done() else None

    async def _take_part(self, begin: Begin, scratch: Path) -> None:
        pool = ThreadPool(begin.settings.resources.threads + SPARE_THREADS)
        living: asyncio.Future[None] = asyncio.ensure_future(self._live(begin, pool, scratch))
        finished = asyncio.ensure_future(self._finish.wait())
        waiting: set[asyncio.Future[Any]] = {living, finished}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if living.done():
                error = living.exception()
                failed = sendable(error) if error is not None else None
                self._say(Ended(failed, self._accused()))
            await finished
        finally:
            finished.cancel()
            living.cancel()
            ending = [living, *([self._warming] if self._warming is not None else [])]
            ending[-1].cancel()
            await completed(asyncio.gather(*ending, return_exceptions=True))
            if self._worker is not None:
                await completed(self._worker.aclose())
            await completed(in_thread(pool.close, wait=True))

    async def _live(self, begin: Begin, pool: ThreadPool, scratch: Path) -> None:
        """Make the tasks, and let them run to their end."""
        here = {task for task, worker in begin.placed.items() if worker == begin.me}
        for link in self._links.values():
            link.pool = pool
        metrics = JobMetrics(dict(begin.kinds))
        metrics.errors_max = dict(begin.errors_max)
        folder = None if self._runtime is not None else scratch / "checkpoints"
        self._store = await in_thread(begin.outfit.store, folder)
        if folder is not None:
            await in_thread(self._store.take_over, begin.handed_over)
        self._paces = _paces(begin)
        self._retries = retries = begin.outfit.retries(
            lambda what, arguments: self._say(Told(what, arguments))
        )
        hosted = Hosted(
            begin.plan,
            begin.settings,
            begin.identity,
            begin.errors,
            retries,
            scratch,
            self._store,
            pool,
            metrics,
            self,
            {step: pace for step, (pace, _) in self._paces.items()},
            self._sampling,
        )
        ways = _Ways(begin.placed, self._links)
        self._worker = Worker(hosted, here, ways)
        await self._worker.deploy(begin.specs)
        self._tasks = {task.id: task for task in self._worker.tasks}
        ways.open()
        self._looks = WorkerLooks(self._worker.taps, self._say)
        self._say(Built())
        await self._go.wait()
        lives = [asyncio.ensure_future(life) for life in self._worker.lives()]
        lost = [link.lost for link in self._links.values()]
        paces, workers = self._paces, len(set(begin.placed.values()))
        told = self._worker, metrics, paces, self._links, retries.held_back, workers
        self._reports = reports = Reports(*told)
        reporting = asyncio.ensure_future(self._report(reports))
        try:
            await _all_or_first_error(lives, [*lost, reporting])
            self._say_report(reports.changed())
        finally:
            for each in (*lives, reporting):
                each.cancel()
            self._looks.close()
            await completed(asyncio.gather(*lives, reporting, return_exceptions=True))

    async def _link_to(self, meet: Meet, other: int, tls: SSLContext | None) -> Link:
        """The one connection to another worker. The one with the higher number makes it."""
        address = meet.peers[other]
        try:
            async with asyncio.timeout(_JOINED_S):
                if meet.me > other:
                    me = f"data {meet.name} {meet.me}"
                    return await Link.connect(address, self._token, me, tls=tls)
                return await self._joined(meet.name, other)
        except TimeoutError:
            raise unreached(meet.worker, address, f"no link within {_JOINED_S:g} s") from None
        except LinkLost as error:
            raise unreached(meet.worker, address, error.why) from error

    # -- from the job ------------------------------------------------------------------------------

    def _heard(self, message: bytes) -> None:
        try:
            order = unpacked(message)
        except Exception as error:
            awaited = self._begin if self._meet.done() else self._meet
            awaited.set_exception(_unread(error))
            return
        match order:
            case Meet():
                self._meet.set_result(order)
            case Begin():
                self._begin.set_result(order)
            case Go():
                self._go.set()
            case Cut():
                for task in self._tasks.values():
                    task.checkpoint(order.asked)
            case ToTask():
                _tell(self._tasks[order.task], order.word)
            case Answer():
                asked = self._asked.pop(order.number)
                if not asked.done() and order.failed is not None:
                    asked.set_exception(order.failed)
                elif not asked.done():
                    asked.set_result(order.assigned)
            case Warm():
                self._warming = asyncio.ensure_future(self._warm(order, self._warming))
            case Thin():
                self._sampling.set(order.share)
            case Leave():
                if self._worker is not None:
                    self._worker.leave()
            case Look():
                if self._looks is not None:
                    self._looks.begin(order)
            case LookEnd():
                if self._looks is not None:
                    self._looks.end(order.number)
            case Trip():
                if self._retries is not None:
                    self._retries.trip(order.step)
            case NoteHolding():
                if self._worker is not None:
                    self._worker.note_holding()
            case Finish():
                self._finish.set()

    async def _warm(self, order: Warm, before: asyncio.Future[None] | None) -> None:
        """Have the chunks of an order on this machine, after those of the order before. One that cannot be read is left out."""
        if before is not None:
            await before
        assert self._store is not None
        there = []
        for chunk in order.chunks:
            try:
                await in_thread(self._store.warm, chunk)
            except DataFlareError:  # who resumes from it is told
                continue
            there.append(chunk)
        self._say(Warmed(there))

    # -- to the job: `Control` ---------------------------------------------------------------------

    def share(self, share: Share) -> None:
        metrics = self._tasks[share.task].metrics
        cut = None if share.epoch is None else metrics.cuts[share.epoch]
        assert self._store is not None
        store = self._store
        self._say(Shared(share, cut, metrics.counts, store.take_released(), store.take_redo()))

    def fail(self, failure: Fail) -> None:
        if failure.error is not None:
            failure = Fail(failure.task, sendable(failure.error))
        self._say(Failed(failure))

    async def assign(self, source: str, task: str) -> Assign | Wait | None:
        number = next(self._numbers)
        asked: asyncio.Future[Assign | Wait | None] = asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        self._say(Ask(number, source, task))
        return await asked

    def want_checkpoint(self) -> None:
        self._say(Want())

    def want_commit(self, task: str) -> None:
        self._say(Want(task))

    def _say(self, order: Any) -> None:
        if not self._control.lost.done():
            self._control.send_message(packed(order))

    # -- reports -----------------------------------------------------------------------------------

    async def _report(self, reports: Reports) -> None:
        while True:
            await asyncio.sleep(reports.next_s)
            self._say_report(reports.changed())

    def _say_report(self, report: Report) -> None:
        message = packed(report)
        assert self._reports is not None
        self._reports.sent(len(message))
        if not self._control.lost.done():
            self._control.send_message(message)


def _tell(task: Task, word: Opened | Found | Committed) -> None:
    """Pass a word of the coordinator on."""
    match word:
        case Opened():
            task.opened(word)
        case Found():
            task.found(word)
        case Committed():
            task.committed(word)


class _Ways:
    """The ways to the tasks of other workers. It is `engine.deploy.Elsewhere`."""

    def __init__(self, placed: Mapping[str, int], links: Mapping[int, Link]) -> None:
        self._placed, self._links = placed, links
        self._feeding: list[tuple[int, str, Channel]] = []

    def writable(self, number: int, task: str) -> RemoteChannel:
        return RemoteChannel(self._links[self._placed[task]], number)

    def feed(self, number: int, sender: str, channel: Channel) -> None:
        self._feeding.append((number, sender, channel))

    def open(self) -> None:
        """Let rows come in: every task is there."""
        for number, sender, channel in self._feeding:
            Entry(self._links[self._placed[sender]], number, channel)


def _unread(error: Exception) -> ConfigError:
    return ConfigError(
        f"a worker cannot read what its job says: {type(error).__name__}: {error}",
        code="E0436",
        help="install the packages and modules of the workflow on every node of the cluster",
    )


def _paces(begin: Begin) -> dict[str, tuple[Pace, float]]:
    """How fast the steps may go here, with the share of their rates: as much as of their tasks is here."""
    paces = {}
    for step, rates in begin.rates.items():
        tasks = [begin.placed[spec.task] for spec in begin.specs if spec.stage.name == step]
        share = tasks.count(begin.me) / len(tasks) if tasks else 0.0
        if share:
            rows_per_s, bytes_per_s = (None if each is None else each * share for each in rates)
            paces[step] = Pace(rows_per_s, bytes_per_s), share
    return paces


async def _all_or_first_error(
    lives: Iterable[asyncio.Future[None]], others: Iterable[asyncio.Future[None]]
) -> None:
    """Wait until all lives have ended. Raises the first error, also one of the others."""
    left: set[asyncio.Future[None]] = set(lives)
    waiting = left.union(others)
    while left:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            future.result()
        left -= done
