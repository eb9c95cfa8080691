"""A writer whose calls can be repeated: rows are in its redo file before the database gets them.

Always true: if a call raised an error that can be retried and is repeated with the same batch or
epoch, no row is added twice and no file is sealed twice; the database's rows of the epoch are lost
and written again from the redo file.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dataflare.errors import DataFlareError
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, RefusedRow, Writer, WriteStats
from dataflare.sdk.sql import redo
from dataflare.sdk.sql.refusals import Refusal, refused_rows
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    import polars as pl

    from dataflare.model.batch import SharedDataBatch


class RedoLogWriter(Writer):
    """The part that all databases share. type_: of the connector. key: the columns that identify
    refused rows. rows_max: of a frame of the redo file, which is written with one statement."""

    resumes = True

    def __init__(
        self,
        type_: str,
        key: Sequence[str],
        context: DestinationContext,
        restored: Committable | None,
        rows_max: int | None = None,
    ) -> None:
        self._type, self._key, self._context = type_, key, context
        self._redo = redo.RedoWriter(context.redo, context.attempt, context.subtask, rows_max)
        self._rows_total = int(restored.data["rows_total"]) if restored is not None else 0
        self._last_batch: SharedDataBatch | None = None
        self._sealed: tuple[int, redo.RedoFile] | None = None
        self._left_out = 0

    # -- for subclasses: the database
    # --------------------------------------------------------------------

    def _send(self, frame: pl.DataFrame, num_bytes: int) -> None:
        """Send rows that are in the redo file to a database that gets them before the epoch ends.
        Blocking."""
        return

    def _send_again(self) -> None:
        """After an error in `_send`: send all rows of the epoch again, from the redo file.
        Blocking."""
        return

    @abstractmethod
    def _find_refused(self) -> list[Refusal]:
        """Try the rows of the redo file, and return those that are refused. Blocking."""

    @abstractmethod
    def _try(self, sealed: redo.RedoFile, epoch: int, *, final: bool) -> None:
        """Apply the epoch's rows in a transaction, so that errors are raised now. Blocking."""

    # -- the writer --------------------------------------------------------------------------------

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        crash_point(f"{self._type}.write.before_redo")
        num_bytes = batch.num_bytes
        if batch.num_rows:
            await in_thread(self._write, batch, num_bytes)
        return WriteStats(batch.num_rows, num_bytes)

    def _write(self, batch: SharedDataBatch, num_bytes: int) -> None:
        with self._with_step():
            if self._last_batch is batch:
                self._send_again()
            else:
                self._redo.append(batch.frame, num_bytes)
                self._last_batch = batch
                self._send(batch.frame, num_bytes)
        self._last_batch = None

    async def settle(self) -> Sequence[RefusedRow]:
        return await in_thread(self._settle) if self._redo.rows else ()

    def _settle(self) -> Sequence[RefusedRow]:
        with self._with_step():
            refused = self._find_refused()
            if not refused:
                return ()
            rows, numbers = refused_rows(refused, self._redo.frames(), self._key)
            self._redo.refuse(numbers)
            return rows

    def note_left_out(self, rows: Mapping[str, int]) -> None:
        self._left_out = sum(rows.get(step, 0) for step in self._context.before)

    async def prepare(self, epoch: int, *, final: bool) -> Committable:
        return await in_thread(self._prepare, epoch, final)

    def _prepare(self, epoch: int, final: bool) -> Committable:
        if self._sealed is None or self._sealed[0] != epoch:
            self._sealed = epoch, replace(self._redo.seal(epoch), left_out=self._left_out)
            crash_point(f"{self._type}.prepare.after_fsync")
            self._rows_total += self._sealed[1].rows
        sealed = self._sealed[1]
        with self._with_step():
            self._try(sealed, epoch, final=final)
        return Committable(
            self._context.subtask, {**sealed.to_json(), "rows_total": self._rows_total}
        )

    @contextmanager
    def _with_step(self) -> Iterator[None]:
        """Add the step to errors."""
        try:
            yield
        except DataFlareError as error:
            raise error.at(step=self._context.step) from error.__cause__

    async def aclose(self) -> None:
        # Prepared rows stay: the committer may still commit them.
        await in_thread(self._redo.close)
