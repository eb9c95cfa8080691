"""`deduplicate` with `within`: a key is remembered for some event time after the row that stayed.

Rows are decided in order of time, when the watermark has passed them. The first row of a key stays. Rows
of the key up to `within` later, this end included, are doubles. The next one after that stays again.

Always true: `waiting` has the rows that are not decided, `stayed` the keys and times of rows that stayed
which a later row may be a double of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from dataflare.model.event_time import NEVER, TIME_COLUMN, WATERMARK_COLUMN
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.model.units import shown_duration
from dataflare.operators import kept_rows
from dataflare.operators.base import LATE, LiveOperator, Result, Side, StatefulOperator
from dataflare.operators.join_interval import is_worth_it
from dataflare.operators.join_parts import Parts
from dataflare.operators.results import Results
from dataflare.operators.timed_rows import TimedRows, bounds, split_late
from dataflare.state.layout import STEP, Adaptation, Held, Layout, TableLayout
from dataflare.state.tables import Tables

_ID = "__dataflare_key_id"
_ROW = "__dataflare_row_number"
_NEXT = "__dataflare_next"
_LATEST = "__dataflare_latest"


class DeduplicateWithin(StatefulOperator, StructABC, frozen=True):
    """watermarks: whether results have WATERMARK_COLUMN."""

    step: str
    keys: tuple[str, ...]
    within_us: int
    schema: Schema
    watermarks: bool
    timed = True
    keeps_time = True

    def chosen_by(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return (*self.keys, TIME_COLUMN)

    def open(self, tables: Tables) -> LiveOperator:
        return LiveDeduplicateWithin(self, tables)

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        rows = kept_rows.layout_of(self.schema, self.keys)
        stayed = TableLayout(rows.keys, {})
        settings = {"within": self.within_us}
        results = kept_rows.layout_of(self.schema)
        return {
            STEP: TableLayout(settings=settings),
            "waiting": rows,
            "stayed": stayed,
            "results": results,
        }

    def initial(self, table: str) -> pl.DataFrame:
        return kept_rows.nulls(self.schema)

    def adapted(
        self, before: Mapping[str, Any], now: Mapping[str, Any], held: Held
    ) -> Adaptation | str:
        if now["within"] <= before["within"]:
            return Adaptation()
        within = shown_duration(before["within"])
        note = f"keys whose row stayed more than {within} before this checkpoint may be forgotten already"
        return Adaptation((note,))

    def shown(self, tables: Tables) -> Mapping[str, Iterator[pl.DataFrame]]:
        """The rows that wait for the watermark, and the keys whose row stayed, with its time."""
        return kept_rows.shown(tables, {name: (name, self.keys) for name in ("waiting", "stayed")})

    def describe(self) -> str:
        return f"deduplicate by {', '.join(self.keys)} within {shown_duration(self.within_us)}"


class LiveDeduplicateWithin(LiveOperator):
    """NULL keys form one key, as in GROUP BY."""

    def __init__(self, operator: DeduplicateWithin, tables: Tables) -> None:
        self._operator, self._keys = operator, list(operator.keys)
        waiting, stayed = (tables.rows(name, operator.keys) for name in ("waiting", "stayed"))
        empty = pl.DataFrame(schema={**operator.schema.to_polars(), TIME_COLUMN: pl.Int64})
        self._results = Results(tables)
        self._parts = Parts(tables, [waiting, stayed], self._marked(empty))
        self._time = tables.value("time", NEVER, max)
        self._waiting = TimedRows(waiting, moves=operator.watermarks)
        self._stayed = TimedRows(stayed)
        self._new_rows = 0

    def process(self, port: int, frame: pl.DataFrame) -> Iterator[Result]:
        rows, late = split_late(frame, self._time.value)
        if late.height:
            yield Side(LATE, late)
        self._waiting.add(rows)
        self._new_rows += rows.height

    def watermark(self, event_time_us: int) -> Iterable[Result]:
        if event_time_us <= self._time.value:
            return ()
        if not is_worth_it(self._new_rows, self._stayed.rows):
            return ()
        self._time.value, self._new_rows = event_time_us, 0
        rows = self._waiting.take(event_time_us)
        found = []
        if rows is not None:
            first, last = bounds([rows])
            before = self._stayed.between(first - self._operator.within_us, last)
            staying = self._staying(rows, pl.concat(before) if before else None)
            self._stayed.add(staying.select(*self._keys, TIME_COLUMN))
            found = [self._marked(staying)] if staying.height else []
        self._stayed.forget(event_time_us - self._operator.within_us)
        return found

    def passed_on(self, event_time_us: int) -> int:
        time: int = self._time.value
        return time

    def end(self, port: int) -> Iterator[pl.DataFrame]:
        yield from self._results.drain()
        yield from self._parts.cut()
        while (part := self._parts.take()) is not None:
            rows, before = part
            if rows is not None:
                self._results.put(self._marked(self._staying(rows, before)))
            self._parts.done()
            yield from self._results.drain()

    def _staying(self, rows: pl.DataFrame, before: pl.DataFrame | None) -> pl.DataFrame:
        """The rows that stay. before: keys and times of those that stayed earlier."""
        within = self._operator.within_us
        rows = rows.sort(TIME_COLUMN, maintain_order=True)
        rows = rows.unique([*self._keys, TIME_COLUMN], keep="first", maintain_order=True)
        ids = rows.select(self._keys).unique().with_row_index(_ID)
        rows = rows.join(ids, on=self._keys, how="left", nulls_equal=True, maintain_order="left")
        if before is not None:
            known = before.join(ids, on=self._keys, how="inner", nulls_equal=True)
            latest = known.group_by(_ID).agg(pl.col(TIME_COLUMN).max().alias(_LATEST))
            rows = rows.join(latest, on=_ID, how="left", maintain_order="left")
            after = pl.col(_LATEST).is_null() | (pl.col(TIME_COLUMN) > pl.col(_LATEST) + within)
            rows = rows.filter(after).drop(_LATEST)
        return rows[_orbit(rows, within)].drop(_ID)

    def _marked(self, results: pl.DataFrame) -> pl.DataFrame:
        if not self._operator.watermarks:
            return results
        return results.with_columns(pl.col(TIME_COLUMN).alias(WATERMARK_COLUMN))


def _orbit(rows: pl.DataFrame, within: int) -> pl.Series:
    """The numbers of the rows that stay: of each key the first one, then always the first one that is more
    than `within` later. rows: in order of time.

    Pointer doubling: after each round twice as many rows of each key are known, so that a key with a thousand
    rows that stay needs ten rounds.
    """
    numbered = rows.select(_ID, TIME_COLUMN).with_row_index(_ROW)
    later = numbered.select(_ID, pl.col(TIME_COLUMN).alias(_NEXT), pl.col(_ROW).alias("row"))
    pointers = numbered.with_columns(pl.col(TIME_COLUMN) + within + 1).join_asof(
        later,
        left_on=TIME_COLUMN,
        right_on=_NEXT,
        by=_ID,
        strategy="forward",
        check_sortedness=False,
    )
    end = rows.height
    jump = pointers["row"].fill_null(end).extend_constant(end, 1)
    staying = numbered.unique(_ID, keep="first", maintain_order=True)[_ROW]
    while True:
        reached = jump.gather(staying)
        reached = reached.filter(reached != end)
        if not len(reached):
            return staying.sort()
        staying = pl.concat([staying, reached])
        jump = jump.gather(jump)
