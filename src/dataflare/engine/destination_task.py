"""A task around a destination's writer. It lives until the final epoch has been prepared."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from dataflare.engine.channel import Channel, EndOfStream
from dataflare.engine.row_errors import failed_rows
from dataflare.engine.task import Alignment, Answer, Task
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Barrier
from dataflare.resilience.retry import Retrying
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Writer

T = TypeVar("T")


class DestinationTask(Task):
    """on_error: what happens to rows that the destination's system refuses. retrying: for the calls
    of a writer that can make them again."""

    def __init__(
        self, *args: Any, writer: Writer, on_error: str, retrying: Retrying, **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self.writer, self._on_error, self._retrying = writer, on_error, retrying

    @property
    def is_root(self) -> bool:
        return self.inbox.all_ended

    async def run(self) -> None:
        alignment = Alignment(self.inbox)
        while not self.inbox.all_ended:
            found = await self.inbox.next()
            if found is None:
                continue
            channel, message = found
            match message:
                case SharedDataBatch():
                    await self._write(channel, message)
                case Barrier():
                    alignment.arrived(channel, message)
                case EndOfStream():
                    channel.ended = True
            if alignment.complete and alignment.barrier is not None:
                await self._prepare(alignment.barrier)
                alignment.release()
        await self._call(self.writer.flush)
        await self._settle()
        await self.finish(Answer())
        await self._until_final()

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """A call of the writer, made again after a failure only where the writer goes on with it."""
        if not self.writer.resumes:
            return await self._retrying.once(call)
        return await self._retrying.call(call, lambda: self.writer.progress)

    async def aclose(self) -> None:
        """Release the writer, at the end and after a failed attempt alike."""
        await self.writer.aclose()

    async def _until_final(self) -> None:
        while True:
            barrier = self.asked
            if barrier is not None:
                await self._prepare(barrier)
                if barrier.final:
                    return
                continue
            await self.inbox.next()

    async def _write(self, channel: Channel, batch: SharedDataBatch) -> None:
        started = time.perf_counter()
        stats = await self._call(lambda: self.writer.write_batch(batch))
        seconds = time.perf_counter() - started
        metric = self.metrics.step(self.name)
        metric.add_in(batch.num_rows)
        metric.add_out(stats.rows, stats.num_bytes)
        metric.seconds += seconds
        self.inbox.done(channel, batch, seconds)

    async def _settle(self) -> None:
        """Send the rows that the system refuses to where dead letters go."""
        if self._on_error == "fail":
            return
        refused = await self._call(self.writer.settle)
        if not refused:
            return
        metric = self.metrics.step(self.name)
        metric.errors += len(refused)
        metric.refused += len(refused)
        metric.add_out(-len(refused))
        if self._on_error == "dead_letter":
            metric.dead_letters += len(refused)
            told = failed_rows(
                self.name,
                [each.code for each in refused],
                [each.message for each in refused],
                (each.row for each in refused),
            )
            await self.send_letters([told])

    async def _prepare(self, barrier: Barrier) -> None:
        if not self.has_ended:
            await self._settle()
            await self.broadcast(barrier)
        if barrier.left_out:
            self.writer.note_left_out(barrier.left_out)
        crash_point("engine.before_prepare")
        committable = await self._call(
            lambda: self.writer.prepare(barrier.epoch, final=barrier.final)
        )
        crash_point("engine.after_prepare")
        self.answer(barrier, Answer(committable=committable))
