"""Values of the log with the types that a read of the table gives them.

Always true: a value comes out as a read of the table gives it. What is not certain here (arrays, times before the
year 1, and other rare forms) is converted by the server, by the SQL that reads the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from dataflare.connectors.postgres.connection import ArrowConnection
from dataflare.connectors.postgres.decode import decoded
from dataflare.connectors.postgres.relation import Column
from dataflare.model.types import DataType
from dataflare.sdk.sql.text_values import decoded_text

Ask = Callable[[Column, pl.Series], tuple[pl.Series, pl.Series]]
"""Lets the server convert texts: the values, and which of them do not fit."""

_CAST_APART = ("bool", "inet", "bpchar", "char")
"""Types whose cast to text writes other text than the log."""


def typed(
    raw: pl.Series, column: Column, ask: Ask
) -> tuple[pl.Series, pl.Series | None, pl.Series]:
    """raw: bytes of a column in the log. Gives the values, which of them do not fit (None: all fit), and the texts."""
    text = raw.cast(pl.String)
    if column.sql == "{}::text" and column.base in _CAST_APART:
        values = _nulls(text, column.type.to_polars())
    else:
        values = _values(text, column.type, as_text=column.as_text)
    if values.null_count() == text.null_count():
        return values, None, text
    is_open = values.is_null() & text.is_not_null()
    texts = text.filter(is_open).unique()
    answers, unfit = ask(column, texts)
    table = pl.DataFrame({"text": texts, "value": answers, "unfit": unfit})
    joined = pl.DataFrame({"text": text.zip_with(is_open, _nulls(text, pl.String()))}).join(
        table, on="text", how="left", maintain_order="left"
    )
    return (
        values.zip_with(~is_open, joined["value"]),
        joined["unfit"].fill_null(False),
        text,
    )


def _values(text: pl.Series, type_: DataType, *, as_text: bool) -> pl.Series:
    """NULL for a text that is not certain."""
    if as_text:
        return decoded(text, type_, as_text=True)
    dtype = type_.to_polars()
    match type_.name:
        case "string" | "json":
            return text
        case "bool":
            return text == "t"
        case "binary":
            return text.str.strip_prefix("\\x").str.decode("hex", strict=False)
        case "decimal" | "duration":
            return decoded(text, type_, as_text=False)
        case "date" | "timestamp" | "time":
            return decoded_text(text, type_)
        case "list" | "struct":
            return _nulls(text, dtype)
    return text.cast(dtype, strict=False)


def _nulls(series: pl.Series, dtype: pl.DataType) -> pl.Series:
    return pl.Series(series.name, [None], dtype=dtype).new_from_index(0, series.len())


def asked(db: ArrowConnection, column: Column, texts: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The values as a read of the table gives them. Raises the driver's errors."""
    value = f"cast(v as {column.pg})"
    parts = [f"{column.sql.format(value)} as c0"]
    if column.guard is not None:
        parts.append(f"{column.guard.format(value)} as t0")
    sql = f"select {', '.join(parts)} from unnest($1::text[]) with ordinality as u(v, n) order by n"
    raw = db.convert(sql, texts.to_list())
    values = decoded(raw["c0"], column.type, as_text=column.as_text)
    unfit = values.is_null()
    if "t0" in raw.columns:
        unfit |= raw["t0"].is_not_null()
    return values, unfit


def first_unfit(parts: Sequence[tuple[str, pl.Series | None]]) -> dict[int, str]:
    """By row that does not fit, the first column that says so. parts: by column, which rows do not fit."""
    found: dict[int, str] = {}
    for name, unfit in parts:
        if unfit is not None and unfit.any():
            for row in unfit.arg_true().to_list():
                found.setdefault(row, name)
    return found
