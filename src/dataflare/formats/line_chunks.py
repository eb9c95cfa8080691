"""A stream of text as chunks of whole records, each with its offset.

Always true: chunks follow one another without a gap; a chunk begins and ends between records; the
first is small, so that rows arrive soon; a record that is too long is skipped piece by piece, so
that memory is bounded for every file.
"""

from __future__ import annotations

import bisect
import sys
import threading
from collections.abc import Callable
from functools import cached_property

from dataflare.formats.checksum import ReadChecksum
from dataflare.formats.compression import ByteStream
from dataflare.formats.layout import count_newlines
from dataflare.formats.misread import RAW_MAX
from dataflare.formats.records import RECORD_BYTES_MAX, Cut, Regular, cut, regular

FIRST_BYTES = 256 << 10
CHUNK_BYTES = 4 << 20
_PASSED_BYTES = 1 << 20


class LineChunks:
    """width: the number of fields of delimited text; 0 for lines of JSON. numbers: the places of
    its columns of numbers. blank_rows: whether blank lines are rows of a single column.
    is_whole: decides whether a last record without a line
    break is complete; an incomplete one is not read, and `unfinished` is its size. None reads it.
    chunk_bytes: the approximate size of chunks; a larger record makes a larger chunk. record_max:
    the most bytes that a record may have, not less than `chunk_bytes`."""

    def __init__(
        self,
        stream: ByteStream,
        offset: int,
        *,
        quote: str | None = None,
        delimiter: str = ",",
        width: int = 0,
        numbers: tuple[int, ...] = (),
        blank_rows: bool = True,
        checksum: ReadChecksum | None = None,
        chunk_bytes: int | None = None,
        first_bytes: int | None = None,
        record_max: int = sys.maxsize,
        is_whole: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._stream = stream
        self.offset = offset
        self._quote, self._delimiter, self._width = quote, delimiter, width
        self._numbers, self._blank_rows = numbers, blank_rows or width != 1
        self._rest = b""
        self._ended = False
        self._checksum = checksum or ReadChecksum()
        self._chunk_bytes = chunk_bytes or CHUNK_BYTES
        self._size = min(first_bytes or FIRST_BYTES, self._chunk_bytes)
        self._record_max = record_max
        self._is_whole = is_whole
        self.unfinished = 0

    def keep_below(self, num_bytes: int) -> None:
        """Make the next chunk no larger, if records allow that."""
        self._size = max(1, min(self._chunk_bytes, num_bytes))

    def next(self) -> TextChunk | None:
        """The next chunk, None at the end. `offset` and `checksum` then are those of its end."""
        data = self._rest
        want = self._size
        while True:
            if not self._ended:
                lines = self._stream.read_lines(max(want - len(data), 1))
                self._ended = not lines
                data = data + lines if data else lines
            end, records = cut(
                data,
                self._quote,
                self._delimiter,
                ended=self._ended,
                width=self._width,
                numbers=self._numbers,
                record_max=min(self._record_max, RECORD_BYTES_MAX),
            )
            if self._ended and self._is_whole is not None and not data.endswith(b"\n"):
                end, records = self._without_unfinished(data)
            if end or self._ended:
                break
            if len(data) > self._record_max:
                return self._overlong(data)
            want = min(max(want, len(data)) * 2, self._record_max + 1)
        self._size = self._chunk_bytes
        if not end:
            return None
        self._rest = data[end:]
        chunk = data[:end] if self._rest else data
        self.offset += end
        self._checksum.update(chunk)
        if records is not None and self._blank_rows:
            return TextChunk(chunk, lambda: records)
        if not self._width or not self._blank_rows:
            # Lines of JSON are not counted: searching for blank lines costs a quarter of the parse
            # time.
            return TextChunk(chunk, lambda: None)
        quote, delimiter, width, numbers = self._quote, self._delimiter, self._width, self._numbers
        return TextChunk(chunk, lambda: regular(chunk, delimiter, quote, width, numbers))

    def _without_unfinished(self, data: bytes) -> Cut:
        """The cut before a last record that is not complete; a record may be longer than a line."""
        assert self._is_whole is not None
        whole = cut(data, self._quote, self._delimiter, ended=False, width=self._width)
        record = data[whole.end :]
        if not record or self._is_whole(record):
            return Cut(len(data))
        self.unfinished = len(record)
        return whole

    def _overlong(self, data: bytes) -> OverlongRecord:
        """The record that starts `data`, skipped up to its line end."""
        head, num_bytes = data[: RAW_MAX + 1], 0
        while True:
            end = data.find(b"\n") + 1
            part = data[:end] if end else data
            self._checksum.update(part)
            num_bytes += len(part)
            if end or self._ended:
                break
            data = self._stream.read(_PASSED_BYTES)
            self._ended = not data
        self._rest = data[end:] if end else b""
        self.offset += num_bytes
        return OverlongRecord(head, num_bytes - (1 if end else 0))

    @property
    def checksum(self) -> str:
        """The checksum of all bytes before `offset`."""
        return self._checksum.value

    def close(self) -> None:
        self._stream.close()


class LineNumbers:
    """The line numbers of offsets. Lines are counted on demand, from the nearest offset before that
    was counted already. Any thread may call it."""

    def __init__(self, open_at: Callable[[int], ByteStream]) -> None:
        self._open_at = open_at
        self._line_starts: list[tuple[int, int]] = [(0, 1)]
        self._lock = threading.Lock()

    def at(self, offset: int) -> int:
        """The 1-based line in which the byte at `offset` stands."""
        with self._lock:
            nearest = bisect.bisect_right(self._line_starts, (offset, sys.maxsize)) - 1
            place, line = self._line_starts[nearest]
            if place < offset:
                line = self._count(place, line, offset)
                self._line_starts.insert(nearest + 1, (offset, line))
            return line

    def pass_over(self, start: int, data: bytes) -> None:
        """Count the lines of data that was just read, if `at` was called before. A later call of
        `at` then does not read the data again."""
        if len(self._line_starts) > 1:
            line = self.at(start) + count_newlines(data)
            with self._lock:
                bisect.insort(self._line_starts, (start + len(data), line))

    def _count(self, place: int, line: int, offset: int) -> int:
        stream = self._open_at(place)
        try:
            while place < offset:
                data = stream.read(min(offset - place, CHUNK_BYTES))
                if not data:
                    break
                line += count_newlines(data)
                place += len(data)
        finally:
            stream.close()
        return line


class TextChunk:
    """Whole records, and facts about them that are computed once, on demand. look: scans the
    data."""

    def __init__(self, data: bytes, look: Callable[[], Regular | None]) -> None:
        self.data, self._look = data, look

    @cached_property
    def regular(self) -> Regular | None:
        """The number of records, if all have the right number of delimiters."""
        return self._look()

    @property
    def rows(self) -> int | None:
        return None if self.regular is None else self.regular.rows


class OverlongRecord(TextChunk):
    """A record that is longer than allowed. data: its beginning. num_bytes: of the whole record,
    without its line end."""

    def __init__(self, data: bytes, num_bytes: int) -> None:
        super().__init__(data, lambda: None)
        self.num_bytes = num_bytes

    @property
    def rows(self) -> int:
        return 1
