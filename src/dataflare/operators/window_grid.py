"""Where tumbling and sliding windows begin and end.

Times are cut into panes, which are as long as the greatest common divisor of `size` and `slide`. So a window is a
whole number of panes, and a row is aggregated once however many windows it belongs to (Traub et al., "Efficient
Window Aggregation with General Stream Slicing", EDBT 2019).

Windows are computed on a ruler. It is the time in UTC, or follows the clocks of a zone (`window_clock`), so that a day
has 23, 24 or 25 hours. Panes that divide each change of the zone's clocks begin at the same times in both.

Always true: a greater time is never in an earlier pane; a window's end is the start of the next pane.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING

from msgspec import Struct

from dataflare.operators.window_clock import HOUR, ruler_of, shared_offset

if TYPE_CHECKING:
    import polars as pl

DAY = 24 * HOUR


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
        return time if self.zone is None else ruler_of(self.zone, self.pane).place(time)

    def place(self, time_us: int) -> int:
        """One time in UTC as a place on the ruler."""
        import polars as pl

        if self.zone is None:
            return time_us
        return int(pl.select(self.on_ruler(pl.lit(time_us, pl.Int64))).item())

    def in_utc(self, place: pl.Expr) -> pl.Expr:
        """Boundaries of panes as times in UTC. A reading that the clocks show twice is the first of the two; one
        that they leave out is the moment at which they do."""
        return place if self.zone is None else ruler_of(self.zone, self.pane).reached(place)

    def in_utc_of(self, place: int) -> int:
        """The same for one place."""
        import polars as pl

        return int(pl.select(self.in_utc(pl.lit(place, pl.Int64))).item())

    @property
    def leaves_out(self) -> bool:
        """Whether the clocks of the zone have ever left out the starts of several windows."""
        return self.zone is not None and ruler_of(self.zone, self.pane).widest_gap > self.slide

    def is_there(self, end: pl.Expr) -> pl.Expr:
        """Whether there is a window that ends at a place. There is none if the clocks left its start out, and the start of
        the next one too."""
        start = end - self.size
        return self.in_utc(start) < self.in_utc(start + self.slide)

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


def grid_of(size: int, slide: int, offset: int, zone: str | None) -> Grid:
    """The grid of a window step. Raises ValueError for a size that has no clear meaning in the time zone."""
    if zone is None or zone == "UTC":
        return Grid(size, slide, offset)
    pane = gcd(size, slide)
    shift = shared_offset(zone, pane) if HOUR % pane == 0 else None
    if shift is not None:
        return Grid(size, slide, offset - shift)
    if HOUR % pane and (pane % HOUR or offset % HOUR):
        raise ValueError("in a time zone, a window has whole hours or a part that divides an hour")
    return Grid(size, slide, offset, zone)
