"""Infer column types from a sample of JSON objects.

Always true: an inferred type fits every value of the sample. Values of several kinds under one key
are text; so are whole numbers beyond 64 bits and numbers with a fraction, or beside one, that a float64
would round. So no digit is lost.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

from dataflare.formats.json_values import (
    Number,
    fits_float32,
    is_beyond_float,
    is_shortest,
    keeps_all_digits,
    keeps_digits,
    text_of,
)
from dataflare.model.types import BOOL, FLOAT64, INT64, NULL, STRING, DataType, list_of, struct_of

_WHOLE_MAX = 1 << 63
_ESCAPED = re.compile(r"[\x00-\x1f\\]")
_WIDE_MAX = 1 << 127
_TYPE_DEPTH_MAX = 32
"""A column nested deeper than this is JSON as text."""


def columns_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, DataType]:
    """A type for each key, in order of appearance. A key that is NULL everywhere is text."""
    return {
        name: _filled(type_) if _depth(type_) <= _TYPE_DEPTH_MAX else STRING
        for name, type_ in _fields(rows).items()
    }


def _depth(type_: DataType) -> int:
    inner = [type_.item] if type_.item is not None else [field.type for field in type_.fields]
    return 1 + max(map(_depth, inner), default=0)


def _fields(rows: Iterable[Mapping[str, Any]]) -> dict[str, DataType]:
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            values_of_name = values.get(name)
            if values_of_name is None:
                values[name] = [value]
            else:
                values_of_name.append(value)
    return {name: _type(each) for name, each in values.items()}


def _type(values: list[Any]) -> DataType:
    kinds = {type(value) for value in values}
    kinds.discard(type(None))
    if not kinds:
        return NULL
    if kinds == {int}:
        return (
            INT64
            if -_WHOLE_MAX <= min(_some(values)) <= max(_some(values)) < _WHOLE_MAX
            else STRING
        )
    if kinds <= {int, Number}:
        return FLOAT64 if all(map(keeps_all_digits, _some(values))) else STRING
    if kinds == {bool}:
        return BOOL
    if kinds == {list}:
        return list_of(_type([item for value in _some(values) for item in value]))
    if kinds == {dict}:
        fields = _fields(_some(values))
        # Objects that are empty in the whole sample have no fields for a struct.
        return struct_of(fields) if fields else STRING
    return STRING


def _some(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _filled(type_: DataType) -> DataType:
    """The type, with text in place of types that are only NULL."""
    if type_.name == "null":
        return STRING
    if type_.name == "list":
        assert type_.item is not None
        return list_of(_filled(type_.item))
    if type_.name == "struct":
        return struct_of({field.name: _filled(field.type) for field in type_.fields})
    return type_


@lru_cache(maxsize=1024)
def fitting(type_: DataType, *, declared: bool = True) -> Callable[[Any], bool]:
    """A function that checks whether a JSON value other than NULL can have this type, by its kind.
    declared: the type is the user's; then a fraction becomes the nearest float."""
    match type_.name:
        case "string" | "json":
            return lambda value: True
        case "bool":
            return lambda value: type(value) is bool
        case "list":
            assert type_.item is not None
            item = fitting(type_.item, declared=declared)
            return lambda value: (
                type(value) is list and all(each is None or item(each) for each in value)
            )
        case "struct":
            fields = [
                (field.name, fitting(field.type, declared=declared)) for field in type_.fields
            ]
            return lambda value: (
                type(value) is dict
                and all(
                    (v := value.get(name)) is None or fits_field(v) for name, fits_field in fields
                )
            )
        case "float64":
            if declared:
                return lambda value: type(value) in _NUMBERS and keeps_digits(value)
            return lambda value: (
                type(value) in _NUMBERS and keeps_digits(value) and not is_beyond_float(value)
            )
        case "float32":
            return lambda value: type(value) in _NUMBERS and fits_float32(value)
        case "decimal":
            return lambda value: type(value) in _NUMBERS or type(value) is str
        case "duration":
            return lambda value: type(value) is int or type(value) is str
    if type_.is_integer:
        low, high = _range(type_)
        return lambda value: type(value) is int and low <= value < high
    return lambda value: type(value) is str


_NUMBERS = (int, Number)


def _range(type_: DataType) -> tuple[int, int]:
    bits = int(type_.name.lstrip("uint"))
    return (0, 1 << bits) if type_.name.startswith("u") else (-(1 << bits - 1), 1 << bits - 1)


@lru_cache(maxsize=1024)
def readable(type_: DataType) -> Callable[[Any], Any] | None:
    """A function that changes a JSON value into one that Polars' parser reads exactly as this type:
    numbers in columns of text and of decimals become texts. It returns the same object if no change
    is needed. None for a type that never needs a change."""
    if type_.is_text or type_.name == "decimal":
        return _readable_text
    if type_.name == "list":
        assert type_.item is not None
        item = readable(type_.item)
        return item and partial(_readable_list, item)
    if type_.name == "struct":
        pairs = [(field.name, readable(field.type)) for field in type_.fields]
        fields = {name: change for name, change in pairs if change is not None}
        return partial(_readable_struct, fields) if fields else None
    return None


def _readable_text(value: Any) -> Any:
    kind = type(value)
    if kind is str or value is None:
        return value
    if kind is Number or (kind is int and not -_WIDE_MAX <= value < _WIDE_MAX):
        return str(value)
    return text_of(value) if kind in (dict, list) and _loses(value) else value


def _readable_list(item: Callable[[Any], Any], value: Any) -> Any:
    items = [item(each) for each in value or ()]
    return value if all(map(operator.is_, items, value or ())) else items


def _readable_struct(fields: Mapping[str, Callable[[Any], Any]], value: Any) -> Any:
    changed = {name: change(value.get(name)) for name, change in fields.items()} if value else {}
    same = all(changed[name] is value.get(name) for name in changed)
    return value if same else {**value, **changed}


def _loses(value: Any) -> bool:
    """Whether a list or an object contains, at any depth, a number that loses digits as a float64,
    or a character that Polars does not escape when it writes JSON."""
    match value:
        case dict():
            return any(map(_loses, value)) or any(map(_loses, value.values()))
        case list():
            return any(map(_loses, value))
        case Number():
            return not is_shortest(value)
        case str():
            return _ESCAPED.search(value) is not None
        case int():
            return not -_WIDE_MAX <= value < _WIDE_MAX
    return False
