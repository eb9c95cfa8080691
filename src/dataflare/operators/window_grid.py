"""Where tumbling and sliding windows begin and end.

Times are cut into panes, which are as long as the greatest common divisor of `size` and `slide`. So a window is a
whole number of panes, and a row is aggregated once however many windows it belongs to (Traub et al., "Efficient
Window Aggregation with General Stream Slicing", EDBT 2019).

Windows are computed on a ruler. It is the time in UTC, or the time on the clocks of a zone if a pane has whole hours,
so that a day has 23, 24 or 25 hours. Panes that divide an hour begin at the same times in both.

Always true: a greater time is never in an earlier pane; a window's end is the start of the next pane.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import gcd
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from msgspec import Struct

if TYPE_CHECKING:
    import polars as pl

HOUR = 3_600_000_000
DAY = 24 * HOUR
_FIRST, _LAST = -62_135_596_800_000_000 + DAY, 253_402_300_800_000_000 - DAY
"""The years 1 to 9999: the times that every time zone library knows."""


class Grid(Struct, frozen=True):
    """All in microseconds. offset: a window starts at this time and at each multiple of `slide` from there. zone:
    the time zone of the ruler; None for UTC."""

    size: int
    slide: int
    offset: int = 0
    zone: str | None = None

    @property
    def pane(self) -> int:
        return gcd(self.size, self.slide)

    @property
    def panes(self) -> int:
        """How many panes a window has."""
        return self.size // self.pane

    @property
    def is_tumbling(self) -> bool:
        return self.size == self.slide

    def on_ruler(self, time: pl.Expr) -> pl.Expr:
        """Times in UTC as places on the ruler."""
        import polars as pl

        if self.zone is None:
            return time
        clock = time.clip(_FIRST, _LAST).cast(pl.Datetime("us", "UTC"))
        return clock.dt.convert_time_zone(self.zone).dt.replace_time_zone(None).cast(pl.Int64)

    def place(self, time_us: int) -> int:
        """One time in UTC as a place on the ruler."""
        import polars as pl

        if self.zone is None:
            return time_us
        return int(pl.select(self.on_ruler(pl.lit(time_us, pl.Int64))).item())

    def in_utc(self, place: pl.Expr) -> pl.Expr:
        """Boundaries of panes as times in UTC. A reading that the clocks show twice is the first of the two; one
        that they leave out is the moment at which they do."""
        import polars as pl

        if self.zone is None:
            return place
        earlier = (_read(place - hours * HOUR, self.zone) + hours * HOUR for hours in (1, 24))
        return pl.coalesce(_read(place, self.zone), *earlier)

    def pane_of(self, place: pl.Expr) -> pl.Expr:
        """The start of the pane of each row."""
        return _floor(place, self.pane, self.offset)

    def first_end(self, pane: pl.Expr) -> pl.Expr:
        """The end of the first window that has the pane."""
        return _floor(pane - self.size, self.slide, self.offset) + self.slide + self.size

    def last_end(self, pane: pl.Expr) -> pl.Expr:
        """The end of the last window that has the pane."""
        return _floor(pane, self.slide, self.offset) + self.size

    def last_end_of(self, place: int) -> int:
        """The same for one place."""
        return (place - self.offset) // self.slide * self.slide + self.offset + self.size

    def end_after(self, place: int) -> int:
        """The first end of a window later than a place."""
        base = self.offset + self.size
        return base + ((place - base) // self.slide + 1) * self.slide

    def next_end(self, place: pl.Expr) -> pl.Expr:
        """The same for each row."""
        return _floor(place - self.size, self.slide, self.offset) + self.slide + self.size


def _floor(value: pl.Expr, step: int, offset: int) -> pl.Expr:
    return (value - offset) // step * step + offset


def _read(place: pl.Expr, zone: str) -> pl.Expr:
    """The times at which the clocks of a zone show a reading; NULL if they never do."""
    import polars as pl

    clock = place.clip(_FIRST, _LAST).cast(pl.Datetime("us"))
    local = clock.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return local.dt.convert_time_zone("UTC").cast(pl.Int64)


def grid_of(size: int, slide: int, offset: int, zone: str | None) -> Grid:
    """The grid of a window step. Raises ValueError for a size that has no clear meaning in the time zone."""
    if zone is None or zone == "UTC":
        return Grid(size, slide, offset)
    pane = gcd(size, slide)
    if HOUR % pane == 0:
        return Grid(size, slide, offset - _zone_offset(zone))
    if pane % HOUR or offset % HOUR:
        raise ValueError("in a time zone, a window has whole hours or a part that divides an hour")
    return Grid(size, slide, offset, zone)


def _zone_offset(zone: str) -> int:
    """How far the clocks of the zone are ahead of UTC. Its changes are whole hours, or multiples of the pane."""
    shift = ZoneInfo(zone).utcoffset(datetime(2020, 1, 1, tzinfo=UTC))
    return int((shift or timedelta()) / timedelta(microseconds=1))
