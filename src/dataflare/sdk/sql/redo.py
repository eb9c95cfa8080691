"""Redo files: the rows of one epoch, on disk before the epoch can be complete.

Always true:
- a file is a sequence of frames, each with eight bytes of length and one Arrow IPC stream with its own schema, so a batch is appended without reading or rewriting the file;
- a growing file has the name `open-...`; only a sealed, fsynced file has an epoch in its name (`LocalStore.publish` syncs the folder);
- its xxh3 checksum is in the manifest, and a file that does not match is never applied;
- rows that the destination refuses stay in it: their numbers are in its last frame, and they are skipped.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import polars as pl
import xxhash
from msgspec import Struct

from dataflare.errors import CheckpointError
from dataflare.model.batch import private
from dataflare.sdk.durable_files import open_private

_LENGTH = struct.Struct("<Q")
_REFUSED_COLUMN = "__dataflare_refused"
_SEALED = re.compile(r"^(\d+)-(\d+)\.arrow$")
_HELD_ROWS = 16_384
_HELD_BYTES = 4 * 2**20


class RedoFile(Struct, frozen=True):
    """A sealed redo file, as part of a committable. name: None if the epoch has no rows. rows:
    without the refused ones. left_out: of the final epoch, how many rows of the run failed before they
    arrived."""

    name: str | None
    checksum: str
    rows: int
    refused: int = 0
    left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        data = {"file": self.name, "checksum": self.checksum, "rows": self.rows}
        more = {"refused": self.refused, "left_out": self.left_out}
        return data | {name: rows for name, rows in more.items() if rows}

    @classmethod
    def from_json(cls, data: Any) -> RedoFile:
        more = data.get("refused", 0), data.get("left_out", 0)
        return cls(data["file"], data["checksum"], data["rows"], *more)


class RedoWriter:
    """The growing redo file of one writer. Blocking; one call at a time. rows_max: of a frame."""

    def __init__(
        self, folder: Path, attempt: int, subtask: int, rows_max: int | None = None
    ) -> None:
        self._rows_max = rows_max
        self._folder, self._subtask = folder, subtask
        self._open_name = f"open-{attempt}-{subtask}.arrow"
        self._file: IO[bytes] | None = None
        self._sum = xxhash.xxh3_64()
        self._buffer: list[pl.DataFrame] = []
        self._held_rows = self._held_bytes = self.rows = 0
        self._refused: list[int] = []

    def append(self, frame: pl.DataFrame, num_bytes: int) -> None:
        """Add rows. Small batches are buffered until some thousand rows make a frame."""
        if self._buffer and self._buffer[0].schema != frame.schema:
            self._write_buffer()
        self._buffer.append(frame)
        self.rows += frame.height
        self._held_rows += frame.height
        self._held_bytes += num_bytes
        if self._held_rows >= _HELD_ROWS or self._held_bytes >= _HELD_BYTES:
            self._write_buffer()

    def frames(self) -> Iterator[pl.DataFrame]:
        """The rows added since the last `seal`."""
        self._write_buffer()
        if self._file is not None:
            self._file.flush()
            yield from _read(self._folder / self._open_name)

    def refuse(self, rows: Sequence[int]) -> None:
        """Leave these rows out of the epoch: numbers of rows added since the last `seal`."""
        self._refused += rows

    def seal(self, epoch: int) -> RedoFile:
        """Make all rows durable, give them the epoch's name, and start a new file. The store makes the name durable
        before it publishes the epoch."""
        self._write_buffer()
        if self._file is None:
            return RedoFile(None, "", 0)
        refused = len(self._refused)
        if refused:
            self._write(pl.DataFrame({_REFUSED_COLUMN: pl.Series(self._refused, dtype=pl.UInt64)}))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        name = f"{epoch}-{self._subtask}.arrow"
        os.replace(self._folder / self._open_name, self._folder / name)
        sealed = RedoFile(name, self._sum.hexdigest(), self.rows - refused, refused)
        self._file, self._sum, self.rows = None, xxhash.xxh3_64(), 0
        self._refused.clear()
        return sealed

    def close(self) -> None:
        """Discard the rows that were not sealed."""
        self._buffer.clear()
        if self._file is not None:
            self._file.close()
            self._file = None
            (self._folder / self._open_name).unlink(missing_ok=True)

    def _write_buffer(self) -> None:
        if not self._buffer:
            return
        frame = (
            self._buffer[0] if len(self._buffer) == 1 else pl.concat(self._buffer, rechunk=False)
        )
        self._buffer.clear()
        self._held_rows = self._held_bytes = 0
        for part in frame.iter_slices(self._rows_max) if self._rows_max else (frame,):
            self._write(part)

    def _write(self, frame: pl.DataFrame) -> None:
        if self._file is None:
            self._file = open_private(self._folder / self._open_name)
        stream = io.BytesIO()
        private(frame).write_ipc_stream(stream, compression="lz4")
        body = stream.getbuffer()
        head = _LENGTH.pack(len(body))
        for part in (head, body):
            self._file.write(part)
            self._sum.update(part)


def frames(folder: Path, file: RedoFile) -> Iterator[pl.DataFrame]:
    """The rows of a sealed file without the refused ones, frame by frame, after its checksum was
    verified. Raises CheckpointError (E0703) if the file is missing or is not the one that was
    sealed.
    """
    if file.name is None:
        return
    path = folder / file.name
    try:
        _check(path, file)
        if not file.refused:
            yield from _read(path)
            return
        refused, first = _last_frame(path)[_REFUSED_COLUMN], 0
        for frame in _read(path):
            if _REFUSED_COLUMN in frame.columns:
                return
            numbers = pl.int_range(first, first + frame.height, dtype=pl.UInt64, eager=True)
            first += frame.height
            yield frame.filter(~numbers.is_in(refused.implode()))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"the redo file {path} is missing, and the rows of its epoch were not committed yet",
            code="E0703",
            help="run with --fresh to start over",
        ) from error


def _read(path: Path) -> Iterator[pl.DataFrame]:
    with open(path, "rb") as source:
        while head := source.read(_LENGTH.size):
            yield pl.read_ipc_stream(io.BytesIO(source.read(_LENGTH.unpack(head)[0])))


def _last_frame(path: Path) -> pl.DataFrame:
    with open(path, "rb") as source:
        length = 0
        while head := source.read(_LENGTH.size):
            length = _LENGTH.unpack(head)[0]
            source.seek(length, os.SEEK_CUR)
        source.seek(-length, os.SEEK_CUR)
        return pl.read_ipc_stream(io.BytesIO(source.read(length)))


def _check(path: Path, file: RedoFile) -> None:
    digest = xxhash.xxh3_64()
    with open(path, "rb") as source:
        while block := source.read(2**20):
            digest.update(block)
    if digest.hexdigest() != file.checksum:
        raise CheckpointError(
            f"the redo file {path} is damaged: its checksum is {digest.hexdigest()}, "
            f"the checkpoint says {file.checksum}",
            code="E0703",
            help="run with --fresh to start over",
        )


def clear_after(folder: Path, epoch: int) -> None:
    """Remove unsealed files and files of later epochs: no manifest names them."""
    for path in _files(folder):
        match = _SEALED.match(path.name)
        if match is None or int(match.group(1)) > epoch:
            path.unlink(missing_ok=True)


def clear_before(folder: Path, epoch: int) -> None:
    """Remove the files of epochs below `epoch`: the destination has their rows."""
    for path in _files(folder):
        match = _SEALED.match(path.name)
        if match is not None and int(match.group(1)) < epoch:
            path.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.suffix == ".arrow"] if folder.is_dir() else []
