"""Estimate the width of a text without its font.

The table has the widths of DejaVu Sans, rounded up. It is the widest font that a browser may use for
`sans-serif`, so a text that fits by this estimate fits in all of them.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_EM: dict[str, float] = {
    char: width
    for width, chars in (
        (0.30, "'IJijl"),
        (0.35, " ,./:;\\|·"),
        (0.42, "()-[]ft!r"),
        (0.55, '"*_`?csz'),
        (0.60, "FLkvxy"),
        (0.65, "$0123456789EPSTYabdeghnopqu{}"),
        (0.70, "ABCKRVXZ"),
        (0.80, "NU&DGHOQ"),
        (0.85, "#+<=>^w~×→"),
        (1.00, "M%@Wm…"),
    )
    for char in chars
}
_BOLD = 1.13
_OTHER, _WIDE = 0.85, 1.1
ELLIPSIS = "…"


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """An upper estimate, in pixels, of `text` set in `size` pixels."""
    return sum(map(_em, text)) * size * (_BOLD if bold else 1.0)


def fit(text: str, size: float, width: float, *, bold: bool = False) -> str:
    """`text` in one line, cut with an ellipsis if it is wider than `width`."""
    line = " ".join(text.split())
    if text_width(line, size, bold=bold) <= width:
        return line
    room = width - text_width(ELLIPSIS, size, bold=bold)
    length = 0
    for char in line:
        room -= text_width(char, size, bold=bold)
        if room < 0:
            break
        length += 1
    return line[:length].rstrip() + ELLIPSIS


def shortened(items: list[str], most: int) -> str:
    """The first `most` items, and the number of the others."""
    more = len(items) - most
    return ", ".join(items[:most]) + (f" +{more}" if more > 0 else "")


@lru_cache(maxsize=4096)
def _em(char: str) -> float:
    if char in _EM:
        return _EM[char]
    if unicodedata.combining(char):
        return 0.0
    return _WIDE if unicodedata.east_asian_width(char) in "FW" else _OTHER
