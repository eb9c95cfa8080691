"""The value of a scalar of the file, and the places of its characters.

Plain scalars follow YAML 1.2's core schema: only `true` and `false` are booleans, so `no`, `on`,
`1:30`, dates and `1_000` stay text; digits with a leading zero also stay text, as in CSV.

Always true: the places of a scalar's characters are exact for scalars on one line and for block scalars.
For another form the places may be those of the line or of the scalar's beginning; no exception is
raised.
"""

from __future__ import annotations

import re
from typing import Any

from dataflare.model.text import SourceText
from dataflare.workflow.lines import Lines

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_DIGITS_MAX = 1000
"""Longer numbers stay text, because Python refuses to parse very long ones."""
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)")
_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)+")


def plain_value(text: str) -> Any:
    """The text as None, bool, int or float. The text itself if it is none of these."""
    if text in _NULLS:
        return None
    first = text[0]
    if first.isdigit() or first in "+-.":
        return _number(text)
    return _BOOLS.get(text, text)


def _number(text: str) -> Any:
    if len(text) > _DIGITS_MAX:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    special = _SPECIAL.get(text.lower())
    return text if special is None else float(special)


def located(value: str, style: str, lines: Lines, start: Any, end: Any, bare: bool) -> SourceText:
    """The text of a scalar with its places.

    start, end: the parser's marks. bare: there is no anchor or tag before it.
    """
    line, column = start.line, start.column
    if not bare:
        match = _PROPERTIES.match(lines.raw[line], column) if line < len(lines.raw) else None
        column = match.end() if match else column
    quote = 1 if style in ("'", '"') else 0
    if style in ("|", ">"):
        runs = _block(value, style, lines.raw, line, end.line)
    elif line == end.line and lines.raw[line][column + quote : end.column - quote] == value:
        runs = [(0, line, column + quote)]
    else:
        runs = _flow(
            value, style, lines.raw, (line, column + quote), (end.line, end.column - quote)
        )
    if not runs:
        runs = [(0, line, column + quote)]
    starts = []
    for i, (offset, at_line, at_column) in enumerate(runs):
        until = runs[i + 1][0] if i + 1 < len(runs) else len(value)
        starts.append((offset, lines.spot(at_line, at_column, max(1, until - offset))))
    return SourceText(value, starts=tuple(starts))


Run = tuple[int, int, int]
"""Offset in the value, and the line and column (from 0) of the text from there on."""


def _block(value: str, style: str, raw: list[str], header: int, end: int) -> list[Run]:
    lines = range(header + 1, min(end + 1, len(raw)))
    runs = _literal(value, raw, lines) if style == "|" else _folded(value, raw, lines)
    if runs:
        runs[0] = (0, *runs[0][1:])
    return runs


def _literal(value: str, raw: list[str], lines: range) -> list[Run]:
    runs: list[Run] = []
    indent: int | None = None
    position = 0
    for number in lines:
        line = raw[number]
        if not line.strip(" "):
            position += 1 + max(0, len(line) - indent if indent is not None else 0)
            continue
        if indent is None:
            indent = len(line) - len(line.lstrip(" "))
            if not value.startswith(line[indent:], position):
                # The header gives the indentation of the text, and this line is indented more.
                indent = max(0, line.find(value[position:].partition("\n")[0]))
        if not value.startswith(line[indent:], position):
            break
        runs.append((position, number, indent))
        position += len(line) - indent + 1
    return runs


def _folded(value: str, raw: list[str], lines: range) -> list[Run]:
    runs: list[Run] = []
    position = 0
    for number in lines:
        content = raw[number].lstrip(" ")
        if not content:
            continue
        position = _past_breaks(value, position)
        if not value.startswith(content, position):
            break
        runs.append((position, number, len(raw[number]) - len(content)))
        position += len(content)
    return runs


def _flow(
    value: str, style: str, raw: list[str], start: tuple[int, int], end: tuple[int, int]
) -> list[Run]:
    runs: list[Run] = []
    position = 0
    for number in range(start[0], min(end[0], len(raw) - 1) + 1):
        line = raw[number]
        last = end[1] if number == end[0] else len(line.rstrip(" \t"))
        column = start[1] if number == start[0] else len(line) - len(line.lstrip(" \t"))
        if number > start[0]:
            position = _past_breaks(value, position)
        if column >= last:
            continue
        runs.append((position, number, column))
        next_position = _spelled(value, style, line[column:last], (position, number, column), runs)
        if next_position is None:
            break
        position = next_position
    return runs


def _spelled(value: str, style: str, piece: str, at: Run, runs: list[Run]) -> int | None:
    """Read one line of a flow scalar, and add a run after each escape. Returns the offset after it, or
    None if the line does not match the value."""
    position, number, column = at
    consumed = 0
    escapes = re.finditer("''", piece) if style == "'" else _ESCAPE.finditer(piece)
    for match in () if style == "" else escapes:
        chunk = piece[consumed : match.start()]
        if not value.startswith(chunk, position):
            return None
        position += len(chunk) + 1
        consumed = match.end()
        runs.append((position, number, column + consumed))
    remaining = piece[consumed:]
    if style == '"' and remaining.endswith("\\"):
        remaining = remaining[:-1]  # The next line follows without a space.
    if not value.startswith(remaining, position):
        return None
    return position + len(remaining)


def _past_breaks(value: str, position: int) -> int:
    while position < len(value) and value[position] in " \n":
        position += 1
    return position
