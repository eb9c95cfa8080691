"""How an event of the log describes the table of the rows that follow. Pure. The format is that of
https://dev.mysql.com/doc/dev/mysql-server/latest/classbinary__log_1_1Table__map__event.html"""

from __future__ import annotations

from msgspec import Struct

from dataflare.connectors.mysql.cdc.history import Columns

TINY, SHORT, LONG, FLOAT, DOUBLE, LONGLONG, INT24, DATE, YEAR = 1, 2, 3, 4, 5, 8, 9, 10, 13
TIMESTAMP_OLD, TIME_OLD, DATETIME_OLD = 7, 11, 12
VARCHAR, BIT, TIMESTAMP, DATETIME, TIME = 15, 16, 17, 18, 19
JSON, DECIMAL, ENUM, SET, BLOB, STRING, GEOMETRY = 245, 246, 247, 248, 252, 254, 255
BLOB_COMPRESSED, VARCHAR_COMPRESSED = 140, 141
_META_SIZES = {
    FLOAT: 1, DOUBLE: 1, VARCHAR: 2, BIT: 2, DECIMAL: 2, BLOB: 1, GEOMETRY: 1, JSON: 1, STRING: 2, ENUM: 2, SET: 2,
    TIMESTAMP: 1, DATETIME: 1, TIME: 1, BLOB_COMPRESSED: 1, VARCHAR_COMPRESSED: 2, 253: 2,
}  # fmt: skip
_NAMES = 4
_DIGIT_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)


class Cell(Struct, frozen=True):
    """A column of the log. code: its type. first, second: its description: of a decimal, digits and digits after
    the point; of a time, digits of a second; of others, the bytes that its values have at most."""

    code: int
    first: int = 0
    second: int = 0

    @property
    def width(self) -> int | None:
        """The bytes of a value; None where the value says it."""
        match self.code:
            case 1 | 13:
                return 1
            case 2:
                return 2
            case 9 | 10 | 11:
                return 3
            case 3 | 4 | 7:
                return 4
            case 5 | 8 | 12:
                return 8
            case 17:
                return 4 + (self.first + 1) // 2
            case 18:
                return 5 + (self.first + 1) // 2
            case 19:
                return 3 + (self.first + 1) // 2
            case 246:
                whole = self.first - self.second
                return (
                    whole // 9 * 4 + _DIGIT_BYTES[whole % 9]
                    + self.second // 9 * 4 + _DIGIT_BYTES[self.second % 9]
                )  # fmt: skip
            case 16 | 247 | 248:
                return self.first
        return None

    @property
    def prefix(self) -> int:
        """The bytes of the length before a value that has no width."""
        if self.code in (BLOB, BLOB_COMPRESSED, JSON, GEOMETRY):
            return self.first
        return 1 if self.first < 256 else 2


class TableMap(Struct, frozen=True):
    """names: of the columns, where the server tells them (binlog_row_metadata = FULL). columns: as they were defined
    at this place of the log."""

    schema: str
    table: str
    cells: tuple[Cell, ...]
    names: tuple[str, ...] | None = None
    columns: Columns | None = None

    @property
    def label(self) -> str:
        return f"{self.schema}.{self.table}"


def table_map(body: bytes) -> TableMap:
    """body: an event without its header."""
    schema, at = _short_text(body, 8)
    table, at = _short_text(body, at)
    count, at = length_at(body, at)
    codes, at = body[at : at + count], at + count
    size, at = length_at(body, at)
    meta, at = body[at : at + size], at + size
    cells, place = [], 0
    for code in codes:
        width = _META_SIZES.get(code, 0)
        cells.append(_cell(code, meta[place : place + width]))
        place += width
    at += (count + 7) // 8
    return TableMap(schema, table, tuple(cells), _names(body, at))


def _names(body: bytes, at: int) -> tuple[str, ...] | None:
    while at < len(body):
        kind = body[at]
        size, at = length_at(body, at + 1)
        if kind == _NAMES:
            names, end = [], at + size
            while at < end:
                length, at = length_at(body, at)
                names.append(body[at : at + length].decode())
                at += length
            return tuple(names)
        at += size
    return None


def _cell(code: int, meta: bytes) -> Cell:
    match code:
        case 254 | 253:
            # The two upper bits of a length above 255 are in the type, inverted.
            real, length = meta
            if real & 0x30 != 0x30:
                return Cell(real | 0x30, length | ((real & 0x30) ^ 0x30) << 4)
            return Cell(real, length)
        case 16:
            return Cell(code, meta[1] + (meta[0] > 0), meta[1] * 8 + meta[0])
        case 246:
            return Cell(code, meta[0], meta[1])
        case 15 | 141:
            return Cell(code, int.from_bytes(meta, "little"))
        case 247 | 248:
            return Cell(code, meta[1])
    return Cell(code, meta[0] if meta else 0)


def length_at(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and the place behind it."""
    first = data[at]
    if first < 0xFB:
        return first, at + 1
    width = {0xFC: 2, 0xFD: 3, 0xFE: 8}[first]
    return int.from_bytes(data[at + 1 : at + 1 + width], "little"), at + 1 + width


def _short_text(body: bytes, at: int) -> tuple[str, int]:
    """A text with its length in one byte before it and a zero behind it."""
    size = body[at]
    return body[at + 1 : at + 1 + size].decode(), at + size + 2
