"""Rows and sessions of a key that lie close together become one session, by columns.

One sort, one running maximum and one group_by for all keys. The running maximum is needed because a session may
lie inside another one: the end of the row before is not enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dataflare.operators.window_rows import FIRED, FIRST, LAST

_ID = "__dataflare_id"
_KEY = "__dataflare_key"
_KEY_SPAN = pl.lit(2**66, pl.Int128)
"""More than the distance between two times, and a gap."""


def sessions(
    frame: pl.DataFrame,
    keys: Sequence[str],
    gap: int | None,
    measures: Sequence[pl.Expr],
    *,
    changes: bool = True,
) -> pl.DataFrame:
    """frame: rows or sessions, with FIRST, LAST and FIRED, and at least one. gap: None if all rows of a key are
    together. measures: aggregating expressions, over rows in the order of their times. changes: a session that is
    made of several has not fired."""
    ordered = frame.lazy().sort(*keys, FIRST, maintain_order=True)
    new_values = [pl.col(key).ne_missing(pl.col(key).shift(1)) for key in keys]
    is_new_key = pl.any_horizontal(pl.int_range(pl.len()) == 0, *new_values)
    if gap is None:
        numbered = ordered.with_columns(is_new_key.cum_sum().alias(_ID))
    else:
        # Sessions of one key are all later than those of the key before, so one maximum serves all keys. In 64 bits
        # the sums would be too large: with 42,000 keys over seven years, sessions of two keys became one.
        shift = is_new_key.cum_sum().cast(pl.Int128) * _KEY_SPAN
        numbered = ordered.with_columns(shift.alias(_KEY))
        before = (pl.col(LAST) + pl.col(_KEY)).cum_max().shift(1)
        is_new = (pl.col(FIRST) + pl.col(_KEY) - before > gap).fill_null(True)
        numbered = numbered.with_columns(is_new.cum_sum().alias(_ID)).drop(_KEY)
    firsts = [pl.col(key).first() for key in keys]
    grouped = numbered.group_by(_ID, maintain_order=True).agg(
        *firsts,
        pl.col(FIRST).min(),
        pl.col(LAST).max(),
        *([pl.col(FIRED).min()] if changes else []),
        *measures,
    )
    return grouped.drop(_ID).collect(engine="in-memory")
