"""Find the line of the user's Python code that created a step, so that errors show it.

Always true: if the place of a value cannot be found, the place of the call is used; if that cannot be
found, it is None; a missing source file raises no exception.
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

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")
_PACKAGE_FOLDER = str(Path(__file__).parent)


class CallSpot(Spot, frozen=True):
    """The place of a call, for a value that is not written in it (for example a variable)."""

    def shifted(self, by: int, length: int) -> Spot:
        return self


def pointing_out(method: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """A decorator for methods: their errors show their block, with the Python line, under the traceback.
    The block is a note of the exception, which Python, IPython and notebooks print."""

    @wraps(method)
    def pointing(*args: _Params.args, **options: _Params.kwargs) -> _Result:
        try:
            return method(*args, **options)
        except DataFlareError as error:
            if not getattr(error, "__notes__", None):
                error.add_note("\n" + render(error, redact))
            raise

    return pointing


class CallSite(Struct, frozen=True):
    """A call in the user's code. lines: its source lines, each with its number. column, length: of the
    call in the first line."""

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
        """A string of the call, with its place."""
        return SourceText(text, starts=((0, self.literal(text) or self.spot),))

    def literal(self, text: str) -> Spot | None:
        """The place of the text in quotes in the call, or None."""
        if not text or "\n" in text:
            return None
        for quote in ('"', "'"):
            spot = self._find(f"{quote}{text}{quote}", 1, len(text))
            if spot is not None:
                return spot
        return None

    def key(self, name: str) -> Spot:
        """The place of the option or key in the call."""
        spot = self._find(f"{name}=", 0, len(name)) or self.literal(name)
        return spot or self.spot

    def _find(self, searched: str, skip: int, length: int) -> Spot | None:
        for i, (number, line) in enumerate(self.lines):
            at = line.find(searched, self.column - 1 if i == 0 else 0)
            if at >= 0:
                return Spot(self.file, number, at + skip + 1, length, line)
        return None


def call_site() -> CallSite | None:
    """The innermost call from outside of this package, or None."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and os.path.dirname(frame.f_code.co_filename) == _PACKAGE_FOLDER:
        frame = frame.f_back
    return None if frame is None else _site(frame)


def _site(frame: FrameType) -> CallSite:
    file = frame.f_code.co_filename
    places = list(frame.f_code.co_positions())
    index = frame.f_lasti // 2
    line, end_line, column, end = places[index] if index < len(places) else (None,) * 4
    first_line = line or frame.f_lineno
    last_line = max(first_line, end_line or first_line)
    text = [
        linecache.getline(file, n, frame.f_globals).rstrip("\r\n")
        for n in range(first_line, last_line + 1)
    ]
    begin = _characters(text[0], column or 0)
    until = (
        _characters(text[0], end) if end is not None and last_line == first_line else len(text[0])
    )
    return CallSite(
        _shown(file),
        tuple(zip(range(first_line, last_line + 1), text, strict=True)),
        begin + 1,
        max(1, until - begin),
    )


def _characters(line: str, offset: int) -> int:
    """The number of characters in the first `offset` bytes of a line."""
    return len(line.encode()[:offset].decode(errors="ignore"))


def _shown(file: str) -> str:
    """The path, relative to the current folder if it is inside of it."""
    path = Path(file)
    try:
        return str(path.relative_to(Path.cwd())) if path.is_absolute() else file
    except (ValueError, OSError):
        return file
