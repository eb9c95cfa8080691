"""Tables that are asked by key, where memory is short: their rows in runs on disk (a log-structured merge tree, O'Neil
et al. 1996). Levels in memory are newer than all runs, and a later run is newer than an earlier one.

When memory is short all levels become a run, and `MERGED_RUNS` runs of like size become one, a range of key groups at
a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl

from dataflare.model.hashing import hash_columns
from dataflare.state.pieces import RANGES, Piece, groups_of, range_of
from dataflare.state.row_run import RowRun
from dataflare.state.rows import RowsTable

RESTORED_ROWS = 500_000
"""More rows than these go from a checkpoint to disk at once."""
MERGED_RUNS = 8
_RANGE = 2**64 // RANGES

MergeRows = Callable[[pl.DataFrame, bool], pl.DataFrame]
"""Brings rows together, older ones first. The second argument says whether no row is older."""


class RowRuns:
    """table: has the pieces, and says where scratch files are. hash_name: the column with the hash of the key; hashed:
    whether pieces have it. time: see `RowRun`."""

    def __init__(
        self,
        table: RowsTable,
        hash_name: str,
        merge: MergeRows,
        *,
        hashed: bool = True,
        time: str | None = None,
    ) -> None:
        self._table, self._hash, self._merge, self._time = table, hash_name, merge, time
        self._hashed = hashed
        self.runs: list[RowRun] = []
        self._merging: Iterator[None] | None = None

    @property
    def able(self) -> bool:
        """Whether rows may go to disk: they have keys, by which they are cut, and there is a storage."""
        return bool(self._table.keys) and self._table.has_storage

    @property
    def rows(self) -> int:
        return sum(run.rows for run in self.runs)

    @property
    def num_bytes(self) -> int:
        """How much memory they take."""
        return sum(run.num_bytes for run in self.runs)

    def pieces(self) -> list[Piece]:
        return [piece for run in self.runs for piece in run.pieces]

    def having(self, hashes: pl.Series) -> list[pl.DataFrame]:
        """The rows whose key has one of these hashes, of each run that has some; the oldest first."""
        found = (run.having(hashes) for run in self.runs)
        return [frame for frame in found if frame is not None]

    def spill(self, levels: Sequence[pl.DataFrame]) -> None:
        """Make a run of levels. Each is in the order of its hashes, and the older ones come first. Blocking."""
        run = RowRun(self._hash, sum(level.height for level in levels), *self._place)
        for number in range(RANGES):
            parts = [level.slice(*of_range(level[self._hash], number)) for level in levels]
            if any(part.height for part in parts):
                self._append(run, number, parts, is_oldest=not self.runs)
        self._add(run)
        self._begin_merge()

    def go_on(self) -> None:
        """Take a step of a merge that has begun. Blocking."""
        if self._merging is not None and next(self._merging, "done") == "done":
            self._merging = None

    def clear(self) -> None:
        """Forget all runs, also those that are being merged. The table's pieces must be set then. Blocking."""
        while self._merging is not None:
            self.go_on()
        self.drop(lambda run: True)

    def drop(self, is_dropped: Callable[[RowRun], bool]) -> bool:
        """Forget whole runs, unless some are being merged. The table's pieces must be set then. Whether there were some."""
        dropped = [run for run in self.runs if is_dropped(run)]
        if not dropped or self._merging is not None:
            return False
        self.runs = [run for run in self.runs if run not in dropped]
        for run in dropped:
            run.close()
        return True

    def by_range(self, levels: Sequence[pl.DataFrame]) -> Iterator[tuple[int, pl.DataFrame]]:
        """All rows, with those of the levels in memory, brought together, a range of key groups at a time. The range
        comes with them."""
        for number in range(RANGES):
            parts = self._of_range(self.runs, number)
            parts += [level.slice(*of_range(level[self._hash], number)) for level in levels]
            frame = pl.concat(parts) if parts else None
            if frame is not None and frame.height:
                yield number, self._merge(frame, True)

    def restore(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Make a run of the pieces of a large checkpoint, which are not written again. Gives those that stay in
        memory."""
        if not self.able or sum(piece.rows for piece in pieces) <= RESTORED_ROWS:
            return list(pieces)
        by_range: dict[int, list[Piece]] = {}
        for piece in pieces:
            number = range_of(piece.groups)
            if number is not None and piece.chunks:
                by_range.setdefault(number, []).append(piece)
        run = RowRun(self._hash, sum(piece.rows for piece in pieces), *self._place)
        for number in sorted(by_range):
            frame = pl.concat(self._frames(by_range[number]))
            for piece in by_range[number]:
                piece.leave_memory()
            run.append(frame.sort(self._hash, maintain_order=True), by_range[number])
        self._add(run)
        taken = {id(piece) for each in by_range.values() for piece in each}
        return [piece for piece in pieces if id(piece) not in taken]

    def close(self) -> None:
        """Give the scratch files back."""
        for run in self.runs:
            run.close()

    @property
    def _place(self) -> tuple[Path | None, str | None]:
        return self._table.folder, self._time

    def _add(self, run: RowRun) -> None:
        run.finish()
        if run.rows:
            self.runs.append(run)
        else:
            run.close()

    def _append(
        self, run: RowRun, number: int, parts: Sequence[pl.DataFrame], *, is_oldest: bool
    ) -> None:
        """Put the rows of one range behind a run, as a stored piece."""
        frame = self._merge(pl.concat(parts), is_oldest).sort(self._hash, maintain_order=True)
        if frame.height:
            stored = frame if self._hashed else frame.drop(self._hash)
            run.append(frame, [self._table.put_aside(stored, groups_of(number))])

    def _of_range(self, runs: Sequence[RowRun], number: int) -> list[pl.DataFrame]:
        pieces = [p for run in runs for p in run.pieces if range_of(p.groups) == number]
        return self._frames(pieces)

    def _frames(self, pieces: Sequence[Piece]) -> list[pl.DataFrame]:
        """The rows of pieces, with their hashes."""
        frames = [self._table.frame_of(piece) for piece in pieces]
        if self._hashed:
            return frames
        lazy = [hash_columns(frame.lazy(), self._table.keys, self._hash) for frame in frames]
        return [each.collect(engine="in-memory") for each in lazy]

    def _begin_merge(self) -> None:
        group = self.runs[-MERGED_RUNS:]
        sizes = [run.rows for run in group]
        alike = max(sizes) < MERGED_RUNS * min(sizes) if sizes else False
        if self._merging is None and len(group) == MERGED_RUNS and alike:
            self._merging = self._merge_runs(group)

    def _merge_runs(self, group: Sequence[RowRun]) -> Iterator[None]:
        """Make one run of several, a range at a time. They stay until it is whole."""
        merged = RowRun(self._hash, sum(run.rows for run in group), *self._place)
        for number in range(RANGES):
            parts = self._of_range(group, number)
            if parts:
                self._append(merged, number, parts, is_oldest=group[0] is self.runs[0])
            yield
        merged.finish()
        place = self.runs.index(group[0])
        self.runs[place : place + len(group)] = [merged] if merged.rows else []
        for run in group:
            run.close()


def of_range(hashes: pl.Series, number: int) -> tuple[int, int]:
    """Where the hashes of a range of key groups are, which are in order: the first place, and how many."""
    ends = pl.Series([number * _RANGE, (number + 1) * _RANGE - 1], dtype=pl.UInt64)
    first = int(hashes.search_sorted(ends, "left")[0])
    return first, int(hashes.search_sorted(ends, "right")[1]) - first
