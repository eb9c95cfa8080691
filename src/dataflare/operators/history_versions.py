"""The versions of the rows of some keys, from their changes: columns in, a changelog out. Pure.

A frame of changes has the columns of the rows, VALID_FROM, and GONE for a delete. KEPT marks what was there before: of each
key at most one, in front.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from msgspec import Struct

from dataflare.model.batch import KIND_COLUMN, RowKind

VALID_FROM, VALID_TO, IS_CURRENT = "valid_from", "valid_to", "is_current"
GONE, KEPT = "__dataflare_gone", "__dataflare_kept"
_PLACE, _OTHER, _HALF = (f"__dataflare_{name}" for name in ("place", "other", "half"))


class Ordered(Struct, frozen=True):
    """rows: changes of each key in the order of their times, one at a time. early: those whose time is before that of
    the version that was there."""

    rows: pl.DataFrame
    early: pl.DataFrame


def ordered(changes: pl.DataFrame, keys: Sequence[str], time: str | None) -> Ordered:
    """time: the column with the time of a row; VALID_FROM if not given. A delete is at its own time, if that is later than
    that of the change before it: it is the time of the delete then, and not that of the row which is gone. A version behind
    a delete begins no earlier than the delete, whatever its own time is. Of changes at one time the last counts."""
    since = pl.when(~pl.col(GONE)).then(pl.col(time or VALID_FROM))
    deletes = pl.col(GONE).cast(pl.UInt32).cum_sum().over(keys)
    changes = changes.with_columns(deletes.alias(_OTHER))
    is_early = (since < since.cum_max().over([*keys, _OTHER])).fill_null(False)
    split = changes.select(is_early).to_series()
    changes = changes.drop(_OTHER)
    rows = changes.filter(~split)
    if time is not None:
        own = pl.col(time)
        is_own = pl.col(GONE) & ~pl.col(KEPT) & (own > own.shift(1).over(keys)).fill_null(True)
        at = pl.when(is_own & own.is_not_null()).then(own).otherwise(pl.col(VALID_FROM))
        rows = rows.with_columns(at.alias(VALID_FROM))
    rows = rows.with_columns(pl.col(VALID_FROM).cum_max().over(keys))
    at_once = [*keys, VALID_FROM]
    is_last = pl.int_range(pl.len()).over(at_once) == pl.len().over(at_once) - 1
    return Ordered(rows.filter(pl.col(KEPT) | is_last), changes.filter(split))


def distinct(rows: pl.DataFrame, keys: Sequence[str]) -> tuple[pl.DataFrame, int]:
    """The rows without those that are as the one before them; and how many deletes there were of keys without a
    version."""
    names = [name for name in rows.columns if name not in (GONE, KEPT, VALID_FROM)]
    before = _neighbours(rows, keys, 1)
    was_gone = before[_OTHER].is_null() | before[GONE]
    same = [rows[name].eq_missing(before[name]) for name in names]
    is_same = pl.select(pl.all_horizontal(same)).to_series() & ~was_gone & ~rows[GONE]
    return rows.filter(~is_same), int((rows[GONE] & was_gone & ~rows[KEPT]).sum())


def changelog(rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """What changes about the versions: of a kept one that is ended an update, of each new one an insert."""
    names = [name for name in rows.columns if name not in (GONE, KEPT)]
    rows = rows.with_row_index(_PLACE)
    after = _neighbours(rows, keys, -1)
    has_end = after[_OTHER].is_not_null()
    end = pl.select(pl.when(pl.lit(has_end)).then(pl.lit(after[VALID_FROM]))).to_series()
    whole = rows.with_columns(end.alias(VALID_TO), (~has_end).alias(IS_CURRENT))
    # Only a kept version can begin when the next one does, which is in its place then.
    is_replaced = (
        has_end & (end == rows[VALID_FROM]).fill_null(False) & ~after[GONE].fill_null(True)
    )
    ended = rows[KEPT] & ~rows[GONE] & has_end
    place = pl.select(
        pl.when(pl.lit(is_replaced)).then(pl.lit(after[_PLACE])).otherwise(pl.lit(rows[_PLACE]))
    ).to_series()
    nothing = pl.lit(None, rows.schema[VALID_FROM])
    open_ = rows.with_columns(
        place.alias(_PLACE), nothing.alias(VALID_TO), pl.lit(True).alias(IS_CURRENT)
    )
    replaces = rows[_PLACE].is_in(after[_PLACE].filter(is_replaced & ended).implode())
    parts = [
        (open_.filter(ended), RowKind.UPDATE_BEFORE),
        (whole.filter(ended & ~is_replaced), RowKind.UPDATE_AFTER),
        (whole.filter(replaces), RowKind.UPDATE_AFTER),
        (whole.filter(~rows[KEPT] & ~rows[GONE] & ~replaces), RowKind.INSERT),
    ]
    columns = [*names, VALID_TO, IS_CURRENT, KIND_COLUMN, _PLACE]
    made = [
        part.with_columns(pl.lit(kind.value, pl.UInt8).alias(KIND_COLUMN)).select(columns)
        for part, kind in parts
    ]
    return pl.concat(made).sort(_PLACE, maintain_order=True).drop(_PLACE)


def last(rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """What is kept of each key from now on."""
    return rows.unique(subset=list(keys), keep="last", maintain_order=True)


def _neighbours(rows: pl.DataFrame, keys: Sequence[str], step: int) -> pl.DataFrame:
    """For each row the one of its key before (1) or behind it (-1). _OTHER is NULL where there is none."""
    place = rows.select(pl.int_range(pl.len(), dtype=pl.UInt32).alias(_OTHER), *keys)
    other = place.select(pl.col(_OTHER).shift(step).over(keys)).to_series()
    return rows[other.fill_null(0)].with_columns(other.alias(_OTHER))
