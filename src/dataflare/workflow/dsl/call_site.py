"""Where in the user's Python a step was made, so that errors show that line.

Always true: a place that cannot be found is the place of the call, and one of a call that cannot be
found is None; nothing here ever raises for a missing source file.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import ParamSpec, TypeVar

from msgspec import Struct

from dataflare.errors import DataFlareError, Spot, render
from dataflare.model.text import SourceText
from dataflare.security.redact import redact

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")
_HERE = str(Path(__file__).parent)


class CallSpot(Spot, frozen=True):
    """The place of a call, for a value whose own characters are nowhere in it (a variable, say)."""

    def shifted(self, by: int, length: int) -> Spot:
        return self


def pointing_out(method: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    """The method, whose errors have their block, which shows the Python line, under the traceback: as
    a note, which Python, IPython and notebooks print."""

    @wraps(method)
    def pointing(*args: _Given.args, **options: _Given.kwargs) -> _Made:
        try:
            return method(*args, **options)
        except DataFlareError as error:
            if not getattr(error, "__notes__", None):
                error.add_note("\n" + redact(render(error)))
            raise

    return pointing


class CallSite(Struct, frozen=True):
    """A call in the user's code. lines: its source lines, each with its number, and where in the
    first one it begins."""

    file: str
    lines: tuple[tuple[int, str], ...]
    column: int
    length: int

    @property
    def spot(self) -> Spot:
        """The call itself."""
        number, text = self.lines[0]
        return CallSpot(self.file, number, self.column, self.length, text or None)

    def value(self, text: str) -> SourceText:
        """A string of the call that knows where it is written."""
        return SourceText(text, starts=((0, self.literal(text) or self.spot),))

    def literal(self, text: str) -> Spot | None:
        """Where the call has the text between quotes; None if it is not written out there."""
        if not text or "\n" in text:
            return None
        for quote in ('"', "'"):
            found = self._find(f"{quote}{text}{quote}", 1, len(text))
            if found is not None:
                return found
        return None

    def key(self, name: str) -> Spot:
        """Where the call gives the option or key of that name."""
        found = self._find(f"{name}=", 0, len(name)) or self.literal(name)
        return found or self.spot

    def _find(self, wanted: str, skip: int, length: int) -> Spot | None:
        for i, (number, line) in enumerate(self.lines):
            at = line.find(wanted, self.column - 1 if i == 0 else 0)
            if at >= 0:
                return Spot(self.file, number, at + skip + 1, length, line)
        return None


def call_site() -> CallSite | None:
    """The innermost call that stands outside this package; None without one."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and os.path.dirname(frame.f_code.co_filename) == _HERE:
        frame = frame.f_back
    return None if frame is None else _site(frame)


def _site(frame: FrameType) -> CallSite:
    file = frame.f_code.co_filename
    places = list(frame.f_code.co_positions())
    index = frame.f_lasti // 2
    line, end_line, column, end = places[index] if index < len(places) else (None,) * 4
    first = line or frame.f_lineno
    last = max(first, end_line or first)
    text = [
        linecache.getline(file, n, frame.f_globals).rstrip("\r\n") for n in range(first, last + 1)
    ]
    begin = _characters(text[0], column or 0)
    until = _characters(text[0], end) if end is not None and last == first else len(text[0])
    return CallSite(
        _shown(file),
        tuple(zip(range(first, last + 1), text, strict=True)),
        begin + 1,
        max(1, until - begin),
    )


def _characters(line: str, offset: int) -> int:
    """How many characters the first `offset` bytes of a line are."""
    return len(line.encode()[:offset].decode(errors="ignore"))


def _shown(file: str) -> str:
    """The path as people write it: from the current folder, where it lies inside."""
    path = Path(file)
    try:
        return str(path.relative_to(Path.cwd())) if path.is_absolute() else file
    except (ValueError, OSError):
        return file
