"""Refuse values that a column of MySQL would change without an error or a warning, before they are sent.

Always true: a value that passes here, and that the server takes without a warning, is in the table as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import polars as pl

from dataflare.connectors.mysql.types import Declared
from dataflare.errors import DataError
from dataflare.formats.json_values import repeated_key
from dataflare.model.types import DataType
from dataflare.sdk.bisection import Refusal
from dataflare.sdk.sql.exactness import beyond_float, first_lost, fraction_of, loses_scale
from dataflare.sdk.sql.names import HELP

_YEARS = (1, 9999)
_TIME_US = (838 * 3600 + 59 * 60 + 59) * 1_000_000 + 999_999
_TEXTS = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext")


def refused(
    frame: pl.DataFrame,
    types: Mapping[str, DataType],
    columns: Mapping[str, Declared],
    table: str,
    *,
    generates: str | None = None,
    real_json: bool = False,
) -> list[Refusal]:
    """The rows with a value that would be changed, in order. columns: of the table, by their folded names.
    generates: the column that would get a number in place of NULL. real_json: the server keeps JSON as
    values, not as text."""
    masks: dict[str, list[pl.Expr]] = {}
    for name, type_ in types.items():
        declared = columns.get(name.casefold(), Declared(""))
        parts = list(_masks(pl.col(name), type_, declared, real_json=real_json))
        if generates is not None and name.casefold() == generates.casefold():
            parts.append(pl.col(name).is_null())
        masks[name] = parts
    return [
        Refusal(row, _error(frame, row, name, columns.get(name.casefold()), table))
        for row, name in first_lost(frame, masks)
    ]


def _error(
    frame: pl.DataFrame, row: int, name: str, declared: Declared | None, table: str
) -> DataError:
    value = frame[name][[row]]
    text = "NULL" if value.null_count() else repr(_shown(value))
    kind = declared.name if declared is not None else "new"
    if declared is not None and declared.digits:
        kind += f"({', '.join(map(str, declared.digits))})"
    return DataError(
        f"column '{name}' of table '{table}' is {kind}, and would change {text[:80]}",
        code="E0511",
        help=HELP,
    )


def _shown(value: pl.Series) -> str:
    if value.dtype == pl.Binary:
        return f"x'{value.bin.encode('hex')[0]}'"
    if isinstance(value.dtype, pl.List | pl.Struct | pl.Duration):
        return str(value[0])
    return str(value.cast(pl.String, strict=False)[0])


def _masks(
    value: pl.Expr, type_: DataType, column: Declared, *, real_json: bool
) -> Iterator[pl.Expr]:
    """Which values the column would change."""
    digits = column.digits[-1] if column.digits else 0
    match type_.name:
        case "float32" | "float64":
            yield ~value.is_finite()
        case "date" | "timestamp":
            year = value.dt.year()
            yield (year < _YEARS[0]) | (year > _YEARS[1])
        case "duration":
            yield value.dt.cast_time_unit("us").to_physical().abs() > _TIME_US
    if type_.name in ("time", "timestamp", "duration"):
        kept = 6 if column.name in (*_TEXTS, "") else digits
        lost = fraction_of(value, type_, kept)
        if lost is not None:
            yield lost
    match column.name:
        case "decimal":
            lost = loses_scale(value, type_, column.digits[1] if len(column.digits) > 1 else 0)
            if lost is not None:
                yield lost
        case "float" | "double":
            lost = beyond_float(value, type_, "float4" if column.name == "float" else "float8")
            if lost is not None:
                yield lost
            if len(column.digits) > 1 and (scaled := loses_scale(value, type_, digits)) is not None:
                yield scaled
        case "char" if type_.is_text:
            yield value.str.ends_with(" ")
        case "binary" if type_.name == "binary":
            yield value.bin.size() != (digits or 1)
        case "enum" if type_.is_text:
            yield ~value.is_in(list(column.members))
        case "set" if type_.is_text:
            yield value.map_batches(
                lambda texts: _not_a_set(texts, column.members), return_dtype=pl.Boolean
            )
        case "year" if type_.is_integer:
            yield ~value.is_between(1901, 2155)
        case "json" if real_json and type_.is_text:
            yield value.map_batches(_repeats_a_key, return_dtype=pl.Boolean)


def _not_a_set(texts: pl.Series, members: tuple[str, ...]) -> pl.Series:
    """Which texts are not members in the order of the declaration, each once."""
    places = {member: at for at, member in enumerate(members)}
    unlike = []
    for text in texts.unique().drop_nulls():
        at = [places.get(part, -1) for part in text.split(",")] if text else []
        if -1 in at or any(a >= b for a, b in pairwise(at)):
            unlike.append(text)
    return texts.is_in(unlike)


def _repeats_a_key(texts: pl.Series) -> pl.Series:
    """Whether an object has a key twice: the server keeps the last."""
    found = [text is not None and repeated_key(text.encode()) is not None for text in texts]
    return pl.Series(texts.name, found, dtype=pl.Boolean)
