"""The pages of the documentation, which an installation brings along."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PACKAGED = Path(__file__).parents[1] / "_docs"
_CHECKOUT = Path(__file__).parents[3] / "docs"
_BEST, _LONGEST = 6, 2_000


def _folder() -> Path:
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


def page_names() -> list[str]:
    """The pages, relative to the documentation's folder."""
    return sorted(str(path.relative_to(_folder())) for path in _folder().rglob("*.md"))


def page_text(name: str) -> str | None:
    """A page as Markdown; None if there is none of that name."""
    return (_folder() / name).read_text(encoding="utf-8") if name in page_names() else None


def found_in(words: str) -> list[str]:
    """The best sections for some words, with the name of their page before each. A word in a heading counts for more, and
    a rare word for more than one that is everywhere."""
    wanted = set(_words(words))
    sections = list(_sections())
    counts = {word: sum(word in each for _, _, each in sections) for word in wanted}
    scored = []
    for name, text, in_it in sections:
        heading = set(_words(text.partition("\n")[0]))
        score = sum((3 if word in heading else 1) / (1 + counts[word]) for word in wanted & in_it)
        if score:
            scored.append((score, name, text))
    scored.sort(key=lambda each: (-each[0], each[1]))
    return [f"{name}:\n{text[:_LONGEST]}" for _, name, text in scored[:_BEST]]


@cache
def _sections() -> tuple[tuple[str, str, frozenset[str]], ...]:
    """Page, text, and the words of each section."""

    def each() -> Iterator[tuple[str, str, frozenset[str]]]:
        for name in page_names():
            for part in re.split(r"(?m)^(?=#{1,3} )", page_text(name) or ""):
                if part.strip():
                    yield name, part.strip(), frozenset(_words(part))

    return tuple(each())


def _words(text: str) -> Iterator[str]:
    for word in re.findall(r"[a-z0-9_]{2,}", text.lower()):
        yield word.removesuffix("s") if len(word) > 3 else word
