"""A set of keys that grows: levels of pieces, each behind an index.

Adding appends a level; levels of like size are merged (as in a log-structured merge tree, O'Neil et
al. 1996), so a key is indexed again O(log n) times. NULL is a value like others here.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dataflare.state.index import KeyIndex
from dataflare.state.pieces import ChunkStorage, Groups, Piece


class KeySet:
    """keys: the key columns; frames given to it have exactly those, distinct and not yet held. groups:
    the key groups of the subtask; shares: what it goes on from, by former subtask."""

    def __init__(
        self,
        keys: Sequence[str],
        groups: Groups,
        storage: ChunkStorage | None = None,
        shares: Sequence[Sequence[Piece]] = (),
    ) -> None:
        self.keys = tuple(keys)
        self._groups, self._storage = groups, storage
        self._levels: list[tuple[Piece, pl.DataFrame, KeyIndex]] = []
        self._nulls: list[Piece] = []
        for pieces in shares:
            for piece in pieces:
                self._take_over(piece)

    def contains(self, frame: pl.DataFrame) -> pl.Series:
        """For each row whether its key is held."""
        probe = [frame[key] for key in self.keys]
        held = pl.repeat(False, frame.height, eager=True)
        for _, _, index in self._levels:
            held = held | index.rows(probe).is_not_null()
        if self._nulls:
            nulls = pl.concat([piece.frame(self._storage) for piece in self._nulls])
            marked = frame.select(self.keys).join(
                nulls.with_columns(pl.lit(True).alias("__dataflare_hit")),
                on=list(self.keys),
                how="left",
                nulls_equal=True,
                maintain_order="left",
            )
            held = held | marked["__dataflare_hit"].fill_null(False)
        return held

    def add(self, keys: pl.DataFrame) -> None:
        has_null = pl.any_horizontal([pl.col(key).is_null() for key in self.keys])
        nulls, whole = keys.filter(has_null), keys.filter(~has_null)
        if nulls.height:
            held = [piece.frame(self._storage) for piece in self._nulls]
            for piece in self._nulls:
                piece.release(self._storage)
            self._nulls = [Piece(pl.concat([*held, nulls]), self._groups)]
        if not whole.height:
            return
        while self._levels and self._levels[-1][1].height <= 2 * whole.height:
            piece, frame, _ = self._levels.pop()
            piece.release(self._storage)
            whole = pl.concat([frame, whole], rechunk=True)
        self._add_level(Piece(whole, self._groups), whole)

    def pieces(self) -> list[Piece]:
        """All keys."""
        return [*(piece for piece, _, _ in self._levels), *self._nulls]

    @property
    def index_bytes(self) -> int:
        """What is in memory beside the pieces: the keys of pieces in storage, and the indexes with hashes,
        rows and a directory, about 24 bytes a key."""
        keys = sum(int(f.estimated_size()) for piece, f, _ in self._levels if not piece.in_memory)
        return keys + sum(24 * frame.height for _, frame, _ in self._levels)

    def _take_over(self, piece: Piece) -> None:
        frame = piece.frame(self._storage)
        has_null = pl.any_horizontal([pl.col(key).is_null() for key in self.keys])
        count = frame.select(has_null.sum()).item()
        if count == frame.height:
            self._nulls.append(piece)
        elif not count:
            self._add_level(piece, frame)
        else:  # of a version that did not keep them apart, or filtered
            self.add(frame)

    def _add_level(self, piece: Piece, frame: pl.DataFrame) -> None:
        self._levels.append((piece, frame, KeyIndex(frame, self.keys)))
