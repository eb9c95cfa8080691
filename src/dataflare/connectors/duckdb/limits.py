"""Find values that DuckDB's type for their column cannot represent and that it would change without
an error: nanoseconds of a TIME or an INTERVAL are truncated, and the last days and instants of a
type mean infinity."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from dataflare.formats.text_write import plain
from dataflare.model.types import DataType, Schema, from_polars

_INT64_MAX, _INT32_MAX = 2**63 - 1, 2**31 - 1


def value_texts(frame: pl.DataFrame, column: str) -> list[str]:
    """The values of a column, exactly, as text."""
    type_ = from_polars(frame.schema[column])
    return frame.select(plain(pl.col(column), type_, far=True)).to_series().to_list()


def beyond(frame: pl.DataFrame, schema: Schema) -> Iterator[tuple[str, pl.Series]]:
    """The columns with such values, and a mask of their rows."""
    masks = {
        field.name: mask
        for field in schema
        if field.name in frame.columns
        and (mask := _mask(pl.col(field.name).to_physical(), field.type)) is not None
    }
    if masks:
        for column in frame.select(**masks):
            if column.any():
                yield column.name, column


def _mask(ticks: pl.Expr, type_: DataType) -> pl.Expr | None:
    match type_.name:
        case "time":
            return ticks % 1000 != 0
        case "duration" if type_.unit == "ns":
            return ticks % 1000 != 0
        case "duration" if type_.unit in ("s", "ms"):
            return ~ticks.is_between(-_INT64_MAX // 1000, _INT64_MAX // 1000)
        case "date":
            return ticks.is_in([_INT32_MAX, -_INT32_MAX])
        case "timestamp":
            return ticks.is_in([_INT64_MAX, -_INT64_MAX])
    return None
