"""Whether a chunk of delimited text may hold a number with a leading zero or plus: a columnar pass over
the bytes that follow delimiters, without parsing a field.

Always true: it may say yes to a sound chunk, never no to one with such a field. It takes a hundredth
of the time that parsing and writing the chunk take.
"""

from __future__ import annotations

import polars as pl
from msgspec import Struct

_ZERO, _PLUS, _MINUS, _SPACE, _TAB, _NEWLINE = b"0+- \t\n"


class Separators(Struct, frozen=True):
    """The bytes of regular text, as numbers, and which of them are delimiters, line ends or quotes.
    tokens: those bytes alone. mark: the quote, if there is one in the text. width: fields in a row."""

    code: pl.Series
    wanted: pl.Series
    tokens: pl.Series
    mark: int | None
    width: int


def may_alter(text: Separators, columns: tuple[int, ...]) -> bool:
    """Whether a field of these columns begins with a plus, a space, or a zero before a digit."""
    if not columns:
        return False
    first = _bytes_at(text, 0)
    # Digits above zero, letters and most else is sorted out by one comparison.
    fields = (first <= _ZERO).arg_true()
    fields = fields.filter(_column_of(fields, text).is_in(columns))
    if not len(fields):
        return False
    code = first.gather(fields)
    if ((code == _PLUS) | (code == _SPACE) | (code == _TAB)).any():
        return True
    zero, minus = code == _ZERO, code == _MINUS
    if not (zero.any() or minus.any()):
        return False
    second = _bytes_at(text, 1).gather(fields)
    if (zero & _is_digit(second)).any():
        return True
    negative = minus & (second == _ZERO)
    return bool(negative.any()) and bool(
        (negative & _is_digit(_bytes_at(text, 2).gather(fields))).any()
    )


def _bytes_at(text: Separators, place: int) -> pl.Series:
    """The byte at this place of each field, or whatever follows a shorter one. A field begins at the
    start and after each separator."""
    code, end = text.code, len(text.code) - 1 - place
    ahead = code[1 + place :].filter(text.wanted[:end]) if end > 0 else code[:0]
    start = code[place] if end >= 0 else _NEWLINE
    missing = len(text.tokens) - len(ahead)
    return pl.concat(
        [
            pl.Series([start], dtype=pl.UInt8),
            ahead,
            pl.Series([_NEWLINE] * missing, dtype=pl.UInt8),
        ]
    )


def _column_of(fields: pl.Series, text: Separators) -> pl.Series:
    """The columns in which these fields stand."""
    if text.mark is None:
        return fields % text.width
    quotes = text.tokens == text.mark
    outside = ~quotes & (quotes.cast(pl.UInt32).cum_sum() & 1 == 0)
    passed = pl.concat([pl.Series([0], dtype=pl.UInt32), outside.cast(pl.UInt32).cum_sum()])
    return passed.gather(fields) % text.width


def _is_digit(code: pl.Series) -> pl.Series:
    return (code >= _ZERO) & (code <= _ZERO + 9)
