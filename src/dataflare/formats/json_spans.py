"""Where the items of a list in a JSON text begin and end, by quotes and brackets alone.

For a text that no parser takes, because an item is broken or nested too deep: the other items can still be
read.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence

from dataflare.formats.json_values import BadJson, decode, list_items

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{},]', re.DOTALL)
_KEY = re.compile(rb'\s*("(?:[^"\\]|\\.)*+")\s*:\s*', re.DOTALL)
_SPACE = re.compile(rb"\s*")


def items_apart(text: bytes, path: Sequence[str | int]) -> tuple[list[bytes], bytes] | None:
    """The items of the list at a path, each on one line, and the text with an empty list in their place.
    None where there is no list, its quotes and brackets do not come in pairs, or the text around it is not
    JSON."""
    with contextlib.suppress(BadJson, ValueError):
        return _items_apart(text, path)
    return None


def _items_apart(text: bytes, path: Sequence[str | int]) -> tuple[list[bytes], bytes]:
    start = _after_space(text, 0)
    for part in path:
        start = _value_at(text, start, part)
    if text[start : start + 1] != b"[":
        raise BadJson("not valid JSON")
    spans, end = _parts(text, start)
    items = [_on_one_line(text[a:b].strip()) for a, b in spans]
    around = text[:start] + b"[]" + text[end:]
    decode(around)
    return items, around


def _value_at(text: bytes, start: int, part: str | int) -> int:
    """Where the value of a key, or an item of a list, begins."""
    spans, _ = _parts(text, start)
    if isinstance(part, int) and text[start : start + 1] == b"[" and part < len(spans):
        return _after_space(text, spans[part][0])
    for begin, end in spans:
        key = _KEY.match(text, begin, end)
        if key is not None and json.loads(key.group(1)) == part:
            return key.end()
    raise BadJson("not valid JSON")


def _parts(text: bytes, start: int) -> tuple[list[tuple[int, int]], int]:
    """The spans between the commas of the list or object that begins at `start`, and its end."""
    spans: list[tuple[int, int]] = []
    depth, begin = 0, start + 1
    if text[start : start + 1] not in (b"[", b"{"):
        raise BadJson("not valid JSON")
    for match in _TOKEN.finditer(text, start):
        mark = text[match.start() : match.start() + 1]
        if mark in b"[{":
            depth += 1
        elif mark in b"]}":
            depth -= 1
        if depth > 1 or mark not in b",]}" or (depth == 1 and mark != b","):
            continue
        is_blank = not text[begin : match.start()].strip()
        if is_blank and (mark == b"," or spans):
            raise BadJson("not valid JSON: an item is missing beside a comma")
        if not is_blank:
            spans.append((begin, match.start()))
        begin = match.end()
        if depth == 0:
            return spans, match.end()
    raise BadJson("not valid JSON: unexpected end of data")


def _after_space(text: bytes, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match is not None else place


def _on_one_line(item: bytes) -> bytes:
    """An item without line breaks. One inside a string, which JSON forbids, must not become a space, which
    would make the item sound: it becomes another forbidden character."""
    try:
        (line,) = list_items(b"[" + item + b"]")
    except (BadJson, ValueError):
        line = item.replace(b"\n", b" ").replace(b"\r", b" ")
        try:
            list_items(b"[" + line + b"]")
        except BadJson:
            return line
        return item.replace(b"\n", b"\x01").replace(b"\r", b"\x01")
    return line
