"""Rows in order, also more of them than memory holds.

The rows are cut into ranges by rows of a sample, so that a range fits into memory, and each range is
sorted when its turn comes (a sample sort: Frazer and McKellar, "Samplesort", JACM 1970). Rows that
are equal in the order are in one range and keep the order in which they came.

Always true: between two frames that are given, the table holds the rows that were not given yet, in an
order from which the sort can begin again; the cuts are kept too, so that what was cut is not cut again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import polars as pl

from dataflare.operators.ordering import Order
from dataflare.state.pieces import Piece
from dataflare.state.rows import RowsTable

_RANGES_PER_MEMORY = 4
"""A range takes about this part of the memory: sorting needs room for a copy, and a sample is uneven."""
_SAMPLE_ROWS = 2_000
_ROW = "__dataflare_row"
_RANGE = "__dataflare_range"


def sorted_rows(
    table: RowsTable, cuts: RowsTable, order: Order, bytes_max: int, rows_max: int
) -> Iterator[pl.DataFrame]:
    """The rows of the table in frames of at most `rows_max` rows; they are then no longer in it. An empty
    frame says that a checkpoint may be cut. cuts: the first row of each range but the first, once it is
    decided. bytes_max: how many bytes of rows fit into memory."""
    if not cuts.pieces():
        sample, total = yield from _sample(table, order)
        if total <= bytes_max:
            frames = table.frames()
            if frames:
                table.replace([order.sorted(pl.concat(frames))])
            yield from table.drain(rows_max)
            return
        step = max(1, sample.height // (1 + _RANGES_PER_MEMORY * total // max(1, bytes_max)))
        cuts.replace([sample.gather_every(step, offset=step)])
    ranges = yield from _partitioned(table, order, pl.concat(cuts.frames()))
    while ranges:
        yield from _handed_out(table, order, ranges, rows_max)


def _sample(
    table: RowsTable, order: Order
) -> Generator[pl.DataFrame, None, tuple[pl.DataFrame, int]]:
    """Some rows of each piece, in order, without equal ones, and how many bytes all pieces take. Only the
    columns of the order."""
    sample, total = [], 0
    for piece in table.pieces():
        frame = table.frame_of(piece)
        total += int(frame.estimated_size())
        keys = frame.select(order.columns)
        sample.append(keys.gather_every(max(1, keys.height // _SAMPLE_ROWS)))
        yield frame.clear()
    if not sample:
        return pl.DataFrame(), 0
    return order.sorted(pl.concat(sample)).unique(maintain_order=True), total


def _partitioned(
    table: RowsTable, order: Order, cuts: pl.DataFrame
) -> Generator[pl.DataFrame, None, list[list[Piece]]]:
    """The pieces of the table by range, each cut at the ranges."""
    ranges: dict[int, list[Piece]] = {}
    done: list[Piece] = []
    waiting = table.pieces()
    while waiting:
        piece = waiting.pop(0)
        frame = table.frame_of(piece)
        parts = _by_range(frame, order, cuts)
        for number, part in parts:
            is_cut_already = len(parts) == 1 and not piece.in_memory
            aside = piece if is_cut_already else table.put_aside(part)
            ranges.setdefault(number, []).append(aside)
            done.append(aside)
        table.set([*done, *waiting])
        yield frame.clear()
    return [ranges[number] for number in sorted(ranges)]


def _by_range(
    frame: pl.DataFrame, order: Order, cuts: pl.DataFrame
) -> list[tuple[int, pl.DataFrame]]:
    """The rows of each range, in their order. A cut stands before the rows that are equal to it."""
    keys = frame.select(order.columns).with_row_index(_ROW)
    marks = cuts.select(pl.lit(None, pl.UInt32).alias(_ROW), *order.columns)
    both = order.sorted(pl.concat([marks, keys], how="vertical_relaxed"))
    numbered = both.select(_ROW, pl.col(_ROW).is_null().cum_sum().alias(_RANGE)).drop_nulls(_ROW)
    column = numbered.sort(_ROW)[_RANGE]
    parts = frame.with_columns(column).partition_by(
        _RANGE, maintain_order=True, include_key=False, as_dict=True
    )
    return [(int(str(number)), part) for (number,), part in parts.items()]


def _handed_out(
    table: RowsTable, order: Order, ranges: list[list[Piece]], rows_max: int
) -> Iterator[pl.DataFrame]:
    """The rows of the first range in order; what is left of it stands in front of the others."""
    frame = order.sorted(pl.concat([table.frame_of(piece) for piece in ranges.pop(0)]))
    others = [piece for pieces in ranges for piece in pieces]
    parts = [table.piece_of(rows) for rows in frame.iter_slices(rows_max)]
    while parts:
        part = parts.pop(0)
        table.set([*parts, *others])
        yield table.frame_of(part)
