"""Avro values one by one, in Python: for the few messages that are not read as columns, and for schemas
that cannot be.

Always true: a value is read by the letter of the specification, all bytes of a message belong to its value,
and a claimed length never takes more memory than the message has bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from dataflare.formats.messages.avro_schema import AvroType

Read = Callable[[bytes, int], tuple[Any, int]]
"""From a message and a place in it to the value there and the place behind it."""

_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")


class BadDatum(ValueError):
    """Why bytes are not a value of the schema."""


def reader(type_: AvroType) -> Callable[[bytes], Any]:
    """A function that reads a whole message. Raises BadDatum."""
    read = _reader(type_)

    def whole(data: bytes) -> Any:
        try:
            value, end = read(data, 0)
        except (IndexError, struct.error):
            raise BadDatum("it ends before the schema does") from None
        if end != len(data):
            raise BadDatum(f"{len(data) - end:,} bytes follow the last field")
        return value

    return whole


def varint(number: int) -> bytes:
    """A long, as Avro writes it."""
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def read_long(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > 63:
            raise BadDatum("a number has more than 64 bits")
    if value >> 64:
        raise BadDatum("a number has more than 64 bits")
    return (value >> 1) ^ -(value & 1), at


def _read_int(data: bytes, at: int) -> tuple[int, int]:
    value, at = read_long(data, at)
    if not -(1 << 31) <= value < 1 << 31:
        raise BadDatum(f"{value} is not an int")
    return value, at


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = read_long(data, at)
    return _taken(data, at, size)


def _taken(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if size < 0 or at + size > len(data):
        raise BadDatum(f"a value of {size:,} bytes is announced, and {len(data) - at:,} follow")
    return data[at : at + size], at + size


def _read_string(data: bytes, at: int) -> tuple[str, int]:
    value, at = _read_bytes(data, at)
    try:
        return value.decode(), at
    except UnicodeDecodeError:
        raise BadDatum("a string is not valid UTF-8") from None


def _read_boolean(data: bytes, at: int) -> tuple[bool, int]:
    if data[at] > 1:
        raise BadDatum(f"a boolean is {data[at]}")
    return data[at] == 1, at + 1


_PLAIN: dict[str, Read] = {
    "null": lambda data, at: (None, at),
    "boolean": _read_boolean,
    "int": _read_int,
    "long": read_long,
    "float": lambda data, at: (_FLOAT.unpack_from(data, at)[0], at + 4),
    "double": lambda data, at: (_DOUBLE.unpack_from(data, at)[0], at + 8),
    "bytes": _read_bytes,
    "string": _read_string,
}


def _reader(type_: AvroType) -> Read:
    match type_.kind:
        case "record":
            return _record(type_)
        case "enum":
            return _enum(len(type_.symbols))
        case "fixed":
            size = type_.size

            def fixed(data: bytes, at: int) -> tuple[bytes, int]:
                return _taken(data, at, size)

            return _decimal(fixed, type_) if type_.logical == "decimal" else fixed
        case "array":
            assert type_.item is not None
            return _array(_reader(type_.item))
        case "map":
            assert type_.item is not None
            value = _reader(type_.item)

            def entry(data: bytes, at: int) -> tuple[dict[str, Any], int]:
                key, at = _read_string(data, at)
                found, at = value(data, at)
                return {"key": key, "value": found}, at

            return _array(entry)
        case "union":
            return _union(type_)
    plain = _PLAIN[type_.kind]
    return _decimal(plain, type_) if type_.logical == "decimal" else plain


def _record(type_: AvroType) -> Read:
    fields = [(field.name, _reader(field.type)) for field in type_.fields]

    def record(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        row = {}
        for name, read in fields:
            try:
                row[name], at = read(data, at)
            except BadDatum as error:
                raise BadDatum(f"field '{name}': {error}") from None
        return row, at

    return record


def _enum(symbols: int) -> Read:
    def enum(data: bytes, at: int) -> tuple[int, int]:
        value, at = read_long(data, at)
        if not 0 <= value < symbols:
            raise BadDatum("it is not a symbol of the enum")
        return value, at

    return enum


def _array(item: Read) -> Read:
    def array(data: bytes, at: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        while True:
            count, at = read_long(data, at)
            if not count:
                return items, at
            end = None
            if count < 0:
                count = -count
                size, at = read_long(data, at)
                end = at + size
            if count > len(data) - at:
                raise BadDatum(
                    f"{count:,} items are announced, and {len(data) - at:,} bytes follow"
                )
            for _ in range(count):
                value, at = item(data, at)
                items.append(value)
            if end is not None and at != end:
                raise BadDatum("a block of items has another size than it says")

    return array


def _union(type_: AvroType) -> Read:
    reads: list[tuple[str, Read] | None] = [
        (name, _reader(branch))
        for name, branch in zip(type_.branch_names, type_.branches, strict=True)
    ]
    if type_.null_at is not None:
        reads.insert(type_.null_at, None)
    single = len(type_.branches) == 1

    def union(data: bytes, at: int) -> tuple[Any, int]:
        index, at = read_long(data, at)
        if not 0 <= index < len(reads):
            raise BadDatum(f"branch {index} of a union with {len(reads)}")
        branch = reads[index]
        if branch is None:
            return None, at
        value, at = branch[1](data, at)
        return (value if single else {branch[0]: value}), at

    return union


def _decimal(read: Read, type_: AvroType) -> Read:
    scale, limit = type_.scale, 10**type_.precision

    def number(data: bytes, at: int) -> tuple[Decimal, int]:
        value, at = read(data, at)
        whole = int.from_bytes(value, "big", signed=True)
        if not -limit < whole < limit:
            raise BadDatum(f"a decimal has more than {type_.precision} digits")
        sign, digits = int(whole < 0), tuple(map(int, str(abs(whole))))
        return Decimal((sign, digits, -scale)), at

    return number
