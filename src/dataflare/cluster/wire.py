"""The bytes of one TCP connection: how frames are cut out of what arrives, and how they are written.

Always true:
- before the other side has proved itself, at most `UNPROVED_BYTES` of it are held;
- the transport holds at most one piece that the socket did not take: nothing more is written until it has gone;
- each line of frames keeps its order, and lines with frames take turns, a piece each.
"""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import Callable
from typing import Protocol

from dataflare.cluster.frames import (
    BODY_MAX,
    HEADER_BYTES,
    KINDS,
    ON_CHANNELS,
    PIECE_BYTES,
    SHORT_MAX,
    Header,
    Kind,
    header,
    put_header,
    read_header,
    set_age,
)

UNPROVED_BYTES = 4 << 10
_SCRATCH_BYTES = 64 << 10
"""Small frames are read together, so many bytes at a time. A process may have a thousand connections."""
_READ_MAX = 1 << 20
"""At most so many bytes are read at once: 1 MiB takes half a millisecond, in which nothing else of the loop runs."""
_TURN_BYTES = 512 << 10
"""After so many bytes other work of the loop goes on."""
_JOIN_BYTES = 64 << 10
"""Frames up to this size are joined into one write."""


class BadFrame(Exception):
    """What arrived is not a frame."""


class Frame:
    """A body to be sent. room: it begins behind room for a header, and may be written to; read_at_s: of rows."""

    __slots__ = ("body", "channel", "kind", "read_at_s", "sent")

    def __init__(
        self, kind: Kind, channel: int, body: bytes | memoryview, read_at_s: float | None = None
    ) -> None:
        self.kind, self.channel, self.body, self.read_at_s = kind, channel, body, read_at_s
        self.sent = 0

    @property
    def length(self) -> int:
        return len(self.body) - (HEADER_BYTES if self.kind is Kind.ROWS else 0)


class Line:
    """Frames in order. queued_bytes: of those that were not written yet."""

    __slots__ = ("frames", "queued_bytes")

    def __init__(self) -> None:
        self.frames: deque[Frame] = deque()
        self.queued_bytes = 0


class Owner(Protocol):
    """What is told of what arrives."""

    def arrived(self, kind: Kind, channel: int, body: bytes, arrived_s: float) -> None: ...
    def ended(self, error: Exception | None) -> None:
        """The connection is closed. Called once. error: None where the other side just closed it."""


class _Body:
    """A body of which pieces arrive. It is read into the memory of the bytes object that it becomes."""

    __slots__ = ("arrived_s", "at", "target", "view", "whole")

    def __init__(self, whole: int, arrived_s: float) -> None:
        self.whole, self.arrived_s, self.at = whole, arrived_s, 0
        # `getvalue` of a full BytesIO gives its own bytes: a body is not copied.
        self.target = io.BytesIO(bytes(whole))
        self.view = self.target.getbuffer()

    def bytes(self) -> bytes:
        self.view.release()
        return self.target.getvalue()


class Wire(asyncio.BufferedProtocol):
    """One connection. It begins with bytes that are asked for one by one (`exactly`, `write`), for the proof; `begin`
    turns it to frames."""

    def __init__(self, on_connection: Callable[[Wire], None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_connection = on_connection
        self._owner: Owner | None = None
        self._transport: asyncio.Transport | None = None
        self._scratch = bytearray(UNPROVED_BYTES)
        self._start = self._end = 0
        self._wanted: asyncio.Future[None] | None = None
        self._written: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._is_closed = self._is_blocked = self._is_due = False
        self._bodies: dict[tuple[int, int], _Body] = {}
        self._piece: _Body | None = None
        self._key = (0, 0)
        self._piece_end = 0
        self._urgent: deque[bytes] = deque()
        self._lines: deque[Line] = deque()
        self.heard_s = self.sent_s = self._loop.time()
        self.bytes_in = self.bytes_out = 0

    # -- before frames -----------------------------------------------------------------------------

    async def exactly(self, count: int) -> bytes:
        """The next bytes. Raises ConnectionError where the connection ends before them."""
        while self._end - self._start < count:
            if self._is_closed:
                raise self._error or ConnectionResetError("the connection was closed")
            self._wanted = self._loop.create_future()
            await self._wanted
        start, self._start = self._start, self._start + count
        return bytes(memoryview(self._scratch)[start : start + count])

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        if not self._is_closed:
            self._transport.write(data)

    def begin(self, owner: Owner) -> None:
        """From now on frames are sent and read. Those that have arrived already are told in the next turn of the loop."""
        self._owner = owner
        self.heard_s = self._loop.time()
        left = self._scratch[self._start : self._end]
        self._scratch = bytearray(_SCRATCH_BYTES)
        self._scratch[: len(left)] = left
        self._start, self._end = 0, len(left)
        self._loop.call_soon(self._read_rest)

    def _read_rest(self) -> None:
        if self._is_closed:
            self._tell_end()
        else:
            self._parse()

    # -- sending -----------------------------------------------------------------------------------

    def send(self, line: Line, frame: Frame) -> None:
        """Send a frame when those of its line have gone."""
        if not line.frames:
            self._lines.append(line)
        line.frames.append(frame)
        line.queued_bytes += frame.length
        self._wake()

    def send_first(self, kind: Kind, channel: int, body: bytes = b"") -> None:
        """Send a small frame before everything that waits."""
        self._urgent.append(header(kind, channel, len(body)) + body)
        self._wake()

    @property
    def has_frames(self) -> bool:
        """Whether frames wait to be written."""
        return bool(self._urgent or self._lines)

    async def all_written(self) -> None:
        """Wait until the socket has taken everything, or the connection is closed."""
        while (self.has_frames or self._is_blocked) and not self._is_closed:
            self._written = self._written or self._loop.create_future()
            await self._written

    def _wake(self) -> None:
        if not (self._is_due or self._is_blocked or self._is_closed):
            self._is_due = True
            self._loop.call_soon(self._write_some)

    def _write_some(self) -> None:
        self._is_due = False
        left = _TURN_BYTES
        while left > 0 and self.has_frames and not (self._is_blocked or self._is_closed):
            left -= self._write_next()
        if self.has_frames:
            self._wake()
        elif not self._is_blocked:
            self._tell_written()

    def _tell_written(self) -> None:
        written, self._written = self._written, None
        if written is not None and not written.done():
            written.set_result(None)

    def _write_next(self) -> int:
        """Write small frames as one, or a piece of a larger one. Gives the number of bytes."""
        assert self._transport is not None
        small: list[bytes | memoryview] = []
        size = 0
        data: bytes | memoryview | None = None
        while self._urgent and size < _JOIN_BYTES:
            small.append(self._urgent.popleft())
            size += len(small[-1])
        while self._lines and size < _JOIN_BYTES:
            piece = self._next_piece(_JOIN_BYTES - size if small else PIECE_BYTES)
            if piece is None:
                break
            if len(piece) > _JOIN_BYTES // 2 and not small:
                data = piece
                break
            small.append(piece)
            size += len(piece)
        if data is None:
            data = small[0] if len(small) == 1 else b"".join(small)
        self.sent_s = self._loop.time()
        self.bytes_out += len(data)
        self._transport.write(data)
        return len(data)

    def _next_piece(self, bytes_max: int) -> bytes | memoryview | None:
        """A header and what follows it, of the next line. None where the next one does not fit."""
        line = self._lines[0]
        frame = line.frames[0]
        whole = frame.length
        length = min(whole - frame.sent, PIECE_BYTES)
        if length > bytes_max:
            return None
        self._lines.popleft()
        if frame.kind is Kind.ROWS:
            assert isinstance(frame.body, memoryview)
            if frame.sent == 0:
                read_at_s = frame.read_at_s
                set_age(frame.body, self._loop.time() - read_at_s if read_at_s else -1.0)
            # The header goes in front of the piece, over bytes that were sent before. So header and piece are one write,
            # and nothing is copied.
            piece: bytes | memoryview = frame.body[frame.sent : frame.sent + HEADER_BYTES + length]
            assert isinstance(piece, memoryview)
            put_header(piece, frame.kind, frame.channel, length, whole)
        else:
            part = frame.body if length == whole else frame.body[frame.sent : frame.sent + length]
            piece = header(frame.kind, frame.channel, length, whole) + part
        frame.sent += length
        line.queued_bytes -= length
        if frame.sent == whole:
            line.frames.popleft()
        if line.frames:
            self._lines.append(line)
        return piece

    # -- closing -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close when the transport has sent what was written to it."""
        if self._transport is not None:
            self._transport.close()

    def abort(self, error: Exception | None = None) -> None:
        """Close at once."""
        self._error = self._error or error
        if self._transport is not None:
            self._transport.abort()

    # -- called by asyncio -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # It pauses as soon as it holds something. That of TLS pauses at its limit, not above it: with 0 it never went on.
        is_tls = transport.get_extra_info("sslcontext") is not None
        transport.set_write_buffer_limits(high=1 if is_tls else 0, low=0)
        if self._on_connection is not None:
            self._on_connection(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._is_closed = True
        self._error = self._error or error
        self._urgent.clear()
        self._lines.clear()
        self._bodies.clear()
        self._piece = None
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)
        self._tell_written()
        self._tell_end()

    def _tell_end(self) -> None:
        if self._owner is not None:
            owner, self._owner = self._owner, None
            owner.ended(self._error)

    def pause_writing(self) -> None:
        self._is_blocked = True

    def resume_writing(self) -> None:
        self._is_blocked = False
        self._write_some()

    def eof_received(self) -> bool:
        return False

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._piece is not None:
            end = min(self._piece_end, self._piece.at + _READ_MAX)
            return self._piece.view[self._piece.at : end]
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._scratch):
            left = self._scratch[self._start : self._end]
            self._scratch[: len(left)] = left
            self._start, self._end = 0, len(left)
            if len(left) == len(self._scratch):
                # Nothing takes these bytes: the other side sent more than a proof.
                self.abort(BadFrame("too many bytes before the proof"))
                self._start = self._end = 0
        return memoryview(self._scratch)[self._end :]

    def buffer_updated(self, count: int) -> None:
        self.heard_s = self._loop.time()
        self.bytes_in += count
        if self._piece is not None:
            self._piece.at += count
            if self._piece.at == self._piece_end:
                self._end_piece()
            return
        self._end += count
        if self._owner is not None:
            self._parse()
        elif self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    def _parse(self) -> None:
        try:
            while self._end - self._start >= HEADER_BYTES and not self._is_closed:
                head = read_header(self._scratch, self._start)
                self._check(head)
                self._start += HEADER_BYTES
                if head.length == head.whole <= self._end - self._start:
                    body = bytes(memoryview(self._scratch)[self._start : self._start + head.length])
                    self._start += head.length
                    self._tell(head.kind, head.channel, body, self.heard_s)
                elif not self._begin_piece(head):
                    return
        except BadFrame as error:
            self.abort(error)

    def _check(self, head: Header) -> None:
        """Raise BadFrame for a header that no frame has."""
        if head.kind not in KINDS:
            raise BadFrame(f"it sent a frame of kind {head.kind}, which does not exist")
        if head.channel and head.kind not in ON_CHANNELS:
            raise BadFrame(f"it sent a frame of kind {head.kind} with a channel")
        most = SHORT_MAX if head.kind >= Kind.MARK else BODY_MAX
        if head.whole > most:
            raise BadFrame(f"it sent a body of {head.whole:,} bytes, and {most:,} are possible")
        begun = self._bodies.get((head.kind, head.channel))
        whole, left = head.whole, head.whole
        if begun is not None:
            whole, left = begun.whole, begun.whole - begun.at
        if (
            head.whole != whole
            or head.length > min(left, PIECE_BYTES)
            or (left and not head.length)
        ):
            raise BadFrame("it sent a piece whose length does not fit its body")

    def _begin_piece(self, head: Header) -> bool:
        """Read what of a piece is there. Gives whether it is whole."""
        self._key = (head.kind, head.channel)
        body = self._bodies.get(self._key)
        if body is None:
            body = self._bodies[self._key] = _Body(head.whole, self.heard_s)
        count = min(head.length, self._end - self._start)
        arrived = memoryview(self._scratch)[self._start : self._start + count]
        body.view[body.at : body.at + count] = arrived
        self._start += count
        self._piece, self._piece_end = body, body.at + head.length
        body.at += count
        if count < head.length:
            return False
        self._end_piece()
        return True

    def _end_piece(self) -> None:
        body, self._piece = self._piece, None
        assert body is not None
        if body.at == body.whole:
            del self._bodies[self._key]
            self._tell(*self._key, body.bytes(), body.arrived_s)

    def _tell(self, kind: int, channel: int, body: bytes, arrived_s: float) -> None:
        if self._owner is not None:
            self._owner.arrived(Kind(kind), channel, body, arrived_s)
