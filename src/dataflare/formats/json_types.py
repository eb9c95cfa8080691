"""Which types the values of JSON objects have, over a sample of them.

Always true: a type that is found holds every value of the sample; values of several kinds under one
key are text, and whole numbers beyond 64 bits are too, so no digit is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dataflare.model.types import BOOL, FLOAT64, INT64, NULL, STRING, DataType, list_of, struct_of

_WHOLE_MAX = 1 << 63


def columns_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, DataType]:
    """A type for each key, in order of appearance. A key that is NULL everywhere is text."""
    return {name: _filled(type_) for name, type_ in _fields(rows).items()}


def _fields(rows: Iterable[Mapping[str, Any]]) -> dict[str, DataType]:
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            found = values.get(name)
            if found is None:
                values[name] = [value]
            else:
                found.append(value)
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
    if kinds <= {int, float}:
        return FLOAT64
    if kinds == {bool}:
        return BOOL
    if kinds == {list}:
        return list_of(_type([item for value in _some(values) for item in value]))
    if kinds == {dict}:
        fields = _fields(_some(values))
        # An object that is empty wherever it was seen has no columns to be.
        return struct_of(fields) if fields else STRING
    return STRING


def _some(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _filled(type_: DataType) -> DataType:
    """The type with text where only NULL was seen."""
    if type_.name == "null":
        return STRING
    if type_.name == "list":
        assert type_.item is not None
        return list_of(_filled(type_.item))
    if type_.name == "struct":
        return struct_of({field.name: _filled(field.type) for field in type_.fields})
    return type_


def fits(value: Any, type_: DataType) -> bool:
    """Whether a JSON value can be of this type, as far as its kind tells. NULL always can."""
    if value is None:
        return True
    match type_.name:
        case "string" | "json":
            return True
        case "bool":
            return isinstance(value, bool)
        case "list":
            assert type_.item is not None
            return isinstance(value, list) and all(fits(item, type_.item) for item in value)
        case "struct":
            return isinstance(value, dict) and all(
                fits(value.get(inner.name), inner.type) for inner in type_.fields
            )
        case "float64" | "float32":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "decimal":
            return isinstance(value, int | float | str) and not isinstance(value, bool)
    if type_.is_integer:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and _in_range(value, type_)
    return isinstance(value, str)


def _in_range(value: int, type_: DataType) -> bool:
    bits = int(type_.name.lstrip("uint"))
    if type_.name.startswith("u"):
        return 0 <= value < 1 << bits
    return -(1 << bits - 1) <= value < 1 << bits - 1
