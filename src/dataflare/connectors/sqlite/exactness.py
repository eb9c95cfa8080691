"""Refuse values that SQLite would change when it writes them into a column.

If a column has a numeric affinity, SQLite converts text that looks like a number to a number with
15 digits; if a column has the text affinity, it converts numbers to text with 15 digits.
https://www.sqlite.org/datatype3.html, section 3
"""

from __future__ import annotations

import polars as pl

from dataflare.connectors.sqlite.types import affinity, fits
from dataflare.errors import DataError
from dataflare.model.types import DataType

_NUMBER = r"^\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*$"
_SAME = r"^(?:0|-?[1-9]\d{0,17})$"
"""Text that is the same after it was converted to a number and back."""
_DIGITS = r"[^0-9]|^0+"


def refuse_loss(values: pl.Series, type_: DataType, declaration: str, table: str) -> None:
    """Raises DataError (E0511) for the first value that the column would change. values: in their
    stored form."""
    if type_.is_text and not fits(type_, declaration) and values.null_count() < values.len():
        raise misfit(values.name, type_, declaration, table)
    is_lossy = _is_lossy(pl.col(values.name), type_, affinity(declaration))
    if is_lossy is None:
        return
    places = values.to_frame().select(is_lossy.alias("lost"))["lost"].arg_true()
    if places.len():
        name = values.name
        raise DataError(
            f"column '{name}' of table '{table}' is {declaration or 'without a type'}, and SQLite would "
            f"change {values[int(places[0])]!r} in it",
            code="E0511",
            help=f"convert it with map: cast: {{{name}: ...}}, or declare the column as TEXT",
        )


def misfit(column: str, type_: DataType, declaration: str, table: str) -> DataError:
    """The error for values of a type that the column cannot hold."""
    return DataError(
        f"column '{column}' of table '{table}' is {declaration}, and {type_} values arrive",
        code="E0511",
        help=f"convert them with map: cast: {{{column}: ...}}",
    )


def _is_lossy(value: pl.Expr, type_: DataType, affinity: str) -> pl.Expr | None:
    if affinity in ("TEXT", "BLOB"):
        return None
    if type_.is_text or type_.name in ("list", "struct"):
        return value.str.contains(_NUMBER) & ~value.str.contains(_SAME)
    if type_.name == "decimal":
        if (type_.precision or 38) <= 15:
            return None
        digits = value.str.replace(r"(\.\d*?)0+$", "$1").str.replace_all(_DIGITS, "")
        return digits.str.strip_chars_start("0").str.len_bytes() > 15
    if affinity == "REAL" and type_.name in ("int64", "uint64"):
        number = value.cast(pl.Int128)
        back = number.cast(pl.Float64).cast(pl.Int128, strict=False)
        return (back != number).fill_null(True) & number.is_not_null()
    if type_.name == "uint64":  # its text is a real beyond 64 bits
        return value.cast(pl.Int128) >= 2**63
    return None


def as_text(column: pl.Expr, type_: DataType, declaration: str) -> pl.Expr:
    """Floats for a column of text, with all their digits."""
    if type_.is_float and affinity(declaration) == "TEXT":
        return column.cast(pl.Float64).cast(pl.String)
    return column
