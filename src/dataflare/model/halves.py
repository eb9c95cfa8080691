"""Rows taken out of a changelog, so that half of an update never stays alone. Pure."""

from __future__ import annotations

import polars as pl

from dataflare.model.batch import KIND_COLUMN, RowKind


def takes_back(frame: pl.DataFrame) -> pl.Series:
    """Which rows take one back: deletes, and the first halves of updates."""
    if KIND_COLUMN not in frame.columns:
        return pl.repeat(False, frame.height, dtype=pl.Boolean, eager=True)
    return frame[KIND_COLUMN].is_in([RowKind.DELETE.value, RowKind.UPDATE_BEFORE.value])


def without_rows(frame: pl.DataFrame, is_out: pl.Series) -> pl.DataFrame:
    """The rows that are not out. The half of an update whose other half is out becomes a delete or an insert. The halves
    are adjacent in the frame."""
    if KIND_COLUMN not in frame.columns:
        return frame.filter(~is_out)
    kind, fill = pl.col(KIND_COLUMN), False
    is_before = (kind == RowKind.UPDATE_BEFORE) & pl.lit(is_out.shift(-1, fill_value=fill))
    is_after = (kind == RowKind.UPDATE_AFTER) & pl.lit(is_out.shift(1, fill_value=fill))
    is_after &= (kind == RowKind.UPDATE_BEFORE).shift(1, fill_value=fill)
    kinds = (
        pl.when(is_before)
        .then(pl.lit(RowKind.DELETE, pl.UInt8))
        .when(is_after)
        .then(pl.lit(RowKind.INSERT, pl.UInt8))
        .otherwise(kind)
    )
    return frame.with_columns(kinds.alias(KIND_COLUMN)).filter(~is_out)
