"""Counts values of floats that a format or a system has no form for. Pure.

A destination writes them as NULL (or minus zero as 0), and the run says how many there were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from dataflare.model.types import DataType, Schema

if TYPE_CHECKING:
    import polars as pl

Loss = Literal["nan", "infinite", "infinite inside", "minus zero"]
"""Which values are changed; `infinite inside`: infinity in lists and structs only."""

_TEXTS: Mapping[Loss, str] = {
    "nan": "is NaN, which is written as NULL,",
    "infinite": "is infinite, which is written as NULL,",
    "infinite inside": "has infinity, which is written as null,",
    "minus zero": "is -0.0, which is written as 0.0,",
}


def float_losses(frame: pl.DataFrame, losses: Sequence[Loss]) -> dict[str, int]:
    """By warning, the number of rows with such a value. Reads only columns with floats."""
    import polars as pl

    dtypes = {
        column.name: column.dtype
        for column in frame.iter_columns()
        if (column.dtype.is_float() and not _is_whole(column, losses)) or column.dtype.is_nested()
    }
    if not dtypes:
        return {}
    counts = {}
    for field in Schema.from_polars(dtypes):
        for loss in losses:
            condition = _has(pl.col(field.name), field.type, loss, inside=False)
            if condition is not None:
                counts[f"column '{field.name}' {_TEXTS[loss]}"] = condition.sum()
    if not counts:
        return {}
    rows = frame.select(**{str(n): each for n, each in enumerate(counts.values())}).row(0)
    return {text: number for text, number in zip(counts, rows, strict=True) if number}


def _is_whole(floats: pl.Series, losses: Sequence[Loss]) -> bool:
    """Whether none of these values is among them, told without a query. A sum is finite only if all numbers are."""
    return "minus zero" not in losses and math.isfinite(floats.sum() or 0.0)


def _has(value: pl.Expr, type_: DataType, loss: Loss, *, inside: bool) -> pl.Expr | None:
    """Whether the value is such a float, or has one inside. None if it cannot."""
    import polars as pl

    if type_.is_float:
        match loss:
            case "nan":
                return value.is_nan()
            case "infinite":
                return value.is_infinite()
            case "infinite inside":
                return value.is_infinite() if inside else None
            case "minus zero":
                # Text in lists and structs keeps the sign.
                return None if inside else (value == 0) & (1 / value < 0)
    if type_.name == "list" and type_.item is not None:
        item = _has(pl.element(), type_.item, loss, inside=True)
        return None if item is None else value.list.eval(item).list.any()
    if type_.name == "struct":
        parts = [
            _has(value.struct.field(each.name), each.type, loss, inside=True)
            for each in type_.fields
        ]
        found = [part for part in parts if part is not None]
        return pl.any_horizontal(found) if found else None
    return None
