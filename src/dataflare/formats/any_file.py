"""Files of this machine and files of other places, read in the same way: bytes at an offset.

Always true: `read_at` returns fewer bytes than asked only at the end of the file; all bytes that one
`FileBytes` returns are of one version of the file, or it raises an error.
"""

from __future__ import annotations

import io
import os
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
    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY)

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


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
