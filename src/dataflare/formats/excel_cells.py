"""Cells of a workbook as typed columns: the type of a column, and the cells that do not fit it.

In Excel a cell has a type (number, text, boolean, date, time, duration) but a column has none. So a
column has the type of all its cells, and text if they differ.

Always true: a number as text keeps all its digits; a whole number as text has no decimal point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from dataflare.formats.table_types import fitted, may_fit
from dataflare.model.types import (
    BOOL,
    DATE,
    DURATION,
    FLOAT64,
    INT64,
    STRING,
    TIME,
    TIMESTAMP,
    DataType,
    from_polars,
)

WHOLE, NUMBER = "whole", "number"
_KINDS: dict[type, str] = {
    str: "text",
    bool: "bool",
    int: NUMBER,
    float: NUMBER,
    date: "date",
    datetime: "timestamp",
    time: "time",
    timedelta: "duration",
}
_POLARS: dict[str, Any] = {
    "text": pl.String(),
    "bool": pl.Boolean(),
    NUMBER: pl.Float64(),
    "date": pl.Date(),
    "timestamp": pl.Datetime("us"),
    "time": pl.Time(),
    "duration": pl.Duration("us"),
}
_TYPES: dict[frozenset[str], DataType] = {
    frozenset({WHOLE}): INT64,
    frozenset({NUMBER}): FLOAT64,
    frozenset({WHOLE, NUMBER}): FLOAT64,
    frozenset({"bool"}): BOOL,
    frozenset({"date"}): DATE,
    frozenset({"timestamp"}): TIMESTAMP,
    frozenset({"date", "timestamp"}): TIMESTAMP,
    frozenset({"time"}): TIME,
    frozenset({"duration"}): DURATION,
}
_WHOLE_MAX = 2.0**63
_EXACT_MAX = 2.0**53


def kinds_of(cells: Sequence[Any]) -> frozenset[str]:
    """The kinds of a column's cells. Numbers are `whole` if all of them are."""
    kinds = {_KINDS[each] for each in set(map(type, cells)) - {type(None)}}
    if NUMBER in kinds and all(
        -_WHOLE_MAX <= cell < _WHOLE_MAX and cell == int(cell)
        for cell in cells
        if type(cell) is float
    ):
        kinds = kinds - {NUMBER} | {WHOLE}
    return frozenset(kinds)


def type_of(kinds: frozenset[str]) -> DataType:
    """The type that fits cells of all these kinds; text if no other does."""
    return _TYPES.get(kinds, STRING)


def fit(
    cells: Sequence[Any], to: DataType, codes: Mapping[int, str]
) -> tuple[pl.Series, pl.Series | None]:
    """The cells as the type `to`, and which of them do not fit it (None if all do).

    codes: the formats of numbers that are shown with leading zeros, by row.
    """
    kinds = {_KINDS[each] for each in set(map(type, cells)) - {type(None)}}
    if to.is_text:
        return pl.Series(
            [cell_text(c, codes.get(n)) for n, c in enumerate(cells)], dtype=pl.String
        ), None
    if kinds == {"date", "timestamp"}:
        cells, kinds = [_moment(cell) for cell in cells], {"timestamp"}
    if len(kinds) < 2:
        return _fit_kind(cells, kinds.pop() if kinds else "text", to)
    parts = [
        _fit_kind(
            [c if c is not None and _KINDS[type(c)] == kind else None for c in cells], kind, to
        )
        for kind in sorted(kinds)
    ]
    frame = pl.DataFrame({f"{n}": values for n, (values, _) in enumerate(parts)})
    masks = [mask for _, mask in parts if mask is not None]
    if not masks:
        return frame.select(pl.coalesce(pl.all())).to_series(), None
    misfits = pl.DataFrame({f"{n}": mask for n, mask in enumerate(masks)})
    return (
        frame.select(pl.coalesce(pl.all())).to_series(),
        misfits.select(pl.any_horizontal(pl.all())).to_series(),
    )


def _fit_kind(cells: Sequence[Any], kind: str, to: DataType) -> tuple[pl.Series, pl.Series | None]:
    dtype = _POLARS[kind]
    values = pl.Series("cell", cells, dtype=dtype, strict=kind != NUMBER)
    if not may_fit(from_polars(dtype), to):
        return pl.Series([None] * len(cells), dtype=to.to_polars()), values.is_not_null()
    column = fitted("cell", dtype, to)
    frame = values.to_frame()
    if column.misfit is None:
        return frame.select(column.value).to_series(), None
    return (
        frame.select(column.value).to_series(),
        frame.select(column.misfit.fill_null(False)).to_series(),
    )


def _moment(cell: Any) -> datetime | None:
    if cell is None or isinstance(cell, datetime):
        return cell
    return datetime(cell.year, cell.month, cell.day)


def cell_text(cell: Any, code: str | None = None) -> str | None:
    """The text of a cell: all digits of a number, with leading zeros if its format has them."""
    match cell:
        case None | str():
            return cell
        case bool():
            return "true" if cell else "false"
        case int() | float():
            return _number_text(cell, code)
        case datetime():
            return f"{cell:%Y-%m-%d %H:%M:%S}{_fraction(cell.microsecond)}"
        case time():
            return f"{cell:%H:%M:%S}{_fraction(cell.microsecond)}"
        case timedelta():
            return _span_text(cell)
    return str(cell)


def _fraction(microseconds: int) -> str:
    return f".{microseconds:06}".rstrip("0") if microseconds else ""


def _number_text(number: float, code: str | None) -> str:
    if number != number or number in (float("inf"), float("-inf")):
        return str(number)
    if number != int(number):
        return repr(number)
    if code is not None and 0 <= number < _EXACT_MAX:
        return _with_zeros(int(number), code)
    if abs(number) < _EXACT_MAX:
        return str(int(number))
    return format(Decimal(repr(number)), "f") if abs(number) < 1e21 else repr(number)


def _with_zeros(number: int, code: str) -> str:
    """The number in a format of zeros and characters between them: 2116 in 00000 is 02116."""
    digits = list(str(number).zfill(code.count("0")))
    characters: list[str] = []
    zeros_left = code.count("0")
    for mark in reversed(code):
        if mark != "0":
            characters.append(mark)
            continue
        zeros_left -= 1
        # The first zero of the format takes all digits that remain.
        characters.extend(reversed(digits) if not zeros_left else digits.pop())
    return "".join(reversed(characters))


def _span_text(span: timedelta) -> str:
    sign, rest = ("-", -span) if span < timedelta(0) else ("", span)
    minutes, seconds = divmod(rest.days * 86_400 + rest.seconds, 60)
    return f"{sign}{minutes // 60}:{minutes % 60:02}:{seconds:02}{_fraction(rest.microseconds)}"
