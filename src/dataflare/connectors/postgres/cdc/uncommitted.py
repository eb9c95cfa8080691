"""Transactions that the server sends in pieces while they run (version 2 of the protocol), kept on disk until they end.

Always true: messages are given in the order of commits and as version 1 has them, so nothing behind this knows of pieces;
nothing is given of what was rolled back. The files are of one connection: the next one is sent all of it again.
Messages: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

import errno
import re
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, count, pairwise
from operator import itemgetter
from pathlib import Path

from dataflare.connectors.postgres.cdc.wire import Received
from dataflare.errors import SystemError_
from dataflare.sdk.crashpoints import crash_point
from dataflare.state.scratch import ScratchFile

_BODY = 25
_LETTER = itemgetter(_BODY)
_START, _STOP, _ABORT, _COMMIT, _TABLE = b"S", b"E", b"A", b"c", b"R"
_MARK = re.compile(b"[SAc]")
"""Messages between pieces that version 1 does not have."""
_PART_AT, _REST_AT = _BODY + 1, _BODY + 5
"""In a piece, the number of the part of the transaction stands behind the letter of each message."""
_TABLE_AT = slice(26, 30)
_NUMBER = struct.Struct(">I")
_STREAM_COMMIT = struct.Struct(">IBQQq")
_V1_BEGIN, _V1_COMMIT = struct.Struct(">cQqI"), struct.Struct(">cBQQq")

Description = tuple[int, bytes]
"""Of a table: how many descriptions came before it, and the message."""


class Pieces:
    """What was sent of one transaction, some messages a block. A part of it is what a savepoint began; it has a number as
    transactions have, and so has the rest. folder: for the file; None: that of the system."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._undone: set[bytes] = set()
        """Parts that were rolled back."""
        self._described: dict[tuple[bytes, bytes], Description] = {}
        """By table and part, the last one."""
        self._file: _PieceFile | None = None
        self._ends: list[int] = []
        """Where blocks end in the file."""

    @property
    def blocks(self) -> int:
        return len(self._ends)

    def describe(self, message: bytes, described: int) -> None:
        """A table as a message says that it is. described: how many descriptions came before it."""
        part = message[_PART_AT:_REST_AT]
        message = message[:_PART_AT] + message[_REST_AT:]
        self._described[message[_TABLE_AT], part] = (described, message)

    def undo(self, part: bytes) -> None:
        self._undone.add(part)
        for key in [key for key in self._described if key[1] == part]:
            del self._described[key]

    def described(self) -> dict[bytes, Description]:
        """By table, the last description."""
        found: dict[bytes, Description] = {}
        for (table, _), each in self._described.items():
            found[table] = max(each, found.get(table, each))
        return found

    def store(self, messages: Sequence[bytes]) -> None:
        """Put messages of a piece on disk."""
        if not messages:
            return
        if self._file is None:
            self._file = _PieceFile(self._folder)
        head = struct.pack(f"<{len(messages) + 1}I", len(messages), *map(len, messages))
        self._file.append(b"".join([head, *messages]))
        self._ends.append(self._file.num_bytes)
        crash_point("postgres.cdc.after_piece")

    def block(self, number: int) -> list[bytes]:
        """Its messages as version 1 has them, without those of parts that were rolled back."""
        assert self._file is not None
        start = self._ends[number - 1] if number else 0
        data = self._file.whole(start, self._ends[number] - start)
        (many,) = struct.unpack_from("<I", data)
        sizes, undone = struct.unpack_from(f"<{many}I", data, 4), self._undone
        return [
            data[at : at + _PART_AT] + data[at + _REST_AT : end]
            for at, end in pairwise(accumulate(sizes, initial=4 + 4 * many))
            if not undone or data[at + _PART_AT : at + _REST_AT] not in undone
        ]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Committed:
    """A transaction that is given now. commit: the message that says so. behind: messages that follow it."""

    def __init__(self, pieces: Pieces, commit: bytes, behind: Sequence[bytes]) -> None:
        number, flags, place, end, time = _STREAM_COMMIT.unpack_from(commit, _BODY + 1)
        head = commit[:_BODY]
        self._first = [head + _V1_BEGIN.pack(b"B", place, time, number)]
        self._last = [head + _V1_COMMIT.pack(b"C", flags, place, end, time), *behind]
        self._pieces, self._next = pieces, 0

    @property
    def is_done(self) -> bool:
        return self._next > 0 and self._next >= self._pieces.blocks

    def read(self) -> list[bytes]:
        """The next messages: those of a block."""
        messages = [] if self._next else self._first
        if self._next < self._pieces.blocks:
            messages = messages + self._pieces.block(self._next)
        self._next += 1
        return messages + self._last if self.is_done else messages

    def close(self) -> None:
        self._pieces.close()


class Uncommitted:
    """Takes what was received, and gives it in the order of commits, a part at a time. folder: for files; None: that of the
    system."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._running: dict[int, Pieces] = {}
        self._inside: Pieces | None = None
        """The transaction of which a piece comes now."""
        self._queue: deque[list[bytes] | Committed] = deque()
        self._described: dict[bytes, Description] = {}
        """By table, the description that holds for messages that are in no piece."""
        self._numbers = count()
        """Of descriptions, in the order in which they come."""
        self.reached = 0
        """The server has sent all commits before it."""

    @property
    def has_more(self) -> bool:
        """Whether something that was received is to be given."""
        return bool(self._queue)

    def add(self, received: Received) -> None:
        messages, at = received.messages, 0
        letters, plain = bytes(map(_LETTER, messages)), []
        while at < len(messages):
            if self._inside is not None:
                stop = letters.find(_STOP, at)
                end = len(messages) if stop < 0 else stop
                self._keep(self._inside, messages[at:end], letters[at:end])
                self._inside, at = self._inside if stop < 0 else None, end + 1
                continue
            mark = _MARK.search(letters, at)
            end = len(messages) if mark is None else mark.start()
            for place in _places(letters[at:end], _TABLE):
                message = messages[at + place]
                self._described[message[_TABLE_AT]] = (next(self._numbers), message)
            plain += messages[at:end]
            if mark is not None and mark[0] == _COMMIT:
                self._give(plain)
                plain = []
            if mark is not None:
                self._mark(mark[0], messages[end])
            at = end + 1
        self._give(plain)
        self.reached = max(self.reached, received.end)

    def _mark(self, letter: bytes, message: bytes) -> None:
        if letter == _START:
            self._inside = self._begun(message)
        elif letter == _ABORT:
            self._undo(message)
        else:
            self._queue.append(self._committed(message))

    def take(self) -> list[bytes]:
        """The next messages. They end between two of them, wherever that is in a transaction."""
        if not self._queue:
            return []
        first = self._queue[0]
        if isinstance(first, list):
            self._queue.popleft()
            return first
        messages = first.read()
        crash_point("postgres.cdc.after_block")
        if first.is_done:
            self._queue.popleft()
            first.close()
        return messages

    def _give(self, messages: list[bytes]) -> None:
        if messages:
            self._queue.append(messages)

    def _keep(self, pieces: Pieces, messages: Sequence[bytes], letters: bytes) -> None:
        for place in _places(letters, _TABLE):
            pieces.describe(messages[place], next(self._numbers))
        pieces.store(messages)
        if messages:
            # The server reads its log in order: it has come to this change, and sends a commit when it comes to it.
            self.reached = max(self.reached, int.from_bytes(messages[-1][1:9], "big"))

    def _begun(self, message: bytes) -> Pieces:
        number = _NUMBER.unpack_from(message, _BODY + 1)[0]
        if message[_BODY + 5]:
            if number in self._running:
                raise _unexpected(number, "its beginning a second time")
            self._running[number] = Pieces(self._folder)
        elif number not in self._running:
            raise _unexpected(number, "a piece without its beginning")
        return self._running[number]

    def _undo(self, message: bytes) -> None:
        whole, part = message[26:30], message[30:34]
        number = int.from_bytes(whole, "big")
        pieces = self._running.get(number)
        if pieces is None:
            return  # all of it was rolled back
        if whole == part:
            self._running.pop(number).close()
        else:
            pieces.undo(part)

    def _committed(self, message: bytes) -> Committed:
        number = _NUMBER.unpack_from(message, _BODY + 1)[0]
        if number not in self._running:
            raise _unexpected(number, "its end without its beginning")
        pieces, behind = self._running.pop(number), []
        for table, own in pieces.described().items():
            general = self._described.get(table)
            if general is not None and general > own:
                behind.append(general[1])  # it came later, and holds for what follows
            else:
                self._described[table] = own
        return Committed(pieces, message, behind)

    def close(self) -> None:
        """Give the files back."""
        for pieces in self._running.values():
            pieces.close()
        for each in self._queue:
            if isinstance(each, Committed):
                each.close()
        self._running, self._inside = {}, None
        self._queue.clear()


class _PieceFile(ScratchFile):
    """It has no name, so nothing is left of it after a crash."""

    def whole(self, start: int, size: int) -> bytes:
        """Raises an error where there is less."""
        [data] = self.read([(start, size)])
        if len(data) != size:
            raise self._failed(OSError(errno.EIO, "a file is shorter than what was written to it"))
        return data

    def _failed(self, error: OSError) -> SystemError_:
        known = super()._failed(error)
        return SystemError_(
            f"transactions that are not committed yet cannot be kept: {known.message}",
            code=known.code,
            help="make room there: the last checkpoint is not affected, and the next run goes on from it",
        )


def _unexpected(number: int, what: str) -> SystemError_:
    return SystemError_(
        f"the server has sent of transaction {number} {what}",
        code="E0605",
        help="run again: the run goes on from its last checkpoint, and the server sends the transaction anew",
    )


def _places(letters: bytes, letter: bytes) -> Iterator[int]:
    at = letters.find(letter)
    while at >= 0:
        yield at
        at = letters.find(letter, at + 1)
