"""Items of DynamoDB as JSON, and the types of their attributes. Pure.

Always true: a number keeps all of its digits; bytes are base64, as the decoder of JSON takes them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from dataflare.model.types import BINARY, BOOL, INT64, JSON, STRING, DataType, decimal

Item = Mapping[str, Mapping[str, Any]]
"""By attribute, its value by its type: {"id": {"N": "7"}}."""
_SCALE, _DIGITS = 9, 38
_BIGGEST = 2**63


def as_json(item: Item) -> bytes:
    """The item as an object."""
    return msgspec.json.encode({name: _plain(value) for name, value in item.items()})


def change_as_json(record: Mapping[str, Any]) -> bytes:
    """A record of a stream as a change in Debezium's form. A delete has the item as it was, or its key."""
    told = record["dynamodb"]
    if record["eventName"] == "REMOVE":
        row = as_json(told.get("OldImage") or told["Keys"])
        return b'{"op":"d","before":' + row + b"}"
    op = b"c" if record["eventName"] == "INSERT" else b"u"
    return b'{"op":"' + op + b'","after":' + as_json(told["NewImage"]) + b"}"


def read_as_json(item: Item) -> bytes:
    """An item of a scan as a change."""
    return b'{"op":"r","after":' + as_json(item) + b"}"


def _plain(value: Mapping[str, Any]) -> Any:
    [(kind, given)] = value.items()
    match kind:
        case "N":
            return msgspec.Raw(given.encode())
        case "B":
            return _text(given)
        case "NULL":
            return None
        case "M":
            return {name: _plain(each) for name, each in given.items()}
        case "L":
            return [_plain(each) for each in given]
        case "SS":
            return sorted(given)
        case "NS":
            return [msgspec.Raw(each.encode()) for each in sorted(given, key=Decimal)]
        case "BS":
            return [_text(each) for each in sorted(given)]
    return given


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def types_of(items: Iterable[Item], keys: Mapping[str, str]) -> dict[str, DataType]:
    """The types of the columns, as these items have them. keys: the attributes of the key and their types, which come first."""
    found: dict[str, set[str]] = {name: {kind} for name, kind in keys.items()}
    numbers: dict[str, list[str]] = {}
    for item in items:
        for name, value in item.items():
            [(kind, given)] = value.items()
            kinds = found.setdefault(name, set())
            if kind != "NULL":
                kinds.add(kind)
            if kind == "N":
                numbers.setdefault(name, []).append(given)
    return {name: _type(kinds, numbers.get(name, [])) for name, kinds in found.items()}


def _type(kinds: set[str], numbers: list[str]) -> DataType:
    if kinds == {"N"}:
        return _number_type([Decimal(each) for each in numbers])
    simple = {"S": STRING, "B": BINARY, "BOOL": BOOL}
    if not kinds:
        return STRING
    return simple.get(next(iter(kinds)), JSON) if len(kinds) == 1 else JSON


def _number_type(numbers: list[Decimal]) -> DataType:
    whole = all(each == each.to_integral_value() for each in numbers)
    most = max((abs(each) for each in numbers), default=Decimal(0))
    if whole and most < _BIGGEST:
        return INT64
    scale = max((-int(each.as_tuple().exponent) for each in numbers), default=0)
    scale = max(_SCALE if not whole else 0, scale)
    return decimal(_DIGITS, scale) if most.adjusted() + 1 + scale <= _DIGITS else JSON


def key_text(key: Item | None) -> str | None:
    """A key as text, for positions."""
    if key is None:
        return None
    whole = {
        name: {kind: _text(given) if kind == "B" else given for kind, given in value.items()}
        for name, value in key.items()
    }
    return msgspec.json.encode(whole).decode()


def key_of(text: str | None) -> Item | None:
    """The key of `key_text`."""
    if text is None:
        return None
    whole: dict[str, dict[str, Any]] = msgspec.json.decode(text)
    return {
        name: {
            kind: base64.b64decode(given) if kind == "B" else given for kind, given in value.items()
        }
        for name, value in whole.items()
    }
