"""Changelogs as weights, and back: an insert is a row more, a delete a row less, an update both."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dataflare.errors import PlanError
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.event_time import TIME_COLUMNS
from dataflare.model.types import STRING, Field, Schema
from dataflare.operators.base import ERROR_COLUMN
from dataflare.operators.names import spot_of
from dataflare.state.weighted import WEIGHT, cancelled

OP_COLUMN = "_op"
"""Text, of late rows of a changelog where they come out as plain rows: insert or delete."""
_LEAVING = (RowKind.UPDATE_BEFORE.value, RowKind.DELETE.value)
_PLACE, _AFTER, _OTHER = (f"__dataflare_{name}" for name in ("place", "is_after", "other"))


def weighted(frame: pl.DataFrame, *, times: bool = False) -> pl.DataFrame:
    """Rows of a changelog, or plain ones, with their weight and without their kind. times: event times stay."""
    weight = pl.lit(1, pl.Int64)
    if KIND_COLUMN in frame.columns:
        leaves = pl.col(KIND_COLUMN).is_in(_LEAVING)
        weight = pl.when(leaves).then(pl.lit(-1, pl.Int64)).otherwise(weight)
    dropped = [KIND_COLUMN, *(() if times else TIME_COLUMNS)]
    return frame.with_columns(weight.alias(WEIGHT)).drop(dropped, strict=False)


def repeated(frame: pl.DataFrame) -> pl.DataFrame:
    """Each row as often as its weight says; those with a weight of 0 or less not at all. Without WEIGHT."""
    weights = frame[WEIGHT]
    rows = frame.drop(WEIGHT)
    if not len(weights) or (weights.min() == 1 and weights.max() == 1):
        return rows
    numbers = frame.select(
        pl.int_range(pl.len(), dtype=pl.UInt32).repeat_by(pl.col(WEIGHT).clip(lower_bound=0))
    )
    return rows[numbers.to_series().explode(empty_as_null=False, keep_nulls=False)]


def as_changes(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows with weights as deletes and then inserts. Rows of both signs that are equal cancel."""
    frame = cancelled(frame)
    leaving, coming = frame.filter(pl.col(WEIGHT) < 0), frame.filter(pl.col(WEIGHT) > 0)
    leaving = repeated(leaving.with_columns(-pl.col(WEIGHT)))
    return pl.concat([of_kind(leaving, RowKind.DELETE), of_kind(repeated(coming), RowKind.INSERT)])


def of_kind(frame: pl.DataFrame, kind: RowKind) -> pl.DataFrame:
    return frame.with_columns(pl.lit(kind, pl.UInt8).alias(KIND_COLUMN))


def parted(frame: pl.DataFrame) -> pl.DataFrame:
    """The halves of updates as deletes and inserts."""
    kind = pl.when(pl.col(KIND_COLUMN).is_in(_LEAVING)).then(RowKind.DELETE.value)
    kind_or = kind.otherwise(RowKind.INSERT.value).cast(pl.UInt8)
    return frame.with_columns(kind_or.alias(KIND_COLUMN))


def op_text(late: pl.DataFrame) -> pl.DataFrame:
    """Deletes and inserts as plain rows, with OP_COLUMN."""
    is_deleted = pl.col(KIND_COLUMN) == RowKind.DELETE
    text = pl.when(is_deleted).then(pl.lit("delete")).otherwise(pl.lit("insert"))
    return late.with_columns(text.alias(OP_COLUMN)).drop(KIND_COLUMN)


def with_op(step: str, schema: Schema) -> Schema:
    """The columns of such rows. Raises PlanError (E0311) where there is one of that name."""
    if OP_COLUMN in schema:
        raise PlanError(
            f"step '{step}' would give the column '{OP_COLUMN}' twice: its late rows have it, and say there whether "
            "they were inserted or deleted",
            code="E0311",
            step=step,
            spot=spot_of(OP_COLUMN),
            help="rename the column in a map before",
        )
    return Schema((*schema, Field(OP_COLUMN, STRING)))


def differences(before: pl.DataFrame, after: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """The changelog that leads from some rows to others, which have at most one row a key, by key: inserts, deletes,
    and updates with their halves side by side. A row of `after` with a fault (ERROR_COLUMN) is not there; it comes
    out as well."""
    faulty = None
    if ERROR_COLUMN in after.columns:
        is_faulty = pl.col(ERROR_COLUMN).is_not_null()
        faulty, after = after.filter(is_faulty), after.filter(~is_faulty).drop(ERROR_COLUMN)
    if ERROR_COLUMN in before.columns:
        before = before.filter(pl.col(ERROR_COLUMN).is_null()).drop(ERROR_COLUMN)
    values = [name for name in after.columns if name not in keys]
    after = after.with_row_index(_PLACE)
    others = before.select(
        *keys, *(pl.col(n).alias(_OTHER + n) for n in values), pl.lit(True).alias(_OTHER)
    )
    if keys:
        both = after.join(
            others, on=list(keys), how="left", nulls_equal=True, maintain_order="left"
        )
        gone = before.join(
            after, on=list(keys), how="anti", nulls_equal=True, maintain_order="left"
        )
    elif after.height and others.height:
        both, gone = after.join(others, how="cross"), before.clear()
    else:
        empty = (pl.lit(None, dtype).alias(n) for n, dtype in others.schema.items())
        both, gone = after.with_columns(empty), before
    known = pl.col(_OTHER).fill_null(False)
    differing = [pl.col(n).ne_missing(pl.col(_OTHER + n)) for n in values]
    both = both.filter(~known | (pl.any_horizontal(differing) if differing else pl.lit(False)))
    first = both.filter(known).with_columns(
        *(pl.col(_OTHER + n).alias(n) for n in values),
        pl.lit(RowKind.UPDATE_BEFORE, pl.UInt8).alias(KIND_COLUMN),
        pl.lit(False).alias(_AFTER),
    )
    second = both.with_columns(
        pl.when(known)
        .then(pl.lit(RowKind.UPDATE_AFTER, pl.UInt8))
        .otherwise(pl.lit(RowKind.INSERT, pl.UInt8))
        .alias(KIND_COLUMN),
        pl.lit(True).alias(_AFTER),
    )
    columns = [*before.columns, KIND_COLUMN]
    changed = pl.concat([first, second]).sort(_PLACE, _AFTER).select(columns)
    changes = pl.concat([of_kind(gone, RowKind.DELETE), changed])
    if faulty is None:
        return changes
    return pl.concat([changes, of_kind(faulty, RowKind.INSERT)], how="diagonal").select(
        *columns[:-1], ERROR_COLUMN, KIND_COLUMN
    )
