"""Fold the rows of a frame to one event per key: the state of the key in the table afterwards.
Pure.

Always true: applying the folds of successive frames in order has the same result as applying their
rows one by one; in one fold no key is both written and deleted, or written twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl
from msgspec import Struct

from dataflare.errors import ConfigError, DataError, InternalError
from dataflare.formats.text_write import python_row
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import STRING, Field, Schema

OP_COLUMN = "_op"
_NAMES = {kind.value: kind.name.lower() for kind in RowKind}
_GONE = (RowKind.UPDATE_BEFORE.value, RowKind.DELETE.value)
_IS_GONE = "__dataflare_gone"
_PLACE, _LAST_DELETE = "__dataflare_place", "__dataflare_last_delete"


class Changes(Struct, frozen=True):
    """upserts: rows to write, without kinds. deletes: rows whose keys are deleted."""

    upserts: pl.DataFrame
    deletes: pl.DataFrame


def rows_to_append(frame: pl.DataFrame, *, op: bool) -> pl.DataFrame:
    """The rows to append; with `op` their kind is in `_op` as text."""
    if not op:
        if KIND_COLUMN in frame.columns and (frame[KIND_COLUMN] != RowKind.INSERT.value).any():
            raise InternalError("a table in append mode got changes")
        return frame.drop(KIND_COLUMN, strict=False)
    kinds = (
        pl.col(KIND_COLUMN).replace_strict(_NAMES, return_dtype=pl.String)
        if KIND_COLUMN in frame.columns
        else pl.lit("insert")
    )
    return frame.with_columns(kinds.alias(OP_COLUMN)).drop(KIND_COLUMN, strict=False)


def parted_at_truncations(frame: pl.DataFrame) -> list[tuple[int, pl.DataFrame | None]]:
    """The rows between the TRUNCATEs of a frame, and None for each of these; each with its place in the frame."""
    if KIND_COLUMN not in frame.columns:
        return [(0, frame)]
    places = (frame[KIND_COLUMN] == RowKind.TRUNCATE.value).arg_true().to_list()
    parts: list[tuple[int, pl.DataFrame | None]] = []
    start = 0
    for place in places:
        if place > start:
            parts.append((start, frame[start:place]))
        parts.append((place, None))
        start = place + 1
    return [*parts, (start, frame[start:])] if start < frame.height or not parts else parts


def schema_with_op(step: str, schema: Schema) -> Schema:
    """The columns of rows with their kind in `_op`. Raises ConfigError (E0411) where there is one of that name."""
    if OP_COLUMN in schema:
        raise ConfigError(
            f"'changelog: columns' writes the column '{OP_COLUMN}', and the rows have one already",
            code="E0411",
            step=step,
            help=f"rename it with map: rename: {{{OP_COLUMN}: ...}}",
        )
    return Schema((*schema, Field(OP_COLUMN, STRING)))


def fold(
    frame: pl.DataFrame,
    key: Sequence[str],
    *,
    deletes: bool,
    sequence: str | None = None,
    equal: Literal["first", "last"] = "first",
) -> Changes:
    """One event per key. Without `sequence` the last row of a key wins, otherwise the row with the
    greatest sequence (NULL is the smallest; among equal ones, the first write after the last
    delete, or with `equal` the last).

    deletes: whether deletes count (mirror) or are left out (upsert). An update_before is a delete
    of its key; a later row for the same key replaces the delete.
    """
    rows = last_of_each(frame, key, deletes=deletes, gone=_IS_GONE, sequence=sequence, equal=equal)
    is_gone = pl.col(_IS_GONE)
    return Changes(rows.filter(~is_gone).drop(_IS_GONE), rows.filter(is_gone).drop(_IS_GONE))


def last_of_each(
    frame: pl.DataFrame,
    key: Sequence[str],
    *,
    deletes: bool,
    gone: str,
    sequence: str | None = None,
    equal: Literal["first", "last"] = "first",
) -> pl.DataFrame:
    """The rows of `fold`, without kinds. gone: the column that says whether a row is deleted."""
    refuse_null_keys(frame, key)
    is_gone = pl.lit(False)
    if KIND_COLUMN in frame.columns:
        is_gone = pl.col(KIND_COLUMN).is_in(_GONE)
        if not deletes:
            frame = frame.filter(~is_gone)
    if sequence is not None:
        marked = frame.with_columns(is_gone.alias(_IS_GONE))
        last = _newest(marked, key, sequence, equal).rename({_IS_GONE: gone})
    else:
        marked = frame.with_columns(is_gone.alias(gone))
        last = marked.unique(subset=list(key), keep="last", maintain_order=True)
    return last.drop(KIND_COLUMN, strict=False)


def _newest(
    frame: pl.DataFrame, key: Sequence[str], sequence: str, equal: Literal["first", "last"]
) -> pl.DataFrame:
    if KIND_COLUMN in frame.columns:
        same_key = pl.all_horizontal(
            pl.col(name).eq_missing(pl.col(name).shift(-1)) for name in key
        )
        before = pl.col(KIND_COLUMN) == RowKind.UPDATE_BEFORE.value
        after = pl.col(KIND_COLUMN).shift(-1) == RowKind.UPDATE_AFTER.value
        frame = frame.filter(~(before & after & same_key).fill_null(False))
    newest = pl.col(sequence).max().over(key)
    frame = frame.filter(pl.col(sequence).eq_missing(newest)).with_row_index(_PLACE)
    deleted_at = pl.col(_PLACE).filter(pl.col("__dataflare_gone")).max().over(key)
    frame = frame.with_columns(deleted_at.alias(_LAST_DELETE))
    frame = frame.filter(pl.col(_LAST_DELETE).is_null() | (pl.col(_PLACE) >= pl.col(_LAST_DELETE)))
    frame = frame.filter(~(pl.col("__dataflare_gone") & (pl.len().over(key) > 1)))
    return frame.unique(subset=list(key), keep=equal, maintain_order=True).drop(
        _PLACE, _LAST_DELETE
    )


def refuse_null_keys(frame: pl.DataFrame, key: Sequence[str]) -> None:
    """Raises DataError (E0510) for rows without a key."""
    if not any(frame[name].null_count() for name in key):
        return
    empty = frame.filter(pl.any_horizontal(pl.col(name).is_null() for name in key))
    if empty.height:
        row = python_row(empty)
        rows = "1 row has" if empty.height == 1 else f"{empty.height:,} rows have"
        values = ", ".join(f"{n} is {'NULL' if row[n] is None else repr(row[n])}" for n in key)
        raise DataError(
            f"{rows} no key: {values}",
            code="E0510",
            help="drop them with a filter, or give them a key with map",
        )
