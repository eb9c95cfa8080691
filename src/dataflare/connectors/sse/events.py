"""Cut an event stream into events, as the HTML standard says (section 9.2.6). Pure.

Always true: what `feed` gives does not depend on how the bytes were parted; an event that the end of the stream cuts off
is none.
"""

from __future__ import annotations

import re

from msgspec import Struct

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class Event(Struct, frozen=True):
    """data: its lines, with a line feed between. id: the last one that the stream had, with this event."""

    data: bytes
    name: str
    id: str


class TooLong(Exception):
    """An event is longer than allowed."""


class EventStream:
    """last_id: of the last event of an earlier connection."""

    def __init__(self, bytes_max: int, last_id: str = "") -> None:
        self._bytes_max = bytes_max
        self.last_id, self.retry_s = last_id, None
        self._part, self._first, self._after_cr = b"", True, False
        self._data: list[bytes] = []
        self._size = 0
        self._name = ""
        self._id = last_id

    retry_s: float | None

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. Raises TooLong."""
        self._part += data
        if self._first:
            if len(self._part) < len(_BOM) and _BOM.startswith(self._part):
                return []
            self._part, self._first = self._part.removeprefix(_BOM), False
        if self._after_cr and self._part:
            # The CR ended a line already; a LF behind it belongs to it.
            self._part, self._after_cr = self._part.removeprefix(b"\n"), False
        events: list[Event] = []
        at = 0
        for end in _LINE_END.finditer(self._part):
            self._line(self._part[at : end.start()], events)
            at = end.end()
        self._after_cr = at == len(self._part) and self._part.endswith(b"\r")
        self._part = self._part[at:]
        if len(self._part) + self._size > self._bytes_max:
            raise TooLong
        return events

    def _line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            self._dispatch(events)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data.append(value)
                self._size += len(value) + 1
            case b"event":
                self._name = value.decode("utf-8", "replace")
            case b"id":
                if b"\0" not in value:
                    self._id = value.decode("utf-8", "replace")
            case b"retry":
                if value.isdigit():
                    self.retry_s = int(value) / 1000

    def _dispatch(self, events: list[Event]) -> None:
        self.last_id = self._id
        if self._data:
            events.append(Event(b"\n".join(self._data), self._name or "message", self.last_id))
        self._data, self._size, self._name = [], 0, ""
