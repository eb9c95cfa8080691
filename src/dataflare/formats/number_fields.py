"""Whether a chunk of delimited text may contain a number with a leading zero or plus. It is a
columnar pass over the bytes after delimiters; no field is parsed.

Always true: it may return true for a chunk without such a field, but never false for a chunk with
one. It takes a hundredth of the time that parsing and writing the chunk take.
"""

from __future__ import annotations

from functools import lru_cache

import polars as pl
from msgspec import Struct

_ZERO, _PLUS, _MINUS, _SPACE, _TAB = b"0+- \t"


class Separators(Struct, frozen=True):
    """The bytes of regular text, as numbers, and which of them are delimiters, line ends or quotes.
    tokens: only those bytes. mark: the quote, if the text has one. width: fields in a row."""

    code: pl.Series
    is_token: pl.Series
    tokens: pl.Series
    mark: int | None
    width: int


def may_alter(text: Separators, columns: tuple[int, ...]) -> bool:
    """Whether a field of these columns begins with a plus, a space, or a zero before a digit."""
    if not columns:
        return False
    start = [int(text.code[place]) for place in range(min(3, len(text.code)))]
    # There are three bytes if the first field is not empty: a separator follows it.
    if 0 in columns and _begins(
        *(pl.Series([code], dtype=pl.UInt8) for code in [*start, 10, 10][:3])
    ):
        return True
    first = _after(text, 1)
    # One comparison excludes digits above zero, letters and most other characters.
    fields = (first <= _ZERO) & _stand_in(text, columns, len(first))
    if not fields.any():
        return False
    second = _after(text, 2)
    # A field too short for a second byte is the last one, and empty.
    fields = fields[: len(second)]
    code = first[: len(second)].filter(fields)
    if _begins(code, second.filter(fields), None):
        return True
    if not (code == _MINUS).any():
        return False
    third = _after(text, 3)
    fields = fields[: len(third)]
    return _begins(*(each[: len(third)].filter(fields) for each in (first, second, third)))


def _begins(first: pl.Series, second: pl.Series, third: pl.Series | None) -> bool:
    """Whether one of the fields that begin with these bytes has a plus, a space or such a zero."""
    if ((first == _PLUS) | (first == _SPACE) | (first == _TAB)).any():
        return True
    if ((first == _ZERO) & _is_digit(second)).any():
        return True
    if third is None:
        return False
    return bool(((first == _MINUS) & (second == _ZERO) & _is_digit(third)).any())


def _after(text: Separators, place: int) -> pl.Series:
    """The byte `place` positions after each separator, up to the end of the text."""
    return text.code[place:].filter(text.is_token[:-place])


def _stand_in(text: Separators, columns: tuple[int, ...], count: int) -> pl.Series:
    """Which of the first `count` fields after a separator are in these columns."""
    if text.mark is None:
        size = 1 << (count + 1).bit_length()
        return _pattern(text.width, columns, size)[1 : count + 1]
    quotes = text.tokens == text.mark
    outside = ~quotes & (quotes.cast(pl.UInt32).cum_sum() & 1 == 0)
    return (outside.cast(pl.UInt32).cum_sum()[:count] % text.width).is_in(columns)


@lru_cache(maxsize=8)
def _pattern(width: int, columns: tuple[int, ...], size: int) -> pl.Series:
    """For the first `size` fields of rows: whether they are in these columns."""
    places = pl.int_range(size, dtype=pl.UInt32, eager=True)
    return (places % width).is_in(columns)


def _is_digit(code: pl.Series) -> pl.Series:
    return (code >= _ZERO) & (code <= _ZERO + 9)
