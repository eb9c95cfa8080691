"""A task: takes what comes to its stage, passes it on, takes part in epochs, ends once.

There is one kind of task. What differs between a stage that reads, one that remembers and one that
writes is its body (`reading`, `operating`, `writing`).

Always true:
- a task answers each epoch once;
- the rows sent before a barrier are exactly the rows that its share of the epoch counts as sent;
- barriers come through its channels while these live, and from the coordinator afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import polars as pl
from msgspec import Struct

from dataflare.engine.body import Body
from dataflare.engine.channel import Inbox, WritableChannel
from dataflare.engine.exchange import split_by_key
from dataflare.engine.gate import Cut, Ended, Rows, Time
from dataflare.engine.hot_keys import KeySampler
from dataflare.engine.messages import (
    Checkpoint,
    Committed,
    Control,
    Deploy,
    Fail,
    Found,
    Opened,
    Share,
)
from dataflare.engine.metrics import TaskMetrics
from dataflare.engine.pace import PacesBehind
from dataflare.engine.pool import ThreadPool
from dataflare.engine.sampling import Thinner
from dataflare.engine.segments import Outcome
from dataflare.engine.taps import Taps
from dataflare.engine.traced import TaskTrace
from dataflare.errors import InternalError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.event_time import NEVER
from dataflare.model.progress import END, IDLE, Barrier, Idle, Mark, Watermark
from dataflare.observability.times import Doing
from dataflare.sdk.runtime import current
from dataflare.sdk.threads import in_thread

T = TypeVar("T")
_TIMELY_FOR_S = 0.1


class Output(Struct, frozen=True):
    """An edge, seen from one sending task: its channels by receiving subtask."""

    edge: int
    exchange: str
    keys: tuple[str, ...]
    channels: tuple[WritableChannel, ...]


class Task:
    """One parallel copy of a stage."""

    def __init__(
        self,
        spec: Deploy,
        body: Body,
        *,
        outputs: Sequence[Output],
        inbox: Inbox,
        pool: ThreadPool,
        metrics: TaskMetrics,
        control: Control,
        letters: Callable[[Sequence[pl.DataFrame]], pl.DataFrame],
        taps: Taps | None = None,
        paces: PacesBehind | None = None,
        thinner: Thinner | None = None,
    ) -> None:
        self.spec, self.body = spec, body
        self.id, self.name, self.subtask = spec.task, spec.stage.name, spec.subtask
        self.inbox, self.pool, self.metrics, self.control = inbox, pool, metrics, control
        self.unwanted = False
        self._outputs = {output.edge: output for output in outputs}
        self.samplers = {
            o.edge: KeySampler(o.keys) for o in outputs if o.keys and len(o.channels) > 1
        }
        self._letter_edges, self._letters = spec.stage.letters, letters
        self._asked: Checkpoint | None = None
        self._answered_epoch = 0
        self._waits = False
        self._stopped = False
        self._has_ended = False
        self._watermark_us = NEVER
        self._due_us: int | None = None
        self.rows_taken = 0
        self.rows_sent: dict[int, int] = {}
        self._timely: int | None = None
        self._timely_until = 0.0
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._is_tick_due = False
        self._has_news = True  # the first epoch of an attempt is always cut
        self._stood_at: Share | None = None
        self._background: set[asyncio.Future[None]] = set()
        self.clock = metrics.times.clock
        self.read_at_s = 0.0
        self._hidden = current().hidden
        self.trace = TaskTrace.of_run(self.name, "write" if spec.stage.destination else "process")
        self.taps, self.paces, self._thinner = taps, paces or PacesBehind(), thinner
        body.task = self
        inbox.receiver = self
        for output in outputs:
            for channel in output.channels:
                channel.on_cancel = self._look_at_outputs

    async def run(self) -> None:
        """Live until the end of input (a writer: until the final epoch) or an error."""
        body, inbox, gate = self.body, self.inbox, self.inbox.gate
        self.clock.enter(Doing.BUSY)
        body.begin()
        self._start_timer()
        while not gate.ended:
            self.clock.enter(Doing.WAITING)
            event = await inbox.next()
            self.clock.enter(Doing.BUSY)
            if event is not None:
                self._has_news = True
            if self._is_tick_due:
                self._has_news = True
                await body.tick()
                self._start_timer()
            if self._due_us is not None and not isinstance(event, Time):
                self._has_news = True
                await self._pass_time(at_once=isinstance(event, Idle | Ended))
            match event:
                case Rows():
                    self.rows_taken += event.batch.num_rows
                    self.read_at_s = event.batch.read_at_s
                    if self.trace is None:
                        seconds = await body.rows(event.port, event.batch)
                    else:
                        seconds = await self.trace.taken(event.port, event.batch, body.rows)
                    inbox.done(event, seconds)
                case Cut():
                    if event.in_flight:
                        raise InternalError("rows that a barrier overtook cannot be stored yet")
                    await self._cut(event.barrier)
                case Time():
                    self._due_us = event.event_time_us
                    await self._pass_time()
                case Ended():
                    await body.ended(event.port)
                case Idle():
                    self.put_all(IDLE)
        self._stop_timer()
        await body.finish()
        if body.awaits_commit:
            await self._await_commit()
        if self._background:
            await asyncio.gather(*self._background)
        self.put_all(END)
        self._has_ended = True
        self.metrics.step(self.name).ended += 1
        self.control.share(body.last_share())
        while not body.cuts_at_once:
            asked = await self._cut_when_asked()
            if asked is not None and asked.barrier.final:
                break
        self.clock.enter(None)

    async def _cut_when_asked(self) -> Checkpoint | None:
        """Wait until something is told, and cut if that is asked."""
        asked = self._asked
        if asked is not None:
            await self._cut(asked.barrier)
            return asked
        self._wake.clear()
        self.clock.enter(Doing.WAITING)
        await self._wake.wait()
        self.clock.enter(Doing.BUSY)
        return None

    async def _await_commit(self) -> None:
        """Stay until what the body prepared is committed: only then it is known what must be sent."""
        while self.body.awaits_commit:
            self.control.want_commit(self.id)
            await self._cut_when_asked()
        await self.body.settle()

    def takes_at_once(self, batch: SharedDataBatch) -> bool:
        return self.body.takes_at_once(batch)

    @property
    def joins_batches(self) -> bool:
        return self.body.joins_batches

    def timely_rows(self) -> int | None:
        """Looked up a few times a second: each task asks all behind it."""
        now = asyncio.get_running_loop().time()
        if now >= self._timely_until:
            self._timely, self._timely_until = self._timely_now(), now + _TIMELY_FOR_S
        return self._timely

    def _timely_now(self) -> int | None:
        """Of its own rows. So many leave it for each that it takes as have left so far."""
        letters = set(self._letter_edges.values())
        least: float | None = None
        for edge, sent in self.rows_sent.items():
            output = self._outputs[edge]
            asked = [c.timely_rows() for c in output.channels if not c.cancelled]
            known = [rows for rows in asked if rows is not None]
            if known and edge not in letters:
                rows = min(known) * len(output.channels) * max(1, self.rows_taken) / sent
                least = rows if least is None else min(least, rows)
        return None if least is None else max(1, int(least))

    async def hold_back(self) -> None:
        """Let nothing new out until the destinations behind may have it. A barrier does not wait for that."""
        while not self.unwanted and (held_s := self.paces.held_s()) > 0:
            await self.waiting(asyncio.sleep(held_s), doing=Doing.BLOCKED)

    async def take(self, rows: Rows) -> None:
        self._has_news = True
        self.rows_taken += rows.batch.num_rows
        self.read_at_s = rows.batch.read_at_s
        self.clock.enter(Doing.BUSY)
        try:
            if self.trace is None:
                await self.body.rows(rows.port, rows.batch)
            else:
                await self.trace.taken(rows.port, rows.batch, self.body.rows)
        finally:
            self.clock.enter(Doing.WAITING)

    async def aclose(self) -> None:
        """Release what the task holds. Called once, after it has ended or was cancelled."""
        self._stop_timer()
        self.clock.enter(None)
        for future in self._background:
            future.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.body.aclose()

    # -- time --------------------------------------------------------------------------------------

    async def _pass_time(self, *, at_once: bool = False) -> None:
        """Tell the body how far event time has come, once it is ready for that. For the tasks behind this is as if the
        watermark had come later."""
        assert self._due_us is not None
        loop = asyncio.get_running_loop()
        if not at_once and loop.time() < self.body.rests_until:
            if self._rest is None:
                self._rest = loop.call_at(self.body.rests_until, self._on_rested)
            return
        event_time_us, self._due_us = self._due_us, None
        passed_on = await self.body.time(event_time_us)
        self.metrics.step(self.name).watermark_us = event_time_us
        if passed_on > self._watermark_us:
            self._watermark_us = passed_on
            self.put_all(Watermark(passed_on))

    def _on_rested(self) -> None:
        self._rest = None
        self.inbox.wake()

    def _start_timer(self) -> None:
        self._is_tick_due = False
        if self.body.tick_s is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.body.tick_s, self._on_timer)

    def _on_timer(self) -> None:
        self._is_tick_due = True
        self.inbox.wake()

    def _stop_timer(self) -> None:
        for timer in (self._timer, self._rest):
            if timer is not None:
                timer.cancel()

    # -- epochs ------------------------------------------------------------------------------------

    def checkpoint(self, asked: Checkpoint) -> None:
        """The coordinator asks for a cut. Where channels live, the barrier comes through them."""
        if asked.barrier.epoch <= self._answered_epoch:
            return
        self._asked = asked
        self.body.asked()
        if self.is_root and not self._has_ended and self._waits and self.body.cuts_at_once:
            if asked.stops and self.body.last_read_s:
                loop = asyncio.get_running_loop()
                loop.call_later(self.body.last_read_s, self._cut_in_read, asked)
            else:
                self._cut_now(asked.barrier)
        self._wake.set()

    def _cut_in_read(self, asked: Checkpoint) -> None:
        """The last read takes too long: what it still gives is not waited for."""
        if self._asked is asked and self._waits:
            self.metrics.step(self.name).warnings[
                f"gave nothing for {self.body.last_read_s:g} s when the run stopped: what it had taken by then and not"
                " given is lost"
            ] = 0
            self._cut_now(asked.barrier)

    def opened(self, opened: Opened) -> None:
        """The coordinator says that no split of the source is left."""
        self.body.opened()

    def found(self, found: Found) -> None:
        """The coordinator says that it is worth while to ask for a split again."""
        self.body.found()

    def committed(self, committed: Committed) -> None:
        """The coordinator says that an epoch is committed."""
        self.body.committed(committed)
        self._has_news = self._has_news or bool(committed.refused)
        self._wake.set()

    @property
    def has_news(self) -> bool:
        """Whether anything has happened since its last share, which its next one would keep."""
        return self._has_news or self.body.last_share() != self._stood_at

    def uncut(self) -> str | None:
        """Why it has not answered, where it says so."""
        return self.body.uncut()

    @property
    def is_root(self) -> bool:
        """Whether barriers come to it from the coordinator."""
        return self.inbox.gate.ended

    async def cut_if_asked(self) -> None:
        """A place where a root may be cut: everything read so far has been sent."""
        if self._asked is not None and self.body.may_cut:
            await self._cut(self._asked.barrier)
            await self._hold()

    async def waiting(self, awaited: Awaitable[T], *, doing: Doing = Doing.WAITING) -> T:
        """Wait where the task may be cut meanwhile, after `cut_if_asked`. What comes after a cut that
        stops the run is not taken. doing: what this time is counted as."""
        self._waits = self.body.may_cut
        self.clock.enter(doing)
        try:
            result = await awaited
        finally:
            self._waits = False
            self.clock.enter(Doing.BUSY)
        await self._hold()
        return result

    async def _hold(self) -> None:
        if self._stopped:
            # What would be read now could not be committed any more.
            await asyncio.get_running_loop().create_future()

    async def _cut(self, barrier: Barrier) -> None:
        if self.body.cuts_at_once:
            self._cut_now(barrier)
            return
        if not self._has_ended:
            await self.body.settle()
            self.put_all(barrier)
        self._has_news = False
        share = await self.body.prepare(barrier)
        self._answer(barrier)
        self.control.share(share)

    def _cut_now(self, barrier: Barrier) -> None:
        self._has_news = False
        frozen = self.body.freeze(barrier.epoch)
        self.put_all(barrier)
        self._answer(barrier)
        if isinstance(frozen, Share):
            self.control.share(frozen)
        else:
            storing = asyncio.ensure_future(self._store(frozen))
            self._background.add(storing)
            storing.add_done_callback(self._background.discard)

    def _answer(self, barrier: Barrier) -> None:
        if self._asked is not None:
            self._stopped = self._asked.stops
        self._asked, self._answered_epoch = None, barrier.epoch
        self._stood_at = self.body.last_share()
        self.metrics.cut(barrier.epoch)

    async def _store(self, frozen: Callable[[], Share]) -> None:
        """Make a share durable, while rows go on."""
        try:
            share = await in_thread(frozen)
        except Exception as error:
            self.control.fail(Fail(self.id, error))
        else:
            self.control.share(share)

    # -- rows --------------------------------------------------------------------------------------

    async def emit(self, outcome: Outcome, parents: Sequence[str] | None = None) -> None:
        """Count what left and send it on. parents: of rows that were read now, the traces that their messages name."""
        if parents is not None and self.trace is not None:
            rows, seconds = outcome.head_rows, outcome.seconds
            if self._hidden is not None and self._hidden.columns:
                for _, frame in outcome.frames:
                    self._hidden.add(frame)
            await self.trace.read(rows, seconds, parents, lambda: self.emit(outcome))
            return
        if self._thinner is not None and self._thinner.sampling.share is not None:
            self._thinner.thin(outcome, self.name)
        outcome.apply(self.metrics)
        if parents is not None and self._hidden is not None and self._hidden.columns:
            for _, frame in outcome.frames:
                self._hidden.add(frame)
        for edge, frame in outcome.frames:
            if rows := frame.height:
                await self._send(edge, frame, rows)
        if outcome.failed:
            await self.send_letters(outcome.failed)

    async def send_letters(self, failed: Sequence[pl.DataFrame]) -> None:
        """Send failed rows to where their steps' dead letters go. failed: frames as FAILED says."""
        by_edge: dict[int, list[pl.DataFrame]] = {}
        for part in (part for frame in failed for part in frame.partition_by("step")):
            by_edge.setdefault(self._letter_edges[part["step"][0]], []).append(part)
        for edge, parts in by_edge.items():
            rows = sum(part.height for part in parts)
            letters = await self.pool.run(rows, self._letters, parts)
            await self._send(edge, letters, letters.height)

    async def divert(self, edge: int, frame: pl.DataFrame) -> None:
        """Send rows that the own system does not get to another destination."""
        if frame.height:
            await self._send(edge, frame, frame.height)

    async def _send(self, edge: int, frame: pl.DataFrame, rows: int) -> None:
        output = self._outputs[edge]
        channels = output.channels
        self.rows_sent[edge] = self.rows_sent.get(edge, 0) + rows
        parts: Sequence[pl.DataFrame] = ()
        if len(channels) > 1:
            parts = await self.pool.run(
                rows, split_by_key, frame, output.keys, len(channels), self.samplers.get(edge)
            )
        if self.taps is not None and self.taps.by_edge:
            self.taps.take(edge, frame)
        traced = None if self.trace is None else self.trace.sent(output.exchange)
        self.clock.enter(Doing.BLOCKED)
        try:
            if not parts:
                batch = SharedDataBatch(frame, read_at_s=self.read_at_s, traced=traced)
                await channels[0].send(batch)
                return
            filled = [
                (channel, SharedDataBatch(part, read_at_s=self.read_at_s, traced=traced))
                for channel, part in zip(channels, parts, strict=True)
                if part.height
            ]
            for channel, batch in filled:
                # In place the pieces of a batch would go on one by one, each cut again by the next exchange: 2,000 rows
                # through 20 exchanges 20 ways cost 63 s of CPU. In the queues pieces of all senders are joined.
                await (channel.send(batch) if len(filled) == 1 else channel.queue(batch))
        finally:
            self.clock.enter(Doing.BUSY)

    def put_all(self, mark: Mark) -> None:
        """Put a mark into every channel."""
        for output in self._outputs.values():
            for channel in output.channels:
                channel.put(mark)

    def _look_at_outputs(self) -> None:
        """A reader of this task needs no more rows. It does not go on for dead letters alone."""
        letters = set(self._letter_edges.values())
        rows = [o for edge, o in self._outputs.items() if edge not in letters]
        if not self.unwanted and all(c.cancelled for output in rows for c in output.channels):
            self.unwanted = True
            self.body.cancel()
