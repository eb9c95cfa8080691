"""The file that says up to which place a log is on disk. Blocking.

Always true:
- the place is written after the messages before it are on disk, so it is never ahead of them, also after a power failure;
- it is written in turn at two places of the file, with a checksum, so a write that is cut leaves the one before.

It is not synced for each place: a process that is killed leaves it in the memory of the system. After a power failure it may
be behind, and then the blocks themselves tell the end.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import xxhash

from dataflare.sdk.push.blocks import Place

_RECORD = struct.Struct("<QQQQ")
_SLOTS = (0, 512)
_NAME = "end"


class EndMark:
    def __init__(self, folder: Path) -> None:
        """Open it, or make it without a place. Raises OSError."""
        self._number = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        first, second = (self._read(at) for at in _SLOTS)
        self._next = 1 if first is not None and (second is None or second < first) else 0
        self.place = first if self._next else second

    def _read(self, at: int) -> Place | None:
        data = os.pread(self._number, _RECORD.size, at)
        if len(data) < _RECORD.size:
            return None
        offset, segment, byte, checksum = _RECORD.unpack(data)
        return Place(offset, segment, byte) if checksum == _checksum(data[:-8]) else None

    def write(self, place: Place) -> None:
        """All before this place is on disk."""
        head = struct.pack("<QQQ", place.offset, place.segment, place.byte)
        os.pwrite(self._number, head + struct.pack("<Q", _checksum(head)), _SLOTS[self._next])
        self._next = 1 - self._next
        self.place = place

    def sync(self) -> None:
        os.fsync(self._number)

    def close(self) -> None:
        os.close(self._number)


def _checksum(head: bytes) -> int:
    return xxhash.xxh3_64_intdigest(head, seed=1)
