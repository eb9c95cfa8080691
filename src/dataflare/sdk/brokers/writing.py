"""Writers of messages: into a redo file for a committer that sends an epoch, or to the broker at once.

Always true: what may fail and is made again is before anything is kept or sent.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

import polars as pl

from dataflare.errors import DataError
from dataflare.formats.text_write import python_row, python_rows
from dataflare.model.batch import KIND_COLUMN, SharedDataBatch
from dataflare.sdk.brokers.rows import Made
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, RefusedRow, Writer, WriteStats
from dataflare.sdk.sql import redo
from dataflare.sdk.threads import in_thread

_FEW_ROWS, _FEW_BYTES = 500, 256 << 10
"""To make messages of fewer and smaller rows costs less than to hand them to another thread."""


class Maker(Protocol):
    """Makes messages of rows."""

    at_once: bool
    """Whether it waits for no system."""

    def make(self, frame: pl.DataFrame) -> Made: ...


class MessageWriter(Writer):
    """Makes messages of rows, and keeps those that the broker would refuse. place: where they go, to show."""

    float_losses = ("nan", "infinite")

    def __init__(self, maker: Maker, context: DestinationContext, place: str) -> None:
        self._maker, self._context, self._place = maker, context, place
        self._refused: list[RefusedRow] = []

    def made(self, frame: pl.DataFrame) -> Made:
        """The messages of rows. On any thread."""
        made = self._maker.make(frame)
        if made.refused.height:
            self._leave_out(made.refused)
        return made

    def _leave_out(self, refused: pl.DataFrame) -> None:
        """Keep refused rows, with the column `why`. Raises DataError (E0510) where rows may not be left out."""
        if not self._context.sift:
            raise self._refusal(refused)
        for row in python_rows(refused):
            why = row.pop("why")
            self._refused.append(RefusedRow(row, "E0510", f"{self._place} refuses a row: {why}"))

    def _refusal(self, refused: pl.DataFrame) -> DataError:
        row = python_row(refused)
        why = row.pop("why")
        text = ", ".join(f"{name}={value!r}" for name, value in row.items())
        return DataError(
            f"{self._place} refuses a row: {why}",
            code="E0510",
            step=self._context.step,
            notes=[f"the row: {text[:400]}"],
            help="fix the data, or set error_handling: {on_error: dead_letter}",
        )

    async def settle(self) -> Sequence[RefusedRow]:
        refused, self._refused = self._refused, []
        return refused


class EpochWriter(MessageWriter):
    """Puts the messages of an epoch into a redo file; the committer sends them."""

    resumes = True
    system_calls = 0

    def __init__(
        self,
        maker: Maker,
        context: DestinationContext,
        place: str,
        restored: Committable | None,
    ) -> None:
        super().__init__(maker, context, place)
        self._redo = redo.RedoWriter(context.redo, context.attempt, context.subtask)
        self._rows_total = int(restored.data["rows_total"]) if restored is not None else 0
        self._sealed: tuple[int, redo.RedoFile] = (0, redo.RedoFile(None, "", 0))

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        num_bytes = batch.num_bytes
        if batch.num_rows:
            await in_thread(self._write, batch.frame, num_bytes)
        return WriteStats(batch.num_rows, num_bytes)

    def _write(self, frame: pl.DataFrame, num_bytes: int) -> None:
        messages = self.made(frame).messages
        if messages.height:
            self._redo.append(messages, num_bytes)

    async def prepare(self, epoch: int, *, final: bool) -> Committable:
        return await in_thread(self._prepare, epoch)

    def _prepare(self, epoch: int) -> Committable:
        if self._sealed[0] != epoch:
            self._sealed = epoch, self._redo.seal(epoch)
            crash_point("broker.prepare.after_fsync")
            self._rows_total += self._sealed[1].rows
        return self._sealed[1].committable(self._context.subtask, rows_total=self._rows_total)

    async def aclose(self) -> None:
        await in_thread(self._redo.close)


class DirectWriter(MessageWriter):
    """Sends messages at once, and waits for the broker's word at the checkpoint."""

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        if batch.num_rows:
            few = self._maker.at_once and _are_few(batch)
            made = self.made(batch.frame) if few else await in_thread(self.made, batch.frame)
            if made.messages.height:
                refused = await self.send(made.messages)
                if refused and made.rows is not None:
                    self._leave_out(_rows_at(made.rows, refused))
        return WriteStats(batch.num_rows, batch.num_bytes)

    @abstractmethod
    async def send(self, messages: pl.DataFrame) -> Mapping[int, str] | None:
        """Send messages, as `rows.MESSAGES`, in their order. After `flush` the broker must have them all, except those
        that it told to refuse: by their numbers, why."""


def _rows_at(rows: pl.DataFrame, refused: Mapping[int, str]) -> pl.DataFrame:
    """Refused rows in their order, with the column `why`."""
    numbers = sorted(refused)
    why = pl.Series("why", [refused[number] for number in numbers], pl.String())
    return rows[numbers].drop(KIND_COLUMN, strict=False).with_columns(why)


def _are_few(batch: SharedDataBatch) -> bool:
    """Whether its rows are worked on at once."""
    return batch.num_rows < _FEW_ROWS and batch.num_bytes < _FEW_BYTES
