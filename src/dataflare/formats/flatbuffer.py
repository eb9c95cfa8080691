"""A reader of the part of flatbuffers that Arrow's metadata uses. Numbers are field ids of a
table."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from msgspec import Struct


class Table(Struct, frozen=True):
    """A table of `data` that begins at `place`."""

    data: bytes
    place: int

    @classmethod
    def root(cls, data: bytes) -> Table:
        return cls(data, struct.unpack_from("<I", data)[0])

    def field(self, number: int) -> int | None:
        """The place of a field; None if the table does not have it."""
        fields = self.place - struct.unpack_from("<i", self.data, self.place)[0]
        slot = 4 + 2 * number
        if slot >= struct.unpack_from("<H", self.data, fields)[0]:
            return None
        offset = struct.unpack_from("<H", self.data, fields + slot)[0]
        return self.place + offset if offset else None

    def integer(self, number: int, format_: str, default: int = 0) -> int:
        """A number. format_: as in `struct`: B, h, i or q."""
        place = self.field(number)
        return (
            default
            if place is None
            else int(struct.unpack_from("<" + format_, self.data, place)[0])
        )

    def text(self, number: int) -> str:
        start = self._target(number)
        if start is None:
            return ""
        size = struct.unpack_from("<I", self.data, start)[0]
        return self.data[start + 4 : start + 4 + size].decode()

    def table(self, number: int) -> Table | None:
        start = self._target(number)
        return None if start is None else Table(self.data, start)

    def tables(self, number: int) -> Iterator[Table]:
        """The tables of a vector."""
        start = self._target(number)
        if start is None:
            return
        for index in range(struct.unpack_from("<I", self.data, start)[0]):
            item = start + 4 + 4 * index
            yield Table(self.data, item + struct.unpack_from("<I", self.data, item)[0])

    def structs(self, number: int, shape: struct.Struct) -> Iterator[tuple[Any, ...]]:
        """The structs of a vector, which stand in it one behind the other."""
        start = self._target(number)
        if start is None:
            return
        for index in range(struct.unpack_from("<I", self.data, start)[0]):
            yield shape.unpack_from(self.data, start + 4 + shape.size * index)

    def _target(self, number: int) -> int | None:
        place = self.field(number)
        return None if place is None else place + int(struct.unpack_from("<I", self.data, place)[0])
