"""How DataFlare's types are declared and stored in SQLite, and how declared types are read.

| DataFlare | declared | stored |
| --- | --- | --- |
| bool | BOOLEAN | 0, 1 |
| int8 ... int64, uint8 ... uint32 | INTEGER | integer; read back as int64 |
| uint64 | UNSIGNED_BLOB | integer; text from 2^63 on, where SQLite has no integers |
| float32, float64 | REAL | real; NaN is stored as NULL, because SQLite has none; infinity is kept |
| decimal(p, s), p <= 15 | DECIMAL(p, s) | number, exact to 15 digits |
| decimal(p, s) | DECIMAL_TEXT(p, s) | text, all digits; a NUMERIC column would lose some |
| string | TEXT | text |
| binary | BLOB | blob |
| date | DATE | 2026-01-31 |
| time | TIME | 12:34:56.123456789 |
| timestamp[us] | TIMESTAMP | 2026-01-31 12:34:56.123456; TIMESTAMP(0), (3), (9) for s, ms, ns |
| timestamp[us, zone] | TIMESTAMPTZ | the same in UTC, with +00:00; read back as UTC |
| duration[us] | INTERVAL | integer microseconds; INTERVAL(0), (3), (9) for s, ms, ns |
| json, list, struct | JSON_TEXT | JSON text; read back as json |

Read: other declared types go by SQLite's own affinity rules (VARCHAR is text, DOUBLE is real);
DATETIME is a timestamp; columns without a declared type, ANY and NUMERIC go by the values found.
"""

from __future__ import annotations

import re

import polars as pl

from dataflare.formats import far_times
from dataflare.model import types
from dataflare.model.types import DataType

_DECLARED = re.compile(r"\s*([A-Za-z_ ]*?)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?\s*$")
_NUMBERS = re.compile(r"\s*(NUMERIC|DECIMAL|DEC|NUMBER|MONEY)\b", re.I)
_UNIT_OF_DIGITS = {"0": "s", "3": "ms", "6": "us", "9": "ns"}
_DIGITS_OF_UNIT = {unit: digits for digits, unit in _UNIT_OF_DIGITS.items()}
_FRACTION = {"s": "", "ms": "%.3f", "us": "%.6f", "ns": "%.9f"}


def declared(type_: DataType, *, key: bool = False) -> str:
    """The declaration of a new column. key: whether it is part of a primary key."""
    match type_.name:
        case "bool":
            return "BOOLEAN"
        case "uint64":
            return "UNSIGNED_BLOB"
        case "float32" | "float64":
            return "REAL"
        case "decimal":
            name = "DECIMAL" if (type_.precision or 38) <= 15 else "DECIMAL_TEXT"
            return f"{name}({type_.precision}, {type_.scale})"
        case "binary":
            return "BLOB"
        case "date":
            return "DATE"
        case "time":
            return "TIME"
        case "timestamp":
            name = "TIMESTAMPTZ" if type_.timezone else "TIMESTAMP"
            return name + _digits(type_.unit)
        case "duration":
            return "INTERVAL" + _digits(type_.unit)
        case "json" | "list" | "struct":
            return "JSON_TEXT"
    return "INTEGER" if type_.is_integer else "TEXT"


def _digits(unit: str | None) -> str:
    return "" if unit in (None, "us") else f"({_DIGITS_OF_UNIT[unit or 'us']})"


def type_of_declaration(declaration: str) -> DataType | None:
    """The type for a declared type; None if it depends on the values."""
    match = _DECLARED.match(declaration)
    name, first, second = match.groups() if match else (declaration, None, None)
    name = name.upper()
    unit = _UNIT_OF_DIGITS.get(first or "6", "us")
    match name:
        case "BOOLEAN" | "BOOL":
            return types.BOOL
        case "DATE":
            return types.DATE
        case "TIME":
            return types.TIME
        case "DATETIME" | "TIMESTAMP" | "TIMESTAMP WITHOUT TIME ZONE":
            return types.timestamp(unit)
        case "TIMESTAMPTZ" | "TIMESTAMP WITH TIME ZONE" | "DATETIMETZ":
            return types.timestamp(unit, "UTC")
        case "INTERVAL":
            return types.duration(unit)
        case "UNSIGNED_BLOB":
            return types.UINT64
        case "JSON" | "JSONB" | "JSON_TEXT":
            return types.JSON
        case "DECIMAL" | "NUMERIC" | "DECIMAL_TEXT" if first is not None:
            precision, scale = int(first), int(second or 0)
            if 1 <= precision <= 38 and scale <= precision:
                return types.decimal(precision, scale)
            return None
    return _by_affinity(name)


def affinity(declaration: str) -> str:
    """How SQLite converts values in a column: https://www.sqlite.org/datatype3.html, section 3.1"""
    name = declaration.upper()
    if "INT" in name:
        return "INTEGER"
    if any(part in name for part in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in name or not name.strip():
        return "BLOB"
    return "REAL" if any(part in name for part in ("REAL", "FLOA", "DOUB")) else "NUMERIC"


def _by_affinity(name: str) -> DataType | None:
    if "INT" in name:
        return types.INT64
    if any(part in name for part in ("CHAR", "CLOB", "TEXT", "UUID")):
        return types.STRING
    if "BLOB" in name or name == "BYTEA":
        return types.BINARY
    if any(part in name for part in ("REAL", "FLOA", "DOUB")):
        return types.FLOAT64
    return None


def stored(column: pl.Expr, type_: DataType) -> pl.Expr:
    """A column as Int64, Float64, String or Binary, as in the table above."""
    match type_.name:
        case "float32" | "float64":
            return column.cast(pl.Float64)
        case "uint64" | "string" | "json" | "null":
            return column.cast(pl.String)
        case "binary":
            return column
        case "decimal":
            return column.cast(pl.String)
        case "date":
            near = far_times.near_only(column, type_)
            return far_times.text_of(column, type_, near.dt.to_string("%Y-%m-%d"))
        case "time":
            return column.dt.to_string("%H:%M:%S%.9f")
        case "timestamp":
            # Chrono writes years beyond 9999 with a sign; SQLite's functions support no such years
            # either.
            text = f"%Y-%m-%d %H:%M:%S{_FRACTION[type_.unit or 'us']}"
            near = far_times.near_only(column, type_)
            if type_.timezone is None:
                text_value = far_times.text_of(column, type_, near.dt.to_string(text))
            else:
                moment = near.dt.convert_time_zone("UTC")
                elsewhere = DataType("timestamp", unit=type_.unit, timezone="+00:00")
                text_value = far_times.text_of(
                    column, elsewhere, moment.dt.to_string(text + "+00:00")
                )
            return text_value.str.replace("T", " ", literal=True)
        case "duration":
            return column.to_physical().cast(pl.Int64)
        case "struct":
            return pl.when(column.is_not_null()).then(column.struct.json_encode())
        case "list" if type_.item is not None and type_.item.name == "json":
            items = column.list.eval(pl.element().fill_null("null")).list.join(",")
            return pl.when(column.is_not_null()).then(pl.lit("[") + items + pl.lit("]"))
        case "list":
            # Polars encodes only structs, so the list is wrapped in one.
            text_of = pl.struct(column.alias("v")).struct.json_encode()
            inner = text_of.str.slice(5).str.strip_suffix("}")
            return pl.when(column.is_not_null()).then(inner)
    return column.cast(pl.Int64)


def fits(type_: DataType, declaration: str) -> bool:
    """Whether values of a type may be written to a column with this declaration. Text needs a
    column for text: SQLite would store it in a column of numbers without an error."""
    target = type_of_declaration(declaration)
    if target is None and type_.name == "string":
        return _NUMBERS.match(declaration) is None
    if target is None or type_.name == "null" or target.name in ("string", "json", "binary"):
        return True
    if type_.is_text or type_.name == "binary":
        return False
    number = type_.is_numeric or type_.name == "bool"
    if target.is_numeric or target.name in ("bool", "duration"):
        return number or type_.name == "duration"
    return type_.is_temporal or (target.name == "timestamp" and type_.is_integer)
