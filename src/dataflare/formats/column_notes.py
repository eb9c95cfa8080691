"""Facts about columns that are in the schema of a Parquet or Arrow file, but not in Polars' schema.

Polars panics on some types and does not name the column; it shows a UUID and Parquet's JSON as
bytes. So the file's own schema is read first.

Always true: a damaged schema gives no notes; the reader of the file reports the damage. Parquet's
numbers are those of parquet.thrift (parquet-format 2.11), Arrow's those of Schema.fbs and File.fbs
(Arrow columnar format 1.5).
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct

from dataflare.errors import DataError
from dataflare.formats.flatbuffer import Table
from dataflare.formats.parquet_footer import footer_bytes
from dataflare.formats.thrift import BINARY, Reader
from dataflare.formats.thrift import Struct as Fields

Meaning = str | dict[str, Any]
"""What bytes are: "uuid" or "json"; {"item": meaning} of a list's items, {"fields": {name: meaning}} of
a struct's fields. It is JSON."""


class ColumnNote(Struct, frozen=True):
    """unreadable: the type, if no reader supports it. meaning: what bytes in the column are."""

    unreadable: str | None = None
    meaning: Meaning | None = None

    @property
    def blocks(self) -> bool:
        """Whether Polars cannot read any column of a file that has such a column."""
        return self.unreadable is not None and not self.unreadable.startswith("decimal")


Notes = dict[str, ColumnNote]
"""Notes by column; most columns have none."""

_BROKEN = (
    struct.error,
    IndexError,
    KeyError,
    ValueError,
    TypeError,
    OSError,
    binascii.Error,
    DataError,
)


def column_notes(path: Path, format_: str) -> Notes:
    """The notes of a Parquet or Arrow file; none for other formats."""
    try:
        if format_ == "parquet":
            return _parquet(footer_bytes(path))
        if format_ == "arrow":
            return _arrow_file(path)
    except _BROKEN:
        pass
    return {}


_ELEMENT_NAME, _ELEMENT_CHILDREN, _ELEMENT_CONVERTED = 4, 5, 6
_ELEMENT_PRECISION, _ELEMENT_LOGICAL = 8, 10
_INTERVAL, _CONVERTED_JSON = 21, 19
_LOGICAL_MAP, _LOGICAL_LIST, _LOGICAL_JSON, _LOGICAL_UUID = 2, 3, 12, 14
_CONVERTED_MAPS, _CONVERTED_LIST = (1, 2), 3
_LOGICAL_LATER = {16: "variant", 17: "geometry", 18: "geography"}
_DIGITS_MAX = 38


def _parquet(footer: bytes) -> Notes:
    elements = iter(_elements(footer))
    root = next(elements)
    notes: Notes = {}
    for _ in range(root[_ELEMENT_CHILDREN][1]):
        top = _node(elements)
        unreadable = next(filter(None, (_unreadable(node.element) for node in top.walk())), None)
        note = ColumnNote(unreadable) if unreadable else ColumnNote(meaning=_meaning(top))
        if note != ColumnNote():
            notes[top.name] = note
    return {**notes, **_arrow_schema_inside(footer)}


def _elements(footer: bytes) -> list[Fields]:
    """The schema's elements, without the row groups that follow them."""
    reader, last = Reader(footer), 0
    while True:
        head = footer[reader.place]
        reader.place += 1
        if not head:
            raise ValueError("a Parquet footer without a schema")
        last = last + (head >> 4) if head >> 4 else reader.zigzag()
        value = reader.value(head & 0x0F, field=True)
        if last == 2:
            elements: list[Fields] = value[1]
            return elements


class _Node(Struct, frozen=True):
    """A schema element with what is inside it."""

    element: Fields
    children: tuple[_Node, ...]

    @property
    def name(self) -> str:
        name: str = self.element[_ELEMENT_NAME][1].decode()
        return name

    def walk(self) -> Iterator[_Node]:
        yield self
        for child in self.children:
            yield from child.walk()

    def is_a(self, *kinds: int) -> bool:
        """Whether it is annotated with one of these converted types."""
        return self.element.get(_ELEMENT_CONVERTED, (0, None))[1] in kinds


def _node(elements: Iterator[Fields]) -> _Node:
    """The next element with what is inside it; takes it from `elements`."""
    element = next(elements)
    count = element.get(_ELEMENT_CHILDREN, (0, 0))[1]
    return _Node(element, tuple(_node(elements) for _ in range(count)))


def _logical(element: Fields) -> int | None:
    return next(iter(element.get(_ELEMENT_LOGICAL, (0, {}))[1]), None)


def _unreadable(element: Fields) -> str | None:
    if element.get(_ELEMENT_CONVERTED, (0, None))[1] == _INTERVAL:
        return "interval"
    logical = _logical(element)
    if logical in _LOGICAL_LATER:
        return _LOGICAL_LATER[logical]
    digits = element.get(_ELEMENT_PRECISION, (0, 0))[1]
    if digits > _DIGITS_MAX:
        return f"decimal({digits}, {element.get(7, (0, 0))[1]})"
    return None


def _meaning(node: _Node) -> Meaning | None:
    logical = _logical(node.element)
    if logical == _LOGICAL_UUID:
        return "uuid"
    if logical == _LOGICAL_JSON or node.is_a(_CONVERTED_JSON):
        return "json"
    if logical == _LOGICAL_LIST or node.is_a(_CONVERTED_LIST):
        # Below a list stands a repeated group with the item in it; in old files it is the item.
        (repeated,) = node.children
        old = repeated.name == "array" or repeated.name == f"{node.name}_tuple"
        is_item = old or len(repeated.children) != 1
        return _of_item(_meaning(repeated if is_item else repeated.children[0]))
    if logical == _LOGICAL_MAP or node.is_a(*_CONVERTED_MAPS):
        (entries,) = node.children
        parts = zip(("key", "value"), map(_meaning, entries.children), strict=False)
        return _of_item(_of_fields(dict(parts)))
    return _of_fields({child.name: _meaning(child) for child in node.children})


def _of_item(meaning: Meaning | None) -> Meaning | None:
    return None if meaning is None else {"item": meaning}


def _of_fields(meanings: dict[str, Meaning | None]) -> Meaning | None:
    named = {name: meaning for name, meaning in meanings.items() if meaning is not None}
    return {"fields": named} if named else None


def _arrow_schema_inside(footer: bytes) -> Notes:
    """Notes of the Arrow schema that Arrow's writers put beside Parquet's own; Polars reads it too.

    Its 256-bit decimals are stored as Parquet's decimals, so their digits count.
    """
    key = b"ARROW:schema"
    key_start = footer.rfind(key)
    if key_start < 0:
        return {}
    reader = Reader(footer, key_start + len(key))
    if footer[reader.place] & 0x0F != BINARY:
        return {}
    reader.place += 1
    return _arrow_message(reader.value(BINARY))


@lru_cache(maxsize=64)
def _arrow_message(encoded: bytes) -> Notes:
    message = base64.b64decode(encoded)
    start = 8 if message.startswith(b"\xff\xff\xff\xff") else 4
    schema = Table.root(message[start:]).table(2)
    return {} if schema is None else _arrow_schema(schema, bits_max=256)


def _arrow_file(path: Path) -> Notes:
    with path.open("rb") as file:
        file.seek(-10, 2)
        tail = file.read()
        if tail[4:] != b"ARROW1":
            return {}
        size = struct.unpack("<i", tail[:4])[0]
        file.seek(-10 - size, 2)
        schema = Table.root(file.read(size)).table(1)
    return {} if schema is None else _arrow_schema(schema, bits_max=128)


_KINDS = {
    11: "interval",
    14: "union",
    22: "run_end_encoded",
    25: "list_view",
    26: "large_list_view",
}
_DECIMAL, _TIMESTAMP = 7, 10
_WHOLE_HOURS = re.compile(r"([+-]\d\d):?00", re.ASCII)
_LISTS, _MAP = (12, 16, 21), 17


def _arrow_schema(schema: Table, bits_max: int) -> Notes:
    """bits_max: of a decimal."""
    notes = {field.text(0): _arrow_note(field, bits_max) for field in schema.tables(1)}
    return {name: note for name, note in notes.items() if note != ColumnNote()}


def _arrow_note(field: Table, bits_max: int) -> ColumnNote:
    unreadable = _arrow_unreadable(field, bits_max)
    if unreadable is not None:
        return ColumnNote(unreadable)
    return ColumnNote(meaning=_arrow_meaning(field))


def _arrow_meaning(field: Table) -> Meaning | None:
    metadata = {pair.text(0): pair.text(1) for pair in field.tables(6)}
    if metadata.get("ARROW:extension:name") == "arrow.uuid":
        return "uuid"
    if field.field(4) is not None:  # a dictionary
        return None
    kind, inside = field.integer(2, "B"), list(field.tables(5))
    if kind in _LISTS:
        return _of_item(_arrow_meaning(inside[0]))
    if kind == _MAP:
        parts = zip(("key", "value"), map(_arrow_meaning, inside[0].tables(5)), strict=False)
        return _of_item(_of_fields(dict(parts)))
    return _of_fields({child.text(0): _arrow_meaning(child) for child in inside})


def _arrow_unreadable(field: Table, bits_max: int) -> str | None:
    kind, type_ = field.integer(2, "B"), field.table(3)
    if kind in _KINDS:
        return _KINDS[kind]
    if kind == _DECIMAL and type_ is not None and type_.integer(2, "i", 128) > bits_max:
        return f"decimal256({type_.integer(0, 'i')}, {type_.integer(1, 'i')})"
    if kind == _TIMESTAMP and type_ is not None and not _is_zone(type_.text(1)):
        return f"timestamp with the unknown zone '{type_.text(1)}'"
    inside = (_arrow_unreadable(child, bits_max) for child in field.tables(5))
    return next(filter(None, inside), None)


@lru_cache(maxsize=256)
def _is_zone(name: str) -> bool:
    """Whether the name is empty, an offset that Polars knows, or in the time zone database.

    Polars has a zone for whole hours from -12:00 to +14:00 only, and panics on +05:30 and -13:00.
    """
    if not name:
        return True
    if offset := _WHOLE_HOURS.fullmatch(name):
        return -12 <= int(offset[1]) <= 14
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True
