"""How DataFlare's types are declared in DuckDB, and how DuckDB's types are read.

| DataFlare | declared | | DuckDB's | read as |
| --- | --- | --- | --- | --- |
| bool, int*, uint*, float* | BOOLEAN, TINYINT ... UBIGINT, FLOAT, DOUBLE | | the same | |
| decimal(p, s) | DECIMAL(p, s) | | HUGEINT, UHUGEINT | decimal(38, 0) |
| string, binary, json | VARCHAR, BLOB, JSON | | ENUM, UUID, BIT, UNION, TIMETZ | string |
| date, time | DATE, TIME (microseconds) | | TIME_NS | time |
| timestamp[s, ms, us, ns] | TIMESTAMP_S, _MS, TIMESTAMP, _NS | | the same | |
| timestamp[.., zone] | TIMESTAMP WITH TIME ZONE (microseconds) | | the same | timestamp[us, UTC] |
| duration | INTERVAL | | INTERVAL | duration[us], a day being 24 hours |
| list<T>, struct<..> | T[], STRUCT(..) | | T[n] | list<T> |
| null | VARCHAR | | MAP | json |

A row is a row error if it contains infinity as a date or time, a date beyond the years -262143 to
262142, the time 24:00:00, an interval with months, or a HUGEINT of more than 38 digits: DataFlare's
types cannot represent them. An interval inside a list or a struct is read as text.
"""

from __future__ import annotations

import re

from dataflare.model import types
from dataflare.model.types import DataType
from dataflare.sdk.sql.growth import Room
from dataflare.sdk.sql.names import quoted

_DECLARED = {
    "bool": "BOOLEAN", "int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT",
    "uint8": "UTINYINT", "uint16": "USMALLINT", "uint32": "UINTEGER", "uint64": "UBIGINT",
    "float32": "FLOAT", "float64": "DOUBLE", "string": "VARCHAR", "binary": "BLOB", "json": "JSON",
    "date": "DATE", "time": "TIME", "duration": "INTERVAL", "null": "VARCHAR",
}  # fmt: skip
_TIMESTAMPS = {"s": "TIMESTAMP_S", "ms": "TIMESTAMP_MS", "us": "TIMESTAMP", "ns": "TIMESTAMP_NS"}
_READ = {
    name: types.parse_type(ours)
    for ours, name in _DECLARED.items()
    if ours not in ("null", "duration")
} | {
    "VARCHAR": types.STRING,
    "TIME_NS": types.TIME,
    "TIMESTAMP": types.TIMESTAMP,
    "TIMESTAMP_S": types.timestamp("s"),
    "TIMESTAMP_MS": types.timestamp("ms"),
    "TIMESTAMP_NS": types.timestamp("ns"),
    "TIMESTAMP WITH TIME ZONE": types.TIMESTAMP_UTC,
    "HUGEINT": types.decimal(38, 0),
    "UHUGEINT": types.decimal(38, 0),
    "INTERVAL": types.DURATION,
}
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")
_ARRAY = re.compile(r"(.*)\[\d*\]", re.DOTALL)


def declared(type_: DataType) -> str:
    """The declaration of a column."""
    match type_.name:
        case "decimal":
            return f"DECIMAL({type_.precision}, {type_.scale})"
        case "timestamp":
            if type_.timezone is not None:
                return "TIMESTAMP WITH TIME ZONE"
            return _TIMESTAMPS[type_.unit or "us"]
        case "list":
            assert type_.item is not None
            return declared(type_.item) + "[]"
        case "struct":
            fields = ", ".join(f"{quoted(f.name)} {declared(f.type)}" for f in type_.fields)
            return f"STRUCT({fields})"
    return _DECLARED[type_.name]


def room_of(declaration: str) -> Room | None:
    """What a column of this type holds, if it can become wider. DuckDB's texts have no limit."""
    text = declaration.strip()
    if text in _BITS:
        return Room.of_integer(_BITS[text], unsigned=text.startswith("U"))
    if text == "FLOAT":
        return Room("float32")
    if decimal := _DECIMAL.fullmatch(text):
        return Room("decimal", digits=int(decimal.group(1)), scale=int(decimal.group(2)))
    return None


_BITS = {
    "TINYINT": 8,
    "SMALLINT": 16,
    "INTEGER": 32,
    "UTINYINT": 8,
    "USMALLINT": 16,
    "UINTEGER": 32,
}


def type_of_declaration(declaration: str, *, nested: bool = False) -> DataType:
    """The type for a type of DuckDB; types that DataFlare does not have are read as text."""
    text = declaration.strip()
    if nested and text == "INTERVAL":
        return types.STRING
    if text in _READ:
        return _READ[text]
    if array := _ARRAY.fullmatch(text):
        return types.list_of(type_of_declaration(array.group(1), nested=True))
    if decimal := _DECIMAL.fullmatch(text):
        return types.decimal(int(decimal.group(1)), int(decimal.group(2)))
    if text.startswith("STRUCT("):
        parts = _parts(text[len("STRUCT(") : -1])
        fields = {
            name: type_of_declaration(type_, nested=True) for name, type_ in map(_named, parts)
        }
        return types.struct_of(fields)
    if text.startswith("MAP("):
        return types.JSON
    return types.STRING


def _parts(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "([":
            depth += 1
        elif char in ")]":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def _named(part: str) -> tuple[str, str]:
    if part.startswith('"'):
        end = re.match(r'"(?:[^"]|"")*"', part)
        assert end is not None
        return end.group()[1:-1].replace('""', '"'), part[end.end() :].strip()
    name, _, type_ = part.partition(" ")
    return name, type_


def selected(column: str, declaration: str) -> str:
    """The SQL that fetches a column (quoted name) as the type that `type_of_declaration` returns."""
    text = declaration.strip()
    type_ = type_of_declaration(text)
    if text == "INTERVAL":
        return f"try(epoch_us({column}))"
    if text in ("HUGEINT", "UHUGEINT"):
        return f"try_cast({column} as DECIMAL(38, 0))"
    if text.startswith("MAP(") and type_.name == "json":
        return f"cast(to_json({column}) as VARCHAR)"
    if type_.is_text and text != "VARCHAR":
        return f"cast({column} as VARCHAR)"
    if type_.name in ("list", "struct") and declared(type_).replace('"', "") != text.replace(
        '"', ""
    ):
        return f"try_cast({column} as {declared(type_)})"
    return column


_YEARS = {
    "DATE": "DATE",
    "TIMESTAMP": "TIMESTAMP",
    "TIMESTAMP_S": "TIMESTAMP_S",
    "TIMESTAMP_MS": "TIMESTAMP_MS",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ",
}


def misfit(value: str, declaration: str, depth: int = 0) -> str | None:
    """SQL that is true for a value, other than NULL, that DataFlare's type cannot represent; None
    if it can represent all values."""
    text = declaration.strip()
    if name := _YEARS.get(text):
        zone = "+00" if name == "TIMESTAMPTZ" else ""
        first = f"'262144-01-01 (BC){'' if name == 'DATE' else ' 00:00:00'}{zone}'::{name}"
        last = f"'262142-12-31{'' if name == 'DATE' else ' 23:59:59'}{zone}'::{name}"
        return f"{value} not between {first} and {last}"
    if array := _ARRAY.fullmatch(text):
        item = misfit(f"e{depth}", array.group(1), depth + 1)
        return item and f"len(list_filter({value}, lambda e{depth}: coalesce({item}, false))) > 0"
    if text.startswith("STRUCT("):
        parts = map(_named, _parts(text[len("STRUCT(") : -1]))
        conditions = [misfit(f"{value}.{quoted(name)}", type_, depth) for name, type_ in parts]
        return " or ".join(f"coalesce({each}, false)" for each in conditions if each) or None
    match text:
        case "TIMESTAMP_NS":
            return f"not isfinite({value})"
        case "TIME" | "TIME_NS":
            return f"{value} = '24:00:00'::{text}"
        case "HUGEINT" | "UHUGEINT":
            return f"({value} is not null and try_cast({value} as DECIMAL(38, 0)) is null)"
        case "INTERVAL" if depth == 0:
            months = f"datepart('year', {value}) * 12 + datepart('month', {value})"
            return f"({value} is not null and ({months} <> 0 or try(epoch_us({value})) is null))"
    return None
