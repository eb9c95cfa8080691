"""Patterns of names: `*` is any text, `?` is one character. Pure."""

from __future__ import annotations

import re
from functools import lru_cache


def is_pattern(text: str) -> bool:
    """Whether a text in a list of names stands for all names of its form."""
    return "*" in text or "?" in text


def matches(name: str, pattern: str) -> bool:
    """Whether a name has the form of a pattern. The case of letters matters."""
    return _expression(str(pattern)).fullmatch(name) is not None


@lru_cache(256)
def _expression(pattern: str) -> re.Pattern[str]:
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.compile("".join(parts), re.DOTALL)
