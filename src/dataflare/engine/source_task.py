"""A task that reads splits and runs the chain behind the source.

Chunks are read ahead and computed on the pool, a few at a time, and let out in order; the position
in a snapshot is that of the last chunk let out, so what was read ahead is simply read again. A
pending read is never cancelled for a checkpoint.
"""

from __future__ import annotations

import asyncio
import datetime
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import polars as pl

from dataflare.checkpoint.manifest import SplitState
from dataflare.engine import new_fields
from dataflare.engine.batcher import AdaptiveBatcher
from dataflare.engine.reopening import ReopeningReader
from dataflare.engine.segments import Given, Outcome, SegmentRunner, broken_data
from dataflare.engine.split_queue import SplitQueue
from dataflare.engine.task import Answer, Task
from dataflare.expr import NOW_COLUMN, ROWKEY_COLUMN
from dataflare.model.batch import SharedDataBatch
from dataflare.model.hashing import mix_int
from dataflare.model.progress import Barrier, Position, Split
from dataflare.resilience.retry import Retrying
from dataflare.sdk.source import Chunk, EndOfSplit, NewFields, Salvaged, SourceConnector

_RUSH_FAILURES = 4
"""After so many chunks in a row that did not parse, the careful way is tried first."""


class SourceTask(Task):
    """Pulls splits from the queue until none is left. schema_change: what happens to fields that the
    columns lack; None where nobody would see them."""

    def __init__(
        self,
        *args: Any,
        connector: SourceConnector,
        queue: SplitQueue,
        runner: SegmentRunner,
        batcher: AdaptiveBatcher,
        run_key: int,
        hold_s: float,
        retrying: Retrying,
        schema_change: str | None = None,
        flying_bytes_max: int = sys.maxsize,
        **more: Any,
    ) -> None:
        """flying_bytes_max: while work on chunks takes so many bytes, no more are read."""
        super().__init__(*args, **more)
        self._schema_change, self._flying_bytes_max = schema_change, flying_bytes_max
        self.connector, self.queue, self.runner, self.batcher = connector, queue, runner, batcher
        self._run_key, self._hold_s, self._retrying = run_key, hold_s, retrying
        self._done: list[SplitState] = []
        self._split: Split | None = None
        self._position: Position | None = None
        self._wake = asyncio.Event()
        self._waking: asyncio.Future[Any] | None = None
        self._failures = 0

    @property
    def is_root(self) -> bool:
        return not self.has_ended

    def request(self, barrier: Barrier) -> None:
        self._wake.set()

    async def run(self) -> None:
        try:
            while (taken := self.queue.take()) is not None:
                await self._read(*taken)
        finally:
            if self._waking is not None:
                self._waking.cancel()
        await self.finish(self._answer())

    async def _read(self, split: Split, position: Position | None) -> None:
        self._split, self._position = split, position
        reader = ReopeningReader(self.connector, split, position, self._retrying, self._hold_s)
        try:
            opening = asyncio.ensure_future(reader.gives_chunks())
            try:
                await self._wait_for(opening)
            finally:
                await _abandon([opening], [])
            if opening.result():
                await self._read_chunks(reader)
            else:
                await self._read_batches(reader)
            warnings = self.metrics.step(self.name).warnings
            for warning, rows in reader.warnings.items():
                warnings[warning] = warnings.get(warning, 0) + rows
        finally:
            await reader.aclose()
        self._done.append(SplitState(self._split, self._position, done=True))
        self._split = None
        await self._cut()

    def _answer(self) -> Answer:
        open_split = [] if self._split is None else [SplitState(self._split, self._position)]
        return Answer(splits=(*self._done, *open_split))

    async def _cut(self) -> None:
        """Answer a barrier, if one was asked for."""
        self._wake.clear()
        barrier = self.asked
        if barrier is not None:
            answer = self._answer()
            await self.broadcast(barrier)
            self.answer(barrier, answer)
            if self.coordination.stopping:
                # Nothing follows: what would be read now could not be committed any more.
                await asyncio.get_running_loop().create_future()

    async def _wait_for(self, *waiting: asyncio.Future[Any]) -> None:
        """Until one of them is done, cutting whenever asked."""
        while not any(future.done() for future in waiting):
            await self._cut()
            if self._waking is None or self._waking.done():
                self._waking = asyncio.ensure_future(self._wake.wait())
            await asyncio.wait([*waiting, self._waking], return_when=asyncio.FIRST_COMPLETED)
        await self._cut()

    # -- chunks ------------------------------------------------------------------------------------

    async def _read_chunks(self, reader: ReopeningReader) -> None:
        flying: deque[tuple[Chunk, asyncio.Future[Outcome]]] = deque()
        flying_max = self.pool.threads + 1  # one for each, and one that waits for them
        reading: asyncio.Future[Chunk] | None = None
        ended = False
        try:
            while not ended or flying:
                num_bytes = sum(chunk.work_bytes or chunk.num_bytes for chunk, _ in flying)
                room = len(flying) < flying_max and num_bytes < self._flying_bytes_max
                if reading is None and not ended and (room or not flying):
                    reading = asyncio.ensure_future(reader.read_chunk())
                waiting: list[asyncio.Future[Any]] = [f for _, f in list(flying)[:1]]
                if reading is not None:
                    waiting.append(reading)
                await self._wait_for(*waiting)
                if reading is not None and reading.done():
                    try:
                        chunk = reading.result()
                        flying.append((chunk, self.pool.submit(self._compute, chunk)))
                    except EndOfSplit:
                        ended = True
                    reading = None
                while flying and flying[0][1].done():
                    chunk, future = flying.popleft()
                    try:
                        outcome = future.result()
                    except new_fields.NewFieldsFound as signal:
                        await self._stand_at(signal.found, reader, reading, [f for _, f in flying])
                    await self._let_out(outcome, chunk.num_bytes)
                    self._position = chunk.position
                    await self._cut()
        finally:
            await _abandon([reading] if reading is not None else [], [f for _, f in flying])

    async def _stand_at(
        self,
        found: NewFields,
        reader: ReopeningReader,
        reading: asyncio.Future[Chunk] | None,
        flying: list[asyncio.Future[Outcome]],
    ) -> None:
        """Report new fields, and wait in front of their chunk until the attempt is ended."""
        following = new_fields.following(reader, reading, self._open_next)
        search = partial(self.pool.submit, _searched)
        try:
            more = await new_fields.look_ahead(found, flying, following, search)
        finally:
            await following.aclose()
        self.coordination.appeared(self.name, more)
        await self._wait_for(asyncio.get_running_loop().create_future())

    def _open_next(self) -> ReopeningReader | None:
        """A reader of the next split, which this attempt will not read any more."""
        taken = self.queue.take()
        if taken is None:
            return None
        return ReopeningReader(self.connector, *taken, self._retrying, self._hold_s)

    def _compute(self, chunk: Chunk) -> Outcome:
        """A chunk through the chain, on a pool thread."""
        rush = self._failures < _RUSH_FAILURES
        if rush or chunk.salvage is None:
            try:
                outcome = self._run(chunk)
            except pl.exceptions.PolarsError as error:
                if chunk.salvage is None:
                    raise broken_data(error, self.name) from error
                self._failures += 1
            else:
                self._failures = 0
                return outcome
        found = chunk.new_fields() if self._schema_change and chunk.new_fields else None
        return self._salvaged(chunk, found)

    def _run(self, chunk: Chunk) -> Outcome:
        """The quick way. Raises a Polars error for a chunk with bad rows."""
        ignored = Outcome()
        if self._schema_change is None or chunk.watched is None:
            frame = chunk.scan()
        else:
            frame, found = chunk.watched()
            if found is not None and self._decide(found, chunk, ignored):
                return self._salvaged(chunk, found)
        frame = self._with_needs(frame, chunk.key)
        original = lambda: chunk.scan().collect()  # noqa: E731
        outcome = self.runner.run(Given(frame, chunk.count(), original, chunk.place))
        outcome.left_out += ignored.left_out
        return outcome

    def _decide(self, found: NewFields, chunk: Chunk, outcome: Outcome) -> bool:
        """What becomes of new fields: whether their rows become dead letters. Raises what ends the
        run, or the attempt."""
        match self._schema_change:
            case "evolve" if found.columns([found.sample]):
                raise new_fields.NewFieldsFound(found)
            case "fail":
                raise new_fields.refused(self.name, found, chunk)
            case "dead_letter":
                return True
        new_fields.left_out(self.name, found, chunk, outcome)
        return False

    def _salvaged(self, chunk: Chunk, found: NewFields | None) -> Outcome:
        """The good rows of a chunk with bad rows or new fields, and what becomes of the others."""
        assert chunk.salvage is not None
        fresh = Outcome()
        takes_out = found is not None and self._decide(found, chunk, fresh)
        saved: Salvaged = chunk.salvage()
        self.runner.errors.unread(self.name, saved.bad, fresh)
        if found is not None and takes_out:
            saved = new_fields.letters(found, saved, chunk)
            self.runner.errors.unread(self.name, saved.bad, fresh, policy="dead_letter")
        lazy = self._with_needs(saved.good.lazy(), chunk.key)
        given = Given(
            lazy.collect(), saved.good.height, lambda: saved.good, chunk.place, saved.good_rows
        )
        outcome = self.runner.run(given)
        outcome.failed[:0] = fresh.failed
        outcome.left_out += fresh.left_out
        for step, rows in fresh.errors.items():
            outcome.count_errors(step, rows)
        return outcome

    def _with_needs(self, frame: pl.LazyFrame, key: int) -> pl.LazyFrame:
        """The reserved columns that the chain reads."""
        needs = self.runner.needs
        if NOW_COLUMN in needs:
            now = datetime.datetime.now(datetime.UTC)
            frame = frame.with_columns(pl.lit(now, pl.Datetime("us", "UTC")).alias(NOW_COLUMN))
        if ROWKEY_COLUMN in needs:
            assert self._split is not None
            base = mix_int(self._run_key ^ mix_int(hash_text(self._split.id)) ^ mix_int(key))
            frame = (
                frame.with_row_index("__dataflare_n")
                .with_columns(
                    (pl.col("__dataflare_n").cast(pl.UInt64) + pl.lit(base, pl.UInt64)).alias(
                        ROWKEY_COLUMN
                    )
                )
                .drop("__dataflare_n")
            )
        return frame

    # -- batches -----------------------------------------------------------------------------------

    async def _read_batches(self, reader: ReopeningReader) -> None:
        rows_read = 0
        while True:
            reading = asyncio.ensure_future(reader.read_batch(self.batcher.batch_size()))
            try:
                await self._wait_for(reading)
                batch = reading.result()
            except EndOfSplit:
                self._position = reader.end()
                return
            finally:
                await _abandon([reading], [])
            position = reader.position
            outcome = await self.pool.run(batch.num_rows, self._compute_batch, batch, rows_read)
            self.batcher.record_batch(batch.num_rows, outcome.seconds)
            rows_read += batch.num_rows
            await self._let_out(outcome, batch.num_bytes)
            self._position = position
            await self._cut()

    def _compute_batch(self, batch: SharedDataBatch, rows_read: int) -> Outcome:
        frame: pl.DataFrame = batch.frame
        if self.runner.needs:
            key = hash_text(str(batch.metadata.get("key", rows_read)))
            frame = self._with_needs(frame.lazy(), key).collect(engine="in-memory")
        return self.runner.run(Given(frame, frame.height, lambda: batch.frame))

    async def _let_out(self, outcome: Outcome, num_bytes: int) -> None:
        self.metrics.step(self.name).add_out(outcome.head_rows, num_bytes)
        self.metrics.step(self.name).seconds += outcome.seconds
        await self.emit(outcome)


def _searched(chunk: Chunk) -> NewFields | None:
    """The new fields of a chunk whose rows nobody wants."""
    if chunk.watched is None or chunk.new_fields is None:
        return None
    try:
        return chunk.watched()[1]
    except pl.exceptions.PolarsError:
        return chunk.new_fields()


def hash_text(text: str) -> int:
    """A stable 64-bit hash of a name."""
    import xxhash

    return int(xxhash.xxh3_64_intdigest(text.encode()))


async def _abandon(
    reading: list[asyncio.Future[Any]], computing: list[asyncio.Future[Any]]
) -> None:
    """Let go of what is under way when the task ends early: reads are cancelled, work on threads
    is left to finish and its result dropped."""
    for future in reading:
        if not future.done():
            future.cancel()
    for future in computing:
        future.add_done_callback(_dropped)
    for future in reading:
        if future.done() and not future.cancelled():
            future.exception()


_dropped: Callable[[asyncio.Future[Any]], None] = lambda future: (  # noqa: E731
    None if future.cancelled() else (future.exception(), None)[1]
)
