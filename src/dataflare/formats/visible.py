"""Texts for a terminal: control characters of data are shown, and do not act.

A cell may hold an escape sequence that clears the screen, changes its title or hides what follows; a
mark that reverses the direction of text does the same to a line.
"""

from __future__ import annotations

import re

CONTROLS = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
"""Control characters except tab and line feed, and marks of text direction. In the syntax of `re` and of
Polars."""
_CONTROLS = re.compile(CONTROLS)


def visible(text: str) -> str:
    """The text with control characters written as in a Python string: `\\x1b`, `\\r`. Tabs and line feeds
    stay."""
    if text.isprintable():
        return text
    return _CONTROLS.sub(lambda match: ascii(match.group())[1:-1], text)


def visible_line(text: str) -> str:
    """The same, on one line: also line feeds are written, so that a text cannot begin a line of its own."""
    return visible(text).replace("\n", "\\n")


def visible_json(text: str) -> str:
    """JSON with control characters in its texts escaped: the same value. Encoders of JSON leave some of them as they
    are."""
    if text.isprintable():
        return text
    return _CONTROLS.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
