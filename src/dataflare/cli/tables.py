"""Tables without frames, on standard output.

In a pipe each row is one line of any length. On a terminal the last column is wrapped, because it has
the long texts. Other columns are not wrapped, so that their values can be copied.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from dataflare.cli import terminal
from dataflare.formats.visible import visible

_GAP = "  "
_NARROWEST = 24


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Collection[str] = ()
) -> None:
    """Print a table. columns: the headings; may be empty. right: the headings of columns of numbers. A
    heading or a cell may have several lines."""
    cells = [["" if cell is None else visible(str(cell)) for cell in row] for row in rows]
    columns = [visible(name) for name in columns]
    for line in lines(columns, cells, right, width=terminal_width(), heading=terminal.bold):
        print(line)


def terminal_width() -> int | None:
    """The width of the terminal. None if standard output is not a terminal."""
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
    last_width = None
    if width is not None and count:
        last_width = max(_NARROWEST, width - sum(widths[:-1]) - len(_GAP) * (count - 1))
        widths[-1] = min(widths[-1], last_width)
    to_right = [bool(columns) and columns[i] in right for i in range(count)]
    if columns:
        yield from (heading(line) for line in _row(columns, widths, to_right, last_width))
        yield "─" * (sum(widths) + len(_GAP) * (count - 1))
    for row in rows:
        yield from _row(row, widths, to_right, last_width)


def cell_width(text: str) -> int:
    """The width of a text's widest line, in character cells of a terminal."""
    return max((sum(map(_places, line)) for line in text.split("\n")), default=0)


def _row(
    cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], last_width: int | None
) -> Iterator[str]:
    parts = [cell.split("\n") for cell in cells]
    if last_width is not None:
        parts[-1] = [
            piece for line in parts[-1] for piece in textwrap.wrap(line, last_width) or [""]
        ]
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
