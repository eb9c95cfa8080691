"""A set of keys that grows: levels in memory, in order of their hashes, and sorted runs on disk.

Adding appends a level; levels of like size are merged (as in a log-structured merge tree, O'Neil et al. 1996), so a
key is sorted again O(log n) times. When memory is short all levels become a run, and `MERGED_RUNS` runs of like size
become one, a range of key groups at a time. NULL is a value like others here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from dataflare.state.hash_index import HashIndex, of_range
from dataflare.state.key_hashes import HASH, hashes_tell_all, with_hashes
from dataflare.state.key_run import KeyRun
from dataflare.state.pieces import (
    RANGES,
    ChunkStorage,
    Groups,
    Piece,
    groups_of,
    range_of,
)

RESTORED_ROWS = 2_000_000
"""More keys than these go from a checkpoint to disk at once."""
MERGED_RUNS = 8


class _Level:
    """Keys in memory. piece: the same keys as those of the index."""

    def __init__(self, piece: Piece, held: pl.DataFrame, keys: Sequence[str]) -> None:
        self.piece, self.held, self.index = piece, held, HashIndex(held, keys)


class KeySet:
    """keys: the key columns; frames given to it have exactly those, distinct and not yet held. groups:
    the key groups of the subtask; shares: what it goes on from, by former subtask. folder: of scratch files."""

    def __init__(
        self,
        keys: Sequence[str],
        groups: Groups,
        storage: ChunkStorage | None = None,
        shares: Sequence[Sequence[Piece]] = (),
        folder: Path | None = None,
    ) -> None:
        self.keys = tuple(keys)
        self._groups, self._storage, self._folder = groups, storage, folder
        self._levels: list[_Level] = []
        self._runs: list[KeyRun] = []
        self._merging: Iterator[None] | None = None
        self._restore([piece for pieces in shares for piece in pieces])

    def contains(self, frame: pl.DataFrame) -> pl.Series:
        """For each row whether its key is held."""
        probe = with_hashes(frame.select(self.keys), self.keys)
        held = pl.repeat(False, frame.height, eager=True)
        for level in self._levels:
            held = held | level.index.places(probe).is_not_null()
        for run in reversed(self._runs):
            if held.all():
                break
            held = held | run.contains(probe)
        return held

    def add(self, keys: pl.DataFrame) -> None:
        if self._merging is not None and next(self._merging, "done") == "done":
            self._merging = None
        if not keys.height:
            return
        held = with_hashes(keys, self.keys)
        while self._levels and self._levels[-1].piece.rows <= 2 * held.height:
            level = self._levels.pop()
            level.piece.release(self._storage)
            held = pl.concat([level.held, held])
        held = held.sort(HASH)
        self._levels.append(_Level(Piece(held.drop(HASH), self._groups), held, self.keys))

    def pieces(self) -> list[Piece]:
        """All keys."""
        stored = [piece for run in self._runs for piece in run.pieces]
        return [*stored, *(level.piece for level in self._levels)]

    @property
    def index_bytes(self) -> int:
        """What is in memory beside the pieces."""
        hashes = sum(
            8 * level.piece.rows if level.piece.in_memory else int(level.held.estimated_size())
            for level in self._levels
        )
        return hashes + sum(run.num_bytes for run in self._runs)

    @property
    def level_bytes(self) -> int:
        """What `spill` takes out of memory."""
        return sum(int(level.held.estimated_size()) for level in self._levels)

    @property
    def on_disk(self) -> bool:
        """Whether some keys are on disk only."""
        return bool(self._runs)

    def spill(self) -> None:
        """Move the levels to disk as one run. Blocking."""
        levels = [level for level in self._levels if level.held.height]
        if not levels or self._storage is None:
            return
        rows = sum(level.piece.rows for level in levels)
        run = KeyRun(self.keys, rows, self._folder)
        staying = [nulls for level in levels if (nulls := self._apart(level.held)[1]).height]
        for number in range(RANGES):
            parts = [
                self._apart(level.held.slice(*of_range(level.held, number)))[0] for level in levels
            ]
            if any(part.height for part in parts):
                self._append(run, number, pl.concat(parts))
        run.finish()
        self._runs.append(run)
        self._levels = []
        for level in levels:
            level.piece.release(self._storage)
        for nulls in staying:
            self._levels.append(_Level(Piece(nulls.drop(HASH), self._groups), nulls, self.keys))
        self._begin_merge()

    def close(self) -> None:
        """Give the scratch files back."""
        for run in self._runs:
            run.close()

    def _apart(self, held: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The keys for a run, and NULL where a run tells keys by their hashes alone: it stays in memory."""
        if not hashes_tell_all(held.schema, self.keys):
            return held, held.clear()
        is_null = held[self.keys[0]].is_null()
        return (
            (held.filter(~is_null), held.filter(is_null)) if is_null.any() else (held, held.clear())
        )

    def _append(self, run: KeyRun, number: int, hashed: pl.DataFrame) -> None:
        """Put the keys of one range behind a run, as a stored piece."""
        assert self._storage is not None
        hashed = hashed.sort(HASH)
        piece = Piece(hashed.drop(HASH), groups_of(number))
        piece.store(self._storage, self.keys)
        piece.leave_memory()
        run.append(hashed, [piece])

    def _begin_merge(self) -> None:
        group = self._runs[-MERGED_RUNS:]
        sizes = [run.rows for run in group]
        alike = max(sizes) < MERGED_RUNS * min(sizes) if sizes else False
        if self._merging is None and len(group) == MERGED_RUNS and alike:
            self._merging = self._merge(group)

    def _merge(self, group: Sequence[KeyRun]) -> Iterator[None]:
        """Make one run of several, a range at a time. They stay until it is whole."""
        merged = KeyRun(self.keys, sum(run.rows for run in group), self._folder)
        for number in range(RANGES):
            pieces = [p for run in group for p in run.pieces if range_of(p.groups) == number]
            if pieces:
                frames = [piece.frame(self._storage) for piece in pieces]
                whole = self._apart(with_hashes(pl.concat(frames), self.keys))[0]
                self._append(merged, number, whole)
            yield
        merged.finish()
        place = self._runs.index(group[0])
        self._runs[place : place + len(group)] = [merged]
        for run in group:
            run.close()
            for piece in run.pieces:
                piece.release(self._storage)

    def _restore(self, pieces: Sequence[Piece]) -> None:
        """Many keys become a run on their stored pieces, which are not written again; few become levels."""
        by_range: dict[int, list[Piece]] = {}
        if sum(piece.rows for piece in pieces) > RESTORED_ROWS:
            for piece in pieces:
                number = range_of(piece.groups)
                if number is not None and piece.chunks:
                    by_range.setdefault(number, []).append(piece)
        in_runs = {id(piece) for each in by_range.values() for piece in each}
        for piece in pieces:
            if id(piece) not in in_runs:
                held = with_hashes(piece.frame(self._storage), self.keys).sort(HASH)
                self._levels.append(_Level(piece, held, self.keys))
        self._levels.sort(key=lambda level: level.piece.rows, reverse=True)
        if by_range:
            self._restore_run(by_range)

    def _restore_run(self, by_range: Mapping[int, Sequence[Piece]]) -> None:
        """One run on the pieces of each range."""
        rows = sum(piece.rows for each in by_range.values() for piece in each)
        run = KeyRun(self.keys, rows, self._folder)
        for number in sorted(by_range):
            frames = [piece.frame(self._storage) for piece in by_range[number]]
            held = with_hashes(pl.concat(frames), self.keys).sort(HASH)
            for piece in by_range[number]:
                piece.leave_memory()
            whole, nulls = self._apart(held)
            if nulls.height:
                self._levels.append(_Level(Piece(nulls.drop(HASH), self._groups), nulls, self.keys))
            run.append(whole, by_range[number])
        run.finish()
        self._runs.append(run)
