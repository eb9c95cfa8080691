"""The dialect of a CSV file, found on its beginning: delimiter, quote, escape, comments, title lines.

Always true: what the user says is taken as it is; a comma (a tab in .tsv) stays the delimiter unless
another one gives each line the same number of fields and the header as many; what is found beside the
usual is told in words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct

from dataflare.formats.csv_rewrite import Rewriting
from dataflare.formats.records import is_blank, scan_records

DELIMITERS = (",", ";", "\t", "|")
_OTHERS = (*DELIMITERS, ":", "~", "^")
_LOOKED_AT = 200
"""Records that are looked at."""
_BYTES = 256 << 10
_TITLES_MAX = 20
_SHARE = 0.9
AUTO = "auto"


class CsvSaid(Struct, frozen=True):
    """What the user says of the dialect; "auto" is to be found, None is not there."""

    delimiter: str | None = AUTO
    quote: str | None = AUTO
    escape: str | None = AUTO
    comment: str | None = AUTO
    has_header: bool = True


class CsvFound(Struct, frozen=True):
    """delimiter … comment: of the dialect. titles: how many lines stand above the header. findings:
    what is not usual, by option. doubt: what may be wrong."""

    delimiter: str
    quote: str | None
    escape: str | None = None
    comment: str | None = None
    titles: int = 0
    findings: Mapping[str, str] = MappingProxyType({})
    doubt: str | None = None


class _Reading(Struct, frozen=True):
    """A dialect tried: the width of its rows, whether the header has it too, and which share of rows."""

    found: CsvFound
    width: int
    share: float

    @property
    def holds(self) -> bool:
        return self.width > 1 and self.share >= _SHARE


def find_dialect(head: bytes, said: CsvSaid, default: str) -> CsvFound:
    """The dialect of a text by its beginning. default: the delimiter, where nothing speaks for
    another one."""
    head = head[:_BYTES]
    if len(head) == _BYTES:
        head = head[: head.rfind(b"\n") + 1]
    best = _best(head, said, default)
    findings = _findings(best, said, default)
    return CsvFound(
        best.found.delimiter,
        best.found.quote,
        best.found.escape,
        best.found.comment,
        best.found.titles,
        findings,
        _doubt(head, best),
    )


def _best(head: bytes, said: CsvSaid, default: str) -> _Reading:
    order = [default, *(each for each in DELIMITERS if each != default)]
    delimiters = order if said.delimiter == AUTO else [said.delimiter or default]
    readings = [_read(head, delimiter, said) for delimiter in delimiters]
    held = [reading for reading in readings if reading.holds]
    if held:
        return max(held, key=lambda reading: reading.width)
    usual = readings[0]
    if usual.width > 1 or len(readings) == 1:
        return usual
    # Rows differ whatever the delimiter is: that of the header tells.
    return max(readings, key=lambda reading: reading.width)


def _read(head: bytes, delimiter: str, said: CsvSaid) -> _Reading:
    quotes = ['"', "'"] if said.quote == AUTO else [said.quote]
    readings: list[_Reading] = []
    for quote in quotes:
        usual_holds = bool(readings) and readings[0].holds
        if quote == "'" and (b"'" not in head or (usual_holds and not _encloses(head, delimiter))):
            continue
        escapes = [None, "\\"] if said.escape == AUTO else [said.escape]
        if quote is None or b"\\" + quote.encode() not in head:
            escapes = escapes[:1]
        readings += [_read_as(head, delimiter, quote, escape, said) for escape in escapes]
    if readings[-1].found.quote == "'" and readings[-1].holds:
        return readings[-1]
    return max(readings, key=lambda reading: (reading.holds, reading.share))


def _encloses(head: bytes, delimiter: str) -> bool:
    """Whether each line has a field in single quotes."""
    d = re.escape(delimiter.encode())
    field = re.compile(b"(?:^|" + d + b")'[^'\n]*'(?=" + d + b"|\r?$)", re.MULTILINE)
    lines = [line for line in head.splitlines()[1:_LOOKED_AT] if line.strip()]
    return bool(lines) and all(field.search(line) for line in lines)


def _read_as(
    head: bytes, delimiter: str, quote: str | None, escape: str | None, said: CsvSaid
) -> _Reading:
    comment = None if said.comment == AUTO else said.comment
    lines, problems = _records(head, delimiter, quote, escape, comment)
    titles = 0
    if said.has_header:
        titles = _titles(lines, delimiter)
        if (
            titles
            and said.comment == AUTO
            and all(t.startswith(b"#") for _, t, _ in lines[:titles])
        ):
            comment, titles = "#", 0
            lines, problems = _records(head, delimiter, quote, escape, comment)
    body = lines[titles:]
    found = CsvFound(delimiter, quote, escape, comment, body[0][0] if titles and body else 0)
    if not body:
        return _Reading(found, 0, 0)
    width = body[0][2]
    same = sum(fields == width for _, _, fields in body) - problems
    return _Reading(found, width, same / len(body))


def _records(
    head: bytes, delimiter: str, quote: str | None, escape: str | None, comment: str | None
) -> tuple[list[tuple[int, bytes, int]], int]:
    """For each record that is not blank its line (from 0), its text and its number of fields; and how
    many cannot be read."""
    if escape is not None or comment is not None:
        head = Rewriting(delimiter, quote, escape, comment).whole(head)
    records: list[tuple[int, bytes, int]] = []
    line = problems = 0
    for record in scan_records(head, delimiter, quote):
        text = head[record.start : record.end]
        if not is_blank(head, record.start, record.end):
            records.append((line, text, record.fields))
            problems += record.problem is not None
        line += text.count(b"\n")
        if len(records) >= _LOOKED_AT:
            break
    return records, problems


def _titles(records: Sequence[tuple[int, bytes, int]], delimiter: str) -> int:
    """How many records stand above the header: comments, or lines of one field, above rows that all
    have one larger width. Without a comment's mark there must be a column of numbers or dates whose
    name is none: else a text of one column could lose its first rows."""
    counted = Counter(fields for _, _, fields in records if fields > 1)
    if not counted:
        return 0
    width, _ = counted.most_common(1)[0]
    number = next(i for i, (_, _, fields) in enumerate(records) if fields > 1)
    above = [text for _, text, _ in records[:number]]
    # A comment may stand at the end too.
    body = [r for r in records[number:] if r[2] > 1 or not r[1].startswith(b"#")]
    same = sum(fields == width for _, _, fields in body)
    if not 0 < number <= _TITLES_MAX or len(body) < 2 or same < len(body) / 2:
        return 0
    if all(text.startswith(b"# ") for text in above):
        return number
    if same < _SHARE * len(body):
        return 0
    cells = [text.strip().split(delimiter.encode()) for _, text, _ in body]
    cells = [row for row in cells if len(row) == width]
    if len(cells) < 2:
        return 0
    numbers = [
        all(_NUMBER.match(value) for value in column) for column in zip(*cells[1:], strict=True)
    ]
    named = not any(_NUMBER.match(name) for name in cells[0])
    return number if named and any(numbers) else 0


_NUMBER = re.compile(rb"""\A["']?[+-]?\d[\d.,:/TZ -]*["']?\Z""")


def _findings(best: _Reading, said: CsvSaid, default: str) -> dict[str, str]:
    found = best.found
    options = {
        "delimiter": (said.delimiter, found.delimiter, default),
        "quote": (said.quote, found.quote, '"'),
        "escape": (said.escape, found.escape, None),
        "comment": (said.comment, found.comment, None),
    }
    findings = {
        name: "tab" if mark == "\t" else mark
        for name, (option, mark, usual) in options.items()
        if option == AUTO and mark is not None and mark != usual
    }
    if found.titles:
        findings["header_row"] = str(found.titles + 1)
    return findings


def _shown(mark: str) -> str:
    return "tab" if mark == "\t" else f"'{mark}'"


def _doubt(head: bytes, best: _Reading) -> str | None:
    """Of a file of one column whose lines all hold another delimiter."""
    if best.width != 1:
        return None
    for mark in _OTHERS:
        lines, _ = _records(head, mark, best.found.quote, None, None)
        widths = {fields for _, _, fields in lines}
        if mark != best.found.delimiter and len(lines) > 1 and len(widths) == 1 and widths != {1}:
            return f"has one column, and each of its lines holds {_shown(mark)}: set 'delimiter'"
    return None
