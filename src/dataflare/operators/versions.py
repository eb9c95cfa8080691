"""The latest version of each key of a table that changes: levels of pieces, each behind an index.

Adding appends a level, and levels of like size are merged, so a version is indexed again O(log n) times.
All of it stays in memory.

Always true: of two levels the later one has the later version of a key.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from dataflare.model.event_time import TIME_COLUMN
from dataflare.operators.join_shape import RIGHT, JoinShape
from dataflare.state.index import KeyIndex
from dataflare.state.pieces import Piece
from dataflare.state.rows import RowsTable


class Versions:
    """table: where the rows of the right side are, with their times. max_age_us: how old a version may be for
    any row that still comes."""

    def __init__(self, table: RowsTable, shape: JoinShape, max_age_us: int | None) -> None:
        self._table, self._shape, self._max_age_us = table, shape, max_age_us
        table.spills = False
        self._levels: list[tuple[Piece, pl.DataFrame, KeyIndex]] = []
        for piece in table.pieces():
            self._add_level(piece, table.frame_of(piece))

    def latest(self, keys: pl.DataFrame) -> pl.DataFrame | None:
        """The versions of some keys. keys: rows with the columns `key_names`, each once."""
        found = []
        for _, frame, index in reversed(self._levels):
            rows = index.rows([keys[name] for name in self._shape.key_names])
            known = rows.is_not_null()
            if known.any():
                found.append(frame[rows.filter(known)])
                keys = keys.filter(~known)
            if not keys.height:
                break
        return pl.concat(found) if found else None

    def all(self) -> Iterator[pl.DataFrame]:
        """The latest version of each key, the keys with new versions first."""
        newer: list[KeyIndex] = []
        for _, frame, index in reversed(self._levels):
            keys = frame.select(self._shape.key_columns(RIGHT))
            probe = [keys[name] for name in self._shape.key_names]
            hidden = pl.repeat(False, frame.height, eager=True)
            for each in newer:
                hidden = hidden | each.rows(probe).is_not_null()
            newer.append(index)
            yield frame.filter(~hidden)

    def add(self, versions: pl.DataFrame, time: int) -> None:
        """Take new versions in order of time. time: no row that comes is earlier."""
        frame = self._last_of_key(versions)
        while self._levels and self._levels[-1][1].height <= 2 * frame.height:
            _, older, _ = self._levels.pop()
            frame = self._last_of_key(self._young(pl.concat([older, frame]), time))
        self._add_level(self._table.piece_of(frame), frame)
        self._table.set([piece for piece, _, _ in self._levels])

    def _young(self, frame: pl.DataFrame, time: int) -> pl.DataFrame:
        if self._max_age_us is None:
            return frame
        return frame.filter(pl.col(TIME_COLUMN) >= time - self._max_age_us)

    def _last_of_key(self, frame: pl.DataFrame) -> pl.DataFrame:
        keys = list(self._shape.keys_of(RIGHT))
        return frame.unique(subset=keys, keep="last", maintain_order=True)

    def _add_level(self, piece: Piece, frame: pl.DataFrame) -> None:
        keys = frame.select(self._shape.key_columns(RIGHT))
        self._levels.append((piece, frame, KeyIndex(keys, self._shape.key_names)))
