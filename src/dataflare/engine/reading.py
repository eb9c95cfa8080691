"""The body of a task that reads: splits, and the chain behind the source.

Chunks are read ahead and computed on the pool, a few at a time, and let out in order; the position
in a snapshot is that of the last chunk let out, so what was read ahead is simply read again. A
pending read is never cancelled for a checkpoint.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from dataflare.checkpoint.manifest import SplitState
from dataflare.engine import new_fields
from dataflare.engine.batcher import AdaptiveBatcher
from dataflare.engine.body import Body
from dataflare.engine.chunk_sizes import ChunkSizes
from dataflare.engine.clocks import Drift, SplitClock
from dataflare.engine.computing import Computing, searched
from dataflare.engine.easing import SplitTurns
from dataflare.engine.futures import abandon, first_of
from dataflare.engine.messages import Assign, Fail, Share, Wait
from dataflare.engine.pace import Pace, RowTurns
from dataflare.engine.pool import INLINE_ROWS
from dataflare.engine.reopening import ReopeningReader
from dataflare.engine.segments import Outcome, SegmentRunner
from dataflare.errors import InternalError
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import IDLE, Position, Split, Watermark
from dataflare.observability.times import Doing
from dataflare.resilience.retry import Retrying
from dataflare.sdk.source import Chunk, EndOfSplit, NewFields, Replay, SourceBatch, SourceConnector
from dataflare.sdk.user_exits import kept_inside

T = TypeVar("T")

_TURN_S = 0.005
_LAST_READ_S = 3.0
"""How long a run that stops waits for the read under way of a source that cannot give its rows again. A function
that waits for rows yields more often."""


class Reading(Body):
    """Asks for splits until none is left.

    runners: the chain behind each stream of the source that is read; None is that of a source without streams. run_key: what row keys begin with. schema_change: what happens to fields that the columns lack;
    None where no destination would get them. flying_bytes_max: while work on chunks takes so many bytes, no
    more are read. turns: taken while a split is read. pace: how fast rows may leave.
    """

    def __init__(
        self,
        connector: SourceConnector,
        runners: Mapping[str | None, SegmentRunner],
        batcher: AdaptiveBatcher,
        retrying: Retrying,
        *,
        run_key: int,
        hold_s: float,
        schema_change: str | None = None,
        flying_bytes_max: int = sys.maxsize,
        drift: Drift | None = None,
        turns: SplitTurns | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._pace = pace or Pace()
        self._gate = RowTurns(self._pace)
        self._turns, self._flying_bytes_max = turns, flying_bytes_max
        self.connector, self.batcher, self._runners = connector, batcher, runners
        self._calls_out = any(runner.calls_out for runner in runners.values())
        self._run_key, self._schema_change = run_key, schema_change
        self._hold_s, self._retrying = hold_s, retrying
        self._done: list[SplitState] = []
        self._split: Split | None = None
        self._position: Position | None = None
        self._reading: asyncio.Task[Any] | None = None
        self._found, self._drift = asyncio.Event(), drift or Drift()
        self._clock = SplitClock(None, self._drift, "")
        self._all_open = self._is_idle = self._is_silent = False
        self._told_us: int | None = None
        self._gave_rows_at = 0.0
        self._sizes = ChunkSizes(calls_out=self._calls_out, pace=self._pace)
        capabilities = connector.capabilities()
        self._reads_to_end = connector.carries() and capabilities.bounded
        works = capabilities.bounded and not capabilities.paced
        self._reads = Doing.BUSY if works else Doing.WAITING
        self._forgets = capabilities.replay is Replay.NONE and not capabilities.bounded

    def begin(self) -> None:
        stamps = [runner.stamp for runner in self._runners.values() if runner.stamp is not None]
        self._clock = SplitClock(stamps[0] if stamps else None, self._drift, self.task.id)
        self._paced = self._pace.is_limit or bool(self.task.paces.paces)
        self._computing = {
            stream: Computing(
                self._step(stream), runner, self._run_key, self._schema_change, self._split_now
            )
            for stream, runner in self._runners.items()
        }

    def _step(self, stream: str | None) -> str:
        """The name that the rows of a stream are counted under."""
        return self.task.name if stream is None else f"{self.task.name}.{stream}"

    def _split_now(self) -> str:
        return self._split.id if self._split is not None else ""

    def opened(self) -> None:
        self._all_open = True
        self._tell_time()
        if self._is_silent:
            self._go_idle()

    def found(self) -> None:
        self._found.set()

    async def finish(self) -> None:
        while not self._is_cancelled and await self._its_turn():
            try:
                taken = await self._next_split()
                if taken is None:
                    return
                await self._read(taken)
            finally:
                if self._turns is not None:
                    self._turns.release()

    async def _its_turn(self) -> bool:
        """Wait until it may read a split. Returns False when no step needs more rows."""
        if self._turns is None:
            return True
        await self.task.cut_if_asked()
        with suppress(_Cancelled):
            await self._waiting(self._turns.acquire())
            return True
        return False

    def asked(self) -> None:
        self._gate.barrier_asked()

    def freeze(self, epoch: int) -> Share:
        self._gate.barrier_passed()
        share = replace(self.last_share(), epoch=epoch)
        self._done = []
        return share

    def last_share(self) -> Share:
        """The split that is open, and those that were read since the last cut."""
        if self._split is None:
            return Share(self.task.id, None, splits=tuple(self._done))
        time = self._clock.event_time_us
        open_split = SplitState(self._split, self._position, event_time_us=time)
        return Share(self.task.id, None, splits=(*self._done, open_split))

    def cancel(self) -> None:
        """Stop reading, in the middle of a wait too. A source whose next run goes on from this one
        is read to its end, so that it is known where."""
        if self._reading is not None and self._is_cancelled:
            self._reading.cancel()

    @property
    def _is_cancelled(self) -> bool:
        return self.task.unwanted and not self._reads_to_end

    async def _next_split(self) -> Assign | None:
        """The next split, also where it must be found first."""
        with suppress(_Cancelled):
            while True:
                # What is found after the answer may be told before the answer is read.
                self._found.clear()
                await self.task.cut_if_asked()
                asking = self.task.control.assign(self.task.name, self.task.id)
                taken = await self._waiting(asking)
                if not isinstance(taken, Wait):
                    return taken
                if self._clock.stamp is not None:
                    self._go_idle()
                await self.task.cut_if_asked()
                await self._waiting(self._found.wait())
        return None

    async def _read(self, taken: Assign) -> None:
        split, position = taken.split, taken.position
        self._split, self._position = split, position
        self._clock.begin(taken.event_time_us)
        self._gave_rows_at = asyncio.get_running_loop().time()
        self._is_silent = False
        if self._is_idle and self._told_us is not None:
            # While it waited for a split, the reader held nothing back.
            self._is_idle = False
            self.task.put_all(Watermark(self._told_us))
        self._tell_time()
        reader = ReopeningReader(self.connector, split, position, self._retrying, self._hold_s)
        ended = False
        try:
            await self.task.cut_if_asked()
            if await self._waiting(reader.gives_chunks()):
                await self._read_chunks(reader)
            else:
                await self._read_batches(reader)
            ended = True
        except _Cancelled:
            ended = False
        finally:
            await reader.aclose()
        self.may_cut = True
        self.task.metrics.step(self.task.name).warn(reader.warnings)
        time = self._clock.event_time_us
        self._done.append(SplitState(self._split, self._position, ended, None if ended else time))
        self._split = None
        self._clock.end()
        await self.task.cut_if_asked()

    async def _may_go_on(self) -> None:
        """Between two batches: cut if asked, and end when no step needs more."""
        await self.task.cut_if_asked()
        # Inside a transaction it goes on: a barrier that waits for its end holds up the slower readers.
        while (
            self.may_cut
            and not self._is_cancelled
            and (moved := self._clock.runs_ahead()) is not None
        ):
            await self._waiting(moved.wait())
        while self._paced and self.may_cut and (held_s := self.task.paces.held_s()) > 0:
            await self._paused(held_s)
        if self._is_cancelled:
            raise _Cancelled

    async def _paused(self, seconds: float) -> None:
        """Wait because of a rate. A split that waits so is not idle."""
        await self.task.cut_if_asked()
        await self._waiting(asyncio.sleep(seconds), doing=Doing.BLOCKED, may_idle=False)
        self._gave_rows_at = asyncio.get_running_loop().time()

    async def _waiting(
        self, awaited: Awaitable[T], *, doing: Doing = Doing.WAITING, may_idle: bool = True
    ) -> T:
        """Wait where the task may be cut, until no step needs more rows."""
        self._reading = asyncio.current_task()
        timer = self._idle_timer() if may_idle else None
        try:
            return await self.task.waiting(awaited, doing=doing)
        except asyncio.CancelledError:
            if self._is_cancelled and self._reading is not None and not self._reading.uncancel():
                raise _Cancelled from None
            raise
        finally:
            self._reading = None
            if timer is not None:
                timer.cancel()

    # -- event time --------------------------------------------------------------------------------

    def uncut(self) -> str | None:
        if self.may_cut or self._split is None:
            return None
        where = f"inside a transaction of the split '{self._split.id}'"
        return f"{self.task.id} is {where}, where no checkpoint may be cut"

    def holding(self) -> str | None:
        if self._split is None or self._is_idle:
            return None
        return self._clock.holding(self._split.id, all_open=self._all_open)

    def _idle_timer(self) -> asyncio.TimerHandle | None:
        """Says that the split is idle when it has given nothing for `idle_timeout`."""
        stamp = self._clock.stamp
        if stamp is None or stamp.idle_timeout_s is None or self._is_silent or self._split is None:
            return None
        loop = asyncio.get_running_loop()
        return loop.call_at(self._gave_rows_at + stamp.idle_timeout_s, self._go_idle)

    def _go_idle(self) -> None:
        if self._clock.holds:
            return
        # A split that no reader has opened holds back the watermark: this one must not let it go.
        self._is_idle = self._all_open
        self._is_silent = True
        if not self._is_idle:
            return
        self._drift.leave(self.task.id)
        self.task.put_all(IDLE)

    def _advance(self, event_time_us: int | None, rows: int | None) -> None:
        """A batch has left, and the position is behind it."""
        if self._clock.stamp is None:
            return
        if rows != 0:
            self._gave_rows_at = asyncio.get_running_loop().time()
            self._is_idle = self._is_silent = False
        self._clock.advance(event_time_us)
        self._tell_time()

    def _tell_time(self) -> None:
        """The watermark of the open split, where no split of the source may hold earlier rows."""
        time = self._clock.watermark_us
        if time is None:
            return
        self.task.metrics.step(self.task.name).watermark_us = time
        if self._all_open and time != self._told_us:
            self._told_us = time
            self.task.put_all(Watermark(time))

    # -- chunks ------------------------------------------------------------------------------------

    async def _read_chunks(self, reader: ReopeningReader) -> None:
        flying: deque[tuple[Chunk, asyncio.Future[Outcome]]] = deque()
        reading: asyncio.Future[Chunk] | None = None
        ended, pool = False, self.task.pool
        try:
            while not ended or flying:
                await self._may_go_on()
                num_bytes = sum(chunk.work_bytes or chunk.num_bytes for chunk, _ in flying)
                room = len(flying) < pool.read_ahead and num_bytes < self._flying_bytes_max
                if reading is None and not ended and (room or not flying):
                    reading = asyncio.ensure_future(
                        kept_inside(reader.read_chunk(*self._sizes.largest_next(self.task)))
                    )
                waiting: list[asyncio.Future[Any]] = [f for _, f in list(flying)[:1]]
                if reading is not None:
                    waiting.append(reading)
                await self._waiting(first_of(waiting), doing=Doing.BUSY if flying else self._reads)
                if reading is not None and reading.done():
                    try:
                        chunk = reading.result()
                        start = partial(self._computing[None].start, chunk, self.task.pool)
                        flying.append((chunk, start(others=bool(flying))))
                    except EndOfSplit:
                        ended = True
                    reading = None
                while flying and flying[0][1].done():
                    chunk, future = flying.popleft()
                    try:
                        outcome = future.result()
                    except new_fields.NewFieldsFound as signal:
                        await self._stand_at(signal.found, reader, reading, [f for _, f in flying])
                    if outcome.head_rows and chunk.num_bytes:
                        self._sizes.learn(chunk.num_bytes, outcome.head_rows, outcome.seconds)
                    let_out = self._let_out_in_turns if self._paced else self._let_out
                    event_time_us = await let_out(outcome, chunk.num_bytes, chunk.parents)
                    self._stand_behind(chunk.position, chunk.may_cut)
                    self._advance(event_time_us, outcome.head_rows)
                    if reader.wants_checkpoint:
                        self.task.control.want_checkpoint()
                    await self._may_go_on()
            # Also of a split without a chunk: the next run goes on there.
            self._position = reader.end()
        finally:
            await abandon([reading] if reading is not None else [], [f for _, f in flying])

    async def _stand_at(
        self,
        found: NewFields,
        reader: ReopeningReader,
        reading: asyncio.Future[Chunk] | None,
        flying: list[asyncio.Future[Outcome]],
    ) -> None:
        """Report new fields, and wait in front of their chunk until the attempt is ended."""
        following = new_fields.following(reader, reading, self._open_next)
        search = partial(self.task.pool.submit, searched)
        try:
            more = await new_fields.look_ahead(found, flying, following, search)
        finally:
            await following.aclose()
        await self._report(more)

    async def _report(self, found: Sequence[NewFields], stream: str | None = None) -> None:
        """Report new fields, and wait until the attempt is ended."""
        failure = Fail(
            self.task.id, new_fields=found, may_cut=self.may_cut, step=self._step(stream)
        )
        self.task.control.fail(failure)
        await self.task.cut_if_asked()
        await self.task.waiting(asyncio.get_running_loop().create_future())

    def _stand_behind(self, position: Position, may_cut: bool) -> None:
        """All rows before a position have left. Inside a transaction the last place for a cut stays."""
        self.may_cut = may_cut
        if may_cut:
            self._position = position

    async def _open_next(self) -> ReopeningReader | None:
        """A reader of the next split, which this attempt will not read any more."""
        taken = await self.task.control.assign(self.task.name, self.task.id)
        if not isinstance(taken, Assign):
            return None
        return ReopeningReader(
            self.connector, taken.split, taken.position, self._retrying, self._hold_s
        )

    # -- batches -----------------------------------------------------------------------------------

    async def _read_batches(self, reader: ReopeningReader) -> None:
        rows_read, self._clock.holds = 0, reader.holds_time
        pause_at = time.perf_counter() + _TURN_S
        while True:
            await self._may_go_on()
            start = reader.position
            self.last_read_s = _LAST_READ_S if self._forgets else 0.0
            rows_max = self._rows_max()
            if self._paced:
                await self._paused(self._pace.take(rows_max))
            try:
                batch = await self._waiting(reader.read_batch(rows_max), doing=self._reads)
            except EndOfSplit:
                self._position = reader.end()
                return
            finally:
                self.last_read_s = 0.0
            if batch.num_rows * 2 >= rows_max:
                self.task.clock.last_was(Doing.BUSY)  # the rows were there
            if self._paced:
                self._pace.gave(rows_max, batch.num_rows, batch.num_bytes)
            position, self._clock.holds = reader.position, reader.holds_time
            assert position is not None
            told = batch if isinstance(batch, SourceBatch) else None
            stream = told.stream if told is not None else None
            try:
                outcome = await self._computed(batch, stream, start, rows_read)
            except new_fields.NewFieldsFound as signal:
                await self._report([signal.found], stream)
                raise
            reader.tell(self.task.metrics.step(self.task.name))
            self.batcher.record_batch(batch.num_rows, outcome.seconds)
            rows_read += batch.num_rows
            event_time_us = await self._let_out(outcome, batch.num_bytes, (), stream)
            self._stand_behind(position, told is None or told.may_cut)
            if batch.watermark is not None:
                event_time_us = self._clock.at_least(event_time_us, batch.watermark)
            self._advance(event_time_us, batch.num_rows + (len(told.bad) if told else 0))
            if reader.wants_checkpoint:
                self.task.control.want_checkpoint()
            if time.perf_counter() > pause_at:
                # A source that never waits must not keep the others from their turn.
                await asyncio.sleep(0)
                pause_at = time.perf_counter() + _TURN_S

    async def _computed(
        self, batch: SharedDataBatch, stream: str | None, start: Position | None, rows_read: int
    ) -> Outcome:
        """A batch through the chain of its stream. That of a stream which no step reads goes no further."""
        computing = self._computing.get(stream)
        if computing is None:
            if stream not in self.connector.streams_known:
                raise InternalError(f"{self.task.id} got a batch of the stream {stream!r}")
            return Outcome(head_rows=0)
        return await self.task.pool.run(batch.num_rows, computing.batch, batch, start, rows_read)

    def _rows_max(self) -> int:
        """How many rows to read next: as many as the steps behind do soon, where those are slow."""
        rows = self.batcher.batch_size()
        if self._paced:
            rows = self.task.paces.rows_at_once(min(rows, self._pace.rows_at_once))
        if rows < INLINE_ROWS:
            return rows
        if self._calls_out and not self.batcher.metrics.batches_total:
            return self.batcher.min_rows
        return min(rows, self.task.timely_rows() or rows)

    async def _let_out(
        self, outcome: Outcome, num_bytes: int, parents: Any = (), stream: str | None = None
    ) -> int | None:
        """Send a batch on. Gives the greatest event time of the split after it."""
        event_time_us = self._clock.lift(outcome)
        self.task.read_at_s = asyncio.get_running_loop().time() - outcome.seconds
        metric = self.task.metrics.step(self.task.name)
        metric.add_out(outcome.head_rows, num_bytes)
        if stream in self._runners and stream is not None:
            self.task.metrics.step(self._step(stream)).add_out(outcome.head_rows, num_bytes)
        metric.seconds += outcome.seconds
        self.task.rows_taken += outcome.head_rows or 0
        await self.task.emit(outcome, parents)
        return event_time_us

    async def _let_out_in_turns(
        self, outcome: Outcome, num_bytes: int, parents: tuple[str, ...]
    ) -> int | None:
        """As `_let_out`, at the pace of the source. A checkpoint is cut in front of the rows; behind the first of them it
        lets the others go at once."""
        parts = self._gate.parts_of(outcome, num_bytes)
        first, size = next(parts)
        await self._paused(self._pace.take(first.rows_at_least, size))
        event_time_us = await self._let_out(first, size, parents)
        for part, size in parts:
            self.may_cut = False
            turn = self._gate.turn(part.rows_at_least, size)
            await self._waiting(turn, doing=Doing.BLOCKED, may_idle=False)
            event_time_us = await self._let_out(part, size, parents)
        return event_time_us


class _Cancelled(Exception):
    """No step needs more rows."""
