"""Pairs of rows with equal keys that are near in time.

The right side is put into buckets of time as wide as the reach of a row, each row into the one or two
buckets that it may match in; the left side into one. Rows with equal keys and buckets are then filtered
by their distance. Where the left side spans only a few buckets, keys alone are compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
from msgspec import Struct

from dataflare.model.event_time import TIME_COLUMN, WATERMARK_COLUMN
from dataflare.operators.join_rows import CHUNK_ROWS, chunks
from dataflare.operators.join_shape import LEFT, RIGHT, JoinShape
from dataflare.operators.timed_rows import bounds

_RIGHT_TIME = "__dataflare_right_time"
_BUCKET = "__dataflare_bucket"
_ROW, _OTHER_ROW = "__dataflare_left_row", "__dataflare_right_row"
_SAMPLE_ROWS = 1_000
_SLICE_ROWS = 100_000
_BUCKETS_WITHOUT = 3
"""Up to so many buckets are joined without them: there are at most so many times as many candidates."""


class Reach(Struct, frozen=True):
    """In microseconds: how far before and after a row of the left side a row of the right side may be, both
    ends included."""

    before: int
    after: int

    def of_left(self, first: int, last: int) -> tuple[int, int]:
        """The times in which rows of the right side match rows of the left side with these times."""
        return first - self.before, last + self.after

    def of_right(self, first: int, last: int) -> tuple[int, int]:
        return first - self.after, last + self.before


class Pairing(Struct, frozen=True):
    """shape, reach: which rows match. watermarks: whether results have WATERMARK_COLUMN."""

    shape: JoinShape
    reach: Reach
    watermarks: bool

    def pairs(self, left: pl.DataFrame, right: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """The pairs as they come out, with the later time of the two."""
        left = left.rechunk()
        time = pl.col(TIME_COLUMN).alias(_RIGHT_TIME)
        other = right.select(*self.shape.right_values(), time).rechunk()
        later = pl.max_horizontal(TIME_COLUMN, _RIGHT_TIME).alias(TIME_COLUMN)
        for rows, other_rows in self._near(left, right):
            joined = left[rows].hstack(other[other_rows]).lazy()
            found = joined.select(*self.shape.whole(), later).collect(engine="in-memory")
            yield self.marked(found)

    def matching(self, left: pl.DataFrame, right: pl.DataFrame, port: int) -> pl.Series:
        """For each row of a side whether it has a match on the other one."""
        marks = pl.repeat(False, (left if port == LEFT else right).height, eager=True)
        for numbers in self._near(left, right):
            marks = marks.scatter(numbers[port].unique(), True)
        return marks

    def alone(self, rows: pl.DataFrame, port: int) -> pl.DataFrame:
        """Rows without a match, as they come out."""
        return self.marked(self.shape.alone(rows, port))

    def marked(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Results with the watermark by which they are not late in a later step."""
        if not self.watermarks:
            return rows
        return rows.with_columns(pl.col(TIME_COLUMN).alias(WATERMARK_COLUMN))

    @property
    def empty(self) -> pl.DataFrame:
        """Results without rows."""
        return self.marked(self.shape.empty.with_columns(pl.lit(0, pl.Int64).alias(TIME_COLUMN)))

    def _near(
        self, left: pl.DataFrame, right: pl.DataFrame
    ) -> Iterator[tuple[pl.Series, pl.Series]]:
        """The numbers of the rows of both sides that match, some pairs at a time. Rows are compared by their keys and
        times alone, so the other columns are copied only for pairs that come out."""
        if not left.height or not right.height:
            return
        own_time, time = pl.col(TIME_COLUMN), pl.col(TIME_COLUMN).alias(_RIGHT_TIME)
        own = left.select(*self.shape.key_columns(LEFT), own_time).with_row_index(_ROW)
        other = right.select(*self.shape.key_columns(RIGHT), time).with_row_index(_OTHER_ROW)
        distance = pl.col(_RIGHT_TIME) - pl.col(TIME_COLUMN)
        is_near = distance.is_between(-self.reach.before, self.reach.after)
        for own_rows, other_rows in self._slices(own, other):
            if not own_rows.height or not other_rows.height:
                continue
            names, own_rows, other_rows = self._bucketed(own_rows, other_rows)
            for part in self._cut(names, own_rows, other_rows):
                joined = part.lazy().join(other_rows.lazy(), on=names, how="inner")
                near = joined.filter(is_near).select(_ROW, _OTHER_ROW).collect(engine="in-memory")
                if near.height:
                    yield near[_ROW], near[_OTHER_ROW]

    def _slices(
        self, left: pl.DataFrame, right: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Both sides by time, where the left one is large: a slice of it with the rows in its reach. Tables
        of some 100,000 rows stay in the processor's cache, so that all together take a third of the time."""
        if left.height <= _SLICE_ROWS:
            yield left, right
            return
        left, right = left.sort(TIME_COLUMN), right.sort(_RIGHT_TIME)
        times, other_times = left[TIME_COLUMN], right[_RIGHT_TIME]
        start = 0
        while start < left.height:
            first = int(times[start])
            full = int(times.search_sorted(first + self._width, side="left"))
            stop = min(left.height, max(start + _SLICE_ROWS, full))
            low, high = self.reach.of_left(first, int(times[stop - 1]))
            begin = int(other_times.search_sorted(low, side="left"))
            end = int(other_times.search_sorted(high, side="right"))
            yield left.slice(start, stop - start), right.slice(begin, end - begin)
            start = stop

    @property
    def _width(self) -> int:
        """How many microseconds of the other side a row reaches."""
        return self.reach.before + self.reach.after + 1

    def _bucketed(
        self, left: pl.DataFrame, right: pl.DataFrame
    ) -> tuple[list[str], pl.DataFrame, pl.DataFrame]:
        """The columns that must be equal, and both sides with them."""
        names = self.shape.key_names
        width = self._width
        first, last = bounds([left])
        if last - first <= _BUCKETS_WITHOUT * width:
            return names, left, right
        low = ((pl.col(_RIGHT_TIME) - self.reach.after) // width).alias(_BUCKET)
        high = ((pl.col(_RIGHT_TIME) + self.reach.before) // width).alias(_BUCKET)
        lower, upper = right.with_columns(low), right.with_columns(high)
        second = upper.filter(upper[_BUCKET] != lower[_BUCKET])
        left = left.with_columns((pl.col(TIME_COLUMN) // width).alias(_BUCKET))
        return [*names, _BUCKET], left, pl.concat([lower, second])

    def _cut(
        self, names: list[str], left: pl.DataFrame, right: pl.DataFrame
    ) -> Iterator[pl.DataFrame]:
        """The left side, cut where many rows come out. A sample says whether it is worth counting."""
        every = max(1, left.height // _SAMPLE_ROWS)
        sample = left.gather_every(every).group_by(names).agg(pl.len().alias(_ROW + "s"))
        hits = right.select(names).join(sample, on=names, how="inner")[_ROW + "s"].sum()
        if int(hits) * every <= 2 * CHUNK_ROWS:
            yield left
            return
        yield from chunks(names, left, right)
