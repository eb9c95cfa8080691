"""Rows in the types of a table. Pure.

Always true: a value either comes through exactly or its row is refused; a NULL in a column that takes none
is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import polars as pl

from dataflare.errors import DataError
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import DataType, Schema
from dataflare.sdk.sql.clocks import has_other_clock, other_clock
from dataflare.sdk.sql.fold import refuse_null_keys
from dataflare.sdk.sql.names import HELP

_SHOWN = 80


def fit(
    frame: pl.DataFrame, schema: Schema, required: Sequence[str], label: str
) -> tuple[pl.DataFrame, dict[int, DataError]]:
    """All rows, with the columns they came with in the table's types, and the errors of those that do not fit."""
    columns: list[pl.Series] = []
    refused: dict[int, DataError] = {}
    for series in frame:
        if series.name == KIND_COLUMN:
            columns.append(series)
            continue
        type_ = schema[series.name]
        fitted, lost = _cast(series, type_)
        columns.append(fitted)
        if lost is not None and lost.any():
            for row in lost.arg_true():
                refused.setdefault(row, _unfit(series, row, type_, label))
    for name in required:
        missing = frame[name].is_null() if name in frame.columns else pl.repeat(True, frame.height, eager=True)  # fmt: skip
        for row in missing.arg_true():
            refused.setdefault(row, _null(name, label))
    return pl.DataFrame(columns), refused


def without(frame: pl.DataFrame, rows: Collection[int]) -> pl.DataFrame:
    """The rows that do not have these numbers."""
    if not rows:
        return frame
    return frame.filter(~pl.int_range(frame.height, eager=True).is_in([*rows]))


def _cast(series: pl.Series, type_: DataType) -> tuple[pl.Series, pl.Series | None]:
    """The values as the type, and which of them would be others."""
    dtype = type_.to_polars()
    if series.dtype == dtype:
        return series, None
    if series.dtype == pl.Null:
        return series.cast(dtype), None
    try:
        fitted = series.cast(dtype, strict=False)
        back = fitted.cast(series.dtype, strict=False)
        same = back.eq_missing(series)
    except pl.exceptions.PolarsError:
        return pl.repeat(None, len(series), dtype=dtype, eager=True).alias(series.name), (
            series.is_not_null()
        )
    if series.dtype.is_float() and fitted.dtype.is_float():
        same |= series.is_nan() & fitted.is_nan()
    return fitted, ~same


def _unfit(series: pl.Series, row: int, type_: DataType, label: str) -> DataError:
    text = str(series[row])
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return DataError(
        f"{label} refuses a value: column '{series.name}' is {type_}, and {shown} does not fit it exactly",
        code="E0511",
        help=HELP,
    )


def _null(name: str, label: str) -> DataError:
    return DataError(
        f"{label} refuses a row: column '{name}' takes no NULL", code="E0510", help=HELP
    )


def in_order(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """The frame with all columns of the table, in its order; missing ones are NULL."""
    return frame.select(
        pl.col(field.name)
        if field.name in frame.columns
        else pl.lit(None, dtype=field.type.to_polars()).alias(field.name)
        for field in schema
    )


def matched_names(names: Sequence[str], schema: Schema) -> Mapping[str, str]:
    """The table's columns for columns of rows; the case is ignored if only one column matches so."""
    folded: dict[str, list[str]] = {}
    for name in schema.names:
        folded.setdefault(name.casefold(), []).append(name)
    matched: dict[str, str] = {}
    for name in names:
        found = folded.get(name.casefold(), [])
        if name in schema:
            matched[name] = name
        elif len(found) == 1:
            matched[name] = found[0]
    return matched


def refuse_clocks(rows: Schema, table: Schema, label: str) -> None:
    """Raises an error for times with a zone where the table's have none, and the other way round."""
    names = matched_names(rows.names, table)
    for field in rows:
        column = table[names[field.name]] if field.name in names else None
        if column is not None and has_other_clock(field.type, column):
            raise other_clock(names[field.name], field.type, label, str(column))


def null_keys(frame: pl.DataFrame, key: Sequence[str]) -> dict[int, DataError]:
    """The errors of rows without a key, by their number."""
    if not key:
        return {}
    empty = frame.select(pl.any_horizontal(pl.col(name).is_null() for name in key)).to_series()
    errors: dict[int, DataError] = {}
    for row in empty.arg_true():
        try:
            refuse_null_keys(frame[row], key)
        except DataError as error:
            errors[row] = error
    return errors


def with_first_halves(frame: pl.DataFrame, rows: Sequence[int], key: Sequence[str]) -> set[int]:
    """The numbers of refused rows, and of the first half of each update whose second half is refused: the old
    row stays."""
    left_out = set(rows)
    if KIND_COLUMN not in frame.columns:
        return left_out
    kinds = frame[KIND_COLUMN]
    for row in rows:
        if (
            row
            and kinds[row] == RowKind.UPDATE_AFTER
            and kinds[row - 1] == RowKind.UPDATE_BEFORE
            and all(frame[name][row] == frame[name][row - 1] for name in key)
        ):
            left_out.add(row - 1)
    return left_out
