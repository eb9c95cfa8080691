"""Tables without frames, on standard output.

Into a pipe each row is one line, however long. On a terminal the last column wraps, for that is where
sentences stand; the others keep their lines, so that what belongs together can be read and copied.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from dataflare.cli import terminal

_GAP = "  "
_NARROWEST = 24


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Collection[str] = ()
) -> None:
    """columns: the headings; none for none. right: the headings of columns of numbers. A heading or
    a cell may have several lines."""
    made = [["" if cell is None else str(cell) for cell in row] for row in rows]
    for line in lines(columns, made, right, width=terminal_width(), heading=terminal.bold):
        print(line)


def terminal_width() -> int | None:
    """How wide a line may be; None where nobody looks at it."""
    return shutil.get_terminal_size().columns if terminal.is_terminal(sys.stdout) else None


def lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[str] = (),
    *,
    width: int | None = None,
    heading: Any = str,
) -> Iterator[str]:
    """The lines of a table. width: wrap the last column to fit it. heading: styles heading lines."""
    count = len(columns) or max(map(len, rows), default=0)
    cells = [*([columns] if columns else []), *rows]
    widths = [max((cell_width(row[i]) for row in cells), default=0) for i in range(count)]
    last = None
    if width is not None and count:
        last = max(_NARROWEST, width - sum(widths[:-1]) - len(_GAP) * (count - 1))
        widths[-1] = min(widths[-1], last)
    to_right = [bool(columns) and columns[i] in right for i in range(count)]
    if columns:
        yield from (heading(line) for line in _row(columns, widths, to_right, last))
        yield "─" * (sum(widths) + len(_GAP) * (count - 1))
    for row in rows:
        yield from _row(row, widths, to_right, last)


def cell_width(text: str) -> int:
    """How many places of a terminal the widest line of a text takes."""
    return max((sum(map(_places, line)) for line in text.split("\n")), default=0)


def _row(
    cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], last: int | None
) -> Iterator[str]:
    parts = [cell.split("\n") for cell in cells]
    if last is not None:
        parts[-1] = [piece for line in parts[-1] for piece in textwrap.wrap(line, last) or [""]]
    for number in range(max(map(len, parts))):
        line = (part[number] if number < len(part) else "" for part in parts)
        padded = [
            " " * (width - cell_width(text)) + text
            if to_right
            else text + " " * (width - cell_width(text))
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        yield _GAP.join(padded).rstrip()


def _places(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "FW" else 1
