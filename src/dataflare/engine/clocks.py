"""The event time of what a task reads: the watermark of its open split, and how far it may run ahead.

Always true: a watermark is put into the channels after the rows that it follows from; while a split of
the source is not open, none is put.
"""

from __future__ import annotations

import asyncio

import polars as pl

from dataflare.engine.segments import Outcome
from dataflare.model.event_time import FIRST_US, LAST_US, NEVER, WATERMARK_COLUMN
from dataflare.model.progress import Watermark
from dataflare.operators.stamp import Stamp


class SplitClock:
    """stamp: of the source; None: its rows have no event time, or none that moves before the end.

    event_time_us: the greatest event time of the open split.
    """

    def __init__(self, stamp: Stamp | None, drift: Drift, reader: str) -> None:
        self.stamp = stamp if stamp is not None and stamp.streaming else None
        self.event_time_us: int | None = None
        self.holds = False
        """Whether the rows that come now move no time, and are not late: they were there before the log."""
        self._drift, self._reader = drift, reader

    def begin(self, event_time_us: int | None) -> None:
        """A split was opened. event_time_us: what was read of it before."""
        self.event_time_us, self.holds = event_time_us, False
        if self.stamp is not None:
            self._drift.report(self._reader, self.watermark_us)

    def end(self) -> None:
        """The split is not read any more."""
        self.event_time_us, self.holds = None, False
        self._drift.leave(self._reader)

    @property
    def watermark_us(self) -> int | None:
        """The watermark of the open split; None before its first row."""
        if self.stamp is None or self.event_time_us is None:
            return None
        return self.event_time_us - self.stamp.out_of_orderness_us

    def lift(self, outcome: Outcome) -> int | None:
        """Add to a batch's watermarks what the split had before it, in its order. Gives the greatest event
        time after the batch."""
        if self.stamp is None:
            return None
        late_us = self.stamp.out_of_orderness_us
        before = NEVER + late_us if self.event_time_us is None else self.event_time_us
        seen = pl.max_horizontal(pl.col(WATERMARK_COLUMN), pl.lit(before, pl.Int64))
        # A row that an operator made of nothing, without a watermark, has that of its own time.
        lifted = (seen - late_us).alias(WATERMARK_COLUMN)
        if self.holds:
            lifted = pl.lit(NEVER, pl.Int64).alias(WATERMARK_COLUMN)
        outcome.frames = [
            (edge, frame.with_columns(lifted) if WATERMARK_COLUMN in frame.columns else frame)
            for edge, frame in outcome.frames
        ]
        if outcome.event_time_us is None or self.holds:
            return self.event_time_us
        return max(before, outcome.event_time_us)

    def holding(self, split: str, *, all_open: bool) -> str | None:
        """Why event time did not move, in words, where it holds it back. all_open: whether some reader has each split."""
        if self.stamp is None:
            return None
        if not all_open:
            return (
                "event time did not move: some splits were not opened, because each reader was reading another; "
                "give the run more parallelism"
            )
        if self.watermark_us is None:
            return (
                f"event time did not move: the split '{split}' gave no row with a time; an "
                "idle_timeout in its event_time lets time go on without it"
            )
        return None

    def at_least(self, event_time_us: int | None, told: Watermark) -> int | None:
        """The greatest event time behind a batch whose source tells a watermark itself."""
        if self.stamp is None:
            return event_time_us
        told_us = min(max(told.event_time_us, FIRST_US), LAST_US + 1)
        time = told_us + self.stamp.out_of_orderness_us
        return time if event_time_us is None else max(time, event_time_us)

    def advance(self, event_time_us: int | None) -> None:
        """The batch has left."""
        self.event_time_us = event_time_us
        if self.stamp is not None:
            self._drift.report(self._reader, self.watermark_us)

    def runs_ahead(self) -> asyncio.Event | None:
        """Where the split is too far ahead of the slowest one: what is set when that has moved."""
        if self.stamp is None or self.stamp.max_drift_us is None or self.watermark_us is None:
            return None
        return self._drift.behind(self.watermark_us - self.stamp.max_drift_us)


class Drift:
    """The watermarks of all readers of a run that have a split open, so that none runs too far ahead.

    Splits that no reader has opened do not count: a reader that waits for them would never open one.
    """

    def __init__(self) -> None:
        self._watermarks: dict[str, int] = {}
        self._moved = asyncio.Event()

    def report(self, reader: str, watermark_us: int | None) -> None:
        self._watermarks[reader] = NEVER if watermark_us is None else watermark_us
        self._wake()

    def leave(self, reader: str) -> None:
        if self._watermarks.pop(reader, None) is not None:
            self._wake()

    def behind(self, watermark_us: int) -> asyncio.Event | None:
        """Whether some reader is behind this watermark: then what is set when a watermark moves."""
        if min(self._watermarks.values(), default=watermark_us) >= watermark_us:
            return None
        self._moved = asyncio.Event() if self._moved.is_set() else self._moved
        return self._moved

    def _wake(self) -> None:
        self._moved.set()
