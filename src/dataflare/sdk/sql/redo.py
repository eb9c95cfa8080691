"""Redo files: the rows of one epoch, on disk before the epoch can be complete.

Always true:
- a file is a sequence of frames, each with eight bytes of length and one Arrow IPC stream with its own schema, so a batch is appended without reading or rewriting the file;
- a few rows make no file: they are in the committable, so the manifest has them. Each of twenty small tables would else wait for an fsync of its own, and for the removal of its file;
- a growing file has the name `open-...`; only a sealed, fsynced file has an epoch in its name, and it has its attempt there too: a process that was cut off and comes back does not write over the file of the next attempt (`LocalStore.publish` syncs the folder);
- its xxh3 checksum is in the manifest, and rows that do not match are never applied;
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
from dataflare.sdk.destination import Committable
from dataflare.sdk.durable_files import open_private

_LENGTH = struct.Struct("<Q")
_REFUSED_COLUMN = "__dataflare_refused"
_SEALED = re.compile(r"^(\d+)-(\d+)(-\d+)?\.arrow$")
"""Earlier versions had no attempt in the name."""
_HELD_ROWS = 16_384
_HELD_BYTES = 4 * 2**20
_FEW_BYTES = 16 * 1024
"""So much of an epoch makes no file."""


class RedoFile(Struct, frozen=True):
    """The sealed rows of an epoch, as a committable has them. name: of their file; None if there are no rows, or they
    are few. content: the few. checksum: "" if there are no rows. rows: without the refused ones. left_out: of the final
    epoch, how many rows of the run failed before they arrived."""

    name: str | None
    checksum: str
    rows: int
    refused: int = 0
    left_out: int = 0
    content: bytes = b""

    def committable(self, subtask: int, **data: Any) -> Committable:
        """What a writer has prepared: these rows, and more data."""
        more = {"refused": self.refused, "left_out": self.left_out}
        given = {"file": self.name, "checksum": self.checksum, "rows": self.rows}
        given |= {name: rows for name, rows in more.items() if rows}
        return Committable(subtask, {**given, **data}, self.content)

    @classmethod
    def of(cls, committable: Committable) -> RedoFile:
        data = committable.data
        more = data.get("refused", 0), data.get("left_out", 0)
        return cls(data["file"], data["checksum"], data["rows"], *more, committable.content)


class RedoWriter:
    """The growing redo file of one writer. Blocking; one call at a time. rows_max: of a frame."""

    def __init__(
        self, folder: Path, attempt: int, subtask: int, rows_max: int | None = None
    ) -> None:
        self._rows_max = rows_max
        self._folder, self._subtask = folder, subtask
        self._attempt = attempt
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
        if isinstance(self._file, io.BytesIO):
            yield from _read(io.BytesIO(self._file.getvalue()))
        elif self._file is not None:
            self._file.flush()
            with open(self._folder / self._open_name, "rb") as file:
                yield from _read(file)

    def refuse(self, rows: Sequence[int]) -> None:
        """Leave these rows out of the epoch: numbers of rows added since the last `seal`."""
        self._refused += rows

    def seal(self, epoch: int) -> RedoFile:
        """Make all rows durable, give them the epoch's name, and start a new file. The store makes the name durable
        before it publishes the epoch. Of a few rows give the content, which is durable with the manifest."""
        self._write_buffer()
        if self._file is None:
            return RedoFile(None, "", 0)
        refused = len(self._refused)
        if refused:
            self._write(pl.DataFrame({_REFUSED_COLUMN: pl.Series(self._refused, dtype=pl.UInt64)}))
        name, content = None, b""
        if isinstance(self._file, io.BytesIO):
            content = self._file.getvalue()
        else:
            self._file.flush()
            os.fsync(self._file.fileno())
            name = f"{epoch}-{self._attempt}-{self._subtask}.arrow"
        self._file.close()
        if name is not None:
            os.replace(self._folder / self._open_name, self._folder / name)
        sealed = RedoFile(
            name, self._sum.hexdigest(), self.rows - refused, refused, content=content
        )
        self._file, self._sum, self.rows = None, xxhash.xxh3_64(), 0
        self._refused.clear()
        return sealed

    def close(self) -> None:
        """Discard the rows that were not sealed."""
        self._buffer.clear()
        if self._file is not None:
            is_file = not isinstance(self._file, io.BytesIO)
            self._file.close()
            self._file = None
            if is_file:
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
        stream = io.BytesIO()
        private(frame).write_ipc_stream(stream, compression="lz4")
        body = stream.getbuffer()
        head = _LENGTH.pack(len(body))
        if self._file is None:
            self._file = io.BytesIO()
        if isinstance(self._file, io.BytesIO) and self._file.tell() + len(body) > _FEW_BYTES:
            few, self._file = self._file, open_private(self._folder / self._open_name)
            self._file.write(few.getbuffer())
        for part in (head, body):
            self._file.write(part)
            self._sum.update(part)


def frames(folder: Path, file: RedoFile) -> Iterator[pl.DataFrame]:
    """The sealed rows without the refused ones, frame by frame, after their checksum was verified. Raises
    CheckpointError (E0703) if they are missing or are not those that were sealed.
    """
    if not file.checksum:
        return
    with _opened(folder, file) as source:
        _check(source, file, place_of(folder, file))
        if not file.refused:
            yield from _read(source)
            return
        refused, first = _last_frame(source)[_REFUSED_COLUMN], 0
        for frame in _read(source):
            if _REFUSED_COLUMN in frame.columns:
                return
            numbers = pl.int_range(first, first + frame.height, dtype=pl.UInt64, eager=True)
            first += frame.height
            yield frame.filter(~numbers.is_in(refused.implode()))


def _opened(folder: Path, file: RedoFile) -> IO[bytes]:
    if file.content:
        return io.BytesIO(file.content)
    try:
        if file.name is not None:
            return open(folder / file.name, "rb")
    except FileNotFoundError:
        pass
    raise CheckpointError(
        f"{place_of(folder, file)} is missing, and the rows of its epoch were not committed yet",
        code="E0703",
        help="run with --fresh to start over",
    )


def place_of(folder: Path, file: RedoFile) -> str:
    """Where the rows are, for messages."""
    if file.name is None:
        return f"what the checkpoint had of {folder.name}"
    return f"the redo file {folder / file.name}"


def _read(source: IO[bytes]) -> Iterator[pl.DataFrame]:
    source.seek(0)
    while head := source.read(_LENGTH.size):
        yield pl.read_ipc_stream(io.BytesIO(source.read(_LENGTH.unpack(head)[0])))


def _last_frame(source: IO[bytes]) -> pl.DataFrame:
    source.seek(0)
    length = 0
    while head := source.read(_LENGTH.size):
        length = _LENGTH.unpack(head)[0]
        source.seek(length, os.SEEK_CUR)
    source.seek(-length, os.SEEK_CUR)
    return pl.read_ipc_stream(io.BytesIO(source.read(length)))


def _check(source: IO[bytes], file: RedoFile, place: str) -> None:
    digest = xxhash.xxh3_64()
    while block := source.read(2**20):
        digest.update(block)
    if digest.hexdigest() != file.checksum:
        raise CheckpointError(
            f"{place} is damaged: its checksum is {digest.hexdigest()}, the checkpoint says {file.checksum}",
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
