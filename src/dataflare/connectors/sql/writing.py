"""A writer whose calls may be made again: what it took is in its redo file before a database hears of it.

Always true: a call that raised an error worth retrying, made again with the same batch or epoch, takes no
row twice and seals no file twice; what the database had of the epoch is lost and written again from the
redo file.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dataflare.connectors.sql import redo
from dataflare.connectors.sql.refusals import Refusal, left_out
from dataflare.errors import DataFlareError
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, RefusedRow, Writer, WriteStats

if TYPE_CHECKING:
    import polars as pl

    from dataflare.model.batch import SharedDataBatch


class RedoLogWriter(Writer):
    """The part that all databases share. type_: of the connector. key: the columns that tell refused
    rows apart. rows_max: of a frame of the redo file, which a database takes with one statement."""

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
        self._taken: SharedDataBatch | None = None
        self._sealed: tuple[int, redo.RedoFile] | None = None

    # -- what the database does --------------------------------------------------------------------

    def _send(self, frame: pl.DataFrame, num_bytes: int) -> None:
        """Rows that the redo file has, for a database that takes them before the epoch ends. Blocking."""
        return

    def _send_again(self) -> None:
        """`_send` raised: all rows of the epoch once more, from the redo file. Blocking."""
        return

    @abstractmethod
    def _find_refused(self) -> list[Refusal]:
        """Try the rows of the redo file, and leave out those that are refused. Blocking."""

    @abstractmethod
    def _try(self, sealed: redo.RedoFile, epoch: int, *, final: bool) -> None:
        """Have the epoch's rows in a transaction, so that whatever is refused is raised. Blocking."""

    # -- the writer --------------------------------------------------------------------------------

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        crash_point(f"{self._type}.write.before_redo")
        num_bytes = batch.num_bytes
        if batch.num_rows:
            await asyncio.to_thread(self._write, batch, num_bytes)
        return WriteStats(batch.num_rows, num_bytes)

    def _write(self, batch: SharedDataBatch, num_bytes: int) -> None:
        with self._placed():
            if self._taken is batch:
                self._send_again()
            else:
                self._redo.append(batch.frame, num_bytes)
                self._taken = batch
                self._send(batch.frame, num_bytes)
        self._taken = None

    async def settle(self) -> Sequence[RefusedRow]:
        return await asyncio.to_thread(self._settle) if self._redo.rows else ()

    def _settle(self) -> Sequence[RefusedRow]:
        with self._placed():
            refused = self._find_refused()
            if not refused:
                return ()
            rows, numbers = left_out(refused, self._redo.frames(), self._key)
            self._redo.refuse(numbers)
            return rows

    async def prepare(self, epoch: int, *, final: bool) -> Committable:
        return await asyncio.to_thread(self._prepare, epoch, final)

    def _prepare(self, epoch: int, final: bool) -> Committable:
        if self._sealed is None or self._sealed[0] != epoch:
            self._sealed = epoch, self._redo.seal(epoch)
            crash_point(f"{self._type}.prepare.after_fsync")
            self._rows_total += self._sealed[1].rows
        sealed = self._sealed[1]
        with self._placed():
            self._try(sealed, epoch, final=final)
        return Committable(
            self._context.subtask, {**sealed.to_json(), "rows_total": self._rows_total}
        )

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """Errors say which step they are of."""
        try:
            yield
        except DataFlareError as error:
            raise error.at(step=self._context.step) from error.__cause__

    async def aclose(self) -> None:
        # What was prepared stays: the committer may still be asked to commit it.
        await asyncio.to_thread(self._redo.close)
