"""A log of partial aggregates: appended per batch, merged by range of key groups, never looked up by key.

A batch is pre-aggregated and its partial appended. When enough partials wait they are merged into
one; a large state is split by ranges of key groups, and only a range whose waiting rows have
outgrown its base is merged, one range a step, so that no step is long (28 ms at 1 M keys, where
one merge of everything took 289 ms). Large ranges are merged while a checkpoint is stored, beside the operator.

Always true: the pieces held, merged, are the aggregate of all rows seen; partials are merged in the
order they came in, which first, last and list need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import polars as pl
from msgspec import Struct, field

from dataflare.state.compaction import credit_after, merges
from dataflare.state.pieces import (
    ChunkStorage,
    Groups,
    Piece,
    groups_of,
    joined_groups,
    range_of,
    split_by_range,
    with_successors,
)

SMALL_ROWS = 200_000
LOG_PARTIALS = 8
LARGE_ROWS = 250_000
"""A range of more rows is merged by the operator itself only when no checkpoint did it in time."""
_LARGE_RATIO = 3

Merge = Callable[[pl.DataFrame], pl.DataFrame]
"""Merges partials of the same keys, in their order, into one row per key."""


class _Range(Struct):
    """base: merged; waiting: what came after it, in order."""

    base: Piece | None = None
    waiting: list[Piece] = field(default_factory=list)

    @property
    def base_rows(self) -> int:
        return self.base.rows if self.base else 0

    @property
    def waiting_rows(self) -> int:
        return sum(piece.rows for piece in self.waiting)

    def pieces(self) -> list[Piece]:
        return [*([self.base] if self.base else []), *self.waiting]


class Log:
    """The state of one subtask's aggregate. keys: the key columns; merge: see Merge; groups: the key
    groups of the subtask; shares: what it goes on from, by former subtask, in order."""

    def __init__(
        self,
        keys: Sequence[str],
        merge: Merge,
        groups: Groups,
        storage: ChunkStorage | None = None,
        shares: Sequence[Sequence[Piece]] = (),
    ) -> None:
        self.keys = tuple(keys)
        self._merge, self._groups, self._storage = merge, groups, storage
        self._log: list[Piece] = []
        self._ranges: dict[int, _Range] = {0: _Range()}
        self._is_split = False
        self._rest: list[Piece] = []
        self._appended, self._credit = 0, 0.0
        self.on_merged: Callable[[Piece], object] | None = None
        for pieces in shares:
            self._take_over(pieces)

    def append(self, partial: pl.DataFrame) -> None:
        """Take one batch's partial; does at most one merge step."""
        if partial.height:
            self._log.append(Piece(partial, self._groups))
            self._appended += partial.height
        if len(self._log) >= LOG_PARTIALS or sum(piece.rows for piece in self._log) > SMALL_ROWS:
            self._settle()
        elif self._is_split:
            self._merge_fullest()

    def _take_over(self, pieces: Sequence[Piece]) -> None:
        """Go on from the pieces of one former subtask. Those in front that belong to one range stay as
        they are, so that they need not be stored again."""
        wide = False
        for piece in pieces:
            number = range_of(piece.groups)
            wide = wide or number is None or not self.keys
            if wide or number is None:
                self._log.append(piece)
                continue
            if not self._is_split:
                self._ranges, self._is_split = {}, True
            self._ranges.setdefault(number, _Range()).waiting.append(piece)

    @property
    def is_empty(self) -> bool:
        return not self.pieces()

    def pieces(self) -> list[Piece]:
        """All that is held, in an order in which it may be merged."""
        return [piece for run in self.runs() for piece in run]

    def runs(self) -> list[list[Piece]]:
        """The same, as lists of neighbours that may be merged into one piece."""
        self._log = self._with_successors(self._log)
        for each in self._ranges.values():
            has_base = each.base is not None
            pieces = self._with_successors(each.pieces())
            each.base, each.waiting = (pieces[0], pieces[1:]) if has_base else (None, pieces)
        runs = [[piece] for piece in self._rest]
        runs += [each.pieces() for each in self._ranges.values()]
        return [run for run in (*runs, self._log) if run]

    def _with_successors(self, pieces: list[Piece]) -> list[Piece]:
        """The pieces, with those that a checkpoint merged as the piece they became."""
        after = with_successors(pieces)
        if after is not pieces:
            staying = {id(piece) for piece in after}
            for piece in pieces:
                if id(piece) not in staying:
                    piece.release(self._storage)
        return after

    def drain(self, rows_max: int, order: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
        """The merged state in batches, each range ordered by key or by `order`. A batch is no longer held
        when it is given. Nothing may be appended any more."""
        self._distribute_log()
        order = order or self.keys
        for number in list(self._ranges):
            pieces = self._ranges[number].pieces()
            if pieces:
                frame = self._merged(pieces).frame(self._storage)
                frame = frame.sort(order, nulls_last=True) if order else frame
                self._rest = [Piece(rows, self._groups) for rows in frame.iter_slices(rows_max)]
            del self._ranges[number]
            while self._rest:
                yield self._rest.pop(0).frame(self._storage)

    def frames(self) -> Iterator[pl.DataFrame]:
        """The merged state by range, which stays in the table."""
        self._distribute_log()
        for each in self._ranges.values():
            pieces = each.pieces()
            if pieces:
                each.base, each.waiting = self._merged(pieces), []
                yield each.base.frame(self._storage)

    def frame_of(self, piece: Piece) -> pl.DataFrame:
        """The rows of one piece."""
        return piece.frame(self._storage)

    def take(
        self, condition: pl.Expr | Callable[[pl.DataFrame], pl.Series]
    ) -> Iterator[pl.DataFrame]:
        """The merged rows for which a condition is true, by range: an expression, or what gives a mask of a
        frame. They are no longer held; the others stay."""
        self._distribute_log()
        for each in self._ranges.values():
            pieces = each.pieces()
            if not pieces:
                continue
            merged = each.base = self._merged(pieces)
            each.waiting = []
            frame = merged.frame(self._storage)
            is_taken = (
                condition(frame) if callable(condition) else frame.select(condition).to_series()
            )
            taken = frame.filter(is_taken)
            if taken.height:
                merged.release(self._storage)
                rest = frame.filter(~is_taken)
                each.base = Piece(rest, merged.groups) if rest.height else None
                yield taken

    def least(self, column: str, low: int) -> int | None:
        """The least value of an integer column that is not below `low`."""
        column_values = (piece.frame(self._storage)[column] for piece in self.pieces())
        found = (values.filter(values >= low).min() for values in column_values)
        return min((int(str(each)) for each in found if each is not None), default=None)

    def absorb(self, other: Log) -> None:
        """Hold what another log holds, too. The other one must not be used any more."""
        self._log += other.pieces()

    def compacted(self, runs: Sequence[Sequence[Piece]]) -> list[Piece]:
        """The pieces to be stored for a frozen state: neighbours that are not stored yet are merged, and a few that
        are. Called beside the operator, which takes over the merged pieces later."""
        rows = {number: [piece.rows for piece in run] for number, run in enumerate(runs)}
        if runs and _is_wide(runs[-1]):
            del rows[len(runs) - 1]  # what no range has yet
        appended, self._appended = self._appended, 0
        self._credit = credit_after(self._credit, appended, rows)
        first_merged = {}
        for merge in merges(rows, self._credit):
            self._credit -= merge.rows
            first_merged[merge.range] = merge.first
        kept = []
        for number, run in enumerate(runs):
            first = first_merged.get(number, len(run))
            for is_stored, group in groupby(run[:first], key=lambda piece: bool(piece.chunks)):
                members = list(group)
                kept += members if is_stored or len(members) == 1 else [self._joined(members)]
            if len(run[first:]) > 1:
                kept.append(self._joined(run[first:]))
            else:
                kept += run[first:]
        return kept

    def _joined(self, pieces: Sequence[Piece]) -> Piece:
        """Neighbours as one piece, made beside the table, which takes their place."""
        frames = [piece.frame(self._storage) for piece in pieces]
        merged = Piece(self._merge(pl.concat(frames, rechunk=False)), joined_groups(pieces))
        merged.members = len(pieces)
        if self.on_merged is not None:
            self.on_merged(merged)
        for piece in pieces:
            piece.successor = merged
        return merged

    def _settle(self) -> None:
        """Move the log into the ranges, of which there are several once the state is large."""
        merged = self._merged(self._log)
        self._log = []
        if not self._is_split:
            whole = self._merged([*self._ranges[0].pieces(), merged])
            self._ranges[0] = _Range(whole)
            if whole.rows <= SMALL_ROWS or not self.keys:
                return
            self._ranges, self._is_split = {}, True
            merged = whole
        self._distribute(merged)
        self._merge_fullest()

    def _distribute_log(self) -> None:
        if self._log:
            self._distribute(self._merged(self._log))
            self._log = []

    def _distribute(self, piece: Piece) -> None:
        if not self._is_split:
            self._ranges[0].waiting.append(piece)
            return
        for number, part in split_by_range(piece.frame(self._storage), self.keys):
            of_range = self._ranges.setdefault(number, _Range())
            of_range.waiting.append(Piece(part, groups_of(number)))
        piece.release(self._storage)

    def _merge_fullest(self) -> None:
        fullest = max(self._ranges.values(), key=lambda each: each.waiting_rows, default=None)
        if fullest is None or not fullest.waiting:
            return
        is_large = self._storage is not None and fullest.base_rows > LARGE_ROWS
        outgrown = fullest.waiting_rows > fullest.base_rows * (_LARGE_RATIO if is_large else 1)
        if outgrown or (not is_large and len(fullest.waiting) > LOG_PARTIALS):
            fullest.base = self._merged(fullest.pieces())
            fullest.waiting = []

    def _merged(self, pieces: Sequence[Piece]) -> Piece:
        if len(pieces) == 1:
            return pieces[0]
        frames = [piece.frame(self._storage) for piece in pieces]
        merged = self._merge(pl.concat(frames, rechunk=False))
        for piece in pieces:
            piece.release(self._storage)
        return Piece(merged, joined_groups(pieces))


def _is_wide(run: Sequence[Piece]) -> bool:
    """Whether the pieces belong to no range."""
    return range_of(run[-1].groups) is None
