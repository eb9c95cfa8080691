"""Tumbling and sliding windows, from partials by key and pane.

Always true:
- a window fires once when the watermark reaches its end, whatever crashed meanwhile; each batch with a later row
  within `allowed_lateness` fires it again;
- whether a window takes a row depends on the row's own watermark and not on when the row comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import polars as pl

from dataflare.model.event_time import NEVER, TIME_COLUMN, WATERMARK_COLUMN
from dataflare.model.hashing import hash_columns, key_group
from dataflare.operators.base import LATE_IN_PART, LiveOperator, Result, Side
from dataflare.operators.changes import weighted
from dataflare.operators.window_blocks import Blocks
from dataflare.operators.window_changes import rows_of
from dataflare.operators.window_counts import COUNT, due
from dataflare.operators.window_fill import Fill
from dataflare.operators.window_fired import Fired
from dataflare.operators.window_rows import CHANGED, END, FROM, PANE, WINDOW_COLUMNS
from dataflare.operators.window_state import CLOSED
from dataflare.operators.window_updates import GivenWindows
from dataflare.state.pieces import Groups
from dataflare.state.slices import Slices
from dataflare.state.tables import Tables

if TYPE_CHECKING:
    from dataflare.operators.window import Window
    from dataflare.operators.window_grid import Grid

_SLICE_ROWS = 100_000
_WINDOWS_MAX = 64
_COPIES_MAX = 20_000
"""Above so many copies of partials for a window, windows are merged one by one."""
_TIME = "__dataflare_again"
_EARLIEST = -(2**62)
"""Earlier than all event times; a duration less does not overflow."""


class LivePanes(LiveOperator):
    """panes: partials of the open windows. waiting: windows that have fired at the end of the input and were not
    given yet. streams: rows have watermarks."""

    def __init__(self, operator: Window, grid: Grid, tables: Tables) -> None:
        self.operator, self.grid = operator, grid
        self.tick_s = operator.every_s
        self.rows = rows_of(operator, _notes(operator))
        self._pane_is_row = grid.is_tumbling and not self.rows.by_values
        self._by = [PANE] if self.grid.is_tumbling else [PANE, FROM]
        self.panes = Slices(tables, "panes", operator.keys, self._merge, PANE, self.grid.pane)
        self._blocks = Blocks(grid, self.rows, self.panes)
        self._waiting = tables.rows("waiting", operator.keys)
        self._fired = Fired(tables)
        self._streams = tables.value("streams", False, any)
        self._closed = tables.value(CLOSED, NEVER, max)
        self._updates = GivenWindows(tables, operator.keys, grid.pane) if operator.updates else None
        self._fill = Fill(operator.fill, self.rows, tables) if operator.fill != "none" else None

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[Result]:
        yield from self._caught_up()
        rows = frame.with_columns(
            self.grid.pane_of(self.grid.on_ruler(pl.col(TIME_COLUMN))).alias(PANE)
        )
        if WATERMARK_COLUMN in frame.columns:
            self._streams.value = True
            rows, late = self._sifted(rows)
            if late.height:
                yield self.operator.late_rows(late)
            if FROM in rows.columns:
                partly = rows.filter(pl.col(FROM) > self.grid.first_end(pl.col(PANE)))
                if partly.height:
                    yield Side(LATE_IN_PART, partly)
        if self.operator.changes:
            rows = weighted(rows, times=True)
        if self.operator.count:
            yield from self._counted(rows)
        self._append(rows)
        if self.operator.lateness:
            yield from self._fired_again(rows)

    def watermark(self, event_time_us: int) -> Iterable[Result]:
        yield from self._caught_up()
        if event_time_us <= self._fired.time_us:
            return
        after, until = self._place(self._fired.time_us), self._place(event_time_us)
        for windows in self._closing(after, until):
            yield from self._results(windows)
        self._fired.advance(event_time_us)
        self.panes.drop(self._first_open(event_time_us))
        self._forget_given()

    def tick(self) -> Iterable[Result]:
        """Give the open windows that have new rows."""
        yield from self._caught_up()
        for windows in self._windows(self._place(self._fired.time_us), 2**62):
            yield from self._results(windows)
        for frame in [*self.panes.take(2**62, _SLICE_ROWS)]:
            self.panes.append(frame.with_columns(pl.lit(0, pl.Int8).alias(CHANGED)))
        self._blocks.forget()

    def end(self, port: int) -> Iterable[Result]:
        yield from self._caught_up()
        yield from self._given()
        after = self._place(self._fired.time_us)
        self.panes.drop(self.grid.end_after(after) - self.grid.size)
        if self._pane_is_row and self._fill is None:
            for frame in self.panes.take(2**62, _SLICE_ROWS):
                yield from self._results(self._at_end(frame))
            return
        while (first := self.panes.first()) is not None:
            if self._fill is None or self._fill.is_empty:
                after = max(after, self.grid.end_after(first) - self.grid.slide)
            until = after + _WINDOWS_MAX * self.grid.slide
            if self._fill is not None:
                until = min(until, self._last_end())
            fired = self.grid.in_utc_of(until)
            # Several windows end where clocks leave a time out. They fire together.
            until = self._place(fired)
            for windows in self._closing(after, until):
                for part in windows.iter_slices(_SLICE_ROWS):
                    self._waiting.put(part)
            self._fired.advance(fired)
            self.panes.drop(self.grid.end_after(until) - self.grid.size)
            after = until
            yield from self._given()

    def shown(self) -> dict[str, Iterator[pl.DataFrame]]:
        """The windows that have not fired, and those that still take late rows, for `state show`."""
        fired = self._place(self._fired.time_us)
        shown = {"windows": self._windows(fired, 2**62)}
        if self.operator.lateness:
            shown["fired"] = self._windows(-(2**62), fired)
        if self._waiting.pieces():
            shown["waiting"] = iter(self._waiting.frames())
        return {name: map(self._plain, frames) for name, frames in shown.items()}

    def _plain(self, windows: pl.DataFrame) -> pl.DataFrame:
        windows = self._there(windows)
        start, end = (
            self.grid.in_utc(place) for place in (pl.col(END) - self.grid.size, pl.col(END))
        )
        results = self.rows.results(windows, start, end, watermarks=False)
        return results.select(*self.rows.names, *WINDOW_COLUMNS, *self.rows.measures)

    # -- rows --------------------------------------------------------------------------------------

    def _append(self, rows: pl.DataFrame) -> None:
        if self.grid.is_tumbling:
            self.panes.append(self.rows.partial(rows, [PANE]))
            return
        if FROM in rows.columns:
            partial = self.rows.partial(rows, [PANE, FROM])
        else:
            first = self.grid.first_end(pl.col(PANE)).alias(FROM)
            partial = self.rows.partial(rows, [PANE]).with_columns(first)
            partial = partial.select(
                *self.rows.keys, PANE, FROM, pl.exclude(*self.rows.keys, PANE, FROM)
            )
        self.panes.append(partial)
        self._blocks.add(partial)

    def _sifted(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The rows that some window still takes, and the late ones."""
        known = max(self._fired.time_us, _EARLIEST)
        watermark = pl.max_horizontal(pl.col(WATERMARK_COLUMN), pl.lit(known, pl.Int64))
        closed = self.grid.on_ruler(watermark - self.operator.lateness)
        if self._closed.value != NEVER:
            closed = pl.max_horizontal(closed, pl.lit(self._place(self._closed.value), pl.Int64))
        pane = pl.col(PANE)
        is_late = (self.grid.last_end(pane) <= closed).alias("__dataflare_late")
        if self.grid.is_tumbling:
            late = rows.select(is_late)["__dataflare_late"]
        else:
            first_end = self.grid.first_end(pane)
            first = pl.max_horizontal(first_end, self.grid.next_end(closed)).alias(FROM)
            marks = rows.select(is_late, first, (first_end < first).alias("__dataflare_partly"))
            late = marks["__dataflare_late"]
            if marks["__dataflare_partly"].any():
                rows = rows.with_columns(marks[FROM])
        if not late.any():
            return rows, rows.clear()
        return rows.filter(~late), rows.filter(late)

    def _fired_again(self, rows: pl.DataFrame) -> Iterator[Result]:
        """The windows that have fired before these rows came, with them."""
        fired = self._place(self._fired.time_us)
        first = self.grid.first_end(pl.col(PANE))
        if FROM in rows.columns:
            first = pl.col(FROM)
        again = rows.filter(first <= fired)
        if not again.height:
            return
        last = pl.min_horizontal(self.grid.last_end(pl.col(PANE)), pl.lit(fired))
        ends = pl.int_ranges(first, last + 1, self.grid.slide).alias(END)
        keys = self.rows.keys
        by = again.lazy().with_columns(ends).explode(END).group_by(*keys, END)
        changed = by.agg(pl.col(WATERMARK_COLUMN).max()).collect(engine="in-memory")
        low, high = int(changed[END].min()), int(changed[END].max())  # type: ignore[arg-type]
        for windows in self._windows(
            low - 1, high, changed.select(keys).unique() if keys else None
        ):
            whole = windows.join(changed, on=[*keys, END], nulls_equal=True, how="inner")
            if whole.height:
                yield from self._results(whole, again=True)

    def _counted(self, rows: pl.DataFrame) -> Iterator[Result]:
        """What windows give after a number of rows."""
        assert self.operator.count is not None
        size, by = self.grid.size, [*self.rows.keys, PANE]
        rows = rows.filter(pl.col(PANE) + size > self._place(self._fired.time_us))
        if not rows.height:
            return
        low, high = int(rows[PANE].min()), int(rows[PANE].max())  # type: ignore[arg-type]
        wanted = rows.select(by).unique()
        parts = [
            frame.join(wanted, on=by, how="semi", nulls_equal=True)
            for frame in self.panes.frames(low, high + 1)
        ]
        state = pl.concat(parts) if parts else None
        firing = due(
            rows,
            state,
            by,
            self.operator.count,
            lambda frame, more: self.rows.partial(frame, [PANE, *more]),
            lambda frame, more: self.rows.merged(frame, [PANE, *more]),
        )
        if firing.height:
            yield from self._results(self._at_end(firing), again=True)

    # -- windows -----------------------------------------------------------------------------------

    def _closing(self, after: int, until: int) -> Iterator[pl.DataFrame]:
        """The windows that end later than `after`, and not later than `until`."""
        if self._fill is None:
            yield from self._with_rows(after, until)
            return
        if self._fill.is_empty:
            if (first := self.panes.first()) is None:
                return
            after = max(after, self.grid.end_after(first) - self.grid.slide)
        while after < until:
            upto = min(until, after + _WINDOWS_MAX * self.grid.slide)
            ends = range(self.grid.end_after(after), upto + 1, self.grid.slide)
            yield from self._fill.filled(self._with_rows(after, upto), ends)
            after = upto

    def _with_rows(self, after: int, until: int) -> Iterator[pl.DataFrame]:
        """Those of them that have rows."""
        if self._pane_is_row and not self.operator.lateness:
            for frame in self.panes.take(until - self.grid.size + 1, _SLICE_ROWS):
                yield self._at_end(frame)
        elif self.grid.is_tumbling:
            yield from self._windows(after, until)
        else:
            yield from self._sliding(after, until)

    def _sliding(self, after: int, until: int) -> Iterator[pl.DataFrame]:
        """Sliding windows in order. A few partials are copied into each of their windows, all windows at once;
        many are merged window by window."""
        for low, high in self._parts(after, until):
            windows = (high - low) // self.grid.slide
            copies = min(self.grid.size // self.grid.slide, windows)
            first = self.grid.end_after(low)
            if self.panes.rows(first - self.grid.size, high) * copies <= _COPIES_MAX * windows:
                self._blocks.forget()
                yield from self._windows(low, high)
                continue
            for end in range(first, high + 1, self.grid.slide):
                window = self._blocks.window(end)
                if window.height:
                    keys, at_end = self.rows.keys, pl.lit(end, pl.Int64).alias(END)
                    yield self.rows.whole(window.select(*keys, at_end, pl.exclude(keys)))

    def _parts(self, after: int, until: int) -> Iterator[tuple[int, int]]:
        """The time in which windows with rows end, in parts of some windows."""
        end = self.panes.end
        if end is None:
            return
        low, high = after, min(until, self.grid.last_end_of(end - 1))
        while low < high:
            first = self.panes.first(self.grid.end_after(low) - self.grid.size)
            if first is None:
                return
            low = max(low, self.grid.end_after(first) - self.grid.slide)
            upto = min(high, low + _WINDOWS_MAX * self.grid.slide)
            if low < upto:
                yield low, upto
            low = upto

    def _windows(
        self, after: int, until: int, keys: pl.DataFrame | None = None, groups: Groups | None = None
    ) -> Iterator[pl.DataFrame]:
        """The same, whatever has fired; of these keys and key groups only."""
        for low, high in self._parts(after, until):
            frames = self.panes.frames(self.grid.end_after(low) - self.grid.size, high)
            frames = (_of(frame, self.rows.keys, keys, groups) for frame in frames)
            parts = [part for frame in frames if (part := self._spread(frame, low, high)).height]
            if parts:
                windows = self.rows.whole(self.rows.merged(pl.concat(parts), [END]))
                yield windows.sort(END, *self.rows.keys, nulls_last=True)

    def _spread(self, frame: pl.DataFrame, after: int, until: int) -> pl.DataFrame:
        """Each partial once for each of its windows that end in this time."""
        if self.grid.is_tumbling:
            at_end = self._at_end(frame)
            return at_end.filter(pl.col(END) > after, pl.col(END) <= until)
        first = pl.max_horizontal(pl.col(FROM), pl.lit(self.grid.end_after(after)))
        last = pl.min_horizontal(self.grid.last_end(pl.col(PANE)), pl.lit(until))
        ends = pl.int_ranges(first, last + 1, self.grid.slide).alias(END)
        spread = frame.with_columns(ends).drop(PANE, FROM)
        return spread.filter(pl.col(END).list.len() > 0).explode(END)

    def _first_open(self, time_us: int) -> int:
        """The start of the first window that may take a row when the watermark is at this time."""
        closed = self._place(max(time_us, _EARLIEST) - self.operator.lateness)
        return self.grid.end_after(closed) - self.grid.size

    def _place(self, time_us: int) -> int:
        return self.grid.place(max(time_us, _EARLIEST))

    def _merge(self, frame: pl.DataFrame) -> pl.DataFrame:
        return self.rows.merged(frame, self._by)

    # -- results -----------------------------------------------------------------------------------

    def _caught_up(self) -> Iterator[Result]:
        """The windows of key groups that came from a subtask with an earlier watermark."""
        if not self._fired.behind:
            return
        until = self._place(self._fired.time_us)
        for part in self._fired.behind:
            for windows in self._windows(self._place(part.time_us), until, groups=part.groups):
                self._waiting.put(windows)
        self._fired.advance(self._fired.time_us)
        self.panes.drop(self._first_open(self._fired.time_us))
        yield from self._given()

    def _given(self) -> Iterator[Result]:
        """The windows that wait."""
        for windows in self._waiting.drain_pieces():
            yield from self._results(windows)
        self._forget_given()

    def _forget_given(self) -> None:
        """The windows that do not change any more need not be known."""
        if self._updates is not None:
            self._updates.drop(self._first_open(self._fired.time_us) + self.grid.size)

    def _results(self, windows: pl.DataFrame, *, again: bool = False) -> Iterator[Result]:
        """Windows as result rows. again: also those that have no rows since they fired last."""
        windows = self._there(windows)
        if self.operator.every_s is not None and not again:
            windows = windows.filter(pl.col(CHANGED) == 1)
        elif self.operator.count and not again:
            windows = windows.filter(pl.col(COUNT) % self.operator.count != 0)
        if not windows.height:
            return
        for part in self._changes(windows):
            start, end = (
                self.grid.in_utc(place) for place in (pl.col(END) - self.grid.size, pl.col(END))
            )
            results = self.rows.results(part, start, end, watermarks=self._streams.value)
            self.lowering = self.rows.lowering
            yield results

    def _there(self, windows: pl.DataFrame) -> pl.DataFrame:
        if not self.grid.leaves_out:
            return windows
        return windows.filter(self.grid.is_there(pl.col(END)))

    def _changes(self, windows: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """The windows with what they replace. A window that comes several times has a frame for each time."""
        if self._updates is None:
            yield windows
            return
        by = [*self.rows.keys, END]
        times = windows.with_columns(pl.int_range(pl.len()).over(by).alias(_TIME))
        for part in times.partition_by(_TIME, include_key=False, maintain_order=True):
            yield self._updates.changes(part)

    def _at_end(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Partials by pane, where a pane is a window, by the end of the window."""
        keys = self.rows.keys
        end = (pl.col(PANE) + self.grid.size).alias(END)
        return frame.select(*keys, end, pl.exclude(*keys, PANE))

    def _last_end(self) -> int:
        """The end of the last window that has rows."""
        end = self.panes.end
        assert end is not None
        last = -(2**62)
        for frame in self.panes.frames(end - self.panes.width, end):
            last = max(last, self.grid.last_end_of(int(frame[PANE].max())))  # type: ignore[arg-type]
        return last


def _notes(operator: Window) -> list[tuple[pl.Expr, pl.Expr]]:
    """What partials say beside the measures."""
    if operator.every_s is not None:
        changed = (pl.len() > 0).cast(pl.Int8).alias(CHANGED)
        return [(changed, pl.col(CHANGED).max())]
    if operator.count:
        return [(pl.len().cast(pl.Int64).alias(COUNT), pl.col(COUNT).sum())]
    return []


def _of(
    frame: pl.DataFrame, keys: list[str], wanted: pl.DataFrame | None, groups: Groups | None
) -> pl.DataFrame:
    """The rows of some keys, and of some key groups."""
    if wanted is not None:
        frame = frame.join(wanted, on=keys, how="semi", nulls_equal=True)
    if groups is not None and keys:
        hashed = hash_columns(frame.lazy(), keys, "__dataflare_h")
        own = key_group(pl.col("__dataflare_h")).is_between(*groups)
        frame = hashed.filter(own).drop("__dataflare_h").collect(engine="in-memory")
    return frame
