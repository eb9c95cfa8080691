"""A writer whose calls can be repeated: rows are in its redo file before the database gets them.

Always true: if a call raised an error that can be retried and is repeated with the same batch or
epoch, no row is added twice and no file is sealed twice; the database's rows of the epoch are lost
and written again from the redo file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dataflare.sdk.context import DestinationContext
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, RefusedRow, Writer, WriteStats
from dataflare.sdk.sql import redo
from dataflare.sdk.sql.names import at_step
from dataflare.sdk.sql.refusals import refused_rows
from dataflare.sdk.sql.session import Session
from dataflare.sdk.sql.shares import Share
from dataflare.sdk.sql.store import Target
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.model.batch import SharedDataBatch

_HOLD_S = 0.5


class TableWriter(Writer):
    """Appends batches to the epoch's redo file. A remote store gets them while they arrive, a file when the
    epoch is prepared. type_: of the connector. rows_max: of one statement."""

    resumes = True

    def __init__(
        self,
        type_: str,
        session: Session,
        target: Target,
        context: DestinationContext,
        restored: Committable | None,
        rows_max: int | None,
    ) -> None:
        self.session = session
        self._type, self._target, self._context = type_, target, context
        self._rows_max = rows_max
        self._redo = redo.RedoWriter(context.redo, context.attempt, context.subtask, rows_max)
        self._rows_total = int(restored.data["rows_total"]) if restored is not None else 0
        self._last_batch: SharedDataBatch | None = None
        self._sealed: tuple[int, redo.RedoFile] = (0, redo.RedoFile(None, "", 0))
        self._left_out = 0
        self._unused: asyncio.TimerHandle | None = None

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        crash_point(f"{self._type}.write.before_redo")
        num_bytes = batch.num_bytes
        if batch.num_rows:
            await in_thread(self._write, batch, num_bytes)
        return WriteStats(batch.num_rows, num_bytes)

    def _write(self, batch: SharedDataBatch, num_bytes: int) -> None:
        target, frame, before = self._target, batch.frame, self._rows_total
        with at_step(self._context.step):
            if self._last_batch is batch:
                self.session.write_again(target, self._redo.frames, before)
            else:
                self._redo.append(frame, num_bytes)
                self._last_batch = batch
                self.session.write(target, frame, num_bytes, before, self._rows_max)
        self._last_batch = None

    async def settle(self) -> Sequence[RefusedRow]:
        if not self._redo.rows:
            return ()
        refused = await in_thread(self._settle)
        if not self.session.remote:
            # After the end of the input, the end of the epoch may be far away. The timer releases
            # the write lock, so that other writers need not wait that long.
            loop = asyncio.get_running_loop()
            let_go = self.session.let_go
            self._unused = loop.call_later(
                _HOLD_S, loop.run_in_executor, None, let_go, self._target
            )
        return refused

    def _settle(self) -> Sequence[RefusedRow]:
        with at_step(self._context.step):
            frames, last = self._redo.frames, self._sealed[0]
            refused = self.session.settle(self._target, frames, self._rows_total, last)
            if not refused:
                return ()
            rows, numbers = refused_rows(refused, frames(), self._target.key)
            self._redo.refuse(numbers)
            return rows

    def note_left_out(self, rows: Mapping[str, int]) -> None:
        self._left_out = sum(rows.get(step, 0) for step in self._context.before)

    async def prepare(self, epoch: int, *, final: bool) -> Committable:
        self._forget_timer()
        return await in_thread(self._prepare, epoch, final)

    def _prepare(self, epoch: int, final: bool) -> Committable:
        if self._sealed[0] != epoch:
            self._sealed = epoch, replace(self._redo.seal(epoch), left_out=self._left_out)
            crash_point(f"{self._type}.prepare.after_fsync")
            self._rows_total += self._sealed[1].rows
        sealed, total = self._sealed[1], self._rows_total
        with at_step(self._context.step):
            share = Share(self._target, self._context.redo, sealed, total)
            self.session.prepare(share, epoch, final=final)
        return Committable(self._context.subtask, {**sealed.to_json(), "rows_total": total})

    async def aclose(self) -> None:
        self._forget_timer()
        # Prepared rows stay: the committer may still commit them.
        await in_thread(self._redo.close)

    def _forget_timer(self) -> None:
        if self._unused is not None:
            self._unused.cancel()
