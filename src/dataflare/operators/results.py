"""Results that wait until they are given, so that a checkpoint can be cut between them."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from dataflare.state.tables import Tables

_SLICE_ROWS = 65_536
_BYTES_IN_MEMORY = 64 * 2**20


class Results:
    """Frames in a table of their own; many of them are in storage, not in memory."""

    def __init__(self, tables: Tables) -> None:
        self._table = tables.queue("results")
        self._bytes = 0

    def put(self, frame: pl.DataFrame) -> None:
        self._bytes += int(frame.estimated_size())
        if self._bytes < _BYTES_IN_MEMORY:
            self._table.put(frame)
        else:
            self._table.set([*self._table.pieces(), self._table.put_aside(frame)])

    def drain(self) -> Iterator[pl.DataFrame]:
        """The results in small frames. One is no longer held when it is given."""
        yield from self._table.drain(_SLICE_ROWS)
        self._bytes = 0
