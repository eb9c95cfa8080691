"""A split being read, opened again at its position when its system fails in a way worth retrying.

Always true: what was returned is not returned again; a source that cannot replay is opened again
only as long as it gave nothing; inside a transaction nothing is opened again; a reader that resumes is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from dataflare.engine.metrics import StepMetrics
from dataflare.errors import DataFlareError, Retry
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Position, Split
from dataflare.resilience.retry import Retrying
from dataflare.sdk.source import (
    Chunk,
    ChunkReader,
    Replay,
    SourceBatch,
    SourceConnector,
    SplitReader,
)

T = TypeVar("T")


class ReopeningReader:
    """position: of the first row that was not returned; None is the beginning."""

    def __init__(
        self,
        connector: SourceConnector,
        split: Split,
        position: Position | None,
        retrying: Retrying,
        hold_s: float,
    ) -> None:
        self.connector, self.split, self.position = connector, split, position
        self._retrying, self._hold_s = retrying, hold_s
        capabilities = connector.capabilities()
        self._replays = capabilities.replay is not Replay.NONE
        # Readers of what has no end wait for rows.
        self._timed = capabilities.bounded
        self._may_hold = capabilities.changelog
        self._moved = position is not None
        self._inside = False
        self._reader: SplitReader | None = None
        self._failed: list[SplitReader] = []
        self.warnings: dict[str, int] = {}
        """Those of all readers that were let go, with their numbers of rows."""

    @property
    def holds_time(self) -> bool:
        """As of the reader; before it is there, that of a changelog may."""
        return self._may_hold if self._reader is None else self._reader.holds_time

    async def gives_chunks(self) -> bool:
        """Open it, and say whether it is read by chunk."""
        opening = self._retrying.call(self._open, is_left=self._inside)
        return isinstance(await opening, ChunkReader)

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        """As `SplitReader.read_batch`."""
        if self._is_last:
            return await self._once(partial(self._batch, rows_max))
        return await self._retried(partial(self._batch, rows_max))

    async def read_chunk(self, bytes_max: int | None = None, rows_max: int | None = None) -> Chunk:
        """As `ChunkReader.read_chunk`, with its `bytes_max` and `rows_max`."""
        if self._is_last:
            return await self._once(partial(self._chunk, bytes_max, rows_max))
        return await self._retried(partial(self._chunk, bytes_max, rows_max))

    async def _retried(self, read: Callable[[], Awaitable[T]]) -> T:
        """A run that stops cuts where the reader stands, except inside a transaction: there it waits for the call."""
        return await self._retrying.call(read, timed=self._timed, is_left=self._inside)

    async def _once(self, read: Callable[[], Awaitable[T]]) -> T:
        """As `_retried`, without another attempt."""
        return await self._retrying.once(read, timed=self._timed, is_left=self._inside)

    async def aclose(self) -> None:
        reader, self._reader = self._reader, None
        failed, self._failed = self._failed, []
        # Of readers that failed nothing more is wanted, an error least of all.
        await asyncio.gather(*(each.aclose() for each in failed), return_exceptions=True)
        if reader is not None:
            self._collect_warnings(reader)
            await reader.aclose()

    async def _open(self) -> SplitReader:
        if self._reader is None:
            self._reader = await self.connector.open(self.split, self.position)
            self._reader.hold_s = self._hold_s
        return self._reader

    async def _batch(self, rows_max: int) -> SharedDataBatch:
        reader = await self._open()
        try:
            batch = await reader.read_batch(rows_max)
        except DataFlareError as error:
            await self._lost(error)
            raise
        self.position, self._moved = reader.position(), True
        self._inside = isinstance(batch, SourceBatch) and not batch.may_cut
        return batch

    async def _chunk(self, bytes_max: int | None, rows_max: int | None) -> Chunk:
        reader = await self._open()
        assert isinstance(reader, ChunkReader)
        reader.bytes_max, reader.rows_max = bytes_max, rows_max
        try:
            chunk = await reader.read_chunk()
        except DataFlareError as error:
            await self._lost(error)
            raise
        self.position, self._moved, self._inside = chunk.position, True, not chunk.may_cut
        return chunk

    def end(self) -> Position | None:
        """The position after EndOfSplit."""
        return self._reader.position() if self._reader is not None else self.position

    def _collect_warnings(self, reader: SplitReader) -> None:
        for warning, rows in reader.warnings.items():
            self.warnings[warning] = self.warnings.get(warning, 0) + rows

    async def _lost(self, error: DataFlareError) -> None:
        """Let go of a reader that failed, so that the next call opens another. Chunks given may still
        lean on their reader, so it is closed at the end."""
        reader = self._reader
        if error.retry is not Retry.LATER or reader is None or reader.resumes:
            return
        self._collect_warnings(reader)
        self._failed.append(reader)
        self._reader = None
        if not isinstance(reader, ChunkReader):
            await self.aclose()

    def tell(self, metrics: StepMetrics) -> None:
        """Count what the reader says of itself: what the server keeps, and what users are told at once."""
        if self._reader is None:
            return
        if self._reader.kept_bytes is not None:
            metrics.kept_bytes = self._reader.kept_bytes
        for warning, rows in self._reader.warnings.items():
            if not rows:
                metrics.warnings.setdefault(warning, 0)

    @property
    def wants_checkpoint(self) -> bool:
        """As `SplitReader.wants_checkpoint`."""
        return self._reader is not None and self._reader.wants_checkpoint

    @property
    def _is_last(self) -> bool:
        """Whether nothing can take the place of this reader when it fails."""
        resumes = self._reader is not None and self._reader.resumes
        # Nothing can begin at a position inside a transaction.
        return (self._inside or (self._moved and not self._replays)) and not resumes
