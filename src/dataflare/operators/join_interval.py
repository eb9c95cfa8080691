"""The join of two streams by time: pairs with equal keys whose event times are near.

Rows wait until the watermark has passed them. They are then settled in order of time: the new rows of one
side are paired with the settled and the new rows of the other, so that each pair comes out once,
whatever the order in which rows arrive. A row without a match comes out when the watermark says that none
can come.

Always true: `waiting` has the rows that were not settled, `settled` those which later rows may match or which
are not decided, `decided` (of a full join) those which a decision of the other side may need. Each subtask,
also one after a rescale, can go on from these alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from dataflare.model.event_time import NEVER
from dataflare.model.record import StructABC
from dataflare.model.types import Schema
from dataflare.model.units import shown_duration
from dataflare.operators import kept_rows
from dataflare.operators.base import LiveOperator, Result, StatefulOperator
from dataflare.operators.join_bounded import described
from dataflare.operators.join_pairs import Pairing
from dataflare.operators.join_parts import Parts
from dataflare.operators.join_shape import KEPT, LEFT, RIGHT
from dataflare.operators.results import Results
from dataflare.operators.timed_rows import TimedRows, bounds, joining
from dataflare.state.layout import STEP, Adaptation, Held, Layout, TableLayout
from dataflare.state.tables import Tables

_SMALL_ROWS = 20_000
_LARGE_ROWS = 500_000


def is_worth_it(new_rows: int, kept_rows: int) -> bool:
    """Whether to settle now. A step looks at all kept rows in reach, so with many of them it waits for new
    rows: half as many as are kept (2.9 M rows/s at batches of 20,000, where each batch alone gave 1.9), and an
    eighth where these would be long to wait for."""
    if kept_rows <= _SMALL_ROWS:
        return True
    return new_rows >= min(kept_rows / 2, max(_LARGE_ROWS, kept_rows / 8))


class IntervalJoin(StatefulOperator, StructABC, frozen=True):
    step: str
    pairing: Pairing
    keys: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    timed = True
    keeps_time = True

    def keys_of(self, port: int) -> tuple[str, ...]:
        return self.pairing.shape.keys_of(port)

    def open(self, tables: Tables) -> LiveOperator:
        return LiveIntervalJoin(self, tables)

    def layout(self, inputs: Sequence[Schema]) -> Layout:
        shape, reach = self.pairing.shape, self.pairing.reach
        settings = {
            "form": "by time",
            "kind": shape.kind,
            "within": [reach.before, reach.after],
            "inputs": list(self.inputs),
        }
        sides = {
            f"{table}_{n}": kept_rows.layout_of(shape.schema_of(n), shape.keys_of(n))
            for table in ("waiting", "settled", "decided")
            for n in (LEFT, RIGHT)
        }
        results = kept_rows.layout_of(shape.output)
        return {STEP: TableLayout(settings=settings), **sides, "results": results}

    def initial(self, table: str) -> pl.DataFrame:
        return kept_rows.nulls(self.pairing.shape.of_table(table))

    def adapted(
        self, before: Mapping[str, Any], now: Mapping[str, Any], held: Held
    ) -> Adaptation | str:
        return kept_rows.adapted_join(before, now, held)

    def shown(self, tables: Tables) -> Mapping[str, Iterator[pl.DataFrame]]:
        """The rows that wait for the watermark, and those that rows which still come may match."""
        keys = self.keys_of
        names = {"left": LEFT, "right": RIGHT}
        waiting = {f"waiting_{n}": (f"waiting_{p}", keys(p)) for n, p in names.items()}
        kept = {f"kept_{n}": (f"settled_{p}", keys(p)) for n, p in names.items()}
        return kept_rows.shown(tables, waiting | kept)

    def describe(self) -> str:
        reach = self.pairing.reach
        before, after = shown_duration(reach.before), shown_duration(reach.after)
        near = before if before == after else f"{before} before and {after} after"
        return f"{described(self.pairing.shape)} within {near}"


class LiveIntervalJoin(LiveOperator):
    """_decides: for each side, whether its rows are decided, matched or not, when no match can come."""

    def __init__(self, operator: IntervalJoin, tables: Tables) -> None:
        self._pairing, self._shape = operator.pairing, operator.pairing.shape
        self._reach = operator.pairing.reach
        kind = self._shape.kind
        self._pairs_come_out = kind not in ("semi", "anti")
        self._decides = [LEFT in KEPT[kind] or kind == "semi", RIGHT in KEPT[kind]]
        keys = self._shape.keys_of
        waiting = [tables.rows(f"waiting_{n}", keys(n)) for n in (LEFT, RIGHT)]
        settled = [tables.rows(f"settled_{n}", keys(n)) for n in (LEFT, RIGHT)]
        decided = [tables.rows(f"decided_{n}", keys(n)) for n in (LEFT, RIGHT)]
        self._results = Results(tables)
        self._parts = Parts(tables, [*waiting, *settled, *decided], self._pairing.empty)
        self._time = tables.value("time", NEVER, max)
        self._waiting = [TimedRows(each, moves=self._pairing.watermarks) for each in waiting]
        self._settled = [TimedRows(table) for table in settled]
        self._decided = [TimedRows(table) for table in decided]
        self._new_rows = 0
        self._ended: set[int] = set()

    def process(self, port: int, frame: pl.DataFrame) -> Iterator[Result]:
        keeps = port in KEPT[self._shape.kind]
        alone = (lambda rows: self._pairing.alone(rows, port)) if keeps else None
        rows = yield from joining(frame, port, self._time.value, self._shape.keys_of(port), alone)
        self._waiting[port].add(rows)
        self._new_rows += rows.height

    def watermark(self, event_time_us: int) -> Iterable[Result]:
        kept = self._settled[LEFT].rows + self._settled[RIGHT].rows
        return self._settle(event_time_us) if is_worth_it(self._new_rows, kept) else ()

    def passed_on(self, event_time_us: int) -> int:
        """The later steps may not pass what is still to come out: pairs of rows that are not settled, and
        rows without a match, which are decided later than their time."""
        time: int = self._time.value
        held = max(
            self._reach.after if self._decides[LEFT] else 0,
            self._reach.before if self._decides[RIGHT] else 0,
        )
        return time - held if time != NEVER else NEVER

    def end(self, port: int) -> Iterator[pl.DataFrame]:
        self._ended.add(port)
        if len(self._ended) < 2:
            return
        yield from self._results.drain()
        yield from self._parts.cut()
        while (part := self._parts.take()) is not None:
            for frame in self._last(part):
                self._results.put(frame)
            self._parts.done()
            yield from self._results.drain()

    def _settle(self, time: int) -> Iterator[pl.DataFrame]:
        """Settle all rows with earlier times."""
        if time <= self._time.value:
            return
        self._time.value, self._new_rows = time, 0
        left, right = self._waiting[LEFT].take(time), self._waiting[RIGHT].take(time)
        if self._pairs_come_out:
            yield from self._new_pairs(left, right)
        for port, rows in enumerate((left, right)):
            if rows is not None:
                self._settled[port].add(rows)
        decided = [
            self._settled[LEFT].take(time - self._reach.after) if self._decides[LEFT] else None,
            self._settled[RIGHT].take(time - self._reach.before) if self._decides[RIGHT] else None,
        ]
        for port, rows in enumerate(decided):
            if rows is not None and all(self._decides):
                self._decided[port].add(rows)
        for port, rows in enumerate(decided):
            if rows is not None:
                yield from self._by_match(port, rows, self._reached(port, rows))
        self._forget(time)

    def _new_pairs(
        self, left: pl.DataFrame | None, right: pl.DataFrame | None
    ) -> Iterator[pl.DataFrame]:
        if left is not None:
            others = self._settled[RIGHT].between(*self._reach.of_left(*bounds([left])))
            others += [right] if right is not None else []
            if others:
                yield from self._pairing.pairs(left, pl.concat(others))
        if right is not None:
            others = self._settled[LEFT].between(*self._reach.of_right(*bounds([right])))
            if others:
                yield from self._pairing.pairs(pl.concat(others), right)

    def _reached(self, port: int, rows: pl.DataFrame) -> pl.DataFrame | None:
        """The rows of the other side that these rows may match."""
        of = self._reach.of_left if port == LEFT else self._reach.of_right
        first, last = of(*bounds([rows]))
        tables = (self._settled[1 - port], self._decided[1 - port])
        others = [frame for table in tables for frame in table.between(first, last)]
        return pl.concat(others) if others else None

    def _by_match(
        self, port: int, rows: pl.DataFrame, others: pl.DataFrame | None
    ) -> Iterator[pl.DataFrame]:
        wanted = self._shape.kind == "semi"
        if others is None:
            found = rows.clear() if wanted else rows
        else:
            sides = (rows, others) if port == LEFT else (others, rows)
            matched = self._pairing.matching(*sides, port)
            found = rows.filter(matched if wanted else ~matched)
        if found.height:
            yield self._pairing.alone(found, port)

    def _forget(self, time: int) -> None:
        """Drop the settled rows that no row with this time or a later one can need, and no row that is to
        be decided."""
        before, after = self._reach.before, self._reach.after
        if not self._decides[LEFT]:
            needed = time - after - (before if self._decides[RIGHT] else 0)
            self._settled[LEFT].forget(needed)
        if not self._decides[RIGHT]:
            needed = time - before - (after if self._decides[LEFT] else 0)
            self._settled[RIGHT].forget(needed)
        for rows in self._decided:
            rows.forget(time - before - after)

    def _last(self, part: list[pl.DataFrame | None]) -> Iterator[pl.DataFrame]:
        """What follows from the rows of a part of the keys, when no others come."""
        new_left, new_right, left, right, decided_left, decided_right = part
        if self._pairs_come_out:
            others = _both(right, new_right)
            if new_left is not None and others is not None:
                yield from self._pairing.pairs(new_left, others)
            if left is not None and new_right is not None:
                yield from self._pairing.pairs(left, new_right)
        undecided = _both(left, new_left), _both(right, new_right)
        decided = decided_left, decided_right
        for port, rows in enumerate(undecided):
            if self._decides[port] and rows is not None:
                others = _both(undecided[1 - port], decided[1 - port])
                yield from self._by_match(port, rows, others)


def _both(one: pl.DataFrame | None, other: pl.DataFrame | None) -> pl.DataFrame | None:
    frames = [frame for frame in (one, other) if frame is not None]
    return pl.concat(frames) if frames else None
