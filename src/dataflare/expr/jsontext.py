"""One JSON document as Python values, for the JSON functions.

Always true: no digit is lost: a number that fits neither a float nor 64 bits is stored as text; of equal
keys in an object the first is used, and all of them are written back.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import orjson

MISSING = object()
Path = tuple[str | int, ...]


class RepeatedKeys:
    """An object with a repeated key."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.pairs]

    def first(self, key: str) -> Any:
        return next((value for name, value in self.pairs if name == key), MISSING)


class LongNumber:
    """A number with more digits than a float has."""

    def __init__(self, text: str) -> None:
        self.text = text


def read(text: str) -> Any:
    """The document. Raises orjson.JSONDecodeError for text that is not JSON (RFC 8259).

    orjson drops digits and repeated keys silently. It dropped none if it writes the value as the same
    text. Other documents are read again by the slower decoder of Python.
    """
    value = orjson.loads(text)
    try:
        same = _bare(orjson.dumps(value)) == _bare(text.encode())
    except orjson.JSONEncodeError:  # nested deeper than it writes
        same = False
    return value if same else _DECODER.decode(text)


def _bare(text: bytes) -> bytes:
    return text.replace(b", ", b",").replace(b": ", b":")


def _object(pairs: list[tuple[str, Any]]) -> Any:
    value = dict(pairs)
    return value if len(value) == len(pairs) else RepeatedKeys(pairs)


def _integer(text: str) -> Any:
    return int(text) if len(text) < 19 or -(2**63) <= int(text[:40]) < 2**64 else LongNumber(text)


def _float(text: str) -> Any:
    value = float(text)
    return value if Decimal(repr(value)) == Decimal(text) else LongNumber(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float)


def follow(value: Any, path: Path) -> Any:
    """The value at the path, or MISSING."""
    for step in path:
        if isinstance(step, str):
            if isinstance(value, RepeatedKeys):
                value = value.first(step)
            else:
                value = value.get(step, MISSING) if isinstance(value, dict) else MISSING
        elif isinstance(value, list) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return MISSING
        if value is MISSING:
            return MISSING
    return value


def write(value: Any) -> str:
    """The value as JSON without space."""
    return orjson.dumps(value, default=_default).decode()


def _default(value: Any) -> Any:
    if isinstance(value, LongNumber):
        return orjson.Fragment(value.text)
    if isinstance(value, RepeatedKeys):
        pairs = (write(key) + ":" + write(inner) for key, inner in value.pairs)
        return orjson.Fragment("{" + ",".join(pairs) + "}")
    raise TypeError
