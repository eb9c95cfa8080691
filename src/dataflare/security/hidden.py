"""The values of columns that `mask` steps hide: kept out of every text that a run shows.

A server, a client library or a user's code may quote a row in its error. So a run remembers the last values of those columns,
as references to rows that it has at hand anyway, and takes them out of the text of each error when it is made.

Always true:
- a run without a `mask` step remembers nothing, and its texts stay as they are;
- what is remembered is bounded; of what an outside system quotes beyond that, only words of the workflow itself are left.
"""

from __future__ import annotations

import json
import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator

import polars as pl

MASK = "***"
_VALUES_MAX, _BYTES_MAX, _LISTS_MAX = 1 << 18, 32 << 20, 8
_PREFIX = 6
"""A piece of a value of so many characters, from its beginning, is hidden too: servers cut what they quote."""
_SHOWN_MAX, _WORDS = 4_000, 3
_WORD = re.compile(r"\w+")
_TRICKY = r"['\"\\]|[^ -~]"
_QUOTED = re.compile(r"'((?:[^']|'')*)'|\"((?:[^\"\\]|\\.)*)\"|(?<=\()([^()]*)(?=\))")
_NAMED = re.compile(
    r"(?:column|field|constraint|relation|table|index|key|type|file|user|database)\s*$", re.I
)


class HiddenValues:
    """Of one run; called on any thread. columns: their names, once they are known. own: whether a text is one of the workflow
    itself, such as the name of a table."""

    def __init__(self) -> None:
        self.columns: frozenset[str] = frozenset()
        self.own: Callable[[str], bool] = lambda text: False
        self._lock = threading.Lock()
        self._new: list[pl.Series] = []
        self._new_rows = self._new_bytes = 0
        self._sorted: list[list[str]] = []

    def add(self, frame: pl.DataFrame, columns: Collection[str] | None = None) -> None:
        """Remember these rows. columns: those that are hidden here, where they have other names."""
        names = self.columns if columns is None else columns
        found = [frame[name] for name in frame.columns if name in names]
        if not found:
            return
        with self._lock:
            self._new += found
            self._new_rows += sum(map(len, found))
            self._new_bytes += sum(int(each.estimated_size()) for each in found)
            while self._new and (self._new_rows > _VALUES_MAX or self._new_bytes > _BYTES_MAX):
                oldest = self._new.pop(0)
                self._new_rows -= len(oldest)
                self._new_bytes -= int(oldest.estimated_size())

    def without(self, text: str) -> str:
        """The text without the values that are remembered."""
        if not self.columns or not text:
            return text
        with self._lock:
            self._sort()
            lists = [*self._sorted]
        parts: list[str] = []
        end = 0
        for word in _WORD.finditer(text):
            at = word.start()
            if at < end:
                continue
            length = max((_hit(values, text, at) for values in lists), default=0)
            if length:
                parts += [text[end:at], MASK]
                end = at + length
        return "".join(parts) + text[end:]

    def outside(self, text: str) -> str:
        """What an outside system says, without what it quotes, except names."""
        if not self.columns:
            return text

        def kept(match: re.Match[str]) -> str:
            quoted = next((each for each in match.groups() if each is not None), "")
            if quoted.count(" ") >= _WORDS:  # a sentence, such as the answer of a server in JSON
                return match[0].replace(quoted, _QUOTED.sub(kept, quoted))
            is_name = _NAMED.search(text[: match.start()].rstrip("('\"")) is not None
            if not quoted.strip() or quoted in self.columns or is_name or self.own(quoted):
                return match[0]
            return match[0].replace(quoted, MASK)

        return _QUOTED.sub(kept, self.without(text))

    def of_row(self, message: str, raw: str) -> str:
        """What is wrong with a row that could not be read, without what it quotes of the row."""
        if not self.columns:
            return message
        head = re.match(r"column '((?:[^']|'')*)': ", message)
        if head is not None and head[1] not in self.columns:
            return self.without(message)
        start = head.end() if head is not None else 0

        def kept(match: re.Match[str]) -> str:
            quoted = next((each for each in match.groups() if each is not None), "")
            is_of_row = quoted and (start or quoted in raw or json.dumps(quoted)[1:-1] in raw)
            return match[0].replace(quoted, MASK) if is_of_row else match[0]

        return message[:start] + self.without(_QUOTED.sub(kept, message[start:]))

    def _sort(self) -> None:
        if not self._new:
            return
        values = sorted({text for series in self._new for text in _texts(series)})
        self._new, self._new_rows, self._new_bytes = [], 0, 0
        if len(self._sorted) >= _LISTS_MAX:
            self._sorted = [sorted({*(v for each in self._sorted for v in each)})]
        self._sorted.append(values)
        while len(self._sorted) > 1 and sum(map(len, self._sorted)) > _VALUES_MAX:
            self._sorted.pop(0)
        if sum(map(len, self._sorted)) > _VALUES_MAX:
            self._sorted = [self._sorted[-1]]


def _hit(values: list[str], text: str, at: int) -> int:
    """How many characters of the text, from here, are a value or the beginning of one."""
    rest = text[at : at + _SHOWN_MAX]
    place = bisect_left(values, rest)
    best = 0
    # The longest common beginning is that of a neighbour; a whole value that is shorter stands before.
    for value in values[max(0, place - 1) : place + 1]:
        common = _common(value, rest)
        if (common == len(value) and not _goes_on(rest, common)) or common >= _PREFIX:
            best = max(best, common)
    for word_end in (match.end() for match in _WORD.finditer(rest[:80])):
        whole = bisect_left(values, rest[:word_end])
        if whole < len(values) and values[whole] == rest[:word_end]:
            best = max(best, word_end)
    return best


def _goes_on(text: str, at: int) -> bool:
    return at < len(text) and bool(_WORD.match(text[at])) and bool(_WORD.match(text[at - 1]))


def _common(a: str, b: str) -> int:
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length


def _texts(series: pl.Series) -> Iterator[str]:
    """How the values may stand in a text, from their first letter or digit on."""
    for value in _leaves(series):
        strings = value.cast(pl.String, strict=False).drop_nulls().unique()
        texts = strings.str.replace(r"^\W+", "").str.slice(0, _SHOWN_MAX).str.strip_chars_end()
        yield from texts.filter(texts != "").to_list()
        yield from texts.filter(texts.str.ends_with(".0")).str.head(-2).to_list()
        for text in strings.filter(strings.str.contains(_TRICKY)).to_list():
            escaped = json.dumps(text)[1:-1], text.replace("'", "''"), repr(text)[1:-1]
            for each in escaped:
                yield from _from_word(each)


def _from_word(text: str) -> Iterable[str]:
    first = _WORD.search(text)
    return [text[first.start() : first.start() + _SHOWN_MAX].rstrip()] if first is not None else []


def _leaves(series: pl.Series) -> Iterator[pl.Series]:
    if isinstance(series.dtype, pl.Struct):
        for field in series.struct.fields:
            yield from _leaves(series.struct.field(field))
    elif isinstance(series.dtype, pl.List | pl.Array):
        yield from _leaves(series.explode())
    elif series.dtype == pl.Binary:
        texts = [None if each is None else each.decode(errors="ignore") for each in series]
        yield pl.Series(texts, dtype=pl.String)
        yield series.bin.encode("hex")
    elif series.dtype != pl.Boolean:
        yield series
