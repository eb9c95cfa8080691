"""Readers that fetch one page of rows at a time, on a thread, and return it as a chunk or a batch.

Always true: a page's rows are decoded when it is fetched; a row with a value that does not fit is a
bad row and is never changed. Pages have a fixed number of rows, so that a replay has the same
pages.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
from msgspec import Struct, field

from dataflare.model.progress import Position
from dataflare.sdk.source import BadRow, Chunk, ChunkReader, EndOfSplit, SourceBatch
from dataflare.sdk.sql.names import at_step
from dataflare.sdk.threads import in_thread

PAGE_ROWS = 25_000


class Page(Struct, frozen=True):
    """good: typed rows. good_rows: their indices in the page, None if all are good. after: JSON of
    the place after the page. key: rows before it in the split. place: of row i."""

    good: pl.DataFrame
    after: Mapping[str, Any]
    key: int
    good_rows: pl.Series | None = None
    bad: Sequence[BadRow] = ()
    place: Callable[[int], str] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class PageReader(ChunkReader):
    """Fetches pages on one thread at a time; closing waits for a fetch in progress."""

    def __init__(self, step: str, start: Mapping[str, Any]) -> None:
        self._step = step
        self._after: Mapping[str, Any] = start
        self._lock = threading.Lock()
        self._closed = False
        self._row_bytes = 0.0
        self.warnings: dict[str, int] = {}

    @abstractmethod
    def _fetch(self, rows: int) -> Page | None:
        """The next page, or None at the end. Blocking."""

    @abstractmethod
    def _close(self) -> None:
        """Release the connection. Blocking."""

    async def read_chunk(self) -> Chunk:
        rows = PAGE_ROWS
        if self.bytes_max is not None and self._row_bytes:
            rows = max(1, min(rows, int(self.bytes_max / self._row_bytes)))
        if self.rows_max is not None:
            rows = min(rows, self.rows_max)
        page = await in_thread(self._next, rows)
        if page is None:
            raise EndOfSplit
        position = Position(dict(page.after))
        size = int(page.good.estimated_size())
        if page.good.height:
            self._row_bytes = size / page.good.height
        return Chunk(
            page.good.lazy,
            position,
            page.key,
            size,
            rows=page.good.height,
            place=page.place,
            bad=page.bad,
            row_numbers=page.good_rows,
        )

    async def read_batch(self, rows_max: int) -> SourceBatch:
        while (page := await in_thread(self._next, rows_max)) is not None:
            if page.good.height or page.bad:
                return SourceBatch(
                    page.good,
                    bad=page.bad,
                    row_numbers=page.good_rows,
                    place=page.place,
                    metadata={"key": page.key, **page.metadata},
                )
        raise EndOfSplit

    def position(self) -> Position:
        return Position(dict(self._after))

    async def aclose(self) -> None:
        await in_thread(self._shut)

    def _next(self, rows: int) -> Page | None:
        with self._lock:
            if self._closed:
                return None
            with at_step(self._step):
                page = self._fetch(rows)
            if page is not None:
                self._after = page.after
            return page

    def _shut(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._close()
