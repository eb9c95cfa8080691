"""Whether a number written as text keeps all its characters when it becomes an integer or a float.

Always true: a leading zero or plus is never dropped, because it marks a code or a telephone number;
a float is accepted only if writing it with as many digits gives the text again. This is for columns
whose type was inferred from a sample. A declared type reads text as CAST does.
"""

from __future__ import annotations

from decimal import Decimal

import polars as pl

_MARKED = r"^[ \t]*(\+|-?0\d)"
_LONG_BYTES = 16
"""A float keeps every number of up to 15 digits; a shorter text cannot have more."""
_DIGITS_KEPT = 15


def altered(text: pl.Expr, *, is_float: bool) -> pl.Expr:
    """Whether the text, which is a number, would change when parsed and written again. Never
    NULL."""
    if not is_float:
        return marked(text)
    return marked(text) | loses_digits(text, text.cast(pl.Float64, strict=False))


def marked(text: pl.Expr) -> pl.Expr:
    """Whether there is a leading plus, or a zero before other digits. Never NULL."""
    return text.str.contains(_MARKED).fill_null(False)


def is_unusual(text: pl.Expr, value: pl.Expr) -> pl.Expr:
    """Whether the text has many digits and is not the shortest text of its float: only such a text
    can lose digits. Never NULL."""
    long = text.str.len_bytes() >= _LONG_BYTES
    shortest = pl.when(long).then(value).cast(pl.String)
    return (text != shortest).fill_null(False)


def loses_digits(text: pl.Expr, value: pl.Expr) -> pl.Expr:
    """Whether the float has fewer digits than its text. Never NULL. Only unusual texts are checked
    one by one."""
    unusual = pl.when(is_unusual(text, value)).then(text)
    is_lossy = unusual.map_batches(_each_loses_digits, return_dtype=pl.Boolean, is_elementwise=True)
    return is_lossy.fill_null(False)


def _each_loses_digits(texts: pl.Series) -> pl.Series:
    if texts.null_count() == len(texts):
        return pl.repeat(False, len(texts), dtype=pl.Boolean, eager=True).alias(texts.name)
    is_lossy = [text is not None and differs(text) for text in texts]
    return pl.Series(texts.name, is_lossy, dtype=pl.Boolean)


def differs(text: str) -> bool:
    """Whether the float nearest to a number, written with as many digits, is another number."""
    try:
        number, value = Decimal(text.strip()), float(text)
    except (ArithmeticError, ValueError):
        return False
    if not number.is_finite() or value in (float("inf"), float("-inf")):
        return False
    digits = len(number.as_tuple().digits)
    return digits > _DIGITS_KEPT and Decimal(f"{value:.{digits - 1}e}") != number
