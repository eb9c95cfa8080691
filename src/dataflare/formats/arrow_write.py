"""Rows to Arrow's IPC file format, piece by piece: each piece is a message of a file that grows.

A file is the magic, a stream of messages (the schema, then record batches), and a footer that says
where the batches stand. Each message holds its own length. So the footer is made from the file
itself at the end, and the file can be cut back to the end of any earlier message.

Always true: `encode` keeps no state; every Arrow reader supports the types (no string views). Field
numbers are those of Message.fbs and File.fbs (Arrow columnar format 1.5).
"""

from __future__ import annotations

import io
import os
import struct
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.formats.flatbuffer import Table
from dataflare.model.batch import private

MAGIC = b"ARROW1"
_START = MAGIC + b"\0\0"
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_FRAME = struct.Struct("<II")
_BLOCK = struct.Struct("<qiiq")
_BODY_LENGTH, _RECORD_BATCHES = 3, 3


class ArrowEncoder(Struct, frozen=True):
    """compression: of the columns inside; uncompressed, lz4 or zstd."""

    compression: str = "uncompressed"

    def start(self, empty: pl.DataFrame) -> bytes:
        """The first bytes of a file of such rows."""
        stream, after_schema = self._stream(empty.clear())
        return _START + stream[:after_schema]

    def encode(self, frame: pl.DataFrame) -> memoryview:
        """The rows as one record batch; empty if there are no rows."""
        if not frame.height:
            return memoryview(b"")
        stream, after_schema = self._stream(frame.rechunk())
        return memoryview(stream)[after_schema : -len(_END_OF_STREAM)]

    def end(self, empty: pl.DataFrame, fd: int, length: int) -> bytes:
        """The last bytes of a file of such rows, after the `length` bytes that are already
        written."""
        out = io.BytesIO()
        private(empty.clear()).write_ipc(out, **self._options())
        whole = out.getvalue()
        size = struct.unpack("<i", whole[-10:-6])[0]
        footer = _with_batches(whole[-10 - size : -10], _batches(fd, length))
        return _END_OF_STREAM + footer + struct.pack("<i", len(footer)) + MAGIC

    def _stream(self, frame: pl.DataFrame) -> tuple[bytes, int]:
        """The rows as a stream, and the place after its first message, the schema."""
        out = io.BytesIO()
        private(frame).write_ipc_stream(out, **self._options())
        stream = out.getvalue()
        return stream, _FRAME.size + _FRAME.unpack_from(stream)[1]

    def _options(self) -> dict[str, Any]:
        return {"compression": self.compression, "compat_level": pl.CompatLevel.oldest()}


def _batches(fd: int, length: int) -> bytes:
    """The blocks of a footer: offset, bytes of metadata and bytes of body of each record batch."""
    blocks = bytearray()
    place = len(_START)
    while place < length:
        size = _FRAME.unpack(os.pread(fd, _FRAME.size, place))[1]
        metadata = os.pread(fd, size, place + _FRAME.size)
        body = Table.root(metadata).integer(_BODY_LENGTH, "q")
        if place > len(_START):
            blocks += _BLOCK.pack(place, _FRAME.size + size, 0, body)
        place += _FRAME.size + size + body
    if place != length:
        raise ValueError("a message of an Arrow file goes beyond the file's end")
    return bytes(blocks)


def _with_batches(footer: bytes, blocks: bytes) -> bytes:
    """The footer with these blocks: their vector is added, and the field points at it."""
    field = Table.root(footer).field(_RECORD_BATCHES)
    if field is None:
        raise ValueError("an Arrow footer without a list of record batches")
    out = bytearray(footer)
    out += bytes((4 - len(out)) % 8)
    struct.pack_into("<I", out, field, len(out) - field)
    return bytes(out + struct.pack("<I", len(blocks) // _BLOCK.size) + blocks)
