"""Sliding windows one after the other, at a cost that does not grow with `size / slide`.

The panes of a window are in two parts. The older ones are the front: for each start of a window, what its panes up to
the middle give together. The newer ones are the back: one aggregate that grows. When the front is used up, the middle
moves to the end of the window and a new front is made. Each pane is merged about three times (two stacks; Tangwongsan,
Hirzel and Schneider, "Low-Latency Sliding-Window Aggregation in Worst-Case Constant Time", DEBS 2017, section 3).

The front is made at every tenth start or so at first, and between two of these when a window needs it. So it holds
about twice the square root of `size / slide` aggregates.

Always true: this is a cache of the panes; it is made again after a restart.
"""

from __future__ import annotations

from math import isqrt

import polars as pl

from dataflare.operators.window_grid import Grid
from dataflare.operators.window_rows import FROM, PANE, WindowRows
from dataflare.state.slices import Slices


class Blocks:
    """front: by the start of a window, what its panes before the middle give. back: what the panes from the
    middle to `end` give. later: rows that came for these panes after they were merged, or that only later
    windows take."""

    def __init__(self, grid: Grid, rows: WindowRows, panes: Slices) -> None:
        self._grid, self._rows, self._panes = grid, rows, panes
        self._stride = isqrt(grid.size // grid.slide) + 1
        self.forget()

    def forget(self) -> None:
        self._front: dict[int, pl.DataFrame] = {}
        self._back: list[pl.DataFrame] = []
        self._later: list[pl.DataFrame] = []
        self._middle = self._end = -(2**62)

    def add(self, partial: pl.DataFrame) -> None:
        """Take note of rows that came."""
        late = partial.filter(pl.col(PANE) < self._end)
        if late.height:
            self._later.append(late)

    def window(self, end: int) -> pl.DataFrame:
        """The merged partials of a window. Called for each window in order."""
        start = end - self._grid.size
        if self._end != end - self._grid.slide or start >= self._middle:
            self._turn(start, end)
        else:
            self._grow(end)
        self._later = [
            rows for f in self._later if (rows := f.filter(pl.col(PANE) >= start)).height
        ]
        parts = [*self._front_from(start, end), *self._back, *self._later_for(end)]
        return self._joined(parts) if len(parts) != 1 else parts[0]

    def _turn(self, start: int, end: int) -> None:
        """Make a new front of all panes of the window."""
        self.forget()
        self._middle = self._end = end
        step = self._stride * self._grid.slide
        after: list[pl.DataFrame] = []
        for at in reversed(range(start, end, step)):
            after = self._merged([*self._read(at, min(at + step, end), end), *after])
            if after:
                self._front[at] = after[0]

    def _grow(self, end: int) -> None:
        """Take the next panes into the back."""
        self._back = self._merged([*self._back, *self._read(self._end, end, end)])
        self._end = end

    def _front_from(self, start: int, end: int) -> list[pl.DataFrame]:
        """What the panes from `start` to the middle give."""
        for old in [at for at in self._front if at < start]:
            del self._front[old]
        if start >= self._middle:
            return []
        known = min((at for at in self._front), default=self._middle)
        if known > start:
            self._later = [
                rows
                for f in self._later
                if (rows := f.filter((pl.col(PANE) >= known) | (pl.col(FROM) > end))).height
            ]
            after = [self._front[known]] if known in self._front else []
            for at in reversed(range(start, known, self._grid.slide)):
                read = self._read(at, min(at + self._grid.slide, known), end, again=True)
                after = self._merged([*read, *after])
                if after:
                    self._front[at] = after[0]
        found = self._front.get(start)
        return [] if found is None else [found]

    def _read(self, first: int, end: int, until: int, *, again: bool = False) -> list[pl.DataFrame]:
        """The partials of these panes that a window with the end `until` takes. The others are for later."""
        read = []
        for frame in self._panes.frames(first, end):
            taken = pl.col(FROM) <= until
            read.append(frame.filter(taken).drop(PANE, FROM))
            later = frame.filter(~taken)
            if later.height and not again:
                self._later.append(later)
        return [frame for frame in read if frame.height]

    def _later_for(self, end: int) -> list[pl.DataFrame]:
        parts = (rows.filter(pl.col(FROM) <= end).drop(PANE, FROM) for rows in self._later)
        return [rows for rows in parts if rows.height]

    def _merged(self, frames: list[pl.DataFrame]) -> list[pl.DataFrame]:
        return [self._joined(frames)] if frames else []

    def _joined(self, frames: list[pl.DataFrame]) -> pl.DataFrame:
        if not frames:
            return pl.DataFrame()
        return self._rows.merged(pl.concat(frames), [])
