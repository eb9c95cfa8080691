"""The dialect of a CSV file, found in its first records: delimiter, quote, escape, comments, title
lines.

Always true: an option that the user set is not changed; a comma (a tab in .tsv) stays the delimiter
unless another one gives the header and each line the same number of fields; each unusual finding is
reported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from dataflare.formats.csv_rewrite import Rewriting
from dataflare.formats.records import is_blank, scan_records

DELIMITERS = (",", ";", "\t", "|")
_OTHERS = (*DELIMITERS, ":", "~", "^")
_LOOKED_AT = 200
"""How many records are examined."""
_BYTES = 256 << 10
_TITLES_MAX = 20
_SHARE = 0.9
_EXCEL_MARK = re.compile(rb"""\A"?sep=(?P<delimiter>[^\r\n"'\x80-\xff])"?\r?\n""", re.IGNORECASE)
"""The first line of a file for Excel; Excel takes the delimiter from it and shows the rest."""
AUTO = "auto"


class DialectOptions(Struct, frozen=True):
    """The dialect options of the user; "auto": to be found, None: the file has no such mark. row_width:
    of a comment mark that was found in another file, see `Rewriting`."""

    delimiter: str | None = AUTO
    quote: str | None = AUTO
    escape: str | None = AUTO
    comment: str | None = AUTO
    has_header: bool = True
    row_width: int | None = None


class SniffedDialect(Struct, frozen=True):
    """delimiter … comment: of the dialect. titles: the number of lines above the header. findings:
    the unusual values, by option. doubt: what may be wrong."""

    delimiter: str
    quote: str | None
    escape: str | None = None
    comment: str | None = None
    titles: int = 0
    findings: Mapping[str, str] = MappingProxyType({})
    doubt: str | None = None
    row_width: int | None = None


class _Reading(Struct, frozen=True):
    """A dialect that was tried: the width of its header, and the share of rows with that width."""

    dialect: SniffedDialect
    width: int
    share: float

    @property
    def is_consistent(self) -> bool:
        return self.width > 1 and self.share >= _SHARE


def find_dialect(
    head: bytes, options: DialectOptions, default: str, *, at_start: bool = True
) -> SniffedDialect:
    """The dialect of a text, by its beginning. default: the delimiter, unless another one fits
    better. at_start: whether the text begins where the file does; Excel's mark is only there."""
    head = head[:_BYTES]
    if len(head) == _BYTES:
        head = head[: head.rfind(b"\n") + 1]
    mark = _EXCEL_MARK.match(head) if at_start else None
    tried = options
    if mark is not None:
        head = head[mark.end() :]
        if options.delimiter == AUTO:
            tried = replace(options, delimiter=mark["delimiter"].decode())
    best = _best(head, tried, default)
    findings = _findings(best, options, default)
    titles = best.dialect.titles
    if mark is not None:
        titles += 1
        if options.has_header:
            findings["header_row"] = str(titles + 1)
    return SniffedDialect(
        best.dialect.delimiter,
        best.dialect.quote,
        best.dialect.escape,
        best.dialect.comment,
        titles,
        findings,
        _doubt(head, best),
        best.dialect.row_width,
    )


def _best(head: bytes, options: DialectOptions, default: str) -> _Reading:
    order = [default, *(each for each in DELIMITERS if each != default)]
    delimiters = order if options.delimiter == AUTO else [options.delimiter or default]
    readings = [_read(head, delimiter, options) for delimiter in delimiters]
    consistent = [reading for reading in readings if reading.is_consistent]
    if consistent:
        return max(consistent, key=lambda reading: reading.width)
    usual = readings[0]
    if usual.width > 1 or len(readings) == 1:
        return usual
    # Rows differ in width with every delimiter: the header decides.
    return max(readings, key=lambda reading: reading.width)


def _read(head: bytes, delimiter: str, options: DialectOptions) -> _Reading:
    quotes = ['"', "'"] if options.quote == AUTO else [options.quote]
    readings: list[_Reading] = []
    for quote in quotes:
        usual_is_consistent = bool(readings) and readings[0].is_consistent
        if quote == "'" and (
            b"'" not in head or (usual_is_consistent and not _encloses(head, delimiter))
        ):
            continue
        escapes = [None, "\\"] if options.escape == AUTO else [options.escape]
        if quote is None or b"\\" + quote.encode() not in head:
            escapes = escapes[:1]
        readings += [_read_as(head, delimiter, quote, escape, options) for escape in escapes]
    if readings[-1].dialect.quote == "'" and readings[-1].is_consistent:
        return readings[-1]
    return max(readings, key=lambda reading: (reading.is_consistent, reading.share))


def _encloses(head: bytes, delimiter: str) -> bool:
    """Whether each line has a field in single quotes."""
    d = re.escape(delimiter.encode())
    field = re.compile(b"(?:^|" + d + b")'[^'\n]*'(?=" + d + b"|\r?$)", re.MULTILINE)
    lines = [line for line in head.splitlines()[1:_LOOKED_AT] if line.strip()]
    return bool(lines) and all(field.search(line) for line in lines)


def _read_as(
    head: bytes, delimiter: str, quote: str | None, escape: str | None, options: DialectOptions
) -> _Reading:
    comment = None if options.comment == AUTO else options.comment
    row_width = options.row_width
    lines, problems = _records(head, delimiter, quote, escape, comment, row_width)
    titles = 0
    if options.has_header:
        titles = _titles(lines, delimiter)
        if (
            titles
            and options.comment == AUTO
            and all(t.startswith(b"#") for _, t, _ in lines[:titles])
        ):
            comment, row_width, titles = "#", lines[titles][2], 0
            lines, problems = _records(head, delimiter, quote, escape, comment, row_width)
    body = lines[titles:]
    dialect = SniffedDialect(
        delimiter,
        quote,
        escape,
        comment,
        body[0][0] if titles and body else 0,
        row_width=row_width,
    )
    if not body:
        return _Reading(dialect, 0, 0)
    width = body[0][2]
    same = sum(fields == width for _, _, fields in body) - problems
    return _Reading(dialect, width, same / len(body))


def _records(
    head: bytes,
    delimiter: str,
    quote: str | None,
    escape: str | None,
    comment: str | None,
    row_width: int | None,
) -> tuple[list[tuple[int, bytes, int]], int]:
    """For each record that is not blank: its line (from 0), its text and its number of fields. Then
    the number of records that cannot be read."""
    if escape is not None or comment is not None:
        head = Rewriting(delimiter, quote, escape, comment, row_width).whole(head)
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
    """The number of records above the header: comments, or lines of one field above rows of one
    larger width. If they have no comment mark, a column of numbers or dates must have a name that
    is text: otherwise a text of one column could lose its first rows."""
    counted = Counter(fields for _, _, fields in records if fields > 1)
    if not counted:
        return 0
    width, _ = counted.most_common(1)[0]
    number = next(i for i, (_, _, fields) in enumerate(records) if fields > 1)
    above = [text for _, text, _ in records[:number]]
    # There may be a comment at the end too.
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
    has_names = not any(_NUMBER.match(name) for name in cells[0])
    return number if has_names and any(numbers) else 0


_NUMBER = re.compile(rb"""\A["']?[+-]?\d[\d.,:/TZ -]*["']?\Z""")


def _findings(best: _Reading, options: DialectOptions, default: str) -> dict[str, str]:
    dialect = best.dialect
    choices = {
        "delimiter": (options.delimiter, dialect.delimiter, default),
        "quote": (options.quote, dialect.quote, '"'),
        "escape": (options.escape, dialect.escape, None),
        "comment": (options.comment, dialect.comment, None),
    }
    findings = {
        name: "tab" if mark == "\t" else mark
        for name, (option, mark, usual) in choices.items()
        if option == AUTO and mark is not None and mark != usual
    }
    if dialect.titles:
        findings["header_row"] = str(dialect.titles + 1)
    return findings


def _shown(mark: str) -> str:
    return "tab" if mark == "\t" else f"'{mark}'"


def _doubt(head: bytes, best: _Reading) -> str | None:
    """The warning for a file of one column if all its lines contain another delimiter."""
    if best.width != 1:
        return None
    for mark in _OTHERS:
        lines, _ = _records(head, mark, best.dialect.quote, None, None, None)
        widths = {fields for _, _, fields in lines}
        if mark != best.dialect.delimiter and len(lines) > 1 and len(widths) == 1 and widths != {1}:
            return f"has one column, and each of its lines contains {_shown(mark)}: set 'delimiter'"
    return None
