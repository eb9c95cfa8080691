"""Rows that never change, in memory, in storage, or in both: what tables consist of.

A large piece is stored as one chunk for each range of key groups, so that a task of another parallelism
reads only its own. A stored piece may leave memory; it is read again when it is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

import polars as pl

from dataflare.model.hashing import KEY_GROUPS, hash_columns, key_group

RANGE_GROUPS = 8
"""Key groups of one range."""
RANGES = KEY_GROUPS // RANGE_GROUPS
SMALL_ROWS = 50_000
"""A piece of at most so many rows is stored as one chunk, whatever its ranges."""

Groups = tuple[int, int]
"""The first and last key group, both included."""
ALL_GROUPS: Groups = (0, KEY_GROUPS - 1)


class Chunk(Protocol):
    """A stored part of a piece."""

    @property
    def rows(self) -> int: ...

    @property
    def key_groups(self) -> Groups | None: ...


class ChunkStorage(Protocol):
    """Where pieces are stored. All calls block, from any thread."""

    def write(self, frame: pl.DataFrame, key_groups: Groups | None) -> Chunk:
        """Keep rows; durable once a checkpoint that names the chunk is published."""

    def read(self, chunk: Chunk) -> pl.DataFrame:
        """The rows of a chunk."""

    def release(self, chunk: Chunk) -> None:
        """No later checkpoint will name the chunk."""


class Sized(Protocol):
    """Something that takes memory."""

    @property
    def num_bytes(self) -> int: ...


class Piece:
    """rows and num_bytes: how many, and about how much memory they take. groups: the key groups that it
    may hold. successor: the piece that it was merged into while it was
    stored, which has so many `members`. index: finds its rows, where a table needs that."""

    __slots__ = (
        "_chunks",
        "_frame",
        "_lock",
        "groups",
        "index",
        "members",
        "num_bytes",
        "rows",
        "successor",
    )

    def __init__(
        self,
        frame: pl.DataFrame | None,
        groups: Groups,
        chunks: Sequence[Chunk] = (),
        num_bytes: int = 0,
    ) -> None:
        self._frame, self._chunks, self.groups = frame, tuple(chunks), groups
        self.rows = sum(chunk.rows for chunk in chunks) if frame is None else frame.height
        self.num_bytes = num_bytes if frame is None else int(frame.estimated_size())
        self.successor: Piece | None = None
        self.members = 1
        self.index: Sized | None = None
        self._lock = threading.Lock()

    @property
    def in_memory(self) -> bool:
        return self._frame is not None

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """Where it is stored; nothing while it is not."""
        return self._chunks

    def frame(self, storage: ChunkStorage | None) -> pl.DataFrame:
        """The rows, read from storage where they have left memory."""
        frame = self._frame
        if frame is not None:
            return frame
        assert storage is not None
        return pl.concat([storage.read(chunk) for chunk in self._chunks])

    def store(self, storage: ChunkStorage, keys: Sequence[str]) -> tuple[Chunk, ...]:
        """Its chunks, written if they are not there yet. Safe to be called twice at once."""
        with self._lock:
            if not self._chunks and self._frame is not None:
                parts = _by_range(self._frame, self.groups, keys)
                self._chunks = tuple(storage.write(part, groups) for part, groups in parts)
        return self._chunks

    def leave_memory(self) -> None:
        """Keep the rows in storage only."""
        if self._chunks:
            self._frame = None

    def release(self, storage: ChunkStorage | None) -> None:
        """The piece is no longer part of its table."""
        if storage is not None:
            for chunk in self._chunks:
                storage.release(chunk)


def _by_range(
    frame: pl.DataFrame, groups: Groups, keys: Sequence[str]
) -> list[tuple[pl.DataFrame, Groups | None]]:
    """The rows by range of key groups, in their order."""
    if not keys:
        return [(frame, None)]
    if frame.height <= SMALL_ROWS or range_of(groups) is not None:
        return [(frame, groups)]
    parts = split_by_range(frame, keys)
    return [(part, groups_of(number)) for number, part in parts]


def split_by_range(frame: pl.DataFrame, keys: Sequence[str]) -> list[tuple[int, pl.DataFrame]]:
    """The rows of each range that has some, in their order."""
    hashed = hash_columns(frame.lazy(), keys, "__dataflare_h")
    number = (key_group(pl.col("__dataflare_h")) // RANGE_GROUPS).alias("__dataflare_r")
    marked = hashed.with_columns(number).drop("__dataflare_h").collect(engine="in-memory")
    parts = marked.partition_by("__dataflare_r", as_dict=True, include_key=False)
    numbered = {int(str(key[0])): part for key, part in parts.items()}
    return [(number, numbered[number]) for number in sorted(numbered)]


def range_of(groups: Groups) -> int | None:
    """The range that holds the key groups; None where there are several."""
    first, last = (group // RANGE_GROUPS for group in groups)
    return first if first == last else None


def joined_groups(pieces: Sequence[Piece]) -> Groups:
    """The key groups that the pieces together may hold."""
    return min(piece.groups[0] for piece in pieces), max(piece.groups[1] for piece in pieces)


def with_successors(pieces: list[Piece]) -> list[Piece]:
    """Neighbours that were merged while they were stored, as the piece they became."""
    if all(piece.successor is None for piece in pieces):
        return pieces
    kept: list[Piece] = []
    for successor, group in groupby(pieces, key=lambda piece: piece.successor):
        members = list(group)
        whole = successor is not None and len(members) == successor.members
        kept.extend([successor] if successor is not None and whole else members)
    return kept


def groups_of(number: int) -> Groups:
    """The key groups of a range."""
    return number * RANGE_GROUPS, (number + 1) * RANGE_GROUPS - 1


def owned_groups(subtask: int, subtasks: int) -> Groups:
    """The key groups that a subtask owns, as `owner_of` says."""
    first = -(-subtask * KEY_GROUPS // subtasks)
    return first, -(-(subtask + 1) * KEY_GROUPS // subtasks) - 1


def is_of(chunk: Chunk, groups: Groups) -> bool:
    """Whether rows of these key groups may be in a chunk."""
    low, high = chunk.key_groups or ALL_GROUPS
    return low <= groups[1] and groups[0] <= high


def owner_of(group: pl.Expr, subtasks: int) -> pl.Expr:
    """The subtask that owns a key group: contiguous ranges of groups, as even as can be."""
    return (group.cast(pl.UInt32) * subtasks // KEY_GROUPS).cast(pl.UInt32)


def own_rows(frame: pl.DataFrame, keys: Sequence[str], subtask: int, subtasks: int) -> pl.DataFrame:
    """The rows whose key group belongs to `subtask` of `subtasks`."""
    if subtasks == 1 or not keys:
        return frame
    hashed = hash_columns(frame.lazy(), keys, "__dataflare_h")
    owner = owner_of(key_group(pl.col("__dataflare_h")), subtasks)
    return hashed.filter(owner == subtask).drop("__dataflare_h").collect(engine="in-memory")
