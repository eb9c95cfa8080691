"""CSV with escaped quotes or comment lines, rewritten as plain CSV: quotes doubled, comments blank.

Always true: line ends stay where they are, so line numbers are the file's; text between quotes is never
a comment.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from dataflare.formats.compression import ByteStream, PieceStream
from dataflare.formats.records import RECORD_BYTES_MAX, scan_records

_READ_BYTES = 1 << 20
_START = b"\\A|(?<=\\A\xef\xbb\xbf)"
"""The start of the text, with or without a byte order mark."""


class Rewriting:
    """Which characters to rewrite. escape: precedes a quote that does not close its field; an
    escape character is doubled. comment: begins a line that is not a row. row_width: such a line with so
    many fields is a row nevertheless, because the mark was found and not given."""

    def __init__(
        self,
        delimiter: str,
        quote: str | None,
        escape: str | None,
        comment: str | None,
        row_width: int | None = None,
    ) -> None:
        self._marks = (delimiter, quote, escape, comment)
        self._row_width = row_width

    def whole(self, text: bytes) -> bytes:
        """All of a text, or its beginning up to the last whole record."""
        return self._rewrite(text)

    def whole_records(self, text: bytes) -> int:
        """Where the last whole line ends that is not inside a quoted field."""
        pattern, opening = _patterns(*self._marks)
        end = text.rfind(b"\n") + 1
        if opening is None or not end:
            return end
        place = 0
        for match in pattern.finditer(text, 0, end):
            place = match.end()
        unclosed = opening.search(text, place, end)
        if unclosed is None or len(text) >= RECORD_BYTES_MAX:
            return end
        return text.rfind(b"\n", 0, unclosed.end()) + 1

    def _rewrite(self, text: bytes) -> bytes:
        pattern, _ = _patterns(*self._marks)
        return pattern.sub(self._replacement(), text)

    def _comment(self, line: bytes) -> bytes:
        """Nothing, or the line itself if it is a row."""
        if self._row_width is None:
            return b""
        delimiter, quote, _, _ = self._marks
        record = next(scan_records(line, delimiter, quote), None)
        return line if record is not None and record.fields == self._row_width else b""

    def _replacement(self) -> Callable[[re.Match[bytes]], bytes]:
        _, quote, escape, _ = self._marks
        if escape is None or quote is None or escape == quote:
            return lambda match: (
                self._comment(match.group()) if match.lastgroup == "comment" else match.group()
            )
        mark, sign = quote.encode(), escape.encode()
        pair = re.compile(re.escape(sign) + b"([" + re.escape(mark) + re.escape(sign) + b"])")

        def unescape(match: re.Match[bytes]) -> bytes:
            char = match.group(1)
            return mark * 2 if char == mark else char

        def replace(match: re.Match[bytes]) -> bytes:
            if match.lastgroup == "comment":
                return self._comment(match.group())
            field = match.group()
            return field if sign not in field else mark + pair.sub(unescape, field[1:-1]) + mark

        return replace


@lru_cache(maxsize=16)
def _patterns(
    delimiter: str, quote: str | None, escape: str | None, comment: str | None
) -> tuple[re.Pattern[bytes], re.Pattern[bytes] | None]:
    """Comments and quoted fields; and a quote that opens a field."""
    parts: list[bytes] = []
    opening: re.Pattern[bytes] | None = None
    if quote is not None:
        q, d = re.escape(quote.encode()), re.escape(delimiter.encode())
        start = b"(?:(?<=[\n" + d + b"])|" + _START + b")"
        inside = b"[^" + q + b"]|" + q + q
        if escape is not None and escape != quote:
            e = re.escape(escape.encode())
            inside = b"[^" + q + e + b"]|" + e + b"(?s:.)|" + q + q
        parts.append(b"(?P<quoted>" + start + q + b"(?:" + inside + b")*+" + q + b")")
        opening = re.compile(start + q)
    if comment is not None:
        parts.append(
            b"(?P<comment>(?:(?<=\n)|" + _START + b")" + re.escape(comment.encode()) + b"[^\n]*)"
        )
    return re.compile(b"|".join(parts)), opening


class Rewritten(PieceStream):
    """A stream of text, rewritten record by record."""

    def __init__(self, stream: ByteStream, rewriting: Rewriting) -> None:
        super().__init__(stream)
        self._rewriting = rewriting
        self._raw = b""

    def _next(self) -> bytes:
        data = self._stream.read(max(_READ_BYTES, len(self._raw)))
        self._ended = not data
        self._raw += data
        end = len(self._raw) if self._ended else self._rewriting.whole_records(self._raw)
        text = self._rewriting.whole(self._raw[:end])
        self._raw = self._raw[end:]
        return text
