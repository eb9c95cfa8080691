"""Numbers written as `1.234,50` or `1,234.50`: which marks a file uses, and its texts as plain numbers.

Always true: other marks are chosen only if a text allows no other reading (`1,234` allows two); a
text with groups that are not three digits is not a number.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

_PREFIX = "marks "
_PAIRS = ((",", "."), (".", ","))


def marks_format(decimal: str, thousands: str | None) -> str | None:
    """The `TextColumn.format` of numbers with these marks; None for plain numbers."""
    return None if (decimal, thousands) == (".", None) else f"{_PREFIX}{decimal}{thousands or ''}"


def has_marks(format_: str | None) -> bool:
    return format_ is not None and format_.startswith(_PREFIX)


def plain(text: pl.Expr, format_: str) -> pl.Expr:
    """The text of a number with those marks as the text of a plain number; NULL if it is not a
    number."""
    marks = format_[len(_PREFIX) :]
    decimal, thousands = marks[0], marks[1:] or None
    number: pl.Expr = pl.when(text.str.contains(_pattern(decimal, thousands))).then(text)
    if thousands:
        number = number.str.replace_all(thousands, "", literal=True)
    return number if decimal == "." else number.str.replace(decimal, ".", literal=True)


def _pattern(decimal: str, thousands: str | None) -> str:
    d = _escaped(decimal)
    whole = r"\d+"
    if thousands:
        whole = rf"(\d{{1,3}}({_escaped(thousands)}\d{{3}})+|\d+)"
    return rf"^[ \t]*[+-]?({whole}({d}\d*)?|{d}\d+)([eE][+-]?\d{{1,3}})?$"


def number_texts(text: pl.Series) -> pl.Series:
    """The texts that are numbers, with whatever marks."""
    patterns = [_pattern(mark, group) for mark, group in _PAIRS]
    return text.filter(text.str.contains("|".join(patterns)))


def _escaped(mark: str) -> str:
    return r"\." if mark == "." else mark


def marks_of(
    columns: Sequence[pl.Series], decimal: str | None, thousands: str | None
) -> tuple[str, str | None]:
    """The decimal and the thousands mark of a file, by all texts of its columns.

    decimal and thousands: from the user, or None if they are to be found. A mark other than the
    point is chosen if a column has it in each number, one of those numbers can be read in no other
    way, and no column has plain numbers with a point.
    """
    for mark, group in _PAIRS:
        if decimal not in (None, mark) or thousands not in (None, group):
            continue
        certain = _certain(columns, mark, group)
        if certain is None:
            continue
        return mark, group if thousands is not None or certain else thousands
    return decimal or ".", thousands


def _certain(columns: Sequence[pl.Series], decimal: str, group: str) -> bool | None:
    """None if no number shows these marks without doubt; otherwise whether one has groups of
    thousands."""
    d, g = _escaped(decimal), _escaped(group)
    number = _pattern(decimal, group)
    both = rf"{g}\d{{3}}{d}\d|{g}\d{{3}}{g}\d{{3}}"
    single = rf"^[+-]?\d+{d}(\d{{1,2}}|\d{{4,}})$|^[+-]?\d{{4,}}{d}\d+$|^[+-]?0{d}\d+$"
    has_groups: bool | None = None
    for column in columns:
        text = column.drop_nulls()
        text = text.filter(text != "")
        if not len(text):
            continue
        if decimal != "." and text.str.contains(r"^[+-]?\d+(\.\d+)?$").all():
            if text.str.contains(r"\.(\d{1,2}|\d{4,})$").any():
                return None
            continue
        if not text.str.contains(number).all():
            continue
        if text.str.contains(both).any():
            has_groups = True
        elif decimal != "." and has_groups is None and text.str.contains(single).any():
            has_groups = False
    return has_groups
