"""How PostgreSQL's types are read, and how DataFlare's types are declared in PostgreSQL.

| PostgreSQL | read as |
| --- | --- |
| boolean, smallint, integer, bigint, real, double precision | bool, int16, int32, int64, float32, float64 |
| oid | int64 |
| numeric(p, s) up to 38 digits | decimal(p, s) |
| numeric without digits, or with more than 38 | decimal(38, 9); a value with more digits is a row error, never rounded; `schema` may say otherwise |
| text, varchar, char, name, enums | string |
| uuid, inet, cidr, macaddr, money, xml, bit, ranges, geometry, all others | string, as PostgreSQL writes it |
| json, jsonb | json |
| bytea | binary |
| date, time, timestamp, timestamptz | date, time, timestamp[us], timestamp[us, UTC] |
| interval | duration[us]; a day is 24 hours, and a warning counts such rows; one with months is a row error |
| arrays of these with one dimension | list<...>; with more dimensions, or a first index that is not 1, a row error |
| domains | as the type below |

DataFlare's types cannot represent infinity, NaN in numeric, 24:00:00 and dates after the year
262142: such a row is a row error.

| DataFlare | PostgreSQL in a new table |
| --- | --- |
| bool | boolean |
| int8, int16, uint8 / int32, uint16 / int64, uint32 / uint64 | smallint / integer / bigint / numeric(20, 0) |
| float32, float64 | real, double precision |
| decimal(p, s) | numeric(p, s) |
| string, binary, date, time | text, bytea, date, time |
| timestamp, timestamp with a zone | timestamp, timestamptz; nanoseconds that are not whole microseconds are refused |
| duration | interval, hours and less |
| json, struct, lists of lists or structs | jsonb |
| list of the others | array |

A value is written to an existing column like an INSERT of its text: text for uuid or inet is
parsed. A value that the column would round is refused (see exactness.py), as is a type that would
lose a part in every row (a timestamp into a date).
"""

from __future__ import annotations

from msgspec import Struct

from dataflare.model import types
from dataflare.model.types import DataType
from dataflare.sdk.sql.growth import Room

_PLAIN = {
    "bool": types.BOOL,
    "int2": types.INT16,
    "int4": types.INT32,
    "int8": types.INT64,
    "float4": types.FLOAT32,
    "float8": types.FLOAT64,
    "text": types.STRING,
    "varchar": types.STRING,
    "bpchar": types.STRING,
    "name": types.STRING,
    "bytea": types.BINARY,
    "date": types.DATE,
    "timestamp": types.TIMESTAMP,
    "timestamptz": types.TIMESTAMP_UTC,
}
# PostgreSQL compares these as DataFlare does, so a condition on them may be pushed down.
_EXACT = ("bool", "int2", "int4", "int8", "float4", "float8", "text", "varchar", "date", "timestamp",
          "timestamptz")  # fmt: skip
UNBOUNDED = types.decimal(38, 9)


class PgType(Struct, frozen=True):
    """A row of pg_type. kind: typtype. label: with schema and quotes, for casts."""

    oid: int
    name: str
    kind: str
    label: str
    item: PgType | None = None
    base: PgType | None = None
    modifier: int = -1

    def resolved(self, modifier: int) -> tuple[PgType, int]:
        """The base type below domains."""
        type_, digits = self, modifier
        while type_.base is not None:
            digits = type_.modifier if type_.modifier >= 0 else digits
            type_ = type_.base
        return type_, digits


class Meaning(Struct, frozen=True):
    """type: DataFlare's type. sql: the SQL to select, with {} for the column. exact: see _EXACT.
    guard: SQL, with {0} for the column, for the text of a value that does not fit if the result
    does not show that."""

    type: DataType
    sql: str = "{}"
    exact: bool = False
    guard: str | None = None


def meaning_of(pg_type: PgType, modifier: int) -> Meaning:
    """How a column of that type is read."""
    type_, digits = pg_type.resolved(modifier)
    cast = type_ is not pg_type
    if type_.name in _PLAIN:
        sql = f"{{}}::{type_.label}" if cast else "{}"
        return Meaning(_PLAIN[type_.name], sql, exact=type_.name in _EXACT and not cast)
    match type_.name:
        case "time":
            # Polars converts it to NULL.
            midnight = "case when {0} = '24:00'::time then {0}::text end"
            return Meaning(types.TIME, f"{{}}::{type_.label}" if cast else "{}", guard=midnight)
        case "oid":
            return Meaning(types.INT64, "{}::bigint")
        case "numeric":
            decimal = _numeric(digits)
            # The driver can make the text, but that takes three times as long.
            return Meaning(decimal or UNBOUNDED, "{}::text", exact=decimal is not None and not cast)
        case "json" | "jsonb":
            return Meaning(types.JSON, "{}::text")
        case "interval":
            return Meaning(types.DURATION, "{}::text")
    if type_.item is not None and type_.name not in ("int2vector", "oidvector"):
        inner = meaning_of(type_.item, digits)
        item = types.STRING if inner.type.name in ("duration", "list") else inner.type
        as_text = item.name == "decimal" or inner.sql == "{}::text"
        sql = (
            "{}::text[]"
            if as_text
            else ("{}" + inner.sql[2:] + "[]" if inner.sql != "{}" else "{}")
        )
        # The driver fails a whole result over another first index.
        sql = (
            f"case when coalesce(array_lower({{0}}, 1), 1) = 1 then {sql.replace('{}', '{0}')} end"
        )
        guard = "case when array_ndims({0}) > 1 or array_lower({0}, 1) <> 1 then {0}::text end"
        return Meaning(types.list_of(item), sql, guard=guard)
    return Meaning(types.STRING, "{}::text")


def _numeric(modifier: int) -> DataType | None:
    """numeric(p, s) as a decimal; None when it has no digits or too many."""
    if modifier < 4:
        return None
    precision, scale = ((modifier - 4) >> 16) & 0xFFFF, (modifier - 4) & 0x7FF
    if scale >= 1024:  # from version 15 on it may be negative
        scale -= 2048
    return types.decimal(precision, scale) if precision <= 38 and 0 <= scale <= precision else None


def room_of(pg_type: PgType, modifier: int) -> Room | None:
    """What a column of this type holds, if it can become wider."""
    if pg_type.base is not None:
        return None
    match pg_type.name:
        case "int2" | "int4":
            return Room.of_integer(8 * int(pg_type.name[3:]))
        case "float4":
            return Room("float32")
        case "numeric":
            plain = _numeric(modifier)
            if plain is None:
                return None
            return Room("decimal", digits=plain.precision or 0, scale=plain.scale or 0)
        case "varchar" if modifier >= 4:
            return Room("text", digits=modifier - 4)
    return None


def declared(type_: DataType) -> str:
    """The declaration of a new column."""
    match type_.name:
        case "bool":
            return "boolean"
        case "int8" | "int16" | "uint8":
            return "smallint"
        case "int32" | "uint16":
            return "integer"
        case "int64" | "uint32":
            return "bigint"
        case "uint64":
            return "numeric(20, 0)"
        case "float32":
            return "real"
        case "float64":
            return "double precision"
        case "decimal":
            return f"numeric({type_.precision}, {type_.scale})"
        case "binary":
            return "bytea"
        case "date" | "time":
            return type_.name
        case "timestamp":
            return "timestamptz" if type_.timezone else "timestamp"
        case "duration":
            return "interval"
        case "json" | "struct":
            return "jsonb"
        case "list":
            assert type_.item is not None
            nested = type_.item.name in ("list", "struct", "json", "null")
            return "jsonb" if nested else declared(type_.item) + "[]"
    return "text"


_NUMBERS = ("int2", "int4", "int8", "numeric", "float4", "float8", "oid", "money")
_TEXTS = ("text", "varchar", "bpchar", "name", "citext")
_TIMES = {
    "date": ("date", "timestamp", "timestamptz"),
    "time": ("time", "timetz", "interval"),
    "timestamp": ("timestamp", "timestamptz"),
    "duration": ("interval",),
}


def fits(type_: DataType, target: PgType) -> bool:
    """Whether values of a type may be written to a column as text. The server refuses single
    values; this refuses types whose values it would accept and truncate, or that can never fit."""
    into, _ = target.resolved(-1)
    if type_.name in ("string", "json", "null") or (into.name in _TEXTS and type_.name != "binary"):
        return True
    if into.name in ("json", "jsonb"):
        return type_.name in ("struct", "list")
    if type_.is_integer or type_.name == "decimal":
        return into.name in _NUMBERS
    if type_.is_float:
        return into.name in ("float4", "float8", "numeric")
    if type_.is_temporal:
        return into.name in _TIMES[type_.name]
    if type_.name == "list":
        assert type_.item is not None
        return into.item is not None and fits(type_.item, into.item)
    return into.name == {"bool": "bool", "binary": "bytea"}.get(type_.name)
