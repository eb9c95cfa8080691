"""Rows that come back when event time has come to their moment.

Always true: a row comes back once, at the first watermark at or behind its moment; a piece never changes.
A row that came back stays in its piece until the whole piece has: `told` says how far the pieces are read.
So a checkpoint writes only rows that are new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import polars as pl

from dataflare.state.pieces import ChunkStorage, Groups, Piece

AT_COLUMN = "__dataflare_at"
"""Int64: when the row comes back, in microseconds since 1970, UTC."""

FIRST, LAST = -(2**63), 2**63 - 1


class Told(Protocol):
    """A number that is part of each checkpoint."""

    value: int


class Timers:
    """keys: columns by which rows move to another subtask. told: how far event time has come, as a value of
    the tables. groups: the key groups of the subtask; shares: what it goes on from, by former subtask."""

    def __init__(
        self,
        keys: Sequence[str],
        told: Told,
        groups: Groups,
        storage: ChunkStorage | None = None,
        shares: Sequence[Sequence[Piece]] = (),
    ) -> None:
        self.keys = tuple(keys)
        self._told, self._groups, self._storage = told, groups, storage
        self._pieces = [piece for pieces in shares for piece in pieces]
        self._ends: dict[int, tuple[int, int]] = {}

    @property
    def told_us(self) -> int | None:
        """How far event time had come at the last `due`."""
        return self._told.value if self._told.value != FIRST else None

    def add(self, frame: pl.DataFrame) -> None:
        """frame: rows with an AT_COLUMN. A moment that is over is the next watermark."""
        if not frame.height:
            return
        after = min(self._told.value, LAST - 1) + 1
        moment = pl.max_horizontal(pl.col(AT_COLUMN), pl.lit(after, pl.Int64))
        frame = frame.with_columns(moment.alias(AT_COLUMN))
        while self._pieces and self._joins(self._pieces[-1], frame.height):
            waiting = pl.col(AT_COLUMN) > self._told.value
            frame = pl.concat([self._pieces[-1].frame(self._storage).filter(waiting), frame])
            self._forget(-1)
        piece = Piece(frame.sort(AT_COLUMN, maintain_order=True), self._groups)
        self._pieces.append(piece)

    def due(self, event_time_us: int) -> pl.DataFrame | None:
        """The rows whose moment has come, ordered by it; None where there are none."""
        before, self._told.value = self._told.value, max(self._told.value, event_time_us)
        parts: list[pl.DataFrame] = []
        for place in reversed(range(len(self._pieces))):
            first, last = self._moments(self._pieces[place])
            if first > event_time_us:
                continue
            at = pl.col(AT_COLUMN)
            rows = self._pieces[place].frame(self._storage)
            rows = rows.filter((at > before) & (at <= event_time_us))
            if rows.height:
                parts.append(rows)
            if last <= event_time_us:
                self._forget(place)
        if not parts:
            return None
        return pl.concat(parts[::-1]).sort(AT_COLUMN, maintain_order=True)

    def pieces(self) -> list[Piece]:
        return list(self._pieces)

    def _joins(self, piece: Piece, rows: int) -> bool:
        return piece.in_memory and piece.rows <= 2 * rows

    def _moments(self, piece: Piece) -> tuple[int, int]:
        """The first and the last moment of a piece."""
        known = self._ends.get(id(piece))
        if known is None:
            at = piece.frame(self._storage)[AT_COLUMN]
            known = self._ends[id(piece)] = (int(at.min()), int(at.max()))  # type: ignore[arg-type]
        return known

    def _forget(self, place: int) -> None:
        piece = self._pieces.pop(place)
        self._ends.pop(id(piece), None)
        piece.release(self._storage)
