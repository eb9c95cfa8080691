"""The stamp behind a source with an event time: gives every row the reserved columns of its time.

A row without a time, with one outside of the years 1 to 9999, or with one too far in the future, gets a fault and
moves no watermark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataflare.expr import NOW_COLUMN
from dataflare.model.event_time import TIME_COLUMN, WATERMARK_COLUMN, is_in_years
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.model.units import shown_duration
from dataflare.operators.base import Fault, Lowering, RowOperator

if TYPE_CHECKING:
    import polars as pl

    from dataflare.expr import Typed

WITHOUT_TIME = 250
AHEAD_OF_CLOCK = 249
OUT_OF_YEARS = 248
TIME_FAULTS = (WITHOUT_TIME, AHEAD_OF_CLOCK, OUT_OF_YEARS)
"""Kinds of faults, as in `dataflare.expr.rowerrors`: dead letters store them."""


class Stamp(RowOperator, StructABC, frozen=True):
    """column: the timestamp or date of the event, as the user wrote it; time: the same, typed. out_of_orderness_us, max_future_us, idle_timeout_s,
    max_drift_us: as the source's `event_time` says. streaming: rows carry the watermark of their split too.

    Until the reader adds what earlier batches of the split had, WATERMARK_COLUMN holds the greatest time
    among the rows of the batch so far.
    """

    step: str
    column: str
    time: Typed
    out_of_orderness_us: int
    max_future_us: int | None
    idle_timeout_s: float | None
    max_drift_us: int | None
    streaming: bool

    @property
    def reads(self) -> frozenset[str]:
        clock = (NOW_COLUMN,) if self.max_future_us is not None else ()
        return self.time.columns | self.time.needs | frozenset(clock)

    @property
    def can_fail(self) -> bool:
        return True

    @property
    def keeps_rows(self) -> bool:
        return True

    def output_schema(self, schema: Schema) -> Schema:
        return schema

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        import polars as pl

        lowered = self.time.lower()
        value = lowered.value
        value = value.cast(pl.Datetime("ms")) if self.time.type.name == "date" else value
        is_out = ~is_in_years(value, self.time.type.unit)
        time = pl.when(~is_out).then(value.dt.timestamp("us"))
        out = pl.when(is_out).then(pl.lit(OUT_OF_YEARS, pl.UInt8))
        without = pl.when(time.is_null()).then(pl.lit(WITHOUT_TIME, pl.UInt8))
        errors: list[Fault] = [(f"event time '{self.column}'", each) for each in (out, without)]
        if lowered.error is not None:
            errors.insert(0, (f"event time '{self.column}'", lowered.error))
        if self.max_future_us is not None:
            bound = pl.col(NOW_COLUMN).dt.timestamp("us") + self.max_future_us
            ahead = pl.when(time > bound).then(pl.lit(AHEAD_OF_CLOCK, pl.UInt8))
            errors.append((f"event time '{self.column}'", ahead))
        frame = lowering.mark(frame.with_columns(time.alias(TIME_COLUMN)), self.step, errors)
        if not self.streaming:
            return frame
        seen = lowering.sound(pl.col(TIME_COLUMN)).cum_max()
        return frame.with_columns(seen.alias(WATERMARK_COLUMN))

    def required(self, needed: frozenset[str], incoming: Schema) -> frozenset[str]:
        return needed | self.time.columns

    def describe(self) -> str:
        late = self.out_of_orderness_us
        wait = f", rows up to {shown_duration(late)} late" if late else ""
        return f"event time {self.column}{wait}"
