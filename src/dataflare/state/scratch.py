"""Files that a run needs only while it lives. They have no name, so nothing is left of them when it is killed.

Nothing of a checkpoint depends on them: what is in them can be made again from the chunks of the state.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from dataflare.errors import SystemError_

_MARKER = 0xFFFFFFFF


class ScratchFile:
    """A file to append to, and to read at many places. folder: where it takes its room; None: the system's
    folder for temporary files."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.num_bytes = 0
        if folder is not None:
            make_folder(folder)
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._failed(error) from error

    def append(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self.num_bytes += len(view)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise self._failed(error) from error

    def read(self, places: Iterable[tuple[int, int]]) -> list[bytes]:
        """What is at these places. Each is a number of bytes from the start, and how many follow."""
        number = self._file.fileno()
        try:
            return [os.pread(number, size, start) for start, size in places]
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        self._file.close()

    def _failed(self, error: OSError) -> SystemError_:
        return not_kept(self._folder or Path(tempfile.gettempdir()), error)


def make_folder(folder: Path) -> None:
    """Make a folder for such files, if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise not_kept(folder, error) from error


def not_kept(folder: Path, error: Exception) -> SystemError_:
    """The error for state that cannot be written to a folder, or read from it."""
    number = error.errno if isinstance(error, OSError) else None
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if number in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in text or "No space left" in text:
        return SystemError_(
            f"disk full while state is written to {folder}",
            code="E0603",
            help="free space there, or name another folder in settings.state.path",
        )
    return SystemError_(
        f"state cannot be kept in {folder}: {text}",
        code="E0602" if number is not None else "E0605",
        help="the last checkpoint is not affected: run again, or name another folder in settings.state.path",
    )


def raw_bytes(numbers: pl.Series) -> memoryview:
    """The bytes of a UInt64 column without NULL, as it is in memory: the body of its Arrow record batch."""
    stream = io.BytesIO()
    pl.DataFrame([numbers.rechunk()]).write_ipc_stream(stream, compression="uncompressed")
    view, start = stream.getbuffer(), 0
    for _ in range(2):  # the schema, then the batch
        marker, size = struct.unpack_from("<II", view, start)
        assert marker == _MARKER
        start += 8 + size
    body = view[start : start + 8 * len(numbers)]
    assert len(body) == 8 * len(numbers)
    return body
