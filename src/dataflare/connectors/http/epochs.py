"""Send the rows of an epoch when its checkpoint is there, each request with a key that it always has.

Always true: an epoch that is sent again, after any crash, is cut into the same requests with the same keys; so a server
that takes a key once has each row once. Rows wait in a redo file until then.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence

import polars as pl

from dataflare.connectors.http.sending import Request
from dataflare.model.batch import SharedDataBatch
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Epoch,
    Marker,
    RefusedRow,
    Writer,
    WriteStats,
)
from dataflare.sdk.sql import redo
from dataflare.sdk.threads import in_thread

Send = Callable[[Request], Awaitable[None]]
"""Sends a request until each of its rows is taken or refused, and goes on where it stopped. Raises DataFlareError."""


class EpochWriter(Writer):
    """Puts rows into a redo file."""

    resumes = True
    system_calls = 0
    float_losses = ("nan", "infinite")

    def __init__(self, context: DestinationContext) -> None:
        self._context = context
        self._redo = redo.RedoWriter(context.redo, context.attempt, context.subtask)
        self._sealed: tuple[int, redo.RedoFile] = (0, redo.RedoFile(None, "", 0))

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        num_bytes = batch.num_bytes
        if batch.num_rows:
            frame = batch.frame.select(self._context.schema.names)
            await in_thread(self._redo.append, frame, num_bytes)
        return WriteStats(batch.num_rows, num_bytes)

    async def prepare(self, epoch: int, *, final: bool) -> Committable:
        return await in_thread(self._prepare, epoch)

    def _prepare(self, epoch: int) -> Committable:
        if self._sealed[0] != epoch:
            self._sealed = epoch, self._redo.seal(epoch)
        return self._sealed[1].committable(self._context.subtask)

    async def aclose(self) -> None:
        await in_thread(self._redo.close)


class EpochCommitter(Committer):
    """batch_size: rows of a request."""

    def __init__(
        self,
        context: DestinationContext,
        batch_size: int,
        send: Send,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._context, self._batch_size, self._send, self._close = context, batch_size, send, close
        self._sent: tuple[int, int] = (0, 0)
        self._sending: Request | None = None
        self._refused: list[RefusedRow] = []

    async def marker(self) -> Marker | None:
        return None

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        await in_thread(redo.clear_after, self._context.redo, epoch)

    async def begin(self, epoch: int) -> None:
        await in_thread(redo.clear_before, self._context.redo, epoch + 1)

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        if self._sent[0] != epoch.number:
            self._sent, self._sending, self._refused = (epoch.number, 0), None, []
        number = 0
        for each in sorted(committables, key=lambda c: c.subtask):
            rows = await in_thread(self._rows, each)
            for part in rows.iter_slices(self._batch_size) if rows is not None else ():
                number += 1
                if number > self._sent[1]:
                    # A call that failed and is made again goes on here.
                    if self._sending is None:
                        self._sending = Request(part, self._key(epoch.number, number))
                    await self._send(self._sending)
                    crash_point("http.commit.after_request")
                    self._refused += self._sending.refused
                    self._sent, self._sending = (epoch.number, number), None
        # The server cannot say what it has, so this epoch must be there if it is committed again.
        await in_thread(redo.clear_before, self._context.redo, epoch.number)

    def take_refused(self) -> Sequence[RefusedRow]:
        refused, self._refused = self._refused, []
        return refused

    def _rows(self, committable: Committable) -> pl.DataFrame | None:
        file = redo.RedoFile.of(committable)
        frames = list(redo.frames(self._context.redo, file))
        return pl.concat(frames) if frames else None

    def _key(self, epoch: int, number: int) -> str:
        context = self._context
        return str(uuid.uuid5(uuid.UUID(context.lineage), f"{context.step}/{epoch}/{number}"))

    async def aclose(self) -> None:
        await self._close()
