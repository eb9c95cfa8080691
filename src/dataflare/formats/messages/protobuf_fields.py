"""What the fields of a Protobuf message mean beyond their bytes: names of enums, fields of which one counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

_ENUM, _GROUP = 14, 10
_WRAPPED = ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
_LEAVES = (
    *("google.protobuf.Timestamp", "google.protobuf.Duration"),
    *("google.type.Date", "google.type.TimeOfDay"),
    *(f"google.protobuf.{each}Value" for each in _WRAPPED),
)
"""Messages that are one column."""


def says_the_same(ours: Any, theirs: Any) -> bool:
    """Whether two messages have the same values. NaN is NaN, and zero is zero, whatever its sign: ptars does
    not write that."""
    return bool(ours == theirs) or _contents(ours) == _contents(theirs)


def _contents(message: Any) -> dict[str, Any]:
    """The values of a message that can be compared: NaN as a text."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            found[field.name] = {key: _content(each) for key, each in value.items()}
        elif field.is_repeated:
            found[field.name] = [_content(each) for each in value]
        elif field.has_presence or value != 0:
            found[field.name] = _content(value)
    return found


def _content(value: Any) -> Any:
    if hasattr(value, "ListFields"):
        return _contents(value)
    return "nan" if value != value else value


def unread_fields(descriptor: Any, path: tuple[str, ...] = ()) -> list[str]:
    """The fields of a message, at any depth, that no column holds: groups, and messages inside themselves."""
    inside = (*path, descriptor.full_name)
    found = []
    for field in descriptor.fields:
        if field.type == _GROUP:
            found.append(f"{field.full_name} is a group")
        elif field.message_type is None or field.message_type.full_name in _LEAVES:
            continue
        elif field.message_type.full_name in inside:
            found.append(f"{field.full_name} holds a {field.message_type.full_name} in itself")
        else:
            found += unread_fields(field.message_type, inside)
    return found


def conflicts_of(
    descriptor: Any, column: Callable[[str], pl.Expr], path: tuple[str, ...] = ()
) -> list[pl.Expr]:
    """Where two fields of one oneof have values, or a map has a key twice: only the last in the bytes
    counts."""
    found = []
    for oneof in descriptor.oneofs:
        if len(oneof.fields) > 1:
            there = [column(field.name).is_not_null().cast(pl.UInt8) for field in oneof.fields]
            found.append(pl.sum_horizontal(there) > 1)
    inside = (*path, descriptor.full_name)
    for field in descriptor.fields:
        message = field.message_type
        if message is None or message.full_name in (*_LEAVES, *inside):
            continue
        value = column(field.name)
        if message.GetOptions().map_entry:
            keys = value.list.eval(pl.element().struct.field("key"))
            found.append((keys.list.n_unique() != keys.list.len()).fill_null(False))
        if field.is_repeated:
            inner = conflicts_of(message, pl.element().struct.field, inside)
            found += [value.list.eval(each).list.any().fill_null(False) for each in inner]
        else:
            inner = conflicts_of(message, value.struct.field, inside)
            found += [each.fill_null(False) for each in inner]
    return found


Change = Callable[[pl.Expr], pl.Expr]


def names_of(descriptor: Any, path: tuple[str, ...] = ()) -> dict[str, Change]:
    """For each field with enums in it, the change from their numbers to their names."""
    made = {}
    for field in descriptor.fields:
        change = _names_in(field, path)
        if change is not None:
            made[field.name] = change
    return made


def _names_in(field: Any, path: tuple[str, ...]) -> Change | None:
    message = field.message_type
    if field.type == _ENUM:
        change: Change | None = _named_enum(field.enum_type)
    elif (
        message is None
        or message.full_name in _LEAVES
        or message.full_name in (*path, field.containing_type.full_name)
    ):
        return None
    else:
        change = _in_struct(names_of(message, (*path, field.containing_type.full_name)))
    if change is None or not field.is_repeated:
        return change
    inner = change
    return lambda value: value.list.eval(inner(pl.element()))


def _in_struct(changes: dict[str, Change]) -> Change | None:
    if not changes:
        return None
    return lambda value: value.struct.with_fields(
        change(value.struct.field(name)).alias(name) for name, change in changes.items()
    )


def _named_enum(enum: Any) -> Change:
    names = {number: each.name for number, each in enum.values_by_number.items()}
    numbers, texts = [*names], [*names.values()]
    return lambda value: value.replace_strict(
        numbers, texts, default=value.cast(pl.String), return_dtype=pl.String
    )
