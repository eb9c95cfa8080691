"""Names of columns where a file gives none, or the same one twice."""

from __future__ import annotations

from collections.abc import Sequence


def unique_names(names: Sequence[str]) -> list[str]:
    """The names without blanks around them: an empty one becomes `column_N`, and a name seen before
    gets a number."""
    seen: set[str] = set()
    unique: list[str] = []
    for number, raw in enumerate(names, 1):
        base = name = raw.strip() or f"column_{number}"
        copy = 1
        while name in seen:
            copy += 1
            name = f"{base}_{copy}"
        seen.add(name)
        unique.append(name)
    return unique
