"""A plan's text with colours, for a terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

_STYLES = (
    (r"^\S.*$", "bold"),
    (r"^stage .*?(?= \()", "bold cyan"),
    (r"(?<=\S) \(\d+ task.*$", "dim"),
    (r"^  [○◇●] (\S+)", "bold"),
    (r"^  ○", "blue"),
    (r"^  ◇", "magenta"),
    (r"^  ●", "green"),
    (r"^  [│├╰─▶]+", "dim"),
    (r"^  [│ ]   .*$", "dim"),
    (r"\((?:hash|rebalance|broadcast|output).*\)$", "yellow"),
    (r"\bexactly once\b|\beffectively once\b", "green"),
    (r"\bat least once\b", "yellow"),
    (r"\bat most once\b", "red"),
)


def coloured_plan(plan_text: str) -> Text:
    """The text, styled line by line."""
    from rich.text import Text

    text = Text(plan_text.rstrip("\n"), no_wrap=True, overflow="ignore")
    for pattern, style in _STYLES:
        for match in re.finditer(pattern, plan_text, re.MULTILINE):
            text.stylize(style, match.start(), match.end())
    return text
