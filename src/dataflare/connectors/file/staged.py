"""A file in staging. Its checksum is computed while it grows, and checked before it is published.

Always true: the published file has the length and the checksum that `prepare` wrote into the
checkpoint. Everything here blocks: call it on a thread.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from dataflare.errors import CheckpointError
from dataflare.formats.checksum import BLOCK_BYTES, ReadChecksum, checksum
from dataflare.sdk.crashpoints import crash_point

_TAIL_BYTES = 64 << 10


class AppendedFile:
    """Appends to a file and computes its length and checksum.

    Its folder exists. length: where to continue; the rest is cut off. digest: the checksum of the
    content before it, from an earlier `digest`; without it the content is read once.
    """

    def __init__(self, path: Path, length: int, digest: str | None = None) -> None:
        self.path, self.length = path, length
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._file = open(fd, "r+b", buffering=0)  # noqa: SIM115
        self._file.truncate(length)
        self._checksum = ReadChecksum(digest)
        start = length - length % BLOCK_BYTES if digest is not None else 0
        while start < length:
            block = os.pread(fd, min(BLOCK_BYTES, length - start), start)
            self._checksum.update(block)
            start += len(block)

    @property
    def digest(self) -> str:
        """The checksum of everything up to `length`."""
        return self._checksum.value

    def append(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        half = len(view) // 2
        self._write(view[:half])
        crash_point("file.write.mid_row_group")
        self._write(view[half:])
        self._checksum.update(view)

    def _write(self, view: memoryview) -> None:
        while view:
            num_bytes = os.pwrite(self._file.fileno(), view, self.length)
            self.length += num_bytes
            view = view[num_bytes:]

    def fileno(self) -> int:
        return self._file.fileno()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class StagedContent(Struct, frozen=True):
    """The required content of a staged file, as plain data of a checkpoint.

    digest: of the whole content; checkpoints of earlier versions have only a checksum of its end
    (`tail`), or none. stat: of the file when the content was complete. If it is unchanged, the
    process that wrote the file does not read it again.
    """

    length: int
    digest: str | None = None
    tail: str | None = None
    stat: tuple[int, ...] | None = None

    def check(self, path: Path, *, thorough: bool, whole: bool = True) -> None:
        """Raise CheckpointError (E0704) unless the file holds this content. thorough: read it even
        if `stat` is unchanged. whole: nothing may follow the content. Also raises
        FileNotFoundError."""
        status = path.stat()
        if not thorough and self.stat is not None and self.stat == _look(status):
            return
        longer = status.st_size - self.length
        if longer < 0 or (whole and longer) or not self._matches(path):
            raise CheckpointError(
                f"{path} is not what the last checkpoint left: its length or its checksum differs",
                code="E0704",
                help="another program changed it; start over with --fresh",
            )

    def _matches(self, path: Path) -> bool:
        if self.digest is not None:
            return _digest(path, self.length) == self.digest
        if self.tail is not None:
            return _tail(path, self.length) == self.tail
        return True

    def is_in(self, path: Path) -> bool:
        """Whether the file has exactly this content."""
        return path.exists() and path.stat().st_size == self.length and self._matches(path)


def looks(path: Path) -> tuple[int, ...]:
    """The value for `StagedContent.stat`."""
    return _look(path.stat())


def _look(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def content_of(data: Mapping[str, Any]) -> StagedContent:
    """The content from a committable of one file."""
    stat = data.get("seen")
    return StagedContent(
        data["length"], data.get("digest"), data.get("check"), tuple(stat) if stat else None
    )


def _digest(path: Path, length: int) -> str:
    """The checksum of the first `length` bytes, as `AppendedFile.digest` gives it."""
    checksum = ReadChecksum()
    with path.open("rb") as file:
        remaining = length
        while remaining and (block := file.read(min(BLOCK_BYTES, remaining))):
            checksum.update(block)
            remaining -= len(block)
    return checksum.value


def _tail(path: Path, length: int) -> str:
    with path.open("rb") as file:
        start = max(0, length - _TAIL_BYTES)
        file.seek(start)
        return checksum(file.read(length - start))
