"""A task around a stateful operator: aligned inputs, the operator, and the chain behind it."""

from __future__ import annotations

import time
from typing import Any

import polars as pl

from dataflare.checkpoint.manifest import OperatorSnapshot, StateChunk
from dataflare.checkpoint.store import LocalStore, chunk_name
from dataflare.engine.channel import EndOfStream, MemoryBudget
from dataflare.engine.segments import Given, Outcome, SegmentRunner
from dataflare.engine.task import Alignment, Answer, Task
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Barrier
from dataflare.operators.base import ERROR_COLUMN, LiveOperator, Lowering, Snapshot


class OperatorTask(Task):
    """live: the operator's copy of this subtask, with its state restored."""

    def __init__(
        self,
        *args: Any,
        live: LiveOperator,
        runner: SegmentRunner,
        store: LocalStore,
        attempt: int,
        budget: MemoryBudget,
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
        self.live, self.runner, self.store = live, runner, store
        self._attempt, self._budget = attempt, budget
        self._stored: dict[str, StateChunk] = {}
        self._chunks = 0

    @property
    def is_root(self) -> bool:
        return self.inbox.all_ended and not self.has_ended

    async def run(self) -> None:
        alignment = Alignment(self.inbox)
        while not self.inbox.all_ended:
            found = await self.inbox.next()
            if found is None:
                continue
            channel, message = found
            match message:
                case SharedDataBatch():
                    await self._process(message)
                    self.inbox.done(channel, message, 0.0)
                case Barrier():
                    alignment.arrived(channel, message)
                case EndOfStream():
                    channel.ended = True
            if alignment.complete and alignment.barrier is not None:
                await self._cut(alignment.barrier)
                alignment.release()
        await self._drain()
        await self.finish(Answer())

    async def _process(self, batch: SharedDataBatch) -> None:
        outcome = await self.pool.run(batch.num_rows, self._compute, batch.frame)
        metric = self.metrics.step(self.name)
        metric.add_in(batch.num_rows)
        metric.seconds += outcome.seconds
        self._budget.set_state(self.id, self.live.state_bytes())
        await self.emit(outcome)

    def _compute(self, frame: pl.DataFrame) -> Outcome:
        started = time.perf_counter()
        outcome = Outcome()
        for made in self.live.process(frame):
            self._behind(made, outcome)
        self._refused(outcome)
        outcome.seconds = time.perf_counter() - started
        return outcome

    def _refused(self, outcome: Outcome) -> None:
        for refused in self.live.refused():
            self.runner.errors.refused(self.name, refused, outcome)

    def _behind(self, frame: pl.DataFrame, outcome: Outcome) -> None:
        """A result through the chain behind the operator."""
        lowering: Lowering | None = getattr(self.live, "lowering", None)
        if lowering is not None and ERROR_COLUMN in frame.columns:
            frame = frame.with_row_index("__dataflare_row")
            bad = frame[ERROR_COLUMN].is_not_null()
            if bad.any():
                given = Given(frame, frame.height, lambda: frame)
                self.runner.errors.take(frame.filter(bad), lowering, given, outcome)
            frame = frame.filter(~bad).drop(ERROR_COLUMN, "__dataflare_row")
        outcome.counts.append((self.name, 0, frame.height))
        more = self.runner.run(Given(frame, frame.height, lambda: frame))
        outcome.frames.extend(more.frames)
        outcome.counts.extend(more.counts)
        outcome.failed.extend(more.failed)
        outcome.warnings.update(more.warnings)
        for step, rows in more.errors.items():
            outcome.count_errors(step, rows)

    async def _drain(self) -> None:
        """Hand out the results, batch by batch, cutting in between when asked."""
        await self.emit(await self.pool.submit(self._end))
        while True:
            barrier = self.asked
            if barrier is not None:
                await self._cut(barrier)
            outcome = await self.pool.submit(self._next_result)
            if outcome is None:
                return
            await self.emit(outcome)

    def _end(self) -> Outcome:
        outcome = Outcome()
        self.live.end()
        self._refused(outcome)
        return outcome

    def _next_result(self) -> Outcome | None:
        frame = self.live.drain()
        if frame is None:
            return None
        outcome = Outcome()
        self._behind(frame, outcome)
        return outcome

    async def _cut(self, barrier: Barrier) -> None:
        snapshot = self.live.snapshot()
        await self.broadcast(barrier)
        stored = await self.pool.submit(self._store, snapshot, barrier.epoch)
        self.answer(barrier, Answer(snapshot=stored))

    def _store(self, snapshot: Snapshot, epoch: int) -> OperatorSnapshot:
        """Write the frames that are not in storage yet."""
        kept: dict[str, StateChunk] = {}
        for name, frame in snapshot.frames.items():
            if name not in self._stored:
                self._chunks += 1
                file = chunk_name(self.name, self.subtask, self._attempt, epoch, self._chunks)
                self._stored[name] = self.store.write_chunk(file, frame)
            kept[name] = self._stored[name]
        self._stored = kept
        return OperatorSnapshot(self.subtask, tuple(kept.values()), dict(snapshot.facts))
