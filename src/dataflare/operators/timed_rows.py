"""Rows by event time: those that wait for the watermark, and those that later rows may need.

Always true: the rows of each piece are in order of time, where the watermark moves; a row that was taken is no longer in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import polars as pl
from msgspec import Struct

from dataflare.model.event_time import TIME_COLUMN, WATERMARK_COLUMN
from dataflare.operators.base import LATE, LATE_RIGHT, Result, Side
from dataflare.operators.join_shape import LEFT, has_null
from dataflare.state.pieces import Piece
from dataflare.state.rows import RowsTable

FOREVER = 2**63 - 1
"""After every event time."""

SMALL_ROWS = 50_000
"""Neighbours are merged up to so many rows, so that there are few pieces and no long merges."""


class _Span(Struct):
    """A piece and its first and last time."""

    piece: Piece
    first: int
    last: int


class TimedRows:
    """table: where the rows are. They have TIME_COLUMN. moves: whether the watermark moves before the end;
    where it does not, rows are only collected, in any order."""

    def __init__(self, table: RowsTable, *, moves: bool = True) -> None:
        self.table, self._moves = table, moves
        self._spans: list[_Span] = []
        if moves:
            self._take_over()

    @property
    def rows(self) -> int:
        return sum(span.piece.rows for span in self._spans)

    def add(self, frame: pl.DataFrame) -> None:
        """Take rows in any order."""
        if not frame.height:
            return
        if not self._moves:
            self.table.append(frame)
            return
        while self._spans and self._merges(self._spans[-1].piece, frame.height):
            last = self._spans.pop().piece
            frame = pl.concat([self.table.frame_of(last), frame])
        frame = frame.sort(TIME_COLUMN, maintain_order=True)
        self._spans += self._span(self.table.piece_of(frame), frame)
        self._set()

    def take(self, before: int) -> pl.DataFrame | None:
        """The rows with earlier times, which then leave the table."""
        taken, spans = [], []
        for span in self._spans:
            if span.first >= before:
                spans.append(span)
                continue
            frame = self.table.frame_of(span.piece)
            place = frame.height if span.last < before else _place(frame, before)
            taken.append(frame.head(place))
            if place < frame.height:
                rest = frame.slice(place)
                spans += self._span(self.table.piece_of(rest), rest)
        if not taken:
            return None
        self._spans = spans
        self._set()
        return pl.concat(taken)

    def between(self, first: int, last: int) -> list[pl.DataFrame]:
        """The rows with these times, both included. They stay."""
        found = []
        for span in self._spans:
            if span.last < first or span.first > last:
                continue
            frame = self.table.frame_of(span.piece)
            start = 0 if span.first >= first else _place(frame, first)
            stop = frame.height if span.last <= last else _place(frame, last + 1)
            if start < stop:
                found.append(frame.slice(start, stop - start))
        return found

    def forget(self, before: int) -> None:
        """Drop pieces that have only earlier times."""
        kept = [span for span in self._spans if span.last >= before]
        if len(kept) < len(self._spans):
            self._spans = kept
            self._set()

    def _take_over(self) -> None:
        """Know the pieces of a checkpoint; those of a run in which the watermark did not move are sorted."""
        for piece in self.table.pieces():
            frame = self.table.frame_of(piece)
            if not frame[TIME_COLUMN].is_sorted():
                frame = frame.sort(TIME_COLUMN, maintain_order=True)
                piece = self.table.piece_of(frame)
            self._spans += self._span(piece, frame)
        self._set()

    def _merges(self, last: Piece, rows: int) -> bool:
        return last.in_memory and last.rows <= 2 * rows and last.rows + rows <= SMALL_ROWS

    def _span(self, piece: Piece, frame: pl.DataFrame) -> list[_Span]:
        times = frame[TIME_COLUMN]
        return [_Span(piece, int(times[0]), int(times[-1]))] if len(times) else []

    def _set(self) -> None:
        self.table.set([span.piece for span in self._spans])


def _place(frame: pl.DataFrame, time: int) -> int:
    """How many rows have earlier times."""
    return int(frame[TIME_COLUMN].search_sorted(time, side="left"))


def bounds(frames: Sequence[pl.DataFrame]) -> tuple[int, int]:
    """The first and the last time of some rows."""
    firsts = [int(frame[TIME_COLUMN].min()) for frame in frames]  # type: ignore[arg-type]
    lasts = [int(frame[TIME_COLUMN].max()) for frame in frames]  # type: ignore[arg-type]
    return min(firsts), max(lasts)


def split_late(frame: pl.DataFrame, settled: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that are in time, without their watermark, and those that are late: by the watermark in the
    row, or because the step has settled this time already (after an `idle_timeout`)."""
    late = pl.col(TIME_COLUMN) < settled
    if WATERMARK_COLUMN in frame.columns:
        late |= pl.col(TIME_COLUMN) < pl.col(WATERMARK_COLUMN)
    marks = frame.select(late.alias("late"))["late"]
    if not marks.any():
        return frame.drop(WATERMARK_COLUMN, strict=False), frame.clear()
    return frame.filter(~marks).drop(WATERMARK_COLUMN, strict=False), frame.filter(marks)


def joining(
    frame: pl.DataFrame,
    port: int,
    settled: int,
    keys: Sequence[str],
    alone: Callable[[pl.DataFrame], pl.DataFrame] | None,
    shown: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
) -> Generator[Result, None, pl.DataFrame]:
    """What comes at once of a batch of an input of a join: its late rows, and its rows with a NULL in a key, which
    match nothing. Returns the rows that wait. alone: makes results of rows without a match; None if they do not
    come out. shown: makes late rows as they come out, if they are other ones."""
    rows, late = split_late(frame, settled)
    if late.height:
        shown_late = late if shown is None else shown(late)
        yield Side(LATE if port == LEFT else LATE_RIGHT, shown_late)
    null = has_null(keys)
    unmatched = rows.filter(null)
    if unmatched.height:
        rows = rows.filter(~null)
        if alone is not None:
            yield alone(unmatched)
    return rows
