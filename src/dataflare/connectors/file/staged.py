"""A file in staging: appended to, checksummed on the way, and checked before it is published.

Always true: what is published has the length and the checksum that `prepare` wrote into the
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
    """Appends to a file and knows its length and checksum.

    Its folder exists. length: where to go on; what lies behind it is cut off. digest: the checksum of what lies before
    it, as `digest` gave it; without it the content is read once.
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
            written = os.pwrite(self._file.fileno(), view, self.length)
            self.length += written
            view = view[written:]

    def fileno(self) -> int:
        return self._file.fileno()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class StagedContent(Struct, frozen=True):
    """What a staged file must hold: plain data of a checkpoint.

    digest: of the whole content; checkpoints of earlier versions have a checksum of its end alone
    (`tail`), or none. seen: what `stat` said when the content was complete. A file that still looks
    so was not touched, and is not read again by the process that wrote it.
    """

    length: int
    digest: str | None = None
    tail: str | None = None
    seen: tuple[int, ...] | None = None

    def check(self, path: Path, *, thorough: bool, whole: bool = True) -> None:
        """Raise CheckpointError (E0704) unless the file holds this content. thorough: read it even
        if it looks untouched. whole: nothing may follow the content. A FileNotFoundError passes."""
        status = path.stat()
        if not thorough and self.seen is not None and self.seen == _look(status):
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
        """Whether the file holds exactly this."""
        return path.exists() and path.stat().st_size == self.length and self._matches(path)


def looks(path: Path) -> tuple[int, ...]:
    """For `StagedContent.seen`."""
    return _look(path.stat())


def _look(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def content_of(data: Mapping[str, Any]) -> StagedContent:
    """Of a committable of one file."""
    seen = data.get("seen")
    return StagedContent(
        data["length"], data.get("digest"), data.get("check"), tuple(seen) if seen else None
    )


def _digest(path: Path, length: int) -> str:
    """The checksum of the first `length` bytes, as `AppendedFile.digest` gives it."""
    found = ReadChecksum()
    with path.open("rb") as file:
        left = length
        while left and (block := file.read(min(BLOCK_BYTES, left))):
            found.update(block)
            left -= len(block)
    return found.value


def _tail(path: Path, length: int) -> str:
    with path.open("rb") as file:
        start = max(0, length - _TAIL_BYTES)
        file.seek(start)
        return checksum(file.read(length - start))
