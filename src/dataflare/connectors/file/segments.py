"""What a source that watches files reads next: pure decisions about the ids of splits, without I/O.

A text file that may grow is read in segments, which follow one another. A segment's id names the file by its number in the
file system, its generation, the bytes from and to, and a checksum of the bytes before its end. So the ids of all known splits
tell how far each file was read, whatever its name is now. A file that was truncated, or another file that has got the
number of a removed one, is a new generation. Other files are read once for each version.

Always true: a byte of one generation of a file is in at most one segment; a segment begins where the one before it ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

_SEGMENT = re.compile(r"(.*)#([0-9a-f]+)\.(\d+)@(\d+)-(\d+)\.([0-9a-f]*)", re.S)
_VERSION = re.compile(r"(.*)#v:(.*)", re.S)


class Segment(Struct, frozen=True):
    """Bytes start to end of a file. path: its id when the segment was found. number: of the file in its file
    system. check: of the bytes before `end`."""

    path: str
    number: int
    generation: int
    start: int
    end: int
    check: str

    @property
    def id(self) -> str:
        return f"{self.path}#{self.number:x}.{self.generation}@{self.start}-{self.end}.{self.check}"


def segment_of(split_id: str) -> Segment | None:
    match = _SEGMENT.fullmatch(split_id)
    if match is None:
        return None
    path, number, generation, start, end, check = match.groups()
    return Segment(path, int(number, 16), int(generation), int(start), int(end), check)


def version_id(path: str, version: str) -> str:
    """The id of a split that is one version of a whole file."""
    return f"{path}#v:{version}"


class Progress(Struct, frozen=True):
    """How far files were read. last: by file number, its newest segment. versions: by path, those of whole
    files, the newest last."""

    last: Mapping[int, Segment]
    versions: Mapping[str, list[str]]


def progress_of(ids: Iterable[str]) -> Progress:
    """From the ids of all known splits."""
    last: dict[int, Segment] = {}
    versions: dict[str, list[str]] = {}
    for each in ids:
        segment = segment_of(each)
        if segment is not None:
            before = last.get(segment.number)
            if before is None or (before.generation, before.end) < (
                segment.generation,
                segment.end,
            ):
                last[segment.number] = segment
        elif (match := _VERSION.fullmatch(each)) is not None:
            versions.setdefault(match[1], []).append(match[2])
    return Progress(last, versions)


class Begin(Struct, frozen=True):
    """Where the next segment of a file begins."""

    generation: int
    start: int


def next_begin(before: Segment | None, size: int, *, same: bool) -> Begin | None:
    """Where to go on in a file of `size` bytes; None if nothing was added. same: whether the bytes before the
    end of its newest segment are still the same."""
    if before is None:
        return Begin(0, 0) if size else None
    if size < before.end or not same:
        return Begin(before.generation + 1, 0) if size else None
    return Begin(before.generation, before.end) if size > before.end else None
