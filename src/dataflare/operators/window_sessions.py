"""Sessions: windows that last as long as rows of a key follow each other closely. And the global window, which is
one session for all rows of a key.

A session is closed when the watermark is later than its end. A row exactly `gap` after the last one still belongs to
it, so a watermark at the end is not enough.

Always true:
- rows that are not behind the watermark of their split (less `allowed_lateness`) form sessions by their times alone;
- a row behind it joins a session that its watermark has not closed. This is decided when the watermark of the step
  comes to that of the row, so it does not depend on batches. If there is none, the row is a session of its own, or
  late if that session is closed, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import polars as pl

from dataflare.model.event_time import NEVER, TIME_COLUMN, WATERMARK_COLUMN
from dataflare.operators.base import LATE, LiveOperator, Result, Side
from dataflare.operators.window_rows import FIRED, FIRST, LAST, WindowRows
from dataflare.operators.window_session_merge import sessions
from dataflare.state.tables import Tables

if TYPE_CHECKING:
    from dataflare.operators.window import Window

_SLICE_ROWS = 100_000
_EARLIEST, _LATEST = -(2**62), 2**62
_LIMIT, _ROW = "__dataflare_limit", "__dataflare_number"
"""Int64: a session that ends before the limit is closed for the row."""


class LiveSessions(LiveOperator):
    """log: the open sessions; behind: rows that were behind their watermark, and are not decided."""

    def __init__(self, operator: Window, tables: Tables) -> None:
        self.operator, self.gap, self.lateness = operator, operator.gap, operator.lateness
        self.rows = WindowRows(operator.step, operator.keys, operator.names, operator.aggregation)
        self._keys, self._tables = self.rows.keys, tables
        self.log = tables.log("sessions", self._keys, self._merge)
        self._behind = tables.rows("behind", self._keys)
        self._watermark = tables.value("watermark", NEVER, min)
        self._streams = tables.value("streams", False, any)

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[Result]:
        time = pl.col(TIME_COLUMN)
        rows = frame.with_columns(
            time.alias(FIRST), time.alias(LAST), pl.lit(0, pl.Int8).alias(FIRED)
        )
        if WATERMARK_COLUMN in frame.columns:
            self._streams.value = True
            if self.gap is not None:
                rows = self._sifted(rows)
        self._append(rows)
        if self.lateness and rows.height:
            yield from self._fired(self._watermark.value)

    def watermark(self, event_time_us: int) -> Iterable[Result]:
        if event_time_us <= self._watermark.value or self.gap is None:
            return
        self._watermark.value = event_time_us
        alone = None
        if self._behind.pieces():
            late, alone, waiting = self._decided(event_time_us)
            self._behind.replace([waiting] if waiting.height else [])
            if late.height:
                yield self._late(late)
        yield from self._fired(event_time_us)
        if alone is not None and alone.height:
            self._append(alone)
            yield from self._fired(event_time_us)

    def end(self, port: int) -> Iterable[Result]:
        if self._behind.pieces():
            late, alone, _ = self._decided(_LATEST)
            self._behind.replace([alone] if alone.height else [])
            if late.height:
                yield self._late(late)
        yield from self._drained()
        if self._behind.pieces():
            self._tables.drop("sessions")
            self.log = self._tables.log("sessions", self._keys, self._merge, former=())
            self._append(pl.concat(self._behind.frames()))
            self._behind.replace([])
            yield from self._drained()

    # -- rows --------------------------------------------------------------------------------------

    def _append(self, rows: pl.DataFrame) -> None:
        if rows.height:
            self.log.append(sessions(rows, self._keys, self.gap, self.rows.of_rows))

    def _merge(self, frame: pl.DataFrame) -> pl.DataFrame:
        return sessions(frame, self._keys, self.gap, self.rows.of_partials)

    def _sifted(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows that are not behind their watermark. The others are kept to be decided."""
        known = max(self._watermark.value, _EARLIEST)
        limit = pl.max_horizontal(pl.col(WATERMARK_COLUMN), pl.lit(known, pl.Int64)) - self.lateness
        is_behind = rows.select((pl.col(TIME_COLUMN) < limit).alias("behind"))["behind"]
        if not is_behind.any():
            return rows
        self._behind.append(rows.filter(is_behind).with_columns(limit.alias(_LIMIT)))
        return rows.filter(~is_behind)

    def _decided(self, time_us: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
        """Let rows that were behind join the sessions that take them. Gives the late rows, those that become
        sessions of their own, and those whose watermark the step has not reached."""
        assert self.gap is not None
        rows = pl.concat(self._behind.frames()).with_row_index(_ROW)
        is_due = rows[_LIMIT] <= time_us - self.lateness
        rows, waiting = rows.filter(is_due), rows.filter(~is_due).drop(_ROW)
        joining = self._joining(rows)
        rest = rows.join(joining, on=_ROW, how="anti")
        self._append(rows.join(joining, on=_ROW, how="semi"))
        is_late = rest[TIME_COLUMN] + self.gap < rest[_LIMIT]
        return rest.filter(is_late), rest.filter(~is_late).drop(_ROW), waiting

    def _joining(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The numbers of the rows that lie in or beside a session which is not closed for them."""
        assert self.gap is not None
        near = rows.select(_ROW, *self._keys, TIME_COLUMN, _LIMIT)
        time, end = pl.col(TIME_COLUMN), pl.max_horizontal(LAST, TIME_COLUMN) + self.gap
        beside = time.is_between(pl.col(FIRST) - self.gap, pl.col(LAST) + self.gap)
        parts = []
        for frame in self.log.frames():
            known = frame.select(*self._keys, FIRST, LAST)
            if self._keys:
                pairs = near.join(known, on=self._keys, nulls_equal=True, how="inner")
            else:
                pairs = near.join(known, how="cross")
            parts.append(pairs.filter(beside & (end >= pl.col(_LIMIT))).select(_ROW))
        return pl.concat([*parts, near.select(_ROW).clear()]).unique()

    # -- results -----------------------------------------------------------------------------------

    def _fired(self, time_us: int) -> Iterator[Result]:
        """The sessions that this watermark closes, and those that took a row since they fired."""
        gap = self.gap
        if gap is None:
            return
        kept = []
        closes = pl.col(LAST) + gap < time_us
        gone = pl.col(LAST) + gap + self.lateness < time_us
        for frame in self.log.take(closes & ((pl.col(FIRED) == 0) | gone)):
            fired = frame.filter(pl.col(FIRED) == 0)
            if fired.height:
                yield self._results(fired)
                kept.append(fired.filter(~gone).with_columns(pl.lit(1, pl.Int8).alias(FIRED)))
        for frame in kept:
            self.log.append(frame)

    def _drained(self) -> Iterator[Result]:
        for frame in self.log.drain(_SLICE_ROWS, (FIRST, *self._keys)):
            fresh = frame.filter(pl.col(FIRED) == 0)
            if fresh.height:
                yield self._results(fresh)

    def _late(self, rows: pl.DataFrame) -> Side:
        return Side(LATE, rows.select(self.operator.late_columns(rows.columns)))

    def _results(self, closed: pl.DataFrame) -> pl.DataFrame:
        ordered = closed.sort(FIRST, *self._keys, nulls_last=True)
        if self.gap is None:
            results = self.rows.results(
                ordered, None, pl.col(LAST) + 1, watermarks=self._streams.value
            )
        else:
            end = pl.col(LAST) + self.gap
            results = self.rows.results(ordered, pl.col(FIRST), end, watermarks=self._streams.value)
        self.lowering = self.rows.lowering
        return results
