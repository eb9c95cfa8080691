"""A file that grows under a staging name until it is published.

Always true: between two epochs the file can be cut back to its length at the end of any earlier
epoch; it then has the content of that epoch. Everything here blocks: call it on a thread.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from dataflare.connectors.file.staged import AppendedFile
from dataflare.errors import CheckpointError
from dataflare.formats.arrow_write import ArrowEncoder
from dataflare.formats.compression import Compressor
from dataflare.formats.parquet_footer import MAGIC, Piece
from dataflare.formats.parquet_write import ParquetEncoder, ParquetFooter
from dataflare.formats.text_write import TextFormat
from dataflare.model.types import Schema

_LENGTH = struct.Struct("<I")


class Encoder(Protocol):
    """The encoder of a format. Several threads may encode at the same time."""

    def encode(self, frame: pl.DataFrame) -> Any:
        """The rows as a piece of a file, for `GrowingFile.add`."""


class GrowingFile(Protocol):
    """rows, length and digest (a checksum): of everything added so far."""

    path: Path
    rows: int

    @property
    def length(self) -> int: ...

    @property
    def digest(self) -> str: ...

    def add(self, encoded: Any, rows: int) -> None:
        """Append a piece of `rows` rows from the file's encoder."""

    def end_epoch(self) -> None:
        """Complete the content added so far, so that the file can be cut back to here."""

    def finish(self) -> None:
        """Write the end of the file."""

    def sync(self) -> None:
        """Flush to the disk."""

    def close(self) -> None: ...


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
        digest: str | None = None,
        rows: int = 0,
    ) -> None:
        self.path, self.rows = path, rows
        self._format, self._compressor = format_, Compressor(compression)
        self._file = AppendedFile(path, length, digest)
        if header and not length:
            self._file.append(self._compressor.write(format_.header(schema)))

    @property
    def length(self) -> int:
        return self._file.length

    @property
    def digest(self) -> str:
        return self._file.digest

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
    """Arrow IPC. Its messages contain their lengths, so the list of batches can be read from the
    file."""

    def __init__(
        self,
        path: Path,
        encoder: ArrowEncoder,
        schema: Schema,
        *,
        length: int = 0,
        digest: str | None = None,
        rows: int = 0,
    ) -> None:
        self.path, self.rows = path, rows
        self._encoder, self._empty = encoder, pl.DataFrame(schema=schema.to_polars())
        self._file = AppendedFile(path, length, digest)
        if not length:
            self._file.append(encoder.start(self._empty))

    @property
    def length(self) -> int:
        return self._file.length

    @property
    def digest(self) -> str:
        return self._file.digest

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
    """Parquet. With a sidecar the row groups' entries are kept on disk too, so that another process
    can continue the file."""

    def __init__(
        self,
        path: Path,
        encoder: ParquetEncoder,
        schema: Schema,
        *,
        sidecar: Path | None = None,
        length: int = 0,
        digest: str | None = None,
        sidecar_length: int = 0,
        sidecar_digest: str | None = None,
        rows: int = 0,
    ) -> None:
        self.path, self.rows = path, rows
        self._encoder, self._schema = encoder, schema
        self._file = AppendedFile(path, length, digest)
        self._sidecar = (
            AppendedFile(sidecar, sidecar_length, sidecar_digest) if sidecar is not None else None
        )
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
    def digest(self) -> str:
        return self._file.digest

    @property
    def sidecar_length(self) -> int:
        return self._sidecar.length if self._sidecar is not None else 0

    @property
    def sidecar_digest(self) -> str | None:
        return self._sidecar.digest if self._sidecar is not None else None

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
    entries: list[bytes] = []
    place = 0
    while place < len(data):
        (size,) = _LENGTH.unpack_from(data, place)
        place += _LENGTH.size
        entries.append(data[place : place + size])
        place += size
    if place != len(data) or not entries:
        raise CheckpointError(f"{path} is damaged", code="E0704", help="start over with --fresh")
    return entries
