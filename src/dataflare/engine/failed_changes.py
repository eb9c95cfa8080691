"""What is left of a batch when rows with a fault are taken out, where its rows are changes. Pure.

Always true: a change that fails takes the row with it that it replaces, because that row is not true any more. Half of
an update never stays alone: it becomes a delete or an insert.
"""

from __future__ import annotations

import polars as pl

from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.halves import takes_back, without_rows
from dataflare.model.unchanged import UNCHANGED

_DELETE = pl.lit(RowKind.DELETE, pl.UInt8)


def parted(frame: pl.DataFrame, is_bad: pl.Series) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows with a fault, and the others."""
    return frame.filter(is_bad), without_rows(frame, is_bad)


def without_answers(frame: pl.DataFrame, is_bad: pl.Series, *, by_key: bool) -> pl.DataFrame:
    """The rows without those whose lookup has no answer that can be read. What takes a row back needs none: its old answer
    may have been another one."""
    is_bad = is_bad & ~takes_back(frame)
    if not by_key or KIND_COLUMN not in frame.columns:
        return without_rows(frame, is_bad)
    _, left = parted_by_key(frame, is_bad, pl.repeat(False, frame.height, eager=True))
    return left


def parted_by_key(
    frame: pl.DataFrame, is_bad: pl.Series, is_left_out: pl.Series
) -> tuple[pl.DataFrame | None, pl.DataFrame]:
    """The same where changes have the key of the row that they replace, and not the row. What has a fault goes on as a
    delete of its key, and deletes have no fault: they have values in their key alone. is_left_out: rows that do not."""
    is_told = is_bad & ((frame[KIND_COLUMN] != RowKind.DELETE) | is_left_out)
    kinds = pl.when(pl.lit(is_bad)).then(_DELETE).otherwise(pl.col(KIND_COLUMN))
    stays = ~(is_bad & is_left_out)
    bad = frame.filter(is_told) if is_told.any() else None
    changed = [kinds.alias(KIND_COLUMN)]
    if UNCHANGED in frame.columns:
        changed.append(pl.when(~pl.lit(is_bad)).then(pl.col(UNCHANGED)).alias(UNCHANGED))
    return bad, frame.with_columns(changed).filter(stays)
