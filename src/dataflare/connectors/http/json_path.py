"""Places in JSON, in the small part of JSONPath that names exactly one: `$`, `$.a.b`, `$.a[0].b`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator

_PART = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]|\[['\"]([^'\"]+)['\"]\]")


def parts_of(path: str) -> list[str | int]:
    """The keys and indices along a path. Raises ValueError."""
    rest = path.strip().removeprefix("$")
    parts: list[str | int] = []
    place = 0
    while place < len(rest):
        match = _PART.match(rest, place)
        if match is None:
            raise ValueError(f"'{path}' names no place in JSON: expected one such as $.data.items")
        key, index, quoted = match.groups()
        parts.append(int(index) if index is not None else key or quoted)
        place = match.end()
    return parts


def found_at(value: Any, path: str) -> Any:
    """What stands at the path, or None where there is nothing."""
    for part in parts_of(path):
        if isinstance(part, int):
            held = isinstance(value, list) and part < len(value)
        else:
            held = isinstance(value, dict) and part in value
        if not held:
            return None
        value = value[part]
    return value


def _checked(path: str) -> str:
    parts_of(path)
    return path


JsonPath = Annotated[str, AfterValidator(_checked)]
