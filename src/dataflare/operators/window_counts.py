"""Windows that fire each time they have taken a number of rows (`trigger: {count: 100}`).

They fire after exactly that row, also where a batch has more of them, so that batches do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

COUNT = "__dataflare_count"
"""Int64, of partials: how many rows they have."""
_SEGMENT, _LAST = "__dataflare_segment", "__dataflare_last_segment"

Grouped = Callable[[pl.DataFrame, Sequence[str]], pl.DataFrame]
"""Rows or partials to partials by the keys and these columns."""


def due(
    rows: pl.DataFrame,
    state: pl.DataFrame | None,
    by: Sequence[str],
    count: int,
    partial: Grouped,
    merged: Grouped,
) -> pl.DataFrame:
    """What the windows give that new rows make fire: each result has the rows up to the one that it fires after.
    by: the columns that tell windows apart. state: partials of the rows before, at least those of these windows."""
    before = pl.lit(0, pl.Int64).alias(COUNT)
    if state is None:
        marked = rows.with_columns(before)
    elif by:
        marked = rows.join(state.select(*by, COUNT), on=by, how="left", nulls_equal=True)
        marked = marked.with_columns(pl.col(COUNT).fill_null(0))
    else:
        marked = rows.with_columns(pl.lit(int(state[COUNT].sum()), pl.Int64).alias(COUNT))
    place = pl.int_range(pl.len())
    place = place.over(by) if by else place
    fired = pl.col(COUNT) // count
    marked = marked.with_columns(((pl.col(COUNT) + place) // count - fired).alias(_SEGMENT))
    total = pl.len().over(by) if by else pl.len()
    marked = marked.with_columns(((pl.col(COUNT) + total) // count - fired).alias(_LAST))
    marked = marked.filter(pl.col(_SEGMENT) < pl.col(_LAST)).drop(COUNT)
    if not marked.height:
        return marked
    segments = partial(marked, [_SEGMENT, _LAST])
    if state is not None:
        firsts = segments.filter(pl.col(_SEGMENT) == 0)
        if by:
            tops = firsts.select(*by, _SEGMENT, _LAST)
            earlier = state.join(tops, on=by, nulls_equal=True)
        else:
            earlier = state.join(firsts.select(_SEGMENT, _LAST), how="cross")
        segments = merged(
            pl.concat([earlier.select(segments.columns), segments]), [_SEGMENT, _LAST]
        )
    return _running(segments, merged).sort(_SEGMENT, maintain_order=True).drop(_SEGMENT, _LAST)


def _running(segments: pl.DataFrame, merged: Grouped) -> pl.DataFrame:
    """Each segment with all earlier ones, in log(n) steps (Hillis and Steele, "Data Parallel Algorithms", 1986)."""
    step, top = 1, int(segments[_SEGMENT].max())  # type: ignore[arg-type]
    while step <= top:
        later = segments.with_columns(pl.col(_SEGMENT) + step)
        later = later.filter(pl.col(_SEGMENT) < pl.col(_LAST))
        segments = merged(pl.concat([later, segments]), [_SEGMENT, _LAST])
        step *= 2
    return segments
