"""The kinds of row errors in an error column, and their messages.

Always true: a kind's number never changes its meaning, because dead letters store it.
"""

from __future__ import annotations

OVERFLOW = 1
DIVISION_BY_ZERO = 2
CAST = 3
JSON = 4
DOMAIN = 5
DATE = 6
ENCODING = 7
LENGTH = 8

_TEXTS = {
    OVERFLOW: ("E0518", "a number does not fit its type (overflow)"),
    DIVISION_BY_ZERO: ("E0519", "division by zero"),
    CAST: ("E0512", "a value does not fit the type it is cast to"),
    JSON: ("E0513", "the text is not valid JSON"),
    DOMAIN: ("E0514", "an argument is outside of what the function is defined for"),
    DATE: ("E0515", "the text or the numbers are not a date or time"),
    ENCODING: ("E0516", "the text or the bytes are not validly encoded"),
    LENGTH: ("E0517", "the result would be too long"),
}


def error_text(kind: int) -> tuple[str, str]:
    """Code and message of a kind of the error column."""
    return _TEXTS[kind]
