"""Values that SQLite would change on their way into a column: refused before they are written.

SQLite makes a number of text that looks like one where the column has the affinity of numbers, and keeps
15 digits of it; it makes text of numbers, with 15 digits, where the column has the affinity of text.
https://www.sqlite.org/datatype3.html, section 3
"""

from __future__ import annotations

import polars as pl

from dataflare.connectors.sqlite.types import affinity
from dataflare.errors import DataError
from dataflare.model.types import DataType

_NUMBER = r"^\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*$"
_SAME = r"^(?:0|-?[1-9]\d{0,17})$"
"""Text that comes back as it was, from a number."""
_DIGITS = r"[^0-9]|^0+"


def refuse_loss(values: pl.Series, type_: DataType, declaration: str, table: str) -> None:
    """Raises DataError (E0511) for the first value that the column would change. values: as they are
    stored."""
    lost = _lost(pl.col(values.name), type_, affinity(declaration))
    if lost is None:
        return
    places = values.to_frame().select(lost.alias("lost"))["lost"].arg_true()
    if places.len():
        name = values.name
        raise DataError(
            f"column '{name}' of table '{table}' is {declaration or 'without a type'}, and SQLite would "
            f"change {values[int(places[0])]!r} in it",
            code="E0511",
            help=f"convert it with map: cast: {{{name}: ...}}, or declare the column as TEXT",
        )


def _lost(value: pl.Expr, type_: DataType, affinity: str) -> pl.Expr | None:
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
    return None


def as_text(column: pl.Expr, type_: DataType, declaration: str) -> pl.Expr:
    """Floats for a column of text, with all their digits."""
    if type_.is_float and affinity(declaration) == "TEXT":
        return column.cast(pl.Float64).cast(pl.String)
    return column
