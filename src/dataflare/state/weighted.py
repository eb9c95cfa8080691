"""Rows with weights, found by key a whole batch at a time: what operators on changelogs remember.

An insert has the weight 1 and a delete -1, so a table is the sum of its changes, in whatever order they came
(Budiu et al., DBSP, VLDB 2023). Rows are in levels, each in the order of the hash of its key; levels of like size
are merged, so a row is sorted again O(log n) times, and rows whose weights cancel leave then. Where memory is short,
they go to disk (`row_runs`).

Always true: the sum of the weights of a row over all levels is the sum of its changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import polars as pl
from msgspec import Struct

from dataflare.model.hashing import hash_columns
from dataflare.state.pieces import Piece, range_of
from dataflare.state.row_runs import RowRuns, of_range
from dataflare.state.rows import RowsTable

WEIGHT = "__dataflare_weight"
"""Int64: how often the row is there, or how often more or less it is there from now on."""
HASH = "__dataflare_key_hash"
"""UInt64: the hash of the row's key."""
WRITTEN = "__dataflare_written"
"""Int64: when the row was stored, in processing time (microseconds since 1970, UTC); only with a time to live."""

Merge = Callable[[pl.DataFrame], pl.DataFrame]


class _Level(Struct):
    piece: Piece
    frame: pl.DataFrame


class WeightedRows:
    """table: where the rows are, by their keys. merge: brings rows together, of one key at least those with a
    negative weight; `cancelled` if not given. newer: the same where rows that came before are not among them; `merge`
    if not given. ttl_us: rows that were stored longer ago are forgotten.
    """

    def __init__(
        self,
        table: RowsTable,
        merge: Merge | None = None,
        ttl_us: int | None = None,
        *,
        newer: Merge | None = None,
    ) -> None:
        self.keys, self._table = table.keys, table
        self._merge = merge or cancelled
        self._newer = newer or self._merge
        self._ttl_us = ttl_us
        self._runs = RowRuns(table, HASH, self._merged, time=WRITTEN)
        table.spills, table.keeper = False, self
        self._draining = False
        self._levels: list[_Level] = []
        for piece in self._runs.restore(table.pieces()):
            frame = table.frame_of(piece)
            if not frame[HASH].is_sorted():
                frame = frame.sort(HASH, maintain_order=True)
                piece = table.piece_of(frame)
            self._levels.append(_Level(piece, frame))
        self._levels.sort(key=lambda level: level.frame.height, reverse=True)
        self._set()

    def hashed(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows with the hash of their key, in its order."""
        lazy = hash_columns(frame.lazy(), self.keys, HASH).sort(HASH, maintain_order=True)
        return lazy.collect(engine="in-memory")

    def having(self, hashes: pl.Series, now_us: int = 0) -> pl.DataFrame | None:
        """The rows whose key has one of these hashes, of all levels: a row may be there several times. hashes: in
        order, each once."""
        found = self._runs.having(hashes)
        for level in self._levels:
            held = level.frame[HASH]
            low = held.search_sorted(hashes, side="left")
            high = held.search_sorted(hashes, side="right")
            spans = pl.DataFrame({"low": low, "high": high}).filter(pl.col("low") < pl.col("high"))
            if spans.height:
                places = spans.select(pl.int_ranges("low", "high", dtype=pl.UInt32).explode())
                found.append(level.frame[places.to_series()])
        if not found:
            return None
        return self._young(pl.concat(found), now_us)

    def add(self, rows: pl.DataFrame, now_us: int = 0) -> None:
        """Take rows with WEIGHT and HASH, in the order of HASH."""
        if not rows.height:
            return
        self._runs.go_on()
        if self._ttl_us is not None:
            rows = rows.with_columns(pl.lit(now_us, pl.Int64).alias(WRITTEN))
        while self._levels and self._levels[-1].frame.height <= 2 * rows.height:
            older = self._young(self._levels.pop().frame, now_us)
            is_oldest = not self._levels and not self._runs.runs
            rows = self._merged(pl.concat([older, rows]), is_oldest)
            rows = rows.sort(HASH, maintain_order=True)
        if rows.height:
            self._levels.append(_Level(self._table.piece_of(rows), rows))
        self._set()

    def forget(self, now_us: int) -> None:
        """Leave out the levels of which all rows are too old."""
        if self._ttl_us is None:
            return
        oldest = now_us - self._ttl_us
        kept = [level for level in self._levels if int(str(level.frame[WRITTEN].max())) >= oldest]
        dropped = self._runs.drop(lambda run: run.latest is not None and run.latest < oldest)
        if dropped or len(kept) < len(self._levels):
            self._levels = kept
            self._set()

    def _merged(self, rows: pl.DataFrame, is_oldest: bool) -> pl.DataFrame:
        return self._merge(rows) if is_oldest else self._newer(rows)

    def parts(self) -> Iterator[pl.DataFrame]:
        """All rows, brought together. All rows of a key are in one part."""
        levels = [level.frame for level in self._levels]
        if self._runs.runs:
            yield from (frame for _, frame in self._runs.by_range(levels))
        elif levels:
            yield self._merge(pl.concat(levels))

    def clear(self) -> None:
        """Forget all rows."""
        self._levels = []
        self._runs.clear()
        self._set()

    def drain(self) -> Iterator[pl.DataFrame]:
        """The same. A part is no longer held when it is given. Nothing may be added any more."""
        self._draining = True
        if not self._runs.runs:
            parts = [*self.parts()]
            self._levels = []
            self._set()
            yield from parts
            return
        for number, frame in self._runs.by_range([level.frame for level in self._levels]):
            stored = [p for p in self._runs.pieces() if (range_of(p.groups) or 0) > number]
            for level in self._levels:
                first, rows = of_range(level.frame[HASH], number)
                level.frame = level.frame.slice(first + rows)
                level.piece = self._table.piece_of(level.frame)
            rest = [level.piece for level in self._levels if level.frame.height]
            self._table.set([*stored, *rest])
            yield frame

    # -- memory ------------------------------------------------------------------------------------

    @property
    def index_bytes(self) -> int:
        return self._runs.num_bytes

    @property
    def level_bytes(self) -> int:
        if not self._runs.able or self._draining:
            return 0
        return sum(int(level.frame.estimated_size()) for level in self._levels)

    @property
    def on_disk(self) -> bool:
        return bool(self._runs.runs)

    def spill(self) -> None:
        if self._levels and self._runs.able and not self._draining:
            self._runs.spill([level.frame for level in self._levels])
            self._levels = []
            self._set()

    def close(self) -> None:
        self._runs.close()

    def _set(self) -> None:
        self._table.set([*self._runs.pieces(), *(level.piece for level in self._levels)])

    @property
    def rows(self) -> int:
        return sum(level.frame.height for level in self._levels) + self._runs.rows

    def _young(self, frame: pl.DataFrame, now_us: int) -> pl.DataFrame:
        if self._ttl_us is None:
            return frame
        return frame.filter(pl.col(WRITTEN) >= now_us - self._ttl_us)


def cancelled(
    frame: pl.DataFrame, last: Sequence[str] = (), *, keeps_zero: bool = False
) -> pl.DataFrame:
    """The rows in which equal ones with weights of both signs are one, or none. last: columns that do not tell
    rows apart; the last value stays. WRITTEN and HASH are among them. keeps_zero: where weights cancel, one row with the
    weight 0 stays: equal rows may have come before, and get its last values."""
    negative = frame[WEIGHT] <= 0
    if not negative.any():
        return frame
    if HASH not in frame.columns:
        return summed(frame, last, keeps_zero=keeps_zero)
    touched = frame[HASH].is_in(frame[HASH].filter(negative).unique().implode())
    return pl.concat(
        [frame.filter(~touched), summed(frame.filter(touched), last, keeps_zero=keeps_zero)]
    )


def summed(
    frame: pl.DataFrame, last: Sequence[str] = (), *, keeps_zero: bool = False
) -> pl.DataFrame:
    """The same, whatever the weights are."""
    beside = [name for name in (*last, WRITTEN) if name in frame.columns]
    by = [name for name in frame.columns if name not in (WEIGHT, *beside)]
    if not by:
        total = frame.select(pl.col(WEIGHT).sum(), *(pl.col(name).last() for name in beside))
        return total.filter((pl.col(WEIGHT) != 0) | keeps_zero).select(frame.columns)
    summed = (
        frame.lazy()
        .group_by(by, maintain_order=True)
        .agg(pl.col(WEIGHT).sum(), *(pl.col(name).last() for name in beside))
        .filter((pl.col(WEIGHT) != 0) | keeps_zero)
        .select(frame.columns)
    )
    return summed.collect(engine="in-memory")
