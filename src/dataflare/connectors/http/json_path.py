"""Places in JSON, in the part of JSONPath where a path names exactly one place: `$`, `$.a.b`,
`$.a[0].b`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from dataflare.formats.json_values import fields_of, list_items

_PART = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]|\[['\"]([^'\"]+)['\"]\]")


def parts_of(path: str) -> list[str | int]:
    """The keys and indices along a path. Raises ValueError."""
    rest = path.strip().removeprefix("$")
    parts: list[str | int] = []
    place = 0
    while place < len(rest):
        match = _PART.match(rest, place)
        if match is None:
            raise ValueError(f"'{path}' is not a path in JSON: expected one such as $.data.items")
        key, index, quoted = match.groups()
        parts.append(int(index) if index is not None else key or quoted)
        place = match.end()
    return parts


def text_at(text: bytes, path: str) -> bytes | None:
    """The JSON text of the value at the path in a JSON text, or None if there is no value. Raises
    BadJson."""
    for part in parts_of(path):
        first = text.lstrip()[:1]
        if isinstance(part, int):
            items = list_items(text) if first == b"[" else []
            if part >= len(items):
                return None
            text = items[part]
        else:
            fields = fields_of(text) if first == b"{" else {}
            if part not in fields:
                return None
            text = fields[part]
    return text.strip()


def _checked(path: str) -> str:
    parts_of(path)
    return path


JsonPath = Annotated[str, AfterValidator(_checked)]
