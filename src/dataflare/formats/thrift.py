"""Thrift's compact protocol, generically: structs become `{field id: (wire type, value)}`.

Always true: `write_struct(read_struct(data))` gives the same bytes for all that Parquet writers
write, including unknown fields. So a footer can be changed without knowledge of all its fields.
"""

from __future__ import annotations

from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT, UUID = range(1, 14)

Struct = dict[int, tuple[int, Any]]
"""Field id to (wire type, value). A list is (item type, items)."""


class Reader:
    """Reads values from `data` at `place`."""

    def __init__(self, data: bytes, place: int = 0) -> None:
        self.data, self.place = data, place

    def struct(self) -> Struct:
        fields: Struct = {}
        last = 0
        while True:
            head = self.data[self.place]
            self.place += 1
            if not head:
                return fields
            wire = head & 0x0F
            last = last + (head >> 4) if head >> 4 else self.zigzag()
            fields[last] = (wire, self.value(wire, field=True))

    def value(self, wire: int, *, field: bool = False) -> Any:
        if wire in (TRUE, FALSE):
            if field:
                return wire == TRUE
            self.place += 1
            return self.data[self.place - 1] == TRUE
        if wire == BYTE:
            self.place += 1
            return self.data[self.place - 1]
        if wire in (I16, I32, I64):
            return self.zigzag()
        if wire in (DOUBLE, UUID):
            size = 8 if wire == DOUBLE else 16
            self.place += size
            return self.data[self.place - size : self.place]
        if wire == BINARY:
            size = self.varint()
            self.place += size
            return self.data[self.place - size : self.place]
        if wire in (LIST, SET):
            return self.items()
        if wire == STRUCT:
            return self.struct()
        raise ValueError(f"thrift type {wire} in a Parquet footer")

    def items(self) -> tuple[int, list[Any]]:
        head = self.data[self.place]
        self.place += 1
        size = head >> 4
        if size == 15:
            size = self.varint()
        wire = head & 0x0F
        return wire, [self.value(wire) for _ in range(size)]

    def varint(self) -> int:
        result = shift = 0
        while True:
            byte = self.data[self.place]
            self.place += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
            shift += 7

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)


def write_struct(fields: Struct, out: bytearray) -> None:
    """Append the struct's bytes to `out`."""
    last = 0
    for number in sorted(fields):
        wire, value = fields[number]
        if wire in (TRUE, FALSE):
            wire = TRUE if value else FALSE
        if 0 < number - last <= 15:
            out.append((number - last) << 4 | wire)
        else:
            out.append(wire)
            _zigzag(number, out)
        last = number
        if wire not in (TRUE, FALSE):
            _write(wire, value, out)
    out.append(0)


def _write(wire: int, value: Any, out: bytearray) -> None:
    if wire in (TRUE, FALSE):
        out.append(TRUE if value else FALSE)
    elif wire == BYTE:
        out.append(value)
    elif wire in (I16, I32, I64):
        _zigzag(value, out)
    elif wire in (DOUBLE, UUID):
        out += value
    elif wire == BINARY:
        _varint(len(value), out)
        out += value
    elif wire in (LIST, SET):
        item, items = value
        if len(items) < 15:
            out.append(len(items) << 4 | item)
        else:
            out.append(0xF0 | item)
            _varint(len(items), out)
        for each in items:
            _write(item, each, out)
    elif wire == STRUCT:
        write_struct(value, out)
    else:
        raise ValueError(f"thrift type {wire} in a Parquet footer")


def _zigzag(value: int, out: bytearray) -> None:
    _varint((value << 1) ^ (value >> 63) if value < 0 else value << 1, out)


def _varint(value: int, out: bytearray) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
