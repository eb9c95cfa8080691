"""Parquet footers: what row groups a file has, and one file made of many encoded pieces.

A piece is a whole little Parquet file made by Polars in memory. Its body is appended to the file,
its row groups keep their statistics, and their offsets are shifted; the footer is written once, at
the end. That joins pieces without encoding them again, and the file can be cut back to any piece's
end.

Always true: all pieces of a file have the same schema; a file without rows is valid.
Numbers are the field ids of parquet.thrift (parquet-format 2.11).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dataflare.errors import DataError
from dataflare.formats.thrift import I16, I64, LIST, STRUCT, Reader, Struct, write_struct

MAGIC = b"PAR1"
_SCHEMA, _NUM_ROWS, _ROW_GROUPS = 2, 3, 4
_GROUP_COLUMNS, _GROUP_BYTES, _GROUP_ROWS, _GROUP_OFFSET, _GROUP_ORDINAL = 1, 2, 3, 5, 7
_CHUNK_OFFSET, _CHUNK_META, _OFFSET_INDEX, _COLUMN_INDEX = 2, 3, 4, 6
_META_PATH, _META_BYTES = 3, 7
_META_OFFSETS = (9, 10, 11, 14)
"""Data page, index page, dictionary page and bloom filter offsets of a column's metadata."""


class RowGroup(msgspec.Struct, frozen=True):
    """rows, and num_bytes: the uncompressed size of all its columns."""

    rows: int
    num_bytes: int


def row_groups(path: Path) -> list[RowGroup]:
    """The row groups of a file, from its footer. Raises DataError (E0505) if it is not a Parquet
    file."""
    footer = Reader(footer_bytes(path)).struct()
    groups = footer[_ROW_GROUPS][1][1] if _ROW_GROUPS in footer else []
    return [RowGroup(g[_GROUP_ROWS][1], g[_GROUP_BYTES][1]) for g in groups]


class GroupPlaces(msgspec.Struct, frozen=True):
    """Where a row group's bytes are. columns: by the name of the top-level column, ranges of the file."""

    rows: int
    columns: dict[str, list[tuple[int, int]]]


def group_places(footer: bytes) -> list[GroupPlaces]:
    """Where the bytes of each row group are: pages, dictionaries, indexes and Bloom filters."""
    fields = Reader(footer).struct()
    groups = fields[_ROW_GROUPS][1][1] if _ROW_GROUPS in fields else []
    return [GroupPlaces(g[_GROUP_ROWS][1], _columns_of(g)) for g in groups]


def _columns_of(group: Struct) -> dict[str, list[tuple[int, int]]]:
    columns: dict[str, list[tuple[int, int]]] = {}
    for chunk in group[_GROUP_COLUMNS][1][1]:
        meta = chunk[_CHUNK_META][1]
        name = bytes(meta[_META_PATH][1][1][0]).decode()
        starts = [meta[number][1] for number in _META_OFFSETS[:3] if number in meta]
        start = min(place for place in starts if place > 0)
        ranges = columns.setdefault(name, [])
        ranges.append((start, start + meta[_META_BYTES][1]))
        for fields, (at, length) in ((chunk, (4, 5)), (chunk, (6, 7)), (meta, (14, 15))):
            if at in fields and length in fields:
                ranges.append((fields[at][1], fields[at][1] + fields[length][1]))
    return columns


def footer_bytes(path: Path) -> bytes:
    """The footer, encoded. Raises DataError (E0505) for a file that is not Parquet."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < 12:
            raise _damaged(path, "it is too short" if size else "it is empty")
        file.seek(size - 8)
        tail = file.read(8)
        if tail[4:] != MAGIC:
            raise _damaged(path, "it does not end as a Parquet file does")
        length = struct.unpack("<I", tail[:4])[0]
        if length + 12 > size:
            raise _damaged(path, "its footer is longer than the file")
        file.seek(size - 8 - length)
        return file.read(length)


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} is not a sound Parquet file: {why}",
        code="E0505",
        help="write the file again: its writer did not finish, or the file was changed later",
    )


class Piece(msgspec.Struct, frozen=True):
    """An encoded piece, taken apart. body: the bytes to append. footer: its parsed footer."""

    body: memoryview
    footer: Struct
    rows: int


def take_apart(encoded: bytes) -> Piece:
    """A little Parquet file as body and footer."""
    length = struct.unpack("<I", encoded[-8:-4])[0]
    start = len(encoded) - 8 - length
    footer = Reader(encoded[start : start + length]).struct()
    return Piece(memoryview(encoded)[len(MAGIC) : start], footer, footer[_NUM_ROWS][1])


def shifted_groups(piece: Piece, at: int) -> list[bytes]:
    """The piece's row groups, encoded, for a body at offset `at`."""
    delta = at - len(MAGIC)
    groups: list[bytes] = []
    for group in piece.footer[_ROW_GROUPS][1][1]:
        if group[_GROUP_ROWS][1]:
            out = bytearray()
            write_struct(_shift_group(group, delta), out)
            groups.append(bytes(out))
    return groups


def _shift_group(group: Struct, delta: int) -> Struct:
    wire, columns = group[_GROUP_COLUMNS][1]
    moved = {**group, _GROUP_COLUMNS: (LIST, (wire, [_shift_chunk(c, delta) for c in columns]))}
    return _plus(moved, (_GROUP_OFFSET,), delta)


def _shift_chunk(chunk: Struct, delta: int) -> Struct:
    moved = dict(chunk)
    if _CHUNK_META in moved:
        moved[_CHUNK_META] = (STRUCT, _plus(moved[_CHUNK_META][1], _META_OFFSETS, delta))
    if moved.get(_CHUNK_OFFSET, (0, 0))[1] == 0:
        return _plus(moved, (_OFFSET_INDEX, _COLUMN_INDEX), delta)
    return _plus(moved, (_CHUNK_OFFSET, _OFFSET_INDEX, _COLUMN_INDEX), delta)


def _plus(fields: Struct, numbers: Iterable[int], delta: int) -> Struct:
    moved = dict(fields)
    for number in numbers:
        if number in moved:
            wire, value = moved[number]
            moved[number] = (wire, value + delta)
    return moved


def joined_footer(template: Struct, groups: Sequence[bytes]) -> bytes:
    """The end of a file: footer, its length and the magic bytes. template: the footer of any piece;
    groups: encoded row groups, in order."""
    parsed = [Reader(group).struct() for group in groups]
    for ordinal, group in enumerate(parsed):
        # This 16-bit field is optional: it is left out when the number is too large for it.
        group.pop(_GROUP_ORDINAL, None)
        if ordinal < 1 << 15:
            group[_GROUP_ORDINAL] = (I16, ordinal)
    rows = sum(group[_GROUP_ROWS][1] for group in parsed)
    fields: dict[int, tuple[int, Any]] = {
        **template,
        _NUM_ROWS: (I64, rows),
        _ROW_GROUPS: (LIST, (STRUCT, parsed)),
    }
    out = bytearray()
    write_struct(fields, out)
    return bytes(out) + struct.pack("<I", len(out)) + MAGIC


def schema_bytes(footer: Struct) -> bytes:
    """The schema elements of a footer: pieces that differ here cannot share a file."""
    out = bytearray()
    write_struct({_SCHEMA: footer[_SCHEMA]}, out)
    return bytes(out)
