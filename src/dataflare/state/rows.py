"""Rows in the order in which they came. Neighbours of like size in memory become one piece, so that there
are few, and each row is written again only O(log n) times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import polars as pl

from dataflare.state.pieces import ChunkStorage, Groups, Piece


class Keeper(Protocol):
    """What finds rows of a table by key, and takes them out of memory itself."""

    @property
    def index_bytes(self) -> int:
        """What is in memory beside the pieces."""

    @property
    def level_bytes(self) -> int:
        """What `spill` takes out of memory."""

    @property
    def on_disk(self) -> bool:
        """Whether some of its rows are on disk only."""

    def spill(self) -> None:
        """Move rows to disk. Blocking."""

    def close(self) -> None:
        """Give scratch files back."""


class RowsTable:
    """keys: columns by which rows move to another subtask; without any they stay in the first. groups: the
    key groups of the subtask; shares: what it goes on from, by former subtask. spills: whether pieces may
    leave memory before a checkpoint stores them. keeper: takes them out of memory instead. folder: of scratch files."""

    spills = True
    keeper: Keeper | None = None

    def __init__(
        self,
        keys: Sequence[str],
        groups: Groups,
        storage: ChunkStorage | None = None,
        shares: Sequence[Sequence[Piece]] = (),
        folder: Path | None = None,
    ) -> None:
        self.folder = folder
        self.keys = tuple(keys)
        self._groups, self._storage = groups, storage
        self._pieces = [piece for pieces in shares for piece in pieces]
        self._numbered: dict[int, Piece] = {}

    @property
    def has_storage(self) -> bool:
        return self._storage is not None

    def append(self, frame: pl.DataFrame) -> None:
        while (
            self._pieces
            and self._pieces[-1].in_memory
            and self._pieces[-1].rows <= 2 * frame.height
        ):
            piece = self._pieces.pop()
            frame = pl.concat([piece.frame(self._storage), frame])
            piece.release(self._storage)
        self._pieces.append(Piece(frame, self._groups))

    def replace(self, frames: Sequence[pl.DataFrame]) -> None:
        """Hold these rows and no others."""
        for piece in self._pieces:
            piece.release(self._storage)
        self._pieces = [Piece(frame, self._groups) for frame in frames]

    def set(self, pieces: Sequence[Piece]) -> None:
        """Hold these pieces, in this order. Those that are left out are forgotten."""
        staying = {id(piece) for piece in pieces}
        for piece in self._pieces:
            if id(piece) not in staying:
                piece.release(self._storage)
        self._pieces = list(pieces)

    def piece_of(self, frame: pl.DataFrame, groups: Groups | None = None) -> Piece:
        """The frame as a piece for `set`, in memory. groups: the key groups that it may hold, where they
        are known."""
        return Piece(frame, groups or self._groups)

    def put_aside(self, frame: pl.DataFrame, groups: Groups | None = None) -> Piece:
        """The same in storage and not in memory, where there is a storage."""
        piece = self.piece_of(frame, groups)
        if self._storage is not None:
            piece.store(self._storage, self.keys)
            piece.leave_memory()
        return piece

    def frame_of(self, piece: Piece) -> pl.DataFrame:
        """The rows of one piece."""
        return piece.frame(self._storage)

    def name_pieces(self, numbers: Sequence[int]) -> None:
        """Know the pieces by numbers, in their order. See `hold`."""
        self._numbered = dict(zip(numbers, self._pieces, strict=True))

    def hold(self, numbered: Sequence[tuple[int, pl.DataFrame]]) -> None:
        """Hold these frames and no others. A number always means the same rows."""
        before = self._numbered
        self._numbered = {
            number: before.get(number) or Piece(frame, self._groups) for number, frame in numbered
        }
        for number in before.keys() - self._numbered.keys():
            before[number].release(self._storage)
        self._pieces = list(self._numbered.values())

    def frames(self) -> list[pl.DataFrame]:
        """All rows."""
        return [piece.frame(self._storage) for piece in self._pieces]

    def drain(self, rows_max: int) -> Iterator[pl.DataFrame]:
        """The rows in batches. A batch is no longer held when it is given."""
        while self._pieces:
            piece = self._pieces.pop(0)
            slices = piece.frame(self._storage).iter_slices(rows_max)
            self._pieces[:0] = parts = [Piece(rows, self._groups) for rows in slices]
            piece.release(self._storage)
            for part in parts:
                del self._pieces[0]
                yield part.frame(self._storage)

    def drain_pieces(self) -> Iterator[pl.DataFrame]:
        """The rows as they were appended by `put`. One frame is no longer held when it is given."""
        while self._pieces:
            piece = self._pieces.pop(0)
            frame = piece.frame(self._storage)
            piece.release(self._storage)
            yield frame

    def put(self, frame: pl.DataFrame) -> None:
        """Append rows as a frame of its own."""
        self._pieces.append(Piece(frame, self._groups))

    def pieces(self) -> list[Piece]:
        return list(self._pieces)
