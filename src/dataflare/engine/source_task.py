"""A task that reads splits and runs the chain behind the source.

Chunks are read ahead and computed on the pool, a few at a time, and let out in order; the position
in a snapshot is that of the last chunk let out, so what was read ahead is simply read again. A
pending read is never cancelled for a checkpoint.
"""

from __future__ import annotations

import asyncio
import datetime
from collections import deque
from collections.abc import Callable
from typing import Any

import polars as pl

from dataflare.checkpoint.manifest import SplitState
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
from dataflare.sdk.source import Chunk, EndOfSplit, SourceConnector

_RUSH_FAILURES = 4
"""After so many chunks in a row that did not parse, the careful way is tried first."""


class SourceTask(Task):
    """Pulls splits from the queue until none is left."""

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
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
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
                if reading is None and not ended and len(flying) < flying_max:
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
                    await self._let_out(future.result(), chunk.num_bytes)
                    self._position = chunk.position
                    await self._cut()
        finally:
            await _abandon([reading] if reading is not None else [], [f for _, f in flying])

    def _compute(self, chunk: Chunk) -> Outcome:
        """A chunk through the chain, on a pool thread."""
        rush = self._failures < _RUSH_FAILURES
        if rush or chunk.salvage is None:
            try:
                outcome = self.runner.run(self._given(chunk))
            except pl.exceptions.PolarsError as error:
                if chunk.salvage is None:
                    raise broken_data(error, self.name) from error
                self._failures += 1
            else:
                self._failures = 0
                return outcome
        return self._salvaged(chunk)

    def _given(self, chunk: Chunk) -> Given:
        frame = self._with_needs(chunk.scan(), chunk.key)
        return Given(frame, chunk.count(), lambda: chunk.scan().collect(), chunk.place)

    def _salvaged(self, chunk: Chunk) -> Outcome:
        """The good rows of a chunk that did not parse, and what becomes of the bad ones."""
        assert chunk.salvage is not None
        saved = chunk.salvage()
        lazy = self._with_needs(saved.good.lazy(), chunk.key)
        given = Given(
            lazy.collect(), saved.good.height, lambda: saved.good, chunk.place, saved.good_rows
        )
        fresh = Outcome()
        self.runner.errors.unread(self.name, saved.bad, fresh)
        outcome = self.runner.run(given)
        outcome.failed[:0] = fresh.failed
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
