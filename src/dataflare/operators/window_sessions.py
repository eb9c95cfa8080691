"""Sessions: windows that last as long as rows of a key follow each other closely. And the global window, which is
one session for all rows of a key.

A session is closed when the watermark is later than its end. A row exactly `gap` after the last one still belongs to
it, so a watermark at the end is not enough.

Always true:
- rows that are not behind the watermark of their split (less `allowed_lateness`) form sessions by their times alone;
- a row behind it joins the sessions that its watermark has not closed. If there is none, the row is a session of its
  own, or late if that session is closed, too;
- this is decided when the watermark of the step has passed that of the row, in the order of these watermarks and then
  of times, and a session that is closed for a row is taken out before the row joins another. So it does not depend on
  batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import polars as pl

from dataflare.model.event_time import NEVER, TIME_COLUMN, WATERMARK_COLUMN
from dataflare.operators.base import LiveOperator, Result
from dataflare.operators.changes import weighted
from dataflare.operators.kept_rows import plain
from dataflare.operators.window_behind import LATE_PHASE, phases
from dataflare.operators.window_changes import rows_of
from dataflare.operators.window_counts import COUNT, due
from dataflare.operators.window_rows import FIRED, FIRST, LAST, WINDOW_COLUMNS
from dataflare.operators.window_session_merge import sessions
from dataflare.operators.window_state import CLOSED, LIMIT
from dataflare.operators.window_updates import GivenSessions
from dataflare.state.tables import Tables

if TYPE_CHECKING:
    from dataflare.operators.window import Window

_SLICE_ROWS = 100_000
_EARLIEST, _LATEST = -(2**62), 2**62
_TIME = "__dataflare_again"
_ROW = "__dataflare_number"


class LiveSessions(LiveOperator):
    """log: the open sessions; behind: rows that were behind their watermark, and are not decided."""

    def __init__(self, operator: Window, tables: Tables) -> None:
        self.operator, self.gap, self.lateness = operator, operator.gap, operator.lateness
        self.tick_s = operator.every_s
        counted = [(pl.len().cast(pl.Int64).alias(COUNT), pl.col(COUNT).sum())]
        self.rows = rows_of(operator, counted if operator.count else ())
        self._keys, self._tables = self.rows.keys, tables
        self.log = tables.log("sessions", self._keys, self._merge)
        self._behind = tables.rows("behind", self._keys)
        self._watermark = tables.value("watermark", NEVER, min)
        self._streams = tables.value("streams", False, any)
        self._closed = tables.value(CLOSED, NEVER, max)
        self._updates = GivenSessions(tables, self._keys) if operator.updates else None

    def process(self, port: int, frame: pl.DataFrame) -> Iterable[Result]:
        time = pl.col(TIME_COLUMN)
        rows = frame.with_columns(
            time.alias(FIRST), time.alias(LAST), pl.lit(0, pl.Int8).alias(FIRED)
        )
        if WATERMARK_COLUMN in frame.columns:
            self._streams.value = True
            if self.gap is not None:
                rows = self._sifted(rows)
        if self.operator.changes:
            rows = weighted(rows, times=True)
        if self.operator.count:
            yield from self._counted(rows)
        self._append(rows)
        if self.lateness and rows.height:
            yield from self._fired(self._watermark.value)

    def watermark(self, event_time_us: int) -> Iterable[Result]:
        if event_time_us <= self._watermark.value or self.gap is None:
            return
        self._watermark.value = event_time_us
        yield from self._decided(event_time_us - self.lateness)
        yield from self._fired(event_time_us)

    def tick(self) -> Iterable[Result]:
        """Give the open sessions that have new rows."""
        kept = []
        for frame in self.log.take(pl.col(FIRED) == 0):
            yield from self._results(frame)
            kept.append(frame.with_columns(pl.lit(1, pl.Int8).alias(FIRED)))
        for frame in kept:
            self.log.append(frame)

    def end(self, port: int) -> Iterable[Result]:
        yield from self._decided(_LATEST)
        yield from self._drained()

    def shown(self) -> dict[str, Iterator[pl.DataFrame]]:
        """The open windows, and the rows that wait until it is decided which session they join, for
        `state show`."""
        shown: dict[str, Iterator[pl.DataFrame]] = {}
        shown["windows"] = map(self._plain, self.log.drain(_SLICE_ROWS, (FIRST, *self._keys)))
        if self._behind.pieces():
            shown["behind"] = map(self._plain_rows, self._behind.frames())
        return shown

    def _plain(self, closed: pl.DataFrame) -> pl.DataFrame:
        gap = self.gap
        start, end = (None, pl.col(LAST)) if gap is None else (pl.col(FIRST), pl.col(LAST) + gap)
        results = self.rows.results(closed, start, end, watermarks=False)
        return results.select(*self.rows.names, *WINDOW_COLUMNS, *self.rows.measures)

    def _plain_rows(self, rows: pl.DataFrame) -> pl.DataFrame:
        named = [
            pl.col(key).alias(name) for key, name in zip(self._keys, self.rows.names, strict=True)
        ]
        others = plain(rows.drop(set(self._keys) & set(self.rows.names)))
        return rows.select(named).hstack(others.drop(self.rows.names, strict=False))

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
        if self._closed.value != NEVER:
            limit = pl.max_horizontal(limit, pl.lit(self._closed.value, pl.Int64))
        is_behind = rows.select((pl.col(TIME_COLUMN) < limit).alias("behind"))["behind"]
        if not is_behind.any():
            return rows
        self._behind.append(rows.filter(is_behind).with_columns(limit.alias(LIMIT)))
        return rows.filter(~is_behind)

    def _decided(self, limit_us: int) -> Iterator[Result]:
        """Let the rows that were behind, with a limit below this one, join the sessions that are open for them.
        Between two results the tables hold what is left to do."""
        if not self._behind.pieces():
            return
        rows = pl.concat(self._behind.frames())
        due = rows.filter(pl.col(LIMIT) < limit_us).sort(LIMIT, TIME_COLUMN, maintain_order=True)
        if not due.height:
            return
        waiting = rows.filter(pl.col(LIMIT) >= limit_us)
        phase = self._phases(due)
        late = due.filter(phase == LATE_PHASE)
        if late.height:
            self._behind.replace([waiting, due.filter(phase != LATE_PHASE)])
            yield self.operator.late_rows(late)
        for number in range(int(phase.max() or 0) + 1):  # type: ignore[arg-type]
            joining = due.filter(phase == number)
            if number:
                yield from self._closed_for(joining)
            self._behind.replace([waiting, due.filter(phase > number)])
            self._append(joining)

    def _phases(self, due: pl.DataFrame) -> pl.Series:
        """See `window_behind.phases`."""
        assert self.gap is not None
        keys = due.select(self._keys).unique().with_row_index(_ROW) if self._keys else None
        numbered = self._numbered(due, keys)
        parts = (self._numbered(frame, keys) for frame in self.log.frames())
        known = [part for part in parts if part.height]
        joined = sessions(pl.concat(known), [_ROW], self.gap, []) if known else None
        times = phases(
            numbered.select(_ROW, TIME_COLUMN, LIMIT).iter_rows(),
            joined.select(_ROW, FIRST, LAST).iter_rows() if joined is not None else (),
            self.gap,
        )
        return pl.Series(times, dtype=pl.Int32)

    def _numbered(self, frame: pl.DataFrame, keys: pl.DataFrame | None) -> pl.DataFrame:
        """The rows of these keys, each with the number of its key, in their order."""
        if keys is None:
            return frame.with_columns(pl.lit(0, pl.UInt32).alias(_ROW))
        return frame.join(keys, on=self._keys, how="inner", nulls_equal=True, maintain_order="left")

    def _closed_for(self, rows: pl.DataFrame) -> Iterator[Result]:
        """Take out the sessions that are closed for the first of these rows with their key."""
        assert self.gap is not None
        limit = pl.col(LIMIT).min()
        limits = rows.group_by(self._keys).agg(limit) if self._keys else rows.select(limit)

        def is_closed(frame: pl.DataFrame) -> pl.Series:
            known = frame.select(*self._keys, LAST)
            if self._keys:
                known = known.join(
                    limits, on=self._keys, how="left", nulls_equal=True, maintain_order="left"
                )
            else:
                known = known.with_columns(pl.lit(limits.item(), pl.Int64).alias(LIMIT))
            return (known[LAST] + self.gap < known[LIMIT]).fill_null(False)

        for frame in self.log.take(is_closed):
            fresh = frame.filter(pl.col(FIRED) == 0)
            if fresh.height:
                yield from self._results(fresh)

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
                yield from self._results(fired)
                kept.append(fired.filter(~gone).with_columns(pl.lit(1, pl.Int8).alias(FIRED)))
        for frame in kept:
            self.log.append(frame)
        if self._updates is not None:
            self._updates.drop(gone, self.log.frames())

    def _counted(self, rows: pl.DataFrame) -> Iterator[Result]:
        """What the global window of a key gives after a number of rows."""
        assert self.operator.count is not None
        frames = self.log.frames()
        if self._keys:
            wanted = rows.select(self._keys).unique()
            frames = (f.join(wanted, on=self._keys, how="semi", nulls_equal=True) for f in frames)
        parts = [*frames]
        measures = self.rows.of_rows, self.rows.of_partials
        of_rows, of_partials = (
            lambda frame, more, m=m: sessions(frame, [*self._keys, *more], None, m)
            for m in measures
        )
        state = pl.concat(parts) if parts else None
        firing = due(rows, state, self._keys, self.operator.count, of_rows, of_partials)
        if firing.height:
            yield from self._results(firing, again=True)

    def _drained(self) -> Iterator[Result]:
        for frame in self.log.drain(_SLICE_ROWS, (FIRST, *self._keys)):
            fresh = frame.filter(pl.col(FIRED) == 0)
            if fresh.height:
                yield from self._results(fresh)

    def _results(self, closed: pl.DataFrame, *, again: bool = False) -> Iterator[Result]:
        """Sessions as result rows. again: also those that have no rows since they fired last."""
        if self.operator.count and not again:
            closed = closed.filter(pl.col(COUNT) % self.operator.count != 0)
            if not closed.height:
                return
        for part in self._changes(closed):
            start, end = None, pl.col(LAST) + 1
            if self.gap is not None:
                start, end = pl.col(FIRST), pl.col(LAST) + self.gap
            results = self.rows.results(part, start, end, watermarks=self._streams.value)
            self.lowering = self.rows.lowering
            yield results

    def _changes(self, closed: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """The sessions with what they replace. One that comes several times has a frame for each time."""
        if self._updates is None:
            yield (
                closed if self.operator.count else closed.sort(FIRST, *self._keys, nulls_last=True)
            )
            return
        place = pl.int_range(pl.len())
        by = [*self._keys, *([] if self.gap is None else [FIRST])]
        times = closed.with_columns((place.over(by) if by else place).alias(_TIME))
        for part in times.partition_by(_TIME, include_key=False, maintain_order=True):
            yield self._updates.changes(part)
