"""How the types of MySQL and MariaDB are read, and how DataFlare's types are declared.

| MySQL, MariaDB | read as |
| --- | --- |
| tinyint(1), bit(1) | bool; a value other than 0 and 1 is a row error |
| tinyint, smallint, mediumint, int, bigint | int8, int16, int32, int32, int64; unsigned: uint8 to uint64 |
| year | int16 |
| decimal(p, s) up to 38 digits | decimal(p, s) |
| decimal with more than 38 digits | string, all digits |
| float, double | float32, float64 |
| bit(n) | uint64 |
| char, varchar, text, enum, set, uuid, inet4, inet6 | string, whatever the character set of the column |
| json | json; in MariaDB a column of a table with the check json_valid |
| binary, varbinary, blob | binary |
| date | date |
| datetime | timestamp[us] |
| timestamp | timestamp[us, UTC] |
| time | time; a value below 0 or from 24 hours on is a row error, unless `schema` says duration |
| point, geometry and similar, vector | refused: select ST_AsText(...) in a query, or leave the column out |

A date such as 0000-00-00 or 2024-02-00 is not a date: its row is a row error, unless `schema` says string.

| DataFlare | MySQL, MariaDB in a new table |
| --- | --- |
| bool | tinyint(1) |
| int8 to int64, uint8 to uint64 | tinyint, smallint, int, bigint, and unsigned |
| float32, float64 | float, double |
| decimal(p, s) | decimal(p, s) up to 30 digits after the point |
| string | longtext; varchar(255) in a key |
| binary | longblob; varbinary(255) in a key |
| json, struct, list | json |
| date, time | date, time(6) |
| timestamp, timestamp with a zone | datetime(6), timestamp(6) |
| duration | time(6) |

Text compares by its bytes in a new table. A column `timestamp` begins in 1970 and ends in 2038 (in newer
versions of MariaDB in 2106), a `time` has at most 838 hours: other values are refused. NaN and infinity are
refused, and so are nanoseconds that are not whole microseconds.
"""

from __future__ import annotations

import re

from msgspec import Struct
from pymysql.constants import FIELD_TYPE, FLAG

from dataflare.connectors.mysql.wire import FieldOf
from dataflare.model import types
from dataflare.model.types import DataType
from dataflare.sdk.sql.growth import Room

_BINARY = 63
_SIZES = {FIELD_TYPE.TINY: 8, FIELD_TYPE.SHORT: 16, FIELD_TYPE.INT24: 32, FIELD_TYPE.LONG: 32,
          FIELD_TYPE.LONGLONG: 64}  # fmt: skip
_NOT_FIXED = 31
"""The scale of a double without digits after the point."""
SPATIAL = (
    "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon",
    "geometrycollection", "geomcollection", "vector",
)  # fmt: skip


class Meaning(Struct, frozen=True):
    """type: DataFlare's type; None if there is none. sql: the SQL to select, with {} for the column. keyed:
    whether rows can be ordered by it, and compared with its text."""

    type: DataType | None
    sql: str = "{}"
    keyed: bool = False


def meaning_of(field: FieldOf) -> Meaning:
    """How a column of a result is read."""
    code, unsigned = field.code, bool(field.flags & FLAG.UNSIGNED)
    if code == FIELD_TYPE.TINY and field.length == 1 and not unsigned:
        return Meaning(types.BOOL)
    if code in _SIZES:
        return Meaning(DataType(f"{'u' if unsigned else ''}int{_SIZES[code]}"), keyed=True)
    match code:
        case FIELD_TYPE.YEAR:
            return Meaning(types.INT16, keyed=True)
        case FIELD_TYPE.DECIMAL | FIELD_TYPE.NEWDECIMAL:
            digits = field.length - (field.scale > 0) - (not unsigned)
            fits = digits <= types.DIGITS_MAX
            type_ = types.decimal(max(digits, 1), field.scale) if fits else types.STRING
            return Meaning(type_, keyed=fits)
        case FIELD_TYPE.FLOAT:
            # As text the server shows six digits; a product is a double, with all of them.
            return Meaning(types.FLOAT32, "({} * 1e0)")
        case FIELD_TYPE.DOUBLE:
            return Meaning(types.FLOAT64, "{}" if field.scale >= _NOT_FIXED else "({} * 1e0)")
        case FIELD_TYPE.BIT:
            return Meaning(types.BOOL if field.length == 1 else types.UINT64, "({} + 0)")
        case FIELD_TYPE.DATE | FIELD_TYPE.NEWDATE:
            return Meaning(types.DATE, keyed=True)
        case FIELD_TYPE.DATETIME:
            return Meaning(types.TIMESTAMP, keyed=True)
        case FIELD_TYPE.TIMESTAMP:
            return Meaning(types.TIMESTAMP_UTC, keyed=True)
        case FIELD_TYPE.TIME:
            return Meaning(types.TIME)
        case FIELD_TYPE.JSON:
            return Meaning(types.JSON)
        case FIELD_TYPE.GEOMETRY | 242:  # 242: vector
            return Meaning(None)
        case FIELD_TYPE.NULL:
            return Meaning(types.NULL)
    listed = bool(field.flags & (FLAG.ENUM | FLAG.SET))
    if field.charset == _BINARY and not listed:
        return Meaning(types.BINARY, keyed=code != FIELD_TYPE.BLOB)
    return Meaning(types.STRING, keyed=code != FIELD_TYPE.BLOB and not listed)


def declared(type_: DataType, *, key: bool = False) -> str:
    """The declaration of a new column. key: it is in a key, which takes no long text."""
    match type_.name:
        case "bool":
            return "tinyint(1)"
        case "float32":
            return "float"
        case "float64":
            return "double"
        case "decimal":
            return f"decimal({type_.precision}, {type_.scale})"
        case "binary":
            return "varbinary(255)" if key else "longblob"
        case "json" | "struct" | "list":
            return "json"
        case "date":
            return "date"
        case "time" | "duration":
            return "time(6)"
        case "timestamp":
            return "timestamp(6) null default null" if type_.timezone else "datetime(6)"
    if type_.is_integer:
        name = type_.name.removeprefix("u")
        plain = {"int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint"}[name]
        return plain + (" unsigned" if type_.name.startswith("u") else "")
    return "varchar(255)" if key else "longtext"


class Declared(Struct, frozen=True):
    """The parts of a declaration such as decimal(10,2) unsigned. name: of the type. digits: in brackets."""

    name: str
    digits: tuple[int, ...] = ()
    members: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str) -> Declared:
        name, bracket, rest = text.partition("(")
        if name in ("enum", "set"):
            quoted = re.findall(r"'((?:[^']|'')*)'", rest)
            return cls(name, members=tuple(each.replace("''", "'") for each in quoted))
        inside = rest.partition(")")[0] if bracket else ""
        words = name.split()
        return cls(words[0] if words else "", tuple(int(d) for d in re.findall(r"\d+", inside)))

    @property
    def type(self) -> DataType | None:
        """The type of its clock, for columns of times."""
        return {"datetime": types.TIMESTAMP, "timestamp": types.TIMESTAMP_UTC}.get(self.name)


def room_of(text: str) -> Room | None:
    """What a column with this declaration holds, if it can become wider."""
    column = Declared.of(text)
    match column.name:
        case "tinyint" | "smallint" | "mediumint" | "int":
            bits = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32}[column.name]
            return (
                None
                if column.digits == (1,)
                else Room.of_integer(bits, unsigned="unsigned" in text)
            )
        case "float" if not column.digits:
            return Room("float32")
        case "decimal":
            digits, scale = (*column.digits, 0)[:2]
            return Room("decimal", digits=digits, scale=scale)
        case "varchar" | "char":
            return Room("text", digits=column.digits[0])
    return None


_WHOLE = ("tinyint", "smallint", "mediumint", "int", "bigint")
_TEXT = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext")
_BYTES = ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob")
_OTHER_TEXT = ("enum", "set", "json", "uuid", "inet4", "inet6", "xmltype")


def fits(type_: DataType, into: Declared) -> bool:
    """Whether values of a type may be written to a column. The server refuses single values; this refuses
    types that it would change in every row, and text that it would have to interpret."""
    name = into.name
    if name in SPATIAL:
        return False
    match type_.name:
        case "null":
            return True
        case "string" | "json":
            return name in (*_TEXT, *_OTHER_TEXT)
        case "struct" | "list":
            return name in (*_TEXT, "json")
        case "binary":
            return name in _BYTES
        case "bool":
            return name in (*_WHOLE, *_TEXT, "bit", "decimal")
        case "date":
            return name in ("date", "datetime", *_TEXT)
        case "time" | "duration":
            return name in ("time", *_TEXT)
        case "timestamp":
            return name in ("datetime", "timestamp", *_TEXT)
        case "decimal":
            if name in _WHOLE:
                return type_.scale == 0
            return name in ("decimal", "float", "double", *_TEXT)
    if type_.is_integer:
        return name in (*_WHOLE, "decimal", "float", "double", "bit", "year", *_TEXT)
    return name in ("float", "double", "decimal", *_TEXT)
