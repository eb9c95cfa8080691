"""Which part of a workbook to read, from the user's options. Nothing here opens a file."""

from __future__ import annotations

import re

from msgspec import Struct

ALL = "all"
FOREVER = 1 << 60
_RANGE = re.compile(r"([A-Z]{1,3})([1-9]\d*)?:([A-Z]{1,3})([1-9]\d*)?", re.IGNORECASE)


class Area(Struct, frozen=True):
    """A part of a sheet, its rows and columns counted from 0; `below` and `right` lie outside."""

    top: int = 0
    left: int = 0
    below: int = FOREVER
    right: int = FOREVER

    @classmethod
    def parse(cls, text: str) -> Area:
        """From a range such as B3:F20, B3:F or B:F. Raises ValueError."""
        match = _RANGE.fullmatch(text.strip().replace("$", ""))
        if match is None:
            raise ValueError("is not a range such as B3:F20, B3:F or B:F")
        left, top, right, bottom = match.groups()
        area = cls(
            int(top or 1) - 1,
            column_number(left),
            int(bottom) if bottom else FOREVER,
            column_number(right) + 1,
        )
        if area.below <= area.top or area.right <= area.left:
            raise ValueError("ends before it begins")
        return area


class BookOptions(Struct, frozen=True):
    """What to read of a workbook, from the user's options. sheet: names or numbers from 1, or
    `all`. header_row: as Excel numbers the sheet's rows. header_rows: how many rows contain the
    names."""

    sheet: str | int | tuple[str | int, ...] | None = None
    area: Area = Area()
    skip_rows: int = 0
    has_header: bool = True
    header_row: int | None = None
    header_rows: int = 1


def column_number(letters: str) -> int:
    """A column's number from 0: A is 0, AA is 26."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - 64
    return number - 1
