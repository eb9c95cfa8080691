"""A JSON file, whose text is one list of objects, as lines: one item a line, read piece by piece.

The commas between the items become line ends. Line breaks between the marks of an item become spaces. So a
piece of the text is enough to read its items, and an item that is broken or nested too deep is one bad
line, as long as its quotes and brackets come in pairs.

Always true: an item becomes exactly one line; no other byte of it changes, except that a line break
inside a string, which JSON forbids, becomes another control character, which it forbids too.

Most pieces are cut by a parser that is given all their items at once, where the comma and the first key of
the first items stand again. Only a piece that it refuses is searched mark by mark, which takes six times
as long.
"""

from __future__ import annotations

import polars as pl

from dataflare.errors import DataError
from dataflare.formats.any_file import AnyFile
from dataflare.formats.compression import ByteStream, PieceStream
from dataflare.formats.json_values import BadJson, list_items

_READ_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_SPACES = b" \t\r\n"
_NEWLINE, _RETURN, _SPACE, _CONTROL = 10, 13, 32, 1
_QUOTE, _COMMA = 34, 44
_OPEN, _CLOSE = (ord("["), ord("{")), (ord("]"), ord("}"))
_KEY_BYTES = 300
_LIST_END = ord("]")
_HELP = "a file with one JSON object a line has the format ndjson"


class ArrayLines(PieceStream):
    """The items of a list as lines of text. A file that is one object is one line; an empty one has none.

    path: for errors. `read` raises DataError (E0503) where the list itself cannot be read.
    """

    def __init__(self, stream: ByteStream, path: AnyFile) -> None:
        super().__init__(stream)
        self._path = path
        self._raw = b""
        self._line = 1
        """The line of the file that `_raw` begins in."""
        self._is_list: bool | None = None
        self._depth = 0
        self._in_string = False
        self._has_content = False
        """Whether the item that goes on has some text."""
        self._items = 0
        self._between: bytes | None = None
        """A comma between two items, and what follows it up to the end of the first key."""
        self._closed = False

    def _next(self) -> bytes:
        """The lines of the next piece of text."""
        data = self._stream.read(_READ_BYTES)
        text, left = self._raw + data, len(self._raw)
        if not data and (not text or self._is_list is None):
            return self._end()
        if self._is_list is None:
            text = text.removeprefix(_BOM) if len(text) > 2 else text
            start = text.lstrip(_SPACES)
            if not start or (len(text) < len(_BOM) and _BOM.startswith(text)):
                self._raw = text
                return b""
            self._line += text.count(b"\n", 0, len(text) - len(start))
            text, self._is_list = start, start[:1] == b"["
            if start[:1] not in (b"[", b"{"):
                raise not_an_object(str(self._path), start)
            if self._is_list:
                text, self._depth = start[1:], 1
        whole = self._whole_items(text)
        if whole is not None:
            return whole
        # Pairs that a backslash begins have no meaning here. The last one may be cut in two.
        masked = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        end = len(text) - 1 if masked.endswith(b"\\") else len(text)
        self._raw = text[end:]
        lines = self._lines(text[:end], masked[:end]) if end else b""
        if not data and len(self._raw) == left:
            raise self._broken("unexpected end of data", b"", 0)
        return lines

    def _whole_items(self, text: bytes) -> bytes | None:
        """The lines of items that a parser takes, where an item begins the text. None for others."""
        if self._between is None or self._has_content or self._closed:
            return None
        place = text.rfind(self._between)
        if place <= 0:
            return None
        try:
            items = list_items(b"[" + text[:place] + b"]")
        except BadJson:
            return None
        self._raw = text[place + 1 :]
        self._items += len(items)
        self._line += text.count(b"\n", 0, place + 1)
        return b"\n".join(items) + b"\n"

    def _lines(self, text: bytes, masked: bytes) -> bytes:
        """A piece of the text with its items on lines. masked: the same without escaped quotes."""
        if self._closed:
            self._refuse_more(text, 0)
            self._line += text.count(b"\n")
            return b""
        code = _codes(masked)
        wanted = (code == _QUOTE) | (code == _COMMA) | (code == _NEWLINE) | (code == _RETURN)
        for mark in (*_OPEN, *_CLOSE):
            wanted |= code == mark
        tokens = code.filter(wanted)
        places = pl.int_range(len(code), dtype=pl.Int64, eager=True).filter(wanted)
        quotes = tokens == _QUOTE
        inside = (quotes.cast(pl.Int64).cum_sum() + int(self._in_string)) % 2 == 1
        outside = ~inside & ~quotes
        opens, closes = _is_in(tokens, _OPEN) & outside, _is_in(tokens, _CLOSE) & outside
        depth = (opens.cast(pl.Int64) - closes.cast(pl.Int64)).cum_sum() + self._depth
        ends = closes & (depth == 0)
        top = 1 if self._is_list else 0
        cuts = (tokens == _COMMA) & outside & (depth == top)
        breaks = _is_in(tokens, (_NEWLINE, _RETURN))
        changed = _scattered(_codes(text), places, (cuts, _NEWLINE), (breaks & outside, _SPACE),
                             (breaks & ~outside, _CONTROL))  # fmt: skip
        if ends.any():
            return self._closing(text, changed, tokens, places, ends, cuts)
        if self._is_list and cuts.any():
            return self._up_to_last_cut(text, changed, places.filter(cuts).to_list())
        self._check_items(text, [], len(text))
        if len(tokens):
            self._depth, self._in_string = int(depth[-1]), bool(inside[-1])
        self._line += text.count(b"\n")
        return changed

    def _up_to_last_cut(self, text: bytes, changed: bytes, cuts: list[int]) -> bytes:
        """The whole items of a piece. What follows them is read again with the next piece."""
        end, goes_on = cuts[-1] + 1, self._has_content
        self._check_items(text, cuts, end)
        self._depth, self._in_string, self._has_content = 1, False, False
        self._line += text.count(b"\n", 0, end)
        self._raw = text[end:] + self._raw
        key = text.find(b":", cuts[0], cuts[0] + _KEY_BYTES)
        self._between = text[cuts[0] : key + 1] if key > 0 else None
        return _without_spaces(changed[: end - 1], goes_on)

    def _closing(
        self,
        text: bytes,
        changed: bytes,
        tokens: pl.Series,
        places: pl.Series,
        ends: pl.Series,
        cuts: pl.Series,
    ) -> bytes:
        """The piece in which the list, or the one object, ends."""
        number, goes_on = int(ends.arg_true()[0]), self._has_content
        place = int(places[number])
        if (tokens[number] == _LIST_END) != self._is_list:
            raise self._broken("another bracket closes it than opened it", text, place)
        self._check_items(text, places.filter(cuts & (places < place)).to_list(), place)
        if self._items and not self._has_content and self._is_list:
            raise self._broken("an item is missing after a comma", text, place)
        self._closed, self._depth, self._in_string = True, 0, False
        self._refuse_more(text, place + 1)
        self._line += text.count(b"\n")
        if not self._is_list:
            return changed[: place + 1] + b"\n"
        return _without_spaces(changed[:place], goes_on) if self._has_content else b""

    def _check_items(self, text: bytes, cuts: list[int], end: int) -> None:
        """Raise DataError where nothing stands between two commas. cuts: where the items of this piece
        end. end: of the piece."""
        if not self._is_list:
            return
        start = 0
        for place in cuts:
            # An item nearly always begins or ends here with a brace.
            if not self._has_content and not text[start:place].strip(_SPACES):
                raise self._broken("an item is missing before a comma", text, place)
            self._has_content, start = False, place + 1
            self._items += 1
        if not self._has_content:
            self._has_content = bool(text[start:end].strip(_SPACES))

    def _refuse_more(self, text: bytes, start: int) -> None:
        rest = text[start:]
        following = rest.lstrip(_SPACES)
        if following:
            place = start + len(rest) - len(following)
            raise self._broken("text follows its end", text, place)

    def _end(self) -> bytes:
        """The end of the file."""
        self._ended = True
        if self._is_list is None:
            if self._raw.strip(_SPACES):
                raise not_an_object(str(self._path), self._raw)
            return b""
        if self._closed:
            return b""
        raise self._broken("unexpected end of data", b"", 0)

    def _broken(self, why: str, text: bytes, place: int) -> DataError:
        line = self._line + text.count(b"\n", 0, place)
        return DataError(
            f"{self._path} line {line} is not valid JSON: {why}", code="E0503", help=_HELP
        )


def not_an_object(place: str, text: bytes) -> DataError:
    """The error for a text that should be an object, or a list of objects."""
    shown = text.strip(_SPACES).decode(errors="replace")
    return DataError(
        f"{place} is not a JSON object but {shown if len(shown) <= 60 else shown[:57] + '...'}",
        code="E0503",
        help='a JSON file holds one list of objects: [{"id": 1}, {"id": 2}]',
    )


def _codes(text: bytes) -> pl.Series:
    codes: pl.Series = pl.Series([text], dtype=pl.Binary).cast(pl.List(pl.UInt8))[0]
    return codes


def _without_spaces(lines: bytes, goes_on: bool) -> bytes:
    """Lines without the spaces around the items. goes_on: the first one began in an earlier piece."""
    first, *others = lines.split(b"\n")
    first = first.rstrip(_SPACES) if goes_on else first.strip(_SPACES)
    return b"\n".join([first, *(line.strip(_SPACES) for line in others), b""])


def _is_in(tokens: pl.Series, marks: tuple[int, ...]) -> pl.Series:
    return (tokens == marks[0]) | (tokens == marks[1])


def _scattered(codes: pl.Series, places: pl.Series, *changes: tuple[pl.Series, int]) -> bytes:
    """A text with other characters at some places."""
    for mask, character in changes:
        if mask.any():
            codes = codes.scatter(places.filter(mask), character)
    text: bytes = codes.implode().cast(pl.Binary)[0]
    return text
