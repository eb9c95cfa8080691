"""The body of a task that writes: a destination's writer. It lives until the final epoch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import polars as pl

from dataflare.engine.body import Body
from dataflare.engine.messages import Committed, Share
from dataflare.engine.pool import INLINE_ROWS
from dataflare.engine.row_errors import failed_rows
from dataflare.errors import HIDE
from dataflare.formats.text_write import python_rows
from dataflare.model.batch import SharedDataBatch
from dataflare.model.float_losses import float_losses
from dataflare.model.progress import Barrier
from dataflare.observability.times import Histogram
from dataflare.resilience.breaker import HeldBack
from dataflare.resilience.retry import Retrying
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, RefusedRow, Writer, WriteStats
from dataflare.sdk.runtime import current
from dataflare.sdk.threads import in_thread

T = TypeVar("T")
_LATER = "refused by its system: the next checkpoint makes dead letters of them, also when the run goes on after a stop"


class Writing(Body):
    """on_error: what happens to rows that the destination's system refuses. retrying: for the calls
    of a writer that can make them again. run_id: the column that has it, and the id; None: no column has it.
    refuses_at_commit: as its destination says. epoch: the last one cut before. diverted: by name, the edge to the destination
    that gets its rows while its breaker is open, where that is its fallback. degraded: by step that does so now, why. put_redo: see
    `Storage`; None where it is not needed."""

    cuts_at_once: ClassVar[bool] = False
    joins_batches: ClassVar[bool] = True

    def __init__(
        self,
        writer: Writer,
        on_error: str,
        retrying: Retrying,
        run_id: tuple[str, str] | None = None,
        *,
        refuses_at_commit: bool = False,
        epoch: int = 0,
        diverted: Mapping[str, int] | None = None,
        degraded: MutableMapping[str, str] | None = None,
        put_redo: Callable[[Committable], None] | None = None,
    ) -> None:
        self._put_redo = put_redo
        self.writer, self._on_error, self._retrying = writer, on_error, retrying
        self._run_id = run_id
        self._diverts = retrying.fallback is not None
        self._diverted = (diverted or {}).get(retrying.fallback or "")
        self._degraded = {} if degraded is None else degraded
        self._latency = Histogram()
        self._refuses_at_commit = refuses_at_commit
        self._is_open = False
        self._prepared = self._committed = epoch
        self._refused_at_commit: list[RefusedRow] = []
        self._hidden = current().hidden

    def begin(self) -> None:
        self.task.metrics.times.latency = self._latency

    def takes_at_once(self, batch: SharedDataBatch) -> bool:
        return self.writer.takes_at_once and batch.num_rows < INLINE_ROWS

    async def rows(self, port: int, batch: SharedDataBatch) -> float:
        started = time.perf_counter()
        self._is_open = True
        if self._run_id is not None:
            column, run_id = self._run_id
            batch = batch.map(lambda frame: frame.with_columns(pl.lit(run_id).alias(column)))
        if self._hidden is not None and self._hidden.columns:
            self._hidden.add(batch.frame)
        is_taken = False

        async def write() -> WriteStats:
            nonlocal is_taken
            is_taken = True
            return await self.writer.write_batch(batch)

        calls = self.writer.system_calls
        try:
            stats = await self._call(write)
            if self._diverted is not None and (calls is None or calls != self.writer.system_calls):
                self._degraded.pop(self.task.name, None)
        except HeldBack as held:
            await self._divert(held, () if is_taken else (batch.frame,))
            stats = WriteStats(0)
        seconds = time.perf_counter() - started
        metric = self.task.metrics.step(self.task.name)
        metric.add_in(batch.num_rows)
        sent = self.writer.rows_out
        if sent is None:
            metric.add_out(stats.rows, stats.num_bytes)
        else:  # what waits in the writer has not gone out
            metric.rows_out, metric.bytes_out = sent, metric.bytes_out + stats.num_bytes
        metric.seconds += seconds
        if batch.read_at_s and stats.rows:
            latency_s = asyncio.get_running_loop().time() - batch.read_at_s
            self._latency.record(latency_s, stats.rows)
        if self.writer.float_losses:
            for warning, rows in float_losses(batch.frame, self.writer.float_losses).items():
                metric.warnings[warning] = metric.warnings.get(warning, 0) + rows
        return seconds

    async def finish(self) -> None:
        await self._flush()
        await self.settle()

    async def _flush(self) -> None:
        try:
            await self._call(self.writer.flush)
        except HeldBack as held:
            await self._divert(held)

    async def _divert(self, held: HeldBack, more: Sequence[pl.DataFrame] = ()) -> None:
        """Let the rows that wait for the system, and `more`, go to where the fallback says."""
        frames = [*self.writer.hand_back(), *more]
        if self._diverted is not None:
            await self._send_elsewhere(frames, self._diverted)
            return
        rows = [self._as_it_came(row) for frame in frames for row in python_rows(frame)]
        if rows:
            self._count_failed(len(rows))
            await self._send_letters(held.code, held.message, rows)

    async def _send_elsewhere(self, frames: Sequence[pl.DataFrame], edge: int) -> None:
        """Send rows to the destination that takes them while the system is away."""
        to = self._retrying.fallback
        assert to is not None
        added = [] if self._run_id is None else [self._run_id[0]]
        self._degraded[self.task.name] = f"its rows go to '{to}' while its circuit breaker is open"
        counts = self.task.metrics.step(self.task.name).diverted
        for frame in frames:
            counts[to] = counts.get(to, 0) + frame.height
            await self.task.divert(edge, frame.drop(added, strict=False))

    def _count_failed(self, rows: int) -> None:
        metric = self.task.metrics.step(self.task.name)
        metric.errors += rows
        metric.refused += rows

    async def _send_letters(
        self, codes: str | list[str], messages: str | list[str], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        self.task.metrics.step(self.task.name).dead_letters += len(rows)
        await self.task.send_letters([failed_rows(self.task.name, codes, messages, rows)])

    async def settle(self) -> None:
        """Send the rows that the system refuses to where dead letters go."""
        if self._diverts:
            await self._flush()
        if self._on_error == "fail":
            return
        # With a fallback, nothing is left to send.
        settle = self.writer.settle
        refused = list(await (settle() if self._diverts else self._call(settle)))
        self.task.metrics.step(self.task.name).warnings.pop(_LATER, None)
        refused += self._refused_at_commit
        self._refused_at_commit = []
        if not refused:
            return
        self._count_failed(len(refused))
        if self.writer.rows_out is None:
            self.task.metrics.step(self.task.name).take_back(len(refused))
        if self._on_error == "dead_letter":
            await self._send_letters(
                [each.code for each in refused],
                [HIDE.get()(each.message) for each in refused],
                [self._as_it_came(each.row) for each in refused],
            )

    def _as_it_came(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row without what is added to it here."""
        if self._run_id is None:
            return row
        return {name: value for name, value in row.items() if name != self._run_id[0]}

    @property
    def awaits_commit(self) -> bool:
        return self._refuses_at_commit and (self._is_open or self._committed < self._prepared)

    def committed(self, committed: Committed) -> None:
        self._committed = committed.epoch
        if committed.refused:
            self._refused_at_commit += committed.refused
            # A run that is stopped now sends them when it goes on.
            warnings = self.task.metrics.step(self.task.name).warnings
            warnings[_LATER] = len(self._refused_at_commit)

    async def prepare(self, barrier: Barrier) -> Share:
        if barrier.left_out:
            self.writer.note_left_out(barrier.left_out)
        crash_point("engine.before_prepare")
        prepare = partial(self.writer.prepare, barrier.epoch, final=barrier.final)
        committable = await (prepare() if self._diverts else self._call(prepare))
        self._count_sent()
        self._is_open, self._prepared = False, barrier.epoch
        if self._put_redo is not None and committable is not None:
            await in_thread(self._put_redo, committable)
        crash_point("engine.after_prepare")
        return Share(self.task.id, barrier.epoch, committable=committable)

    async def aclose(self) -> None:
        """Release the writer, at the end and after a failed attempt alike. Rows that it has not sent are
        not counted as written."""
        self._count_sent()
        await self.writer.aclose()

    def _count_sent(self) -> None:
        if self.writer.rows_out is not None:
            self.task.metrics.step(self.task.name).rows_out = self.writer.rows_out

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """A call of the writer, made again after a failure only where the writer goes on with it."""
        before = self.writer.system_calls

        def is_counted() -> bool:
            return before is None or self.writer.system_calls != before

        if not self.writer.resumes:
            return await self._retrying.once(call, is_counted=is_counted)
        return await self._retrying.call(
            call,
            lambda: self.writer.progress,
            is_counted=is_counted,
            waits=not self._diverts,
        )
