"""Make column names unique and give names to columns without one."""

from __future__ import annotations

from collections.abc import Sequence


def unique_names(names: Sequence[str]) -> list[str]:
    """The names without blanks around them. An empty name becomes `column_N`, and a duplicate gets
    a number."""
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
