"""The columns of a table as its server describes them, and how their values in the log are read.

Always true: a value from the log equals that of a full read of the same row, and is NULL where it does not fit the
column's type there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import xxhash
from msgspec import Struct

from dataflare.connectors.mysql.cdc import numbers, texts
from dataflare.connectors.mysql.cdc import table_map as codes
from dataflare.connectors.mysql.cdc.history import Columns, Logged
from dataflare.connectors.mysql.cdc.images import Bytes, Values
from dataflare.connectors.mysql.cdc.table_map import Cell
from dataflare.connectors.mysql.connection import VALUE, Db
from dataflare.connectors.mysql.relation import Column
from dataflare.connectors.mysql.tables import Place
from dataflare.errors import DataError
from dataflare.sdk.sql.read_again import READ_AGAIN

_INTEGERS = {
    "tinyint": codes.TINY, "smallint": codes.SHORT, "mediumint": codes.INT24, "int": codes.LONG,
    "bigint": codes.LONGLONG,
}  # fmt: skip
_CODES = _INTEGERS | {
    "year": codes.YEAR, "float": codes.FLOAT, "double": codes.DOUBLE, "decimal": codes.DECIMAL, "bit": codes.BIT,
    "date": codes.DATE, "datetime": codes.DATETIME, "timestamp": codes.TIMESTAMP, "time": codes.TIME,
    "enum": codes.ENUM, "set": codes.SET, "char": codes.STRING, "binary": codes.STRING, "varchar": codes.VARCHAR,
    "varbinary": codes.VARCHAR,
}  # fmt: skip
_BLOBS = ("tinyblob", "blob", "mediumblob", "longblob")
_TEXTS = ("tinytext", "text", "mediumtext", "longtext")
_COMPRESSED = {codes.BLOB_COMPRESSED: codes.BLOB, codes.VARCHAR_COMPRESSED: codes.VARCHAR}
_IS_COMPRESSED = re.compile(r" /\*M?!\d+ COMPRESSED\*/")
"""In the type of a column: how its values are stored, which the table does not show."""
_OLD_TIMES = (codes.TIMESTAMP_OLD, codes.TIME_OLD, codes.DATETIME_OLD)


class Described(Struct, frozen=True):
    """The columns of a table now. characters: by character set that is not UTF-8."""

    columns: Columns
    characters: Mapping[str, Sequence[bytes]]

    @property
    def hash(self) -> str:
        """Of the columns, as positions had it once."""
        parts = [f"{c.name}\0{c.declared}\0{c.charset}\0{c.extra}" for c in self.columns.columns]
        return xxhash.xxh3_64_hexdigest("\1".join(parts).encode())


def described(db: Db, place: Place) -> Described:
    """Raises pymysql's errors."""
    rows = db.rows(
        "select column_name, column_type, coalesce(character_set_name, ''), extra "
        f"from information_schema.columns where table_schema = {VALUE} and table_name = {VALUE} "
        "order by ordinal_position",
        [place.schema, place.name],
    )
    columns = tuple(
        Logged(str(name), _IS_COMPRESSED.sub("", str(declared)), str(charset), str(extra))
        for name, declared, charset, extra in rows
    )
    collations = db.rows(
        "select table_collation from information_schema.tables "
        f"where table_schema = {VALUE} and table_name = {VALUE}",
        [place.schema, place.name],
    )
    default = str(collations[0][0]).partition("_")[0] if collations else ""
    sets = {c.charset for c in columns} - {"", *texts.UTF8}
    characters = {name: found for name in sets if (found := _characters(db, name))}
    return Described(Columns(columns, default), characters)


def _characters(db: Db, charset: str) -> Sequence[bytes] | None:
    """Each character of a set with one byte a character, in UTF-8. The server converts them."""
    rows = db.rows(
        f"select maxlen from information_schema.character_sets where character_set_name = {VALUE}",
        [charset],
    )
    if not rows or rows[0][0] != 1 or not charset.isalnum():
        return None
    values = ", ".join(
        f"cast(convert(_{charset} x'{each:02x}' using utf8mb4) as binary)" for each in range(256)
    )
    [characters] = db.rows(f"select {values}")
    return [bytes(each) for each in characters]


class Decoder:
    """Reads one column of the log. Raises DataError for one that cannot be read."""

    def __init__(self, column: Column, logged: Logged, described: Described, table: str) -> None:
        self._column, self._logged, self._table = column, logged, table
        self._unsigned = "unsigned" in logged.declared
        self._recoding: texts.Recoding | None = None
        self._labels = logged.labels if logged.type in ("enum", "set") else ()
        if column.as_text:
            raise DataError(
                f"'schema' says {column.type} for the column '{column.name}', and the changes of table '{table}' have "
                "the types of its columns",
                code="E0405",
                help=f"leave it out of 'schema', and convert it with map: cast: {{{column.name}: {column.type}}}",
            )
        known = logged.type in _CODES or logged.type in _BLOBS or logged.type in _TEXTS
        if not known:
            raise self._refused(f"is {logged.declared}, whose values in the log are not read")
        is_coded = logged.type in (*_TEXTS, "char", "varchar")
        if is_coded and logged.charset not in ("", *texts.UTF8):
            characters = described.characters.get(logged.charset)
            if characters is None:
                raise self._refused(
                    f"has the character set {logged.charset}, whose values in the log are not read"
                )
            self._recoding = texts.Recoding(characters)

    def check(self, cell: Cell) -> None:
        """Raises DataError if the log has another column."""
        expected = _CODES.get(self._logged.type, codes.BLOB)
        if cell.code in _OLD_TIMES:
            raise self._refused(
                "is stored as before MySQL 5.6, and such values in the log are not read",
                f"alter table {self._table} force",
            )
        parts = [int(each) for each in re.findall(r"\d+", self._logged.declared.partition(")")[0])]
        match self._logged.type:
            case "decimal":
                fits = [cell.first, cell.second] == parts
            case "datetime" | "timestamp" | "time":
                fits = [cell.first] == (parts or [0])
            case "bit":
                fits = [cell.second] == parts
            case _:
                fits = True
        if _COMPRESSED.get(cell.code, cell.code) != expected or not fits:
            raise self.changed(f"column '{self._column.name}' has another type in the log")

    def changed(self, what: str) -> DataError:
        return DataError(
            f"table '{self._table}' was changed: {what} than {self._logged.declared}",
            code="E0545",
            help=READ_AGAIN,
        )

    def read(
        self, data: bytes, view: Bytes, values: Values, cell: Cell
    ) -> tuple[pl.Series, pl.Series]:
        """The values, and which do not fit."""
        if cell.code in _COMPRESSED:
            data, view, values = texts.unpacked(view, values)
        found = self._typed(data, view, values, cell)
        if found.dtype != self._column.type.to_polars():
            found = self._cast(found)
        unfit = found.is_null()
        if values.is_null.any():
            is_null = pl.Series(values.is_null)
            found, unfit = found.set(is_null, None), unfit & ~is_null
        return found.alias(self._column.name), unfit

    def message(self, view: Bytes, values: Values, cell: Cell, row: int) -> str:
        """Why a value does not fit."""
        text = self.text(view, values, cell, row)
        return f"column '{self._column.name}' is {self._column.type}, and {text!r:.80} does not fit"

    def text(self, view: Bytes, values: Values, cell: Cell, row: int) -> str:
        """A value that does not fit, as the server writes it."""
        one = Values(values.start[[row]], values.size[[row]], values.is_null[[row]])
        if cell.code in _COMPRESSED:
            _, view, one = texts.unpacked(view, one)
        match self._logged.type:
            case "date":
                packed = int(numbers.little(numbers.fixed(view, one, 3), unsigned=True)[0])
                return f"{packed >> 9:04}-{packed >> 5 & 15:02}-{packed & 31:02}"
            case "datetime":
                cells = numbers.fixed(view, one, cell.width or 0)
                packed = int(numbers.big(cells[:, :5])[0]) - 0x8000000000
                months, day, clock = packed >> 22, packed >> 17 & 31, packed & 0x1FFFF
                tail = _tail(int(numbers.fraction(cells[:, 5:])[0]), cell.first)
                second = f"{clock >> 12:02}:{clock >> 6 & 63:02}:{clock & 63:02}{tail}"
                return f"{months // 13:04}-{months % 13:02}-{day:02} {second}"
            case "timestamp":
                return f"0000-00-00 00:00:00{_tail(0, cell.first)}"
            case "time":
                us = int(numbers.time_us(view, one, cell)[0])
                sign, us = ("-", -us) if us < 0 else ("", us)
                hours, rest = divmod(us, 3_600_000_000)
                minutes, rest = divmod(rest, 60_000_000)
                seconds, rest = divmod(rest, 1_000_000)
                return f"{sign}{hours:02}:{minutes:02}:{seconds:02}{_tail(rest, cell.first)}"
        if self._logged.type in (*_INTEGERS, "bit"):
            return str(self._typed(b"", view, one, cell)[0])
        raw = view[one.start[0] : one.start[0] + one.size[0]].tobytes()
        return f"X'{raw.hex().upper()}'"

    def _typed(self, data: bytes, view: Bytes, values: Values, cell: Cell) -> pl.Series:
        match self._logged.type:
            case "tinyint" | "smallint" | "mediumint" | "int" | "bigint":
                return numbers.integers(view, values, cell, unsigned=self._unsigned)
            case "bit":
                return numbers.bits(view, values, cell)
            case "year":
                return numbers.years(view, values)
            case "float" | "double":
                return numbers.floats(view, values, cell)
            case "decimal":
                if self._column.type.name == "decimal":
                    return numbers.decimals(view, values, cell)
                return numbers.decimal_texts(view, values, cell)
            case "date":
                return numbers.dates(view, values)
            case "datetime":
                return numbers.datetimes(view, values, cell)
            case "timestamp":
                return numbers.timestamps(view, values, cell)
            case "time":
                return numbers.times(view, values, cell)
            case "enum":
                return texts.enums(view, values, cell, self._labels)
            case "set":
                return texts.sets(view, values, cell, self._labels)
            case "binary":
                return texts.padded(view, values, cell.first)
        if self._recoding is not None:
            return self._recoding.recode(view, values)
        return texts.pieces(data, values)

    def _cast(self, found: pl.Series) -> pl.Series:
        type_ = self._column.type
        if type_.name == "bool":
            fits = found.is_between(0, 1)
            return (
                found.cast(pl.Boolean).set(~fits, None)
                if not fits.all()
                else found.cast(pl.Boolean)
            )
        return found.cast(type_.to_polars(), strict=False)

    def _refused(self, why: str, help_: str = "") -> DataError:
        name = self._column.name
        return DataError(
            f"column '{name}' of table '{self._table}' {why}",
            code="E0509",
            help=help_ or "name the other columns in 'columns'",
        )


def _tail(us: int, digits: int) -> str:
    """The digits behind the second."""
    return f".{us:06}"[: digits + 1] if digits else ""


def rows_with(flags: pl.Series) -> list[int]:
    return [int(each) for each in np.flatnonzero(flags.to_numpy())]
