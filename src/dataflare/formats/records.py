"""Where the rows of delimited text begin and end.

Always true: a chunk is cut only where a record ends; a newline inside a quoted field does not end a
record; a quote opens a field only as its first character, as in RFC 4180. `regular` is quick. It
may return None for a sound chunk, but never accepts a row that is too short or too long.
`scan_records` is slow and exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import polars as pl
from msgspec import Struct

from dataflare.formats.number_fields import Separators, may_alter

RECORD_BYTES_MAX = 16 << 20
"""A quoted field that is longer than this counts as never closed, unless a smaller limit is
given."""

_NEWLINE = 10


class Record(Struct, frozen=True):
    """One row of text. end: after its line end. problem: why it cannot be read, or None. stray:
    there is a quote inside an unquoted field."""

    start: int
    end: int
    fields: int
    problem: str | None = None
    stray: bool = False


UNCLOSED = "a quote is opened and never closed"
AFTER_QUOTE = "text follows a closing quote"


class Cut(NamedTuple):
    """end: how many bytes are whole records; 0 asks for more. regular: the result of `regular` for
    them, if it was computed on the way; else None."""

    end: int
    regular: Regular | None = None


def cut(
    data: bytes,
    quote: str | None,
    delimiter: str,
    *,
    ended: bool,
    width: int = 0,
    numbers: tuple[int, ...] = (),
    record_max: int = RECORD_BYTES_MAX,
) -> Cut:
    """The end of the last whole record in `data`, which begins with a record.

    ended: nothing follows `data`, so its last record needs no line end. width: the number of fields
    of a record, if known. Then a cut that was found by counting quotes is checked, because a quote
    inside an unquoted field makes the count wrong. record_max: a quoted field that is longer counts
    as never closed.
    """
    if ended:
        return Cut(len(data))
    end = data.rfind(b"\n") + 1
    mark = quote.encode() if quote is not None else b""
    if not end or not mark or mark not in data:
        return Cut(end)
    quotes = data.count(mark, 0, end)
    tries = 64
    while quotes % 2 and tries and end:
        before = data.rfind(b"\n", 0, end - 1) + 1
        quotes -= data.count(mark, before, end)
        end = before
        tries -= 1
    if end and quotes % 2 == 0:
        if not width:
            return Cut(end)
        whole = data if end == len(data) else data[:end]
        records = regular(whole, delimiter, quote, width, numbers)
        if records is not None:
            return Cut(end, records)
    return Cut(_cut_exactly(data, mark.decode(), delimiter, record_max))


def _cut_exactly(data: bytes, quote: str, delimiter: str, record_max: int) -> int:
    end = 0
    for record in scan_records(data, delimiter, quote, ended=False, record_max=record_max):
        end = record.end
    return end


class Regular(NamedTuple):
    """Text in which each record has the right number of fields. rows: how many records. doubtful: a
    field in a column of numbers may change when parsed."""

    rows: int
    doubtful: bool = False


def regular_rows(data: bytes, delimiter: str, quote: str | None, width: int) -> int | None:
    """The number of records that `regular` finds."""
    text = regular(data, delimiter, quote, width)
    return None if text is None else text.rows


def regular(
    data: bytes, delimiter: str, quote: str | None, width: int, numbers: tuple[int, ...] = ()
) -> Regular | None:
    """The number of records, if each has `width` fields and no quote is inside an unquoted field;
    else None. numbers: the places of the columns of numbers to check.

    Delimiters, line ends and quotes are filtered out in one columnar pass that holds no GIL; after
    quoted text is removed, the rest must be one repeated pattern.
    """
    if not data:
        return Regular(0)
    if not data.endswith(b"\n"):
        data += b"\n"
    mark = quote.encode() if quote is not None and quote.encode() in data else None
    code = pl.Series([data], dtype=pl.Binary).cast(pl.List(pl.UInt8))[0]
    is_token = (code == ord(delimiter)) | (code == _NEWLINE)
    if mark is not None:
        is_token |= code == mark[0]
    codes = code.filter(is_token)
    if mark is not None:
        # An opening quote is at a field's start; a quote inside a field makes all counts wrong.
        at_start = is_token.shift(1, fill_value=True).filter(is_token).filter(codes == mark[0])
        if not at_start.gather_every(2).all():
            return None
    tokens: bytes = codes.implode().cast(pl.Binary)[0]
    if mark is not None:
        # Two adjacent quotes enclose no delimiter and do not change the parity.
        parts = tokens.replace(mark * 2, b"").split(mark)
        if len(parts) % 2 == 0:
            return None
        tokens = b"".join(parts[::2])
    pattern = delimiter.encode() * (width - 1) + b"\n"
    rows, over = divmod(len(tokens), width)
    if over or tokens != pattern * rows:
        return None
    separators = Separators(code, is_token, codes, mark[0] if mark else None, width)
    return Regular(rows, may_alter(separators, numbers))


def scan_records(
    data: bytes,
    delimiter: str,
    quote: str | None,
    *,
    ended: bool = True,
    record_max: int = RECORD_BYTES_MAX,
) -> Iterator[Record]:
    """The records of `data` one by one, in Python: for chunks with an error.

    If a quote never closes, the record is only its first line, with a problem, and reading
    continues with the next line. With `ended` false an unfinished last record is left out.
    """
    start, size, comma = 0, len(data), delimiter.encode()
    mark = quote.encode() if quote is not None else None
    field = _field_pattern(delimiter, quote) if quote is not None else None
    while start < size:
        newline = data.find(b"\n", start)
        if newline < 0 and not ended:
            return
        end = newline + 1 if newline >= 0 else size
        if mark is None or field is None or data.find(mark, start, end) < 0:
            yield Record(start, end, data.count(comma, start, end) + 1)
        else:
            record = _quoted_record(
                data, start, end, comma, mark, field, ended=ended, record_max=record_max
            )
            if record is None:
                return
            yield record
            end = record.end
        start = end


def _quoted_record(
    data: bytes,
    start: int,
    line_end: int,
    comma: bytes,
    mark: bytes,
    field: re.Pattern[bytes],
    *,
    ended: bool,
    record_max: int,
) -> Record | None:
    """The record that begins at `start`; None if it does not end in the data."""
    place, fields, stray, size = start, 1, False, len(data)
    while True:
        if data[place : place + 1] == mark:
            match = field.match(data, place)
            if match is None:
                unclosed = _never_closes(data, place, mark)
                if unclosed and not ended and size - start < record_max:
                    return None
                problem = UNCLOSED if unclosed else AFTER_QUOTE
                return Record(start, line_end, fields, problem)
            place = match.end()
        else:
            stop = data.find(b"\n", place)
            stop = size if stop < 0 else stop
            next_comma = data.find(comma, place, stop)
            following = next_comma if next_comma >= 0 else stop
            stray = stray or data.find(mark, place, following) >= 0
            place = following
        if place >= size:
            return Record(start, size, fields, None, stray) if ended else None
        if data[place : place + 1] == comma:
            fields += 1
            place += 1
            continue
        end = data.find(b"\n", place)
        if end < 0:
            return Record(start, size, fields, None, stray) if ended else None
        return Record(start, end + 1, fields, None, stray)


def _never_closes(data: bytes, place: int, mark: bytes) -> bool:
    """Whether the field opened at `place` has no closing quote in the data."""
    place += 1
    while True:
        place = data.find(mark, place)
        if place < 0:
            return True
        if data[place + 1 : place + 2] != mark:
            return place + 1 >= len(data)
        place += 2


@lru_cache(maxsize=16)
def _field_pattern(delimiter: str, quote: str) -> re.Pattern[bytes]:
    d, q = re.escape(delimiter.encode()), re.escape(quote.encode())
    return re.compile(b"%b[^%b]*(?:%b%b[^%b]*)*%b(?=%b|\\r?\\n|\\r?\\Z)" % (q, q, q, q, q, q, d))


def is_blank(data: bytes, start: int, end: int) -> bool:
    """Whether these bytes are only a line end."""
    return end - start <= 2 and data[start:end] in (b"", b"\n", b"\r", b"\r\n")


def requote(text: bytes, delimiter: str, quote: str) -> bytes:
    """A record with stray quotes, with those fields quoted properly."""
    comma, mark = delimiter.encode(), quote.encode()
    field = _field_pattern(delimiter, quote)
    body = text.rstrip(b"\r\n")
    parts: list[bytes] = []
    place = 0
    while True:
        match = field.match(body, place) if body[place : place + 1] == mark else None
        if match is not None:
            parts.append(match.group())
            place = match.end()
        else:
            stop = body.find(comma, place)
            stop = len(body) if stop < 0 else stop
            raw = body[place:stop]
            parts.append(mark + raw.replace(mark, mark * 2) + mark if mark in raw else raw)
            place = stop
        if place >= len(body):
            return comma.join(parts) + b"\n"
        place += 1
        if place == len(body):
            parts.append(b"")
            return comma.join(parts) + b"\n"
