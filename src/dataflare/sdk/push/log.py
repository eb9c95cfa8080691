"""A log on disk between those who send messages and the run that reads them. Blocking.

Always true:
- `append` returns after its messages are on disk (fsync); what it returned for is read again after any crash;
- what is behind the end that the mark tells can be incomplete: it is cut off when the log is opened, because it was
  not acknowledged. Any other block that cannot be read or is not there is an error;
- the log never has more than `bytes_max` bytes and one block; only whole segments before `trim`'s offset go;
- at least one message stays once there was one, so offsets are never given twice, and `last` knows it.

One thread appends, one reads; any may trim. One process has the log open.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.durable_files import open_private, sync_folder
from dataflare.sdk.push.blocks import (
    HEAD,
    Block,
    Message,
    Place,
    block_after,
    block_at,
    count_of,
    encoded,
    length_at,
    messages_of,
    segment_path,
    segments_in,
)
from dataflare.sdk.push.mark import EndMark

_ABOUT = "log.json"
_LOCK = "lock"
_FORMAT, _WITHOUT_MARK = 2, 1
_LOOK_BYTES = 1 << 20
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class LogFull(Exception):
    """There is no room until messages are committed."""


class _About(Struct):
    format: int
    id: str


_open: dict[Path, PushLog] = {}
"""The logs that this process has open, by their folders."""
_opening = threading.Lock()


class PushLog:
    """id: of this log; a log that was deleted and made again has another one. end: where the next message goes."""

    def __init__(self, folder: Path, *, bytes_max: int, step: str) -> None:
        """Open it, or make it. Raises SystemError_ (E0600, E0603, E0605, E0613)."""
        self._folder, self._bytes_max, self._step = folder, bytes_max, step
        self._segment_max = max(1, bytes_max // 8)
        self._file: int | None = None
        self._segment = 0
        """The one that is open to be appended to, by its first offset."""
        self._broken: DataFlareError | None = None
        self._mark: EndMark | None = None
        self._sizes: dict[int, int] = {}
        self._guard = threading.Lock()
        self._lock: int | None = None
        self.trimmed: Callable[[], None] | None = None
        """Called when there may be room again, on any thread."""
        with self._system_errors("opened"):
            _make_folder(folder)
            self._lock = self._locked()
            try:
                about = self._about()
                self.id = about.id
                self._mark = EndMark(folder)
                self.end = self._recovered(has_mark=about.format != _WITHOUT_MARK)
                self._note_end()
                if about.format != _FORMAT:
                    self._write_about(_About(_FORMAT, about.id))
            except BaseException:
                self.close()
                raise
        with _opening:
            _open[folder.resolve()] = self

    # -- writing -----------------------------------------------------------------------------------

    def append(self, messages: Sequence[Message]) -> Place:
        """Put messages at the end, durably. Gives the place behind them. Raises LogFull, and SystemError_ where
        they may or may not be there: then the log must be opened again."""
        if self._broken is not None:
            raise self._broken
        end = self.end
        data = encoded(end.offset, messages)
        if self.num_bytes and self.num_bytes + len(data) > self._bytes_max:
            raise LogFull
        try:
            with self._system_errors("written"):
                segment, byte = self._room(end, len(data))
                assert self._file is not None
                crash_point("push.before_write")
                _write_all(self._file, data, byte)
                crash_point("push.before_fsync")
                os.fsync(self._file)
                crash_point("push.after_fsync")
        except DataFlareError as error:
            self._undo(end, error)
            raise
        after = Place(end.offset + len(messages), segment, byte + len(data))
        assert self._mark is not None
        with self._system_errors("written"), self._guard:
            self._mark.write(after)
            self._sizes[segment] = after.byte
        self.end = after
        return after

    def _note_end(self) -> None:
        assert self._mark is not None
        if self._mark.place != self.end:
            assert self._file is not None
            os.fsync(self._file)  # a process that was killed may have written it only
            self._mark.write(self.end)
        self._mark.sync()

    def _undo(self, end: Place, error: DataFlareError) -> None:
        """Cut off what a failed write left. Where that fails too, nothing is written any more."""
        self._broken = error
        if error.code != "E0603" or self._file is None:
            # After a failed fsync it is unknown what is on disk; opening it again reads what is there.
            return
        with contextlib.suppress(OSError):
            # Nothing of a segment that has just begun was acknowledged.
            os.ftruncate(self._file, end.byte if self._segment == end.segment else 0)
            os.fsync(self._file)
            self._broken = None

    def _room(self, end: Place, num_bytes: int) -> tuple[int, int]:
        """The segment and the byte where a block goes; a new segment where the last one is full."""
        size = self._sizes[end.segment]
        # Where a write failed after its segment began, the next one goes there too: the file of the one before is closed.
        if self._segment == end.segment and (
            size == 0 or size + num_bytes <= self._segment_max or end.offset == end.segment
        ):
            return end.segment, size
        self._begin(end.offset)
        return end.offset, 0

    def _begin(self, first: int) -> None:
        """Open a segment to append to it. Where that fails the one before stays open."""
        number = os.open(
            segment_path(self._folder, first), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        if self._file is not None:
            os.close(self._file)
        self._file, self._segment = number, first
        sync_folder(self._folder)
        with self._guard:
            self._sizes[first] = os.fstat(self._file).st_size

    # -- reading -----------------------------------------------------------------------------------

    @property
    def start(self) -> Place:
        """The oldest message that is there."""
        with self._guard:
            first = min(self._sizes)
        return Place(first, first, 0)

    def last(self) -> list[Any] | None:
        """The newest message that is there."""
        for first in sorted(self._sizes, reverse=True):
            place, found = Place(first, first, 0), None
            while place.offset < self.end.offset and place.segment == first:
                if place.byte >= self._sizes[first]:
                    break
                blocks, place = self.read(place, _LOOK_BYTES)
                found = messages_of(blocks[-1])[-1]
            if found is not None:
                return found
        return None

    def check(self, place: Place) -> Place | None:
        """The place where reading goes on from this one; None where its messages are gone."""
        if place.offset >= self.end.offset:
            return self.end if place.offset == self.end.offset else None
        if place.offset in self._sizes:
            return Place(place.offset, place.offset, 0)
        if place.byte >= self._sizes.get(place.segment, 0):
            return None
        block = self._blocks(place, 1)
        return place if block[0].offset == place.offset else None

    def read(self, place: Place, bytes_max: int) -> tuple[list[Block], Place]:
        """The blocks from a place on, about `bytes_max` and at least one, and the place behind them. None where
        the log ends there. Raises SystemError_ (E0613) for a block that is damaged."""
        if place.offset >= self.end.offset:
            return [], place
        if place.offset in self._sizes:
            place = Place(place.offset, place.offset, 0)
        blocks = self._blocks(place, bytes_max)
        offset, byte = place.offset, place.byte
        for block in blocks:
            if block.offset != offset:
                raise self._damaged(place.segment, byte)
            offset, byte = offset + count_of(block), byte + block.num_bytes
        return blocks, Place(offset, place.segment, byte)

    def _blocks(self, place: Place, bytes_max: int) -> list[Block]:
        with self._system_errors("read"):
            number = os.open(segment_path(self._folder, place.segment), os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = self._sizes[place.segment]
                if place.segment == self.end.segment:
                    size = min(size, self.end.byte)
                data = os.pread(number, min(bytes_max + HEAD.size, size - place.byte), place.byte)
                first = length_at(data)
                if first is not None and first > len(data):
                    data = os.pread(number, first, place.byte)
            finally:
                os.close(number)
        blocks: list[Block] = []
        at = 0
        while (block := block_at(data, at)) is not None:
            blocks.append(block)
            at += block.num_bytes
        if not blocks:
            raise self._damaged(place.segment, place.byte)
        return blocks

    # -- room --------------------------------------------------------------------------------------

    @property
    def num_bytes(self) -> int:
        with self._guard:
            return sum(self._sizes.values())

    def trim(self, offset: int) -> None:
        """Forget the segments whose messages are all before an offset. Raises SystemError_."""
        with self._guard:
            firsts = sorted(self._sizes)
            gone = [a for a, b in itertools.pairwise(firsts) if b <= offset and self._sizes[b]]
            with self._system_errors("trimmed"):
                if gone and self._mark is not None:
                    self._mark.sync()  # else it could name a segment that is gone
                # The oldest first: what is left has no gap, whenever the process dies.
                for first in gone:
                    segment_path(self._folder, first).unlink(missing_ok=True)
                    del self._sizes[first]
                if gone:
                    sync_folder(self._folder)
        if gone and (tell := self.trimmed) is not None:
            tell()

    def close(self) -> None:
        with _opening:
            _open.pop(self._folder.resolve(), None)
        self.trimmed = None
        for number in (self._file, self._lock):
            if number is not None:
                os.close(number)
        self._file = self._lock = None
        if self._mark is not None:
            self._mark.close()
            self._mark = None

    # -- opening -----------------------------------------------------------------------------------

    def _locked(self) -> int:
        number = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(number)
            raise SystemError_(
                f"the log {self._folder} is in use by another step or another process",
                code="E0605",
                step=self._step,
                retry=Retry.LATER,
                help="give each step a log of its own",
            ) from error
        return number

    def _about(self) -> _About:
        path = self._folder / _ABOUT
        try:
            about = msgspec.json.decode(path.read_bytes(), type=_About)
        except FileNotFoundError:
            if segments_in(self._folder):
                raise self._unusable(f"it has messages and no {_ABOUT}") from None
            return self._new()
        except msgspec.DecodeError as error:
            raise self._unusable(f"{_ABOUT} cannot be read: {error}") from error
        if about.format not in (_FORMAT, _WITHOUT_MARK):
            raise self._unusable(f"it has the format {about.format}, which a newer version wrote")
        return about

    def _new(self) -> _About:
        """It is not there before the mark is."""
        mark = EndMark(self._folder)
        try:
            mark.write(Place(0, 0, 0))
            mark.sync()
        finally:
            mark.close()
        about = _About(_FORMAT, str(uuid.uuid4()))
        self._write_about(about)
        return about

    def _write_about(self, about: _About) -> None:
        temporary = self._folder / f".tmp-{_ABOUT}"
        with open_private(temporary) as file:
            file.write(msgspec.json.encode(about))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._folder / _ABOUT)
        sync_folder(self._folder)

    def _recovered(self, *, has_mark: bool) -> Place:
        """The end of the log. What the last segment has behind its last whole block is cut off, unless the mark says that it
        was whole."""
        assert self._mark is not None
        firsts, mark = segments_in(self._folder), self._mark.place
        if has_mark and mark is None:
            raise self._unusable("the file that tells its end is missing or damaged")
        if mark is not None and mark.offset and mark.segment not in firsts:
            name = segment_path(self._folder, mark.segment).name
            raise self._unusable(f"{name} is missing, which has its last messages")
        if not firsts:
            self._begin(0)
            return Place(0, 0, 0)
        for first in firsts:
            self._sizes[first] = segment_path(self._folder, first).stat().st_size
        last = firsts[-1]
        path = segment_path(self._folder, last)
        data = path.read_bytes()
        at, offset = 0, last
        while (block := block_at(data, at)) is not None and block.offset == offset:
            at, offset = at + block.num_bytes, offset + count_of(block)
        if mark is not None and offset < mark.offset:
            raise self._damaged(last, at)
        if at < len(data):
            if block is not None or block_after(data, at):
                raise self._damaged(last, at)
            number = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.ftruncate(number, at)
                os.fsync(number)
            finally:
                os.close(number)
        self._begin(last)
        return Place(offset, last, at)

    # -- errors ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _system_errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror or str(error)
            full = error.errno in _NO_ROOM
            raise SystemError_(
                f"the log {self._folder} cannot be {verb}: {why}",
                code="E0603" if full else "E0600",
                step=self._step,
                retry=Retry.LATER,
                help="free space on its disk" if full else "see whether its disk works",
            ) from error

    def _unusable(self, why: str) -> SystemError_:
        return SystemError_(
            f"the log {self._folder} cannot be used: {why}",
            code="E0613",
            step=self._step,
            help="restore the folder from a copy, or move it away and run with --fresh: then the messages in it "
            "that were not read are lost",
        )

    def _damaged(self, segment: int, byte: int) -> SystemError_:
        name = segment_path(self._folder, segment).name
        return self._unusable(
            f"{name} is damaged at byte {byte:,}, where messages were that have been acknowledged"
        )


def trim(folder: Path, offset: int) -> None:
    """Forget messages before an offset, of a log that this process has open."""
    with _opening:
        log = _open.get(folder.resolve())
    if log is not None:
        log.trim(offset)


def _write_all(number: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(number, view, at)
        view, at = view[written:], at + written


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents durably."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def first_messages(folder: Path, count: int) -> list[list[Any]]:
    """Some messages of a log, the oldest that are there; none where it cannot be read. It need not be open."""
    found: list[list[Any]] = []
    with contextlib.suppress(OSError):
        for first in segments_in(folder):
            data, at = segment_path(folder, first).read_bytes(), 0
            while len(found) < count and (block := block_at(data, at)) is not None:
                found += messages_of(block)
                at += block.num_bytes
            if len(found) >= count:
                break
    return found[:count]
