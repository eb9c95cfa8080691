"""The errors and number formats of the cells in a sheet of an .xlsx file.

The reader of values returns an error as an empty cell, and a number without its format. So both are
read from the sheet's XML, but only if the sheet may have them, because that takes longer than
reading the values.

Always true: days are those that Excel shows. Excel has a 1900-02-29, which did not exist: such a
cell is an error, and so is a day before 1900.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from xml.parsers import expat

from msgspec import Struct, field

from dataflare.formats.excel_area import column_number

Cell = tuple[int, int]
"""Row and column, both from 0."""
Kind = Literal["date", "timestamp", "time", "duration", "digits"]
_NO_RESULT = "a formula without a stored result"
_UNCALCULATED = re.compile(
    rb"(?:</(?:\w+:)?f>|<(?:\w+:)?f\b[^<>]*/>)\s*(?:</|<(?:\w+:)?v\s*/>|<(?:\w+:)?v></)"
)
"""A formula after which no value comes: the program that wrote the file did not calculate it."""
_TAIL_BYTES = 256


class SheetMarks(Struct):
    """errors: the texts of error cells, and of formulas that were not calculated. days: the right days of cells that the reader of values
    gets wrong. digits: the formats of numbers that are shown with leading zeros, such as 00000."""

    errors: dict[Cell, str] = field(default_factory=dict)
    days: dict[Cell, date | datetime] = field(default_factory=dict)
    digits: dict[Cell, str] = field(default_factory=dict)


class Formats(Struct, frozen=True):
    """kinds: by the number of a cell's style, if it has a kind. codes: the codes of kind
    `digits`."""

    kinds: dict[int, Kind]
    codes: dict[int, str]
    starts_1904: bool


class XlsxMarks:
    """The marks of the sheets of one file. Close it after use."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        names = {each.lower(): each for each in self._zip.namelist()}
        self._names = names
        self.formats = self._read_formats()
        self._sheets = dict(self._read_sheets())
        self._data: dict[str, bytes] = {}

    def close(self) -> None:
        self._zip.close()

    def may_have_errors(self, sheet: str) -> bool:
        if sheet not in self._sheets:
            return False
        with self._zip.open(self._sheets[sheet]) as file:
            tail = b""
            while data := file.read(1 << 20):
                text = tail + data
                if b't="e"' in text or b"t='e'" in text or _UNCALCULATED.search(text):
                    return True
                tail = data[-_TAIL_BYTES:]
        return False

    def kind_at(self, sheet: str, cell: Cell) -> Kind | None:
        """The kind of value that the format of one cell shows."""
        if sheet not in self._sheets:
            return None
        if sheet not in self._data:
            self._data = {sheet: self._zip.read(self._sheets[sheet])}
        place = f"{column_letters(cell[1])}{cell[0] + 1}".encode()
        tag = re.search(
            rb"<(?:\w+:)?c\s(?:[^>]*\s)?r=[\"']" + place + rb"[\"'][^>]*>", self._data[sheet]
        )
        style = re.search(rb"\ss=[\"'](\d+)", tag.group()) if tag is not None else None
        return self.formats.kinds.get(int(style.group(1))) if style is not None else None

    def marks(self, sheet: str) -> SheetMarks:
        if sheet not in self._sheets:
            return SheetMarks()
        with self._zip.open(self._sheets[sheet]) as file:
            return _SheetParser(self.formats).parse(file)

    def _root(self, name: str) -> ElementTree.Element | None:
        real = self._names.get(name)
        return None if real is None else ElementTree.fromstring(self._zip.read(real))

    def _read_sheets(self) -> Iterator[tuple[str, str]]:
        """Each sheet's name, and the name of its part of the file."""
        book, links = self._root("xl/workbook.xml"), self._root("xl/_rels/workbook.xml.rels")
        if book is None or links is None:
            return
        targets = {link.get("Id"): link.get("Target", "") for link in links}
        for element in book.iter():
            if _local(element.tag) != "sheet":
                continue
            link = next((v for k, v in element.attrib.items() if _local(k) == "id"), None)
            target = targets.get(link, "")
            part = target.lstrip("/") if target.startswith("/") else f"xl/{target}"
            real = self._names.get(part.lower())
            if real is not None:
                yield element.get("name", ""), real

    def _read_formats(self) -> Formats:
        book, styles = self._root("xl/workbook.xml"), self._root("xl/styles.xml")
        properties = () if book is None else book.iter()
        starts_1904 = any(
            _local(each.tag) == "workbookPr" and each.get("date1904") in ("1", "true")
            for each in properties
        )
        codes: dict[int, str] = {}
        cells: list[int] = []
        for element in () if styles is None else styles:
            if _local(element.tag) == "numFmts":
                codes = {int(e.get("numFmtId", 0)): e.get("formatCode", "") for e in element}
            if _local(element.tag) == "cellXfs":
                cells = [int(e.get("numFmtId", 0)) for e in element]
        formats = {
            n: (kind_of(codes.get(id_, ""), id_), codes.get(id_, "")) for n, id_ in enumerate(cells)
        }
        return Formats(
            {n: kind for n, (kind, _) in formats.items() if kind is not None},
            {n: _literal(code) for n, (kind, code) in formats.items() if kind == "digits"},
            starts_1904,
        )


class _SheetParser:
    """Reads a sheet's XML, in which rows and cells may omit their positions. expat calls it for
    each element, so it does little for elements without a mark.
    """

    def __init__(self, formats: Formats) -> None:
        self.formats, self.marks = formats, SheetMarks()
        self.row = self.column = -1
        self.place: str | None = None
        self.formula: Cell | None = None
        self.type, self.style = "n", -1
        self.kind: Kind | None = None
        self.text: list[str] = []
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start

    def parse(self, file: Any) -> SheetMarks:
        self.parser.ParseFile(file)
        return self.marks

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "c" or name.endswith(":c"):
            self.place, self.formula = attributes.get("r"), None
            self.column += 1
            self.type = attributes.get("t", "n")
            self.kind = None
            if self.type == "n" and "s" in attributes:
                self.style = int(attributes["s"])
                self.kind = self.formats.kinds.get(self.style)
        elif name == "row" or name.endswith(":row"):
            self.row = int(attributes["r"]) - 1 if "r" in attributes else self.row + 1
            self.column = -1
        elif name == "f" or name.endswith(":f"):
            if self.type != "str":
                self.formula = self._cell()
                self.marks.errors[self.formula] = _NO_RESULT
        elif (
            self.kind is not None or self.type == "e" or self.formula is not None
        ) and name.rpartition(":")[2] == "v":
            self.text = []
            self.parser.CharacterDataHandler = self.text.append
            self.parser.EndElementHandler = self._end

    def _end(self, name: str) -> None:
        self.parser.CharacterDataHandler = self.parser.EndElementHandler = None
        self._note("".join(self.text))

    def _cell(self) -> Cell:
        if self.place is not None:
            self.column = column_number(self.place.rstrip("0123456789"))
        return self.row, self.column

    def _note(self, text: str) -> None:
        if self.formula is not None:
            if not text.strip():
                return
            del self.marks.errors[self.formula]
        if self.type == "e":
            self.marks.errors[self._cell()] = text
        elif self.kind == "digits":
            self.marks.digits[self._cell()] = self.formats.codes[self.style]
        elif self.kind in ("date", "timestamp") and not self.formats.starts_1904:
            serial = float(text)
            if serial < 61:
                self._note_day(serial)

    def _note_day(self, serial: float) -> None:
        """Note the days that the reader of values gets wrong: days before 0, day 0, and day 60."""
        if serial < 0:
            self.marks.errors[self._cell()] = f"{serial:g} days before 1900"
        elif serial < 1:
            start = datetime(1900, 1, 1)
            day = start + timedelta(milliseconds=round(serial * 86_400_000))
            self.marks.days[self._cell()] = day if self.kind == "timestamp" else start.date()
        elif serial >= 60:
            self.marks.errors[self._cell()] = "1900-02-29"


_BUILT_IN: dict[int, Kind] = {
    **dict.fromkeys((14, 15, 16, 17, *range(27, 37), *range(50, 59)), "date"),
    **dict.fromkeys((18, 19, 20, 21, 45, 47), "time"),
    22: "timestamp",
    46: "duration",
}
_NO_VALUE = re.compile(r'"[^"]*"|\\.|_.|\*.|\[(?!(?:h+|m+|s+)\])[^\]]*\]|am/pm|a/p', re.IGNORECASE)
_DIGITS = re.compile(r"[0 ()/-]*0[0 ()/-]*")


def kind_of(code: str, number: int = 0) -> Kind | None:
    """The kind of value that a number format shows. number: of a built-in format, which has no
    code."""
    if not code:
        return _BUILT_IN.get(number)
    first = code.split(";")[0]
    if _DIGITS.fullmatch(_literal(first)) and _literal(first).count("0") > 1:
        return "digits"
    letters = _NO_VALUE.sub("", first).lower()
    if letters == "general":
        return None
    if "[" in letters:
        return "duration"
    day, clock = bool(set(letters) & set("yd")), bool(set(letters) & set("hs"))
    if day or clock:
        return "timestamp" if day and clock else "date" if day else "time"
    return "date" if "m" in letters else None


def _literal(code: str) -> str:
    """A format's code with its quoted and escaped characters as they are shown."""
    return re.sub(r'\\(.)|"([^"]*)"', r"\1\2", code.split(";")[0])


def column_letters(number: int) -> str:
    """A column's name in Excel: 0 is A, 26 is AA."""
    letters = ""
    while number >= 0:
        number, rest = divmod(number, 26)
        letters = chr(65 + rest) + letters
        number -= 1
    return letters


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
