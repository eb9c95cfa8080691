"""Files of this machine and files of other places, read in the same way: bytes at an offset.

Always true: `read_at` returns fewer bytes than asked only at the end of the file; all bytes that one
`FileBytes` returns are of one version of the file, or it raises an error.
"""

from __future__ import annotations

import errno
import io
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol


class FileBytes(Protocol):
    """An open file. One thread at a time."""

    def read_at(self, offset: int, size: int) -> bytes: ...

    def close(self) -> None: ...


class StoredFile(ABC):
    """One version of a file that is not on a disk of this machine. `str` gives its URL."""

    name: str
    size: int
    etag: str | None = None

    @property
    def suffixes(self) -> Sequence[str]:
        """As `Path.suffixes`."""
        return Path(self.name).suffixes

    @abstractmethod
    def open_bytes(self) -> FileBytes: ...


AnyFile = Path | StoredFile


def open_bytes(file: AnyFile) -> FileBytes:
    """Raises OSError, or what the file's place raises."""
    return _LocalBytes(file) if isinstance(file, Path) else file.open_bytes()


def open_raw(file: AnyFile) -> IO[bytes]:
    """The file as a Python file object, read from its start."""
    if isinstance(file, Path):
        return file.open("rb")
    return io.BufferedReader(_Raw(file.open_bytes()), 128 << 10)


class _LocalBytes:
    """A file of this machine. A run that is cancelled closes it while another thread reads it. Then that thread closes
    it: the number of a closed file belongs to the next file that is opened, and a read would give bytes of that."""

    def __init__(self, path: Path) -> None:
        self._reading = threading.Lock()
        self._closed = threading.Event()
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_at(self, offset: int, size: int) -> bytes:
        with self._reading:
            if self._closed.is_set():
                raise OSError(errno.EBADF, "the file was closed")
            data = os.pread(self._fd, size, offset)
        if self._closed.is_set():
            self.close()
        return data

    def close(self) -> None:
        self._closed.set()
        if self._reading.acquire(blocking=False):
            try:
                fd, self._fd = self._fd, -1
                if fd >= 0:
                    os.close(fd)
            finally:
                self._reading.release()

    def __del__(self) -> None:
        # A reader that was opened while its run was cancelled has no owner.
        self.close()


class _Raw(io.RawIOBase):
    def __init__(self, file: FileBytes) -> None:
        self._file, self._offset = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._file.read_at(self._offset, len(buffer))
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
