"""A writer whose calls can be repeated: rows are in its redo file before the database gets them.

Always true: if a call raised an error that can be retried and is repeated with the same batch or
epoch, no row is added twice and no file is sealed twice; the database's rows of the epoch are lost
and written again from the redo file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl
from msgspec.structs import replace

from dataflare.sdk.context import DestinationContext
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, RefusedRow, Writer, WriteStats
from dataflare.sdk.sql import redo
from dataflare.sdk.sql.names import at_step
from dataflare.sdk.sql.refusals import refused_rows
from dataflare.sdk.sql.session import Session
from dataflare.sdk.sql.shares import Share, alike
from dataflare.sdk.sql.store import Target
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.model.batch import SharedDataBatch

_HOLD_S = 0.5
_HELD_ROWS, _HELD_BYTES = 1_000, 1 << 20
"""So many rows wait for more of them, or for the end of the epoch: a call on another thread costs more than they."""


class TableWriter(Writer):
    """Appends batches to the epoch's redo file. A remote store gets them while they arrive, a file when the
    epoch is prepared. type_: of the connector. rows_max: of one statement."""

    resumes = True
    takes_at_once = True
    system_calls: int

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
        self._taken: SharedDataBatch | None = None
        self._held: list[pl.DataFrame] = []
        self._held_rows = self._held_bytes = 0
        self._held_max = min(rows_max or _HELD_ROWS, _HELD_ROWS)
        self._unsent: list[tuple[pl.DataFrame, int]] = []
        self._is_sent = True
        self._sealed: tuple[int, redo.RedoFile] = (0, redo.RedoFile(None, "", 0))
        self._left_out = 0
        self._unused: asyncio.TimerHandle | None = None
        self.system_calls = 0

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        crash_point(f"{self._type}.write.before_redo")
        num_bytes = batch.num_bytes
        if batch is not self._taken and batch.num_rows:
            self._held.append(batch.frame)
            self._held_rows += batch.num_rows
            self._held_bytes += num_bytes
        is_full = self._held_rows >= self._held_max or self._held_bytes >= _HELD_BYTES
        if is_full or not self._is_sent:
            self._taken = batch
            await in_thread(self._write)
        self._taken = None
        return WriteStats(batch.num_rows, num_bytes)

    def _write(self) -> None:
        """Write the rows that are held. After an error it may be called again, also with more of them."""
        with at_step(self._context.step):
            self._log()
            self._send(self._rows_total)

    def _log(self) -> None:
        """Put the rows that are held into the redo file."""
        if not self._is_sent:
            self.session.write_again(self._target, self._redo.frames, self._rows_total)
            self._is_sent = True
        num_bytes, rows = self._held_bytes, self._held_rows
        self._held_rows = self._held_bytes = 0
        self._held = frames = list(alike(self._held, rechunk=rows <= 2 * _HELD_ROWS))
        parts = [(frame, num_bytes * frame.height // rows) for frame in frames]
        for frame, part in parts:
            self._redo.append(frame, part)
        self._held = []
        self._unsent += parts

    def _send(self, rows_before: int) -> None:
        """Give the session the rows that are in the redo file. After an error it has none of the epoch, and reads that
        file."""
        parts, self._unsent = self._unsent, []
        self.system_calls += self.session.remote
        self._is_sent = False
        for frame, num_bytes in parts:
            self.session.write(self._target, frame, num_bytes, rows_before, self._rows_max)
        self._is_sent = True

    async def settle(self) -> Sequence[RefusedRow]:
        if not self._redo.rows and not self._held:
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
        self._write()
        self.system_calls += 1
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
        with at_step(self._context.step):
            if self._sealed[0] != epoch:
                self._log()
                before = self._rows_total
                self._sealed = epoch, replace(self._redo.seal(epoch), left_out=self._left_out)
                crash_point(f"{self._type}.prepare.after_fsync")
                self._rows_total += self._sealed[1].rows
                self._send(before)
            sealed, total = self._sealed[1], self._rows_total
            self.system_calls += 1
            share = Share(self._target, self._context.redo, sealed, total)
            self.session.prepare(share, epoch, final=final)
        return sealed.committable(self._context.subtask, rows_total=total)

    async def aclose(self) -> None:
        self._forget_timer()
        # Prepared rows stay: the committer may still commit them.
        await in_thread(self._redo.close)

    def _forget_timer(self) -> None:
        if self._unused is not None:
            self._unused.cancel()
