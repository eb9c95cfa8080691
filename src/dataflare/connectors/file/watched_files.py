"""Find what is new in watched files: new files, lines that were added, files that were rotated or truncated.

Always true: only whole records are in a segment, and only files that were left alone for `settle` are read as a whole. A
record without a line end is part of a segment once its file was left alone for as long.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from msgspec import Struct

from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.names import FoundFile
from dataflare.connectors.file.segments import Begin, Progress, Segment, next_begin
from dataflare.errors import CheckpointError
from dataflare.formats.any_file import AnyFile, FileBytes, StoredFile, open_bytes
from dataflare.formats.checksum import checksum
from dataflare.formats.records import cut

SEGMENT_BYTES = 64 << 20
_SEGMENTS_MAX = 16
"""So many segments of one file are found at a time; the others follow."""
_CHECKED_BYTES = 4 << 10


class Cutting(Struct, frozen=True):
    """What ends a record: of CSV its quote and delimiter, of NDJSON only the line end. width: its fields."""

    quote: str | None = None
    delimiter: str = ","
    width: int = 0


def number_of(path: Path) -> int:
    """What names a file while it is renamed: its device and its number there."""
    status = path.stat()
    return (status.st_dev << 64) | status.st_ino


def check_before(path: AnyFile, end: int) -> str:
    """The checksum of the bytes before `end`."""
    start = max(0, end - _CHECKED_BYTES)
    with closing(open_bytes(path)) as file:
        return checksum(file.read_at(start, end - start))


def settled(file: FoundFile, settle_s: float, now: float | None = None) -> bool:
    """Whether a file was left alone for a while. now: the time, in seconds since 1970."""
    if file.etag is not None or not isinstance(file.path, Path):
        return True  # an object appears as a whole
    return (now if now is not None else time.time()) - file.mtime_ns / 1e9 >= settle_s


def segments(
    file: FoundFile, progress: Progress, cutting: Cutting, settle_s: float
) -> Iterator[Segment]:
    """The next segments of a text file. Raises CheckpointError (E0703) if a last record that was read
    without a line end has grown."""
    assert isinstance(file.path, Path)
    path = file.path
    with file_errors(path):
        number = number_of(path)
        before = progress.last.get(number)
        same = (
            before is not None
            and file.size >= before.end
            and check_before(path, before.end) == before.check
        )
        begin = next_begin(before, file.size, same=same)
        if begin is None:
            return
        if begin.start:
            begin = _after_line_end(file, path, begin)
        for _ in range(_SEGMENTS_MAX):
            end = _end_of(file, path, begin.start, cutting, settle_s)
            if end <= begin.start:
                return
            check = check_before(path, end)
            yield Segment(file.id, number, begin.generation, begin.start, end, check)
            begin = Begin(begin.generation, end)


def _after_line_end(file: FoundFile, path: Path, begin: Begin) -> Begin:
    """Past the line end of a last record that was read without it."""
    with closing(open_bytes(path)) as opened:
        last = opened.read_at(begin.start - 1, 1)
        following = opened.read_at(begin.start, 2)
    if last == b"\n":
        return begin
    end = following if following == b"\r\n" else following[:1]
    if end not in (b"\n", b"\r\n"):
        raise CheckpointError(
            f"{path}: the last line was read without a line end, and has grown since",
            code="E0703",
            help="give a longer 'settle' than the pauses of the program that writes it, and start over with "
            "--fresh",
        )
    return Begin(begin.generation, begin.start + len(end))


def _end_of(file: FoundFile, path: Path, start: int, cutting: Cutting, settle_s: float) -> int:
    """Where the last whole record ends, at most `SEGMENT_BYTES` after `start`."""
    size = min(file.size - start, SEGMENT_BYTES)
    with closing(open_bytes(path)) as opened:
        data = opened.read_at(start, size)
        while True:
            ended = start + len(data) >= file.size and settled(file, settle_s)
            found = cut(
                data, cutting.quote, cutting.delimiter, ended=ended, width=cutting.width
            ).end
            if found or start + len(data) >= file.size:
                return start + found
            data += opened.read_at(start + len(data), SEGMENT_BYTES)  # one record is longer


def moved(progress: Progress, listed: Sequence[FoundFile]) -> list[FoundFile]:
    """Files that were read before and have names now that `path` does not match: logs that were rotated. They are
    found in the folders that they were in."""
    here = {number_of(f.path) for f in listed if isinstance(f.path, Path)}
    wanted = {number: each for number, each in progress.last.items() if number not in here}
    folders = {f.path.parent: f for f in listed if isinstance(f.path, Path)}
    found = []
    for folder, beside in folders.items():
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                number = (status.st_dev << 64) | status.st_ino
                before = wanted.get(number)
                if before is None or not entry.is_file() or status.st_size < before.end:
                    continue
                # The number of a removed file may be given to another.
                if check_before(Path(entry.path), before.end) == before.check:
                    id_ = f"{beside.id.rpartition('/')[0]}/{entry.name}".lstrip("/")
                    name = id_ if beside.id.startswith("/") is False else entry.path
                    found.append(
                        FoundFile(Path(entry.path), name, status.st_size, status.st_mtime_ns)
                    )
    return found


class HeldFile(StoredFile):
    """A file of this machine that is held open, so that it stays the same while its name is given to another."""

    def __init__(self, path: Path) -> None:
        self._path, self.name = path, path.name
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self._fd)
        self.size, self.number = status.st_size, (status.st_dev << 64) | status.st_ino

    def __str__(self) -> str:
        return str(self._path)

    def open_bytes(self) -> FileBytes:
        return _Held(self)

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def __del__(self) -> None:
        os.close(self._fd)


class _Held:
    def __init__(self, file: HeldFile) -> None:
        self._file = file

    def read_at(self, offset: int, size: int) -> bytes:
        return self._file.read_at(offset, size)

    def close(self) -> None:
        return


def hold(path: Path, segment: Segment) -> HeldFile | None:
    """The file of a segment, under its name or under another in the same folder; None if it is gone or has
    other bytes."""
    for each in (path, *(path.parent.iterdir() if path.parent.is_dir() else ())):
        with suppress(OSError):
            if number_of(each) == segment.number:
                held = HeldFile(each)
                if held.number == segment.number and held.size >= segment.end:
                    return held if check_before(held, segment.end) == segment.check else None
    return None
