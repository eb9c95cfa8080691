"""The ruler of windows that follow the clocks of a time zone. Pure.

The ruler shows what the clocks show, except that it waits where they go back, until they have come as far again. So a
greater time is never at an earlier place. Where the clocks leave a time out, the ruler does.

If a pane divides an hour, the ruler need not show the time of the clocks: it is enough that both pass the boundaries of panes
together. Then it leaves out, or waits for, only the part of a change that is not a multiple of the pane. So an hour
that comes twice has windows of its own each time.

Always true: `place` never falls; a time is at or after `reached(p)` if and only if its place is p or more.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    import polars as pl

SECOND = 1_000_000
HOUR = 3600 * SECOND
_FIRST, _LAST = (int(datetime(y, 1, 1, tzinfo=UTC).timestamp()) * SECOND for y in (1800, 2101))
"""No zone had clocks by law before, and the tables of changes that we have end at 2100."""
_NOW = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp()) * SECOND
_STEP = 12 * HOUR
_FARTHEST = 2**62


class ZoneRuler(Struct, frozen=True):
    """Between two changes of the clocks, the place of a time is `time + shift`, or `floor` if that is later.
    spans: a row for each such span: `changes` and `ends` are its start and end in UTC, `places` is the place at its
    start. All in microseconds."""

    spans: pl.DataFrame
    widest_gap: int

    def place(self, time: pl.Expr) -> pl.Expr:
        """Times in UTC as places."""
        import polars as pl

        time = time.clip(-_FARTHEST, _FARTHEST)
        span = _last(self.spans["changes"], time, "right")
        return pl.max_horizontal(
            time + _at(self.spans["shifts"], span), _at(self.spans["floors"], span)
        )

    def reached(self, place: pl.Expr) -> pl.Expr:
        """The first times in UTC at which the ruler shows a place or a later one."""
        import polars as pl

        place = place.clip(-_FARTHEST, _FARTHEST)
        span = _last(self.spans["places"], place, "left")
        return pl.min_horizontal(
            place - _at(self.spans["shifts"], span), _at(self.spans["ends"], span)
        )


@lru_cache(maxsize=256)
def ruler_of(zone: str, pane: int) -> ZoneRuler:
    """The ruler for panes of a length. It begins with what the clocks of the zone showed at first."""
    import polars as pl

    starts, offsets = changes_of(zone)
    shifts = [offsets[0]]
    for before, after in itertools.pairwise(offsets):
        step = after - before
        if HOUR % pane == 0:
            step = (abs(step) % pane) * (1 if step > 0 else -1)
        shifts.append(shifts[-1] + step)
    floors = [-_FARTHEST * 2 + 1]
    places = [-_FARTHEST * 2 + 1]
    gap = 0
    for start, before, after in zip(starts[1:], shifts, shifts[1:], strict=False):
        # Clocks that go back at midnight have not shown it.
        floors.append(max(start + before - 1, floors[-1]))
        places.append(max(start + after, floors[-1]))
        gap = max(gap, places[-1] - floors[-1])
    ends = [*starts[1:], _FARTHEST * 2 - 1]
    spans = {"changes": starts, "ends": ends, "shifts": shifts, "floors": floors, "places": places}
    return ZoneRuler(pl.DataFrame(spans, schema=dict.fromkeys(spans, pl.Int64)), gap)


def shared_offset(zone: str, pane: int) -> int | None:
    """How far the clocks of a zone are ahead of UTC, as far as panes can tell. None if some change of the clocks since
    1970 is not a multiple of a pane. Tables of time zones differ for the years before."""
    starts, offsets = changes_of(zone)
    now = offsets[bisect_right(starts, _NOW) - 1]
    since_1970 = offsets[bisect_right(starts, 0) - 1 :]
    return now if all((offset - now) % pane == 0 for offset in since_1970) else None


@lru_cache(maxsize=256)
def changes_of(zone: str) -> tuple[list[int], list[int]]:
    """When the clocks of a zone changed, and how far ahead of UTC they were from then on. The first time stands for all
    before. In microseconds."""
    import polars as pl

    time = pl.int_range(_FIRST, _LAST, _STEP, eager=True, dtype=pl.Int64)
    offset = _offset(time, zone)
    changed = (offset != offset.shift(1)).fill_null(value=False)
    high, after = time.filter(changed), offset.filter(changed)
    low = high - _STEP
    while len(high) and (high - low).max() > SECOND:  # type: ignore[operator]
        middle = (low + high) // 2 // SECOND * SECOND
        is_after = _offset(middle, zone) == after
        low, high = middle.zip_with(~is_after, low), middle.zip_with(is_after, high)
    return [_FIRST, *high.to_list()], [int(offset[0]), *after.to_list()]


def _offset(time: pl.Series, zone: str) -> pl.Series:
    import polars as pl

    clock = time.cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(zone)
    return clock.dt.replace_time_zone(None).cast(pl.Int64) - time


def _last(values: pl.Series, each: pl.Expr, side: str) -> pl.Expr:
    """The last place with a value that is not after each; side "left": that is before each."""
    import polars as pl

    found = pl.lit(values).search_sorted(each, side=side)  # type: ignore[arg-type]
    return (found.cast(pl.Int64) - 1).clip(0)


def _at(values: pl.Series, place: pl.Expr) -> pl.Expr:
    import polars as pl

    return pl.lit(values).gather(place)
