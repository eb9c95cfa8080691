"""The workers of an attempt, seen from its job. A crew is an `engine.hosting.Host`.

Always true: the coordinator is told of a task only what its worker said over one link, in the order in which it was said; a
worker that is lost ends the attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from ssl import SSLContext
from typing import Any

from msgspec.structs import replace

from dataflare.checkpoint.kept_chunks import KeptChunks, others
from dataflare.checkpoint.shared_store import SharedStore
from dataflare.checkpoint.store import chunk_attempt
from dataflare.cluster.link import Link, LinkLost
from dataflare.cluster.looks import CrewTaps
from dataflare.cluster.meeting import leave_mark, take_marks, versions
from dataflare.cluster.orders import (
    Address,
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
    Looked,
    Meet,
    Met,
    NoteHolding,
    Outfit,
    Report,
    Shared,
    Tell,
    Thin,
    Told,
    ToTask,
    Trip,
    Want,
    Warm,
    Warmed,
    packed,
    refuse_unsendable,
    unpacked,
)
from dataflare.cluster.placement import neighbours, placed
from dataflare.cluster.reports import ToldTasks
from dataflare.cluster.tls import client_context
from dataflare.cluster.worker import WorkerServer
from dataflare.cluster.workers import Workers
from dataflare.engine.hosting import Hosted, TaskView
from dataflare.engine.messages import Checkpoint, Committed, Deploy, Found, Opened
from dataflare.errors import ConfigError, DataFlareError, InternalError
from dataflare.sdk.runtime import current
from dataflare.sdk.threads import completed, in_thread
from dataflare.state.pieces import is_of, owned_groups

_CLOSE_S = 5.0


class Crew:
    """outfit: what each worker makes for itself. tell: told of notices for the run's user. kept: which machines have which state."""

    def __init__(
        self,
        hosted: Hosted,
        workers: Workers,
        outfit: Outfit,
        tell: Tell,
        kept: KeptChunks,
    ) -> None:
        self._kept, self._hosts = kept, list[str]()
        self._by_number: dict[int, _Hand] = {}
        self._sent: dict[int, set[str]] = {}
        self._hosted, self._workers, self._outfit, self._tell = hosted, workers, outfit, tell
        self._hands: list[_Hand] = []
        self._own: WorkerServer | None = None
        self._count = 0
        self._given_up: set[int] = set()
        self.taps = CrewTaps(self._say_all)
        hosted.retries.on_opened = self._trip

    async def deploy(self, specs: Sequence[Deploy]) -> Sequence[_Member]:
        hosted, tls = self._hosted, self._workers.tls
        context = await client_context(tls)
        peers = [*await self._workers.ready()]
        self._count = len(peers)
        self._hosts = [host for host, _ in peers]
        where = placed(specs, len(peers), self._preferred(specs))
        if len(peers) in where.values():
            self._own = WorkerServer(self._workers.token, "the job's process", current(), tls)
            peers.append(await self._own.start(self._workers.host))
        name = f"{hosted.identity.run_id}/{hosted.identity.attempt}/{hosted.identity.token}"
        used = sorted(set(where.values()))
        by_number, names = self._by_number, dict[int, str]()
        for number in used:
            link = await self._link(number, peers[number], name, context)
            names[number] = link.peer
            told = ToldTasks(link.peer, hosted.metrics, hosted.paces, names)
            lost, accused = partial(self._lost, number), partial(self._accused, number)
            stored = partial(self._stored, number)
            calls = self._tell, lost, accused, stored, self.taps.looked
            by_number[number] = _Hand(link, hosted, told, *calls)
            self._hands.append(by_number[number])
        await self._meet(by_number, peers, name, neighbours(specs, where))
        assert isinstance(hosted.store, SharedStore)
        handed_over = await in_thread(hosted.store.handed_over)
        members = [_Member(spec, by_number[where[spec.task]]) for spec in specs]
        for number, hand in by_number.items():
            hand.told.add([spec for spec in specs if where[spec.task] == number])
            begin = Begin(
                hosted.plan,
                hosted.settings,
                hosted.identity,
                hosted.errors,
                self._outfit,
                tuple(spec if where[spec.task] == number else _bare(spec) for spec in specs),
                where,
                number,
                hosted.metrics.kinds,
                hosted.metrics.errors_max,
                {n: (pace.rows_per_s, pace.bytes_per_s) for n, pace in hosted.paces.items()},
                handed_over,
            )
            try:
                hand.say(begin)
            except InternalError:
                refuse_unsendable(begin)
                raise
        if hosted.sampling.share is not None:
            self._thin(hosted.sampling.share)
        hosted.sampling.on_change = self._thin
        await _all_or_first_error([hand.built for hand in self._hands])
        self.taps.open()
        return members

    def _preferred(self, specs: Sequence[Deploy]) -> dict[str, frozenset[int]]:
        """By task with state, the workers whose machines have all of it."""
        found = {}
        for spec in specs:
            groups = owned_groups(spec.subtask, spec.stage.parallelism)
            chunks = [c for share in spec.state for c in share.chunks if is_of(c, groups)]
            found[spec.task] = self._kept.has_all(self._hosts, chunks)
        return found

    def _stored(self, number: int, order: Shared | Warmed) -> None:
        """A worker's machine has chunks: those of a task that it runs, which others get copies of, or copies."""
        if number >= len(self._hosts):
            return  # beside the job there is no cache
        host = self._hosts[number]
        if isinstance(order, Warmed):
            self._kept.put(host, order.chunks)
            return
        state = order.share.state
        if state is None:
            return
        self._kept.name(order.share.task, state.chunks)
        attempt, copies = self._hosted.identity.attempt, self._hosted.settings.state.standby
        # What earlier attempts wrote may not have been read here.
        self._kept.put(host, [c for c in state.chunks if chunk_attempt(c.name) == attempt])
        hands = self._by_number
        for other in (number, *others(number, self._hosts, copies, hands)) if copies else ():
            sent = self._sent.setdefault(other, set())
            missing = self._kept.missing(self._hosts[other], state.chunks)
            chunks = [chunk for chunk in missing if chunk.name not in sent]
            if chunks:
                sent.update(chunk.name for chunk in chunks)
                hands[other].say(Warm(chunks))

    async def _meet(
        self,
        hands: Mapping[int, _Hand],
        peers: Sequence[Address],
        name: str,
        joins: Mapping[int, Collection[int]],
    ) -> None:
        """Make sure of what `meeting` says."""
        store = self._hosted.store
        assert isinstance(store, SharedStore)
        mark = await in_thread(leave_mark, store.place, name)
        workers = {number: hand.name for number, hand in hands.items()}
        try:
            for number, hand in hands.items():
                others = tuple(sorted(joins[number]))
                facts = versions(), store.place, mark
                hand.say(Meet(name, number, hand.name, tuple(peers), others, *facts))
            await _all_or_first_error([hand.met for hand in hands.values()])
        except BaseException:
            with contextlib.suppress(DataFlareError):
                await completed(in_thread(take_marks, store.place, mark, workers))
            raise
        await in_thread(take_marks, store.place, mark, workers)

    async def _link(
        self, number: int, address: Address, name: str, context: SSLContext | None
    ) -> Link:
        try:
            return await Link.connect(address, self._workers.token, f"job {name}", tls=context)
        except (LinkLost, ConfigError):
            # One with a certificate that has expired since is replaced: another process reads the file again.
            self._lost(number)
            raise

    def _lost(self, number: int) -> None:
        if number < self._count and number not in self._given_up:
            self._given_up.add(number)
            self._workers.lost(number)

    def _accused(self, by: int, number: int) -> None:
        """Two workers have lost each other, and the job may reach both: one of them is replaced."""
        if by not in self._given_up:
            self._lost(number if number < self._count else by)

    def lives(self) -> Sequence[Awaitable[None]]:
        for hand in self._hands:
            hand.say(Go())
        return [hand.ended for hand in self._hands]

    def views(self) -> Sequence[TaskView]:
        return [view for hand in self._hands for view in hand.told.views.values()]

    def queued_rows(self) -> int:
        return sum(view.queued_rows for view in self.views())

    def _thin(self, share: float | None) -> None:
        self._say_all(Thin(share))

    def _trip(self, step: str) -> None:
        """A breaker has opened here or in a worker: the system fails for all."""
        self._hosted.retries.trip(step)
        self._say_all(Trip(step))

    def leave(self) -> None:
        self._say_all(Leave())

    def note_holding(self) -> None:
        self._say_all(NoteHolding())

    def _say_all(self, order: Any) -> None:
        for hand in self._hands:
            hand.say(order)

    async def aclose(self) -> None:
        await asyncio.gather(*(hand.aclose() for hand in self._hands))
        if self._own is not None:
            await self._own.aclose()


class _Member:
    """A task in another process, as the coordinator sees it."""

    def __init__(self, spec: Deploy, hand: _Hand) -> None:
        self.spec, self._hand = spec, hand

    def checkpoint(self, asked: Checkpoint) -> None:
        self._hand.cut(asked)

    def opened(self, opened: Opened) -> None:
        self._hand.say(ToTask(self.spec.task, opened))

    def found(self, found: Found) -> None:
        self._hand.say(ToTask(self.spec.task, found))

    def committed(self, committed: Committed) -> None:
        self._hand.say(ToTask(self.spec.task, committed))

    def uncut(self) -> str | None:
        return self._hand.told.uncut.get(self.spec.task)

    @property
    def has_news(self) -> bool:
        """It is not asked, so it may have."""
        return True


class _Hand:
    """One worker of the crew. lost: called when it is gone, or does not answer; accused: with another worker that it cannot
    reach; stored: when its machine has state; looked: with rows for a look. met: it is ready for tasks; built: its tasks are there; ended: they have ended, or failed."""

    def __init__(
        self,
        link: Link,
        hosted: Hosted,
        told: ToldTasks,
        tell: Tell,
        lost: Callable[[], None],
        accused: Callable[[int], None],
        stored: Callable[[Shared | Warmed], None],
        looked: Callable[[Looked], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._on_lost, self._on_accused, self._on_stored = lost, accused, stored
        self._on_looked = looked
        self._link, self._control, self._tell, self.told = link, hosted.control, tell, told
        assert isinstance(hosted.store, SharedStore)
        self._store = hosted.store
        self._asked: Checkpoint | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self.name = link.peer
        self.met: asyncio.Future[None] = loop.create_future()
        self.built: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        link.lost.add_done_callback(self._lost)
        link.on_message = self._heard

    def say(self, order: Any) -> None:
        """Tell the worker, if it is still there: who waits for its answer is told of the loss."""
        if not self._link.lost.done():
            self._link.send_message(packed(order))

    def cut(self, asked: Checkpoint) -> None:
        """Ask all tasks of the worker for a cut, at once."""
        if self._asked is not asked:
            self._asked = asked
            self.say(Cut(asked))

    async def aclose(self) -> None:
        self.say(Finish())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.wait([self.closed])
        for answering in self._answering:
            answering.cancel()
        await self._link.aclose()

    # -- what the worker says ----------------------------------------------------------------------

    def _heard(self, message: bytes) -> None:
        order = unpacked(message)
        match order:
            case Met():
                if order.failed is None:
                    _done(self.met)
                else:
                    self._accuse(order.accused)
                    _fail(self.met, order.failed)
            case Built():
                _done(self.built)
            case Shared():
                self._shared(order)
            case Failed():
                self._control.fail(order.failure)
            case Ask():
                answering = asyncio.ensure_future(self._answer(order))
                self._answering.add(answering)
                answering.add_done_callback(self._answering.discard)
            case Want():
                if order.awaiting is not None:
                    self._control.want_commit(order.awaiting)
                else:
                    self._control.want_checkpoint()
            case Report():
                self.told.tell(order)
            case Warmed():
                self._on_stored(order)
            case Looked():
                self._on_looked(order)
            case Told():
                self._tell(order.what, order.arguments)
            case Ended():
                self._accuse(order.accused)
                for future in (self.met, self.built, self.ended):
                    if order.failed is None:
                        _done(future)
                    else:
                        _fail(future, order.failed)
            case Closed():
                _done(self.closed)

    def _accuse(self, other: int | None) -> None:
        if other is not None:
            self._on_accused(other)

    def _shared(self, order: Shared) -> None:
        metrics = self.told.metrics[order.share.task]
        metrics.counts = dict(order.counts)
        if order.share.epoch is not None and order.cut is not None:
            metrics.cuts = {order.share.epoch: dict(order.cut)}
        self._store.settle(order.released, order.redo)
        self._on_stored(order)
        self._control.share(order.share)

    async def _answer(self, order: Ask) -> None:
        try:
            assigned = await self._control.assign(order.source, order.task)
        except DataFlareError as error:
            self.say(Answer(order.number, failed=error))
        else:
            self.say(Answer(order.number, assigned))

    def _lost(self, lost: asyncio.Future[None]) -> None:
        self.told.lost()
        error = lost.exception() or InternalError("a worker has left the run before its end")
        if isinstance(error, LinkLost):
            self._on_lost()
        for future in (self.met, self.built, self.ended):
            _fail(future, error)
        _done(self.closed)


def _bare(spec: Deploy) -> Deploy:
    """The task for those that do not run it."""
    return replace(spec, restored=None, state=())


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()


async def _all_or_first_error(futures: Sequence[asyncio.Future[None]]) -> None:
    done, _ = await asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION)
    for future in done:
        future.result()
