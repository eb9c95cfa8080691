"""Cut the bytes of a connection into messages. Pure.

Always true: what `feed` and `rest` give, one after the other, does not depend on how the bytes were parted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal


class TooLong(Exception):
    """A message is longer than allowed, or its length is not one. The connection cannot be read further."""


class Framing(ABC):
    """Of one connection."""

    @abstractmethod
    def feed(self, data: bytes) -> list[bytes]:
        """The messages that these bytes complete. Raises TooLong."""

    @abstractmethod
    def rest(self) -> list[bytes]:
        """What the end of the connection completes. Raises TooLong where it ends inside a message."""


MakeFraming = Callable[[], Framing]


class Lines(Framing):
    """Each line is a message, without its end (LF, or CR and LF). The last one may lack it. Empty lines are none."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max, self._part = bytes_max, b""

    def feed(self, data: bytes) -> list[bytes]:
        *whole, self._part = (self._part + data).split(b"\n")
        lines = [line.removesuffix(b"\r") for line in whole]
        if max(len(self._part), *map(len, lines), 0) > self._bytes_max + 1:
            raise TooLong
        return [line for line in lines if line]

    def rest(self) -> list[bytes]:
        last, self._part = self._part.removesuffix(b"\r"), b""
        return [last] if last else []


class Lengths(Framing):
    """Each message has its length before it."""

    def __init__(self, bytes_max: int, length_bytes: int, order: Literal["big", "little"]) -> None:
        self._bytes_max, self._length_bytes, self._order = bytes_max, length_bytes, order
        self._part = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._part += data
        messages, at, head = [], 0, self._length_bytes
        while len(self._part) - at >= head:
            length = int.from_bytes(self._part[at : at + head], self._order)
            if length > self._bytes_max:
                raise TooLong
            if len(self._part) - at - head < length:
                break
            messages.append(bytes(self._part[at + head : at + head + length]))
            at += head + length
        del self._part[:at]
        return messages

    def rest(self) -> list[bytes]:
        if self._part:
            raise TooLong
        return []


class Syslog(Framing):
    """As syslog over TCP has it (RFC 6587): a message begins with its length in digits and a blank, or else it
    ends with LF or NUL. Each message says which it is, because senders of both kinds use one port."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max, self._part = bytes_max, bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._part += data
        messages: list[bytes] = []
        at = 0
        while at < len(self._part):
            end, message = self._next(at)
            if message is None:
                break
            at = end
            if message:
                messages.append(message)
        del self._part[:at]
        return messages

    def _next(self, at: int) -> tuple[int, bytes | None]:
        """The message that begins here and the byte behind it; None where it is not whole."""
        part = self._part
        if 0x31 <= part[at] <= 0x39:
            blank = part.find(b" ", at, at + 11)
            digits = part[at : blank if blank >= 0 else at + 10]
            if digits.isdigit():
                if blank < 0 and len(digits) < 10:
                    return at, None
                if blank < 0 or int(digits) > self._bytes_max:
                    raise TooLong
                end = blank + 1 + int(digits)
                return (end, bytes(part[blank + 1 : end])) if end <= len(part) else (at, None)
        ends = [e for e in (part.find(b"\n", at), part.find(b"\0", at)) if e >= 0]
        if min(ends, default=len(part)) - at > self._bytes_max:
            raise TooLong
        if not ends:
            return at, None
        return min(ends) + 1, bytes(part[at : min(ends)]).removesuffix(b"\r")

    def rest(self) -> list[bytes]:
        last, self._part = bytes(self._part), bytearray()
        if last[:1].isdigit():
            raise TooLong  # its length says that more was to follow
        return [last] if last else []
