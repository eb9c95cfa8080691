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
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from msgspec import Struct

from dataflare.errors import DataError
from dataflare.formats.flatbuffer import Table
from dataflare.formats.parquet_footer import footer_bytes
from dataflare.formats.thrift import BINARY, Reader
from dataflare.formats.thrift import Struct as Fields

Meaning = Literal["uuid", "json"]


class ColumnNote(Struct, frozen=True):
    """unreadable: the type, if no reader supports it. meaning: what the column's bytes are."""

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
_LOGICAL_JSON, _LOGICAL_UUID = 12, 14
_LOGICAL_LATER = {16: "variant", 17: "geometry", 18: "geography"}
_DIGITS_MAX = 38


def _parquet(footer: bytes) -> Notes:
    elements = iter(_elements(footer))
    root = next(elements)
    notes: Notes = {}
    for _ in range(root[_ELEMENT_CHILDREN][1]):
        top = next(elements)
        name = top[_ELEMENT_NAME][1].decode()
        note = _parquet_note(top)
        for inner in _below(top, elements):
            unreadable = _parquet_note(inner).unreadable
            if unreadable is not None:
                note = ColumnNote(unreadable)
        if note != ColumnNote():
            notes[name] = note
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


def _below(element: Fields, elements: Iterable[Fields]) -> Iterable[Fields]:
    """Everything inside an element, in order; takes it from `elements`."""
    remaining = element.get(_ELEMENT_CHILDREN, (0, 0))[1]
    following = iter(elements)
    while remaining:
        inner = next(following)
        remaining += inner.get(_ELEMENT_CHILDREN, (0, 0))[1] - 1
        yield inner


def _parquet_note(element: Fields) -> ColumnNote:
    converted = element.get(_ELEMENT_CONVERTED, (0, None))[1]
    logical = next(iter(element.get(_ELEMENT_LOGICAL, (0, {}))[1]), None)
    if converted == _INTERVAL:
        return ColumnNote("interval")
    if logical in _LOGICAL_LATER:
        return ColumnNote(_LOGICAL_LATER[logical])
    digits = element.get(_ELEMENT_PRECISION, (0, 0))[1]
    if digits > _DIGITS_MAX:
        return ColumnNote(f"decimal({digits}, {element.get(7, (0, 0))[1]})")
    if logical == _LOGICAL_UUID:
        return ColumnNote(meaning="uuid")
    if logical == _LOGICAL_JSON or converted == _CONVERTED_JSON:
        return ColumnNote(meaning="json")
    return ColumnNote()


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


def _arrow_schema(schema: Table, bits_max: int) -> Notes:
    """bits_max: of a decimal."""
    notes = {field.text(0): _arrow_note(field, bits_max) for field in schema.tables(1)}
    return {name: note for name, note in notes.items() if note != ColumnNote()}


def _arrow_note(field: Table, bits_max: int) -> ColumnNote:
    unreadable = _arrow_unreadable(field, bits_max)
    if unreadable is not None:
        return ColumnNote(unreadable)
    metadata = {pair.text(0): pair.text(1) for pair in field.tables(6)}
    if metadata.get("ARROW:extension:name") == "arrow.uuid":
        return ColumnNote(meaning="uuid")
    return ColumnNote()


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
