"""A file that grows under a staging name until it is published.

Always true: between two epochs the file can be cut back to the length of any earlier epoch's end,
and what then remains is what that epoch had. Everything here blocks: call it on a thread.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from dataflare.errors import CheckpointError
from dataflare.formats.arrow_write import ArrowEncoder
from dataflare.formats.checksum import checksum
from dataflare.formats.compression import Compressor
from dataflare.formats.parquet_footer import MAGIC, Piece
from dataflare.formats.parquet_write import ParquetEncoder, ParquetFooter
from dataflare.formats.text_write import TextFormat
from dataflare.model.types import Schema
from dataflare.sdk.crashpoints import crash_point

_LENGTH = struct.Struct("<I")
_CHECKED_BYTES = 64 << 10


class Encoder(Protocol):
    """A format's. Any number of threads may encode at once."""

    def encode(self, frame: pl.DataFrame) -> Any:
        """The rows as a piece of a file: what `GrowingFile.add` takes."""


class GrowingFile(Protocol):
    """rows and length: of all that was added so far."""

    path: Path
    rows: int

    @property
    def length(self) -> int: ...

    def add(self, encoded: Any, rows: int) -> None:
        """Append what the file's encoder made of so many rows."""

    def end_epoch(self) -> None:
        """Make what was added complete up to here."""

    def finish(self) -> None:
        """Make it a whole file of its format."""

    def sync(self) -> None:
        """To the disk."""

    def close(self) -> None: ...


class _Appended:
    """Appends to a file descriptor, and knows the length."""

    def __init__(self, path: Path, length: int) -> None:
        self.path, self.length = path, length
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._file = open(fd, "r+b", buffering=0)  # noqa: SIM115
        self._file.truncate(length)

    def append(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        half = len(view) // 2
        self._write(view[:half])
        crash_point("file.write.mid_row_group")
        self._write(view[half:])

    def _write(self, view: memoryview) -> None:
        while view:
            written = os.pwrite(self._file.fileno(), view, self.length)
            self.length += written
            view = view[written:]

    def fileno(self) -> int:
        return self._file.fileno()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class GrowingText:
    """CSV, NDJSON or JSON. A gzip or zstd member ends with each epoch."""

    def __init__(
        self,
        path: Path,
        format_: TextFormat,
        schema: Schema,
        compression: str,
        *,
        header: bool = True,
        length: int = 0,
        rows: int = 0,
    ) -> None:
        self.path, self.rows = path, rows
        self._format, self._compressor = format_, Compressor(compression)
        self._file = _Appended(path, length)
        if header and not length:
            self._file.append(self._compressor.write(format_.header(schema)))

    @property
    def length(self) -> int:
        return self._file.length

    def add(self, encoded: bytes, rows: int) -> None:
        if not rows:
            return
        between = self._format.between if self.rows else b""
        self._file.append(self._compressor.write(between + encoded))
        self.rows += rows

    def end_epoch(self) -> None:
        self._file.append(self._compressor.end_member())

    def finish(self) -> None:
        self._file.append(self._compressor.write(self._format.end))
        self.end_epoch()

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()


class GrowingArrow:
    """Arrow IPC. Its messages tell their lengths, so the file is its own list of batches."""

    def __init__(
        self, path: Path, encoder: ArrowEncoder, schema: Schema, *, length: int = 0, rows: int = 0
    ) -> None:
        self.path, self.rows = path, rows
        self._encoder, self._empty = encoder, pl.DataFrame(schema=schema.to_polars())
        self._file = _Appended(path, length)
        if not length:
            self._file.append(encoder.start(self._empty))

    @property
    def length(self) -> int:
        return self._file.length

    def add(self, encoded: memoryview, rows: int) -> None:
        self._file.append(encoded)
        self.rows += rows

    def end_epoch(self) -> None:
        """Each batch is complete as it is."""

    def finish(self) -> None:
        self._file.append(self._encoder.end(self._empty, self._file.fileno(), self.length))

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()


class GrowingParquet:
    """Parquet. With a sidecar the row groups' entries are kept on disk too, so that another
    process can go on with the file."""

    def __init__(
        self,
        path: Path,
        encoder: ParquetEncoder,
        schema: Schema,
        *,
        sidecar: Path | None = None,
        length: int = 0,
        sidecar_length: int = 0,
        rows: int = 0,
    ) -> None:
        self.path, self.rows = path, rows
        self._encoder, self._schema = encoder, schema
        self._file = _Appended(path, length)
        self._sidecar = _Appended(sidecar, sidecar_length) if sidecar is not None else None
        self._footer = ParquetFooter()
        if sidecar is not None and sidecar_length:
            entries = _entries(sidecar.read_bytes()[:sidecar_length], sidecar)
            self._footer = ParquetFooter(entries[0], entries[1:])
        if not length:
            self._file.append(MAGIC)

    @property
    def length(self) -> int:
        return self._file.length

    @property
    def sidecar_length(self) -> int:
        return self._sidecar.length if self._sidecar is not None else 0

    def add(self, encoded: Piece, rows: int) -> None:
        entries = self._footer.add(encoded, self._file.length)
        if rows:
            self._file.append(encoded.body)
        if self._sidecar is not None:
            self._sidecar.append(b"".join(_LENGTH.pack(len(e)) + e for e in entries))
        self.rows += rows

    def end_epoch(self) -> None:
        if self._footer.template is None:
            self.add(self._encoder.encode(pl.DataFrame(schema=self._schema.to_polars())), 0)

    def finish(self) -> None:
        self.end_epoch()
        self._file.append(self._footer.end())

    def sync(self) -> None:
        self._file.sync()
        if self._sidecar is not None:
            self._sidecar.sync()

    def close(self) -> None:
        self._file.close()
        if self._sidecar is not None:
            self._sidecar.close()


def _entries(data: bytes, path: Path) -> list[bytes]:
    found: list[bytes] = []
    place = 0
    while place < len(data):
        (size,) = _LENGTH.unpack_from(data, place)
        place += _LENGTH.size
        found.append(data[place : place + size])
        place += size
    if place != len(data) or not found:
        raise CheckpointError(f"{path} is damaged", code="E0704", help="start over with --fresh")
    return found


def tail_checksum(path: Path, length: int) -> str:
    """Of the last bytes before `length`: enough to tell another file from ours."""
    with path.open("rb") as file:
        start = max(0, length - _CHECKED_BYTES)
        file.seek(start)
        return checksum(file.read(length - start))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
