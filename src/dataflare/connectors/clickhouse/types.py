"""How the types of ClickHouse are read, and how DataFlare's types are declared. Pure.

| ClickHouse | read as |
| --- | --- |
| Bool | bool |
| Int8 to Int64, UInt8 to UInt64 | int8 to int64, uint8 to uint64 |
| Int128, Int256, UInt128, UInt256 | string, all digits |
| Float32, Float64, BFloat16 | float32, float64, float32 |
| Decimal(P, S) | decimal(P, S); with more than 38 digits string |
| String | string; bytes that are not UTF-8 are a row error, unless `schema` says binary |
| FixedString(N) | binary; with `schema` string: text, without the zeros at its end |
| UUID, IPv4, IPv6, Enum8, Enum16 | string |
| Date, Date32 | date |
| DateTime, DateTime64(0 to 6) | timestamp[us, UTC] |
| DateTime64(7 to 9) | timestamp[ns, UTC] |
| Time, Time64 | time; below zero or from 24 hours on a row error, unless `schema` says string |
| Array(T), Nested | list<T> |
| Tuple, named or not | struct; the fields of an unnamed one are 1, 2, 3 ... |
| Map(K, V) | list<struct<key: K, value: V>>, in the order of the map |
| Point, Ring, Polygon and the like | what they are made of: structs and lists of float64 |
| JSON | json |
| Nullable(T), LowCardinality(T), SimpleAggregateFunction(f, T) | as T |
| AggregateFunction, Variant, Dynamic, Interval | refused by name |

| DataFlare | ClickHouse in a new table |
| --- | --- |
| bool, integers, float32, float64 | Bool, Int8 to UInt64, Float32, Float64 |
| decimal(p, s) | Decimal(p, s) |
| string, json, binary | String |
| date | Date32 |
| timestamp with a zone | DateTime64(3), (6) or (9), with its zone |
| time | Time64(9) |
| list<T>, struct | Array(T), Tuple |

All columns are Nullable, except those of the key or of `order_by`, and arrays and tuples.
"""

from __future__ import annotations

import re

from msgspec import Struct

from dataflare.model import types
from dataflare.model.types import DataType

_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>-?\d+)"
                    r"|(?P<text>'(?:[^'\\]|\\.|'')*')|(?P<name>`(?:[^`\\]|\\.)*`)|(?P<mark>[(),=.]))")  # fmt: skip
_GEO = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Tuple(Float64, Float64))",
    "LineString": "Array(Tuple(Float64, Float64))",
    "MultiLineString": "Array(Array(Tuple(Float64, Float64)))",
    "Polygon": "Array(Array(Tuple(Float64, Float64)))",
    "MultiPolygon": "Array(Array(Array(Tuple(Float64, Float64))))",
}
_INTEGERS = {name[0].upper() + name[1:] if name[0] == "i" else "UI" + name[2:]: name
             for name in types.INTEGERS}  # fmt: skip
_WIDE = ("Int128", "Int256", "UInt128", "UInt256")
_DIGITS = {"Decimal32": 9, "Decimal64": 18, "Decimal128": 38, "Decimal256": 76}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f"}


class Kind(Struct, frozen=True):
    """A type of ClickHouse. args: of an Array, Map, Tuple, Nullable or similar. names: of a Tuple's fields.
    numbers: digits, length. members: of an Enum. zone: of a DateTime. text: as it is written."""

    name: str
    args: tuple[Kind, ...] = ()
    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    members: tuple[str, ...] = ()
    zone: str | None = None

    @property
    def bare(self) -> Kind:
        """Without Nullable, LowCardinality and SimpleAggregateFunction around it."""
        if self.name in ("Nullable", "LowCardinality", "SimpleAggregateFunction"):
            return self.args[-1].bare
        return self

    @property
    def takes_null(self) -> bool:
        if self.name == "Nullable":
            return True
        return (
            self.name in ("LowCardinality", "SimpleAggregateFunction") and self.args[-1].takes_null
        )

    @property
    def scale(self) -> int:
        """The digits after the point of a decimal, a DateTime64 or a Time64."""
        return self.numbers[-1] if self.numbers else 3 if self.name == "DateTime64" else 0


def parse(text: str) -> Kind:
    """The type that ClickHouse writes as this text; a Kind without arguments for what is not known."""
    try:
        return _Parser(text).kind()
    except (ValueError, IndexError):
        return Kind(text)


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        place, text = 0, text.strip()
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise ValueError(text)
            self.tokens.append((match.lastgroup or "", match.group(match.lastgroup or 0)))
            place = match.end()
        self.at = 0

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else ("", "")

    def next(self) -> tuple[str, str]:
        token = self.tokens[self.at]
        self.at += 1
        return token

    def kind(self) -> Kind:
        group, name = self.next()
        if group != "word":
            raise ValueError(name)
        if name in _GEO:
            return parse(_GEO[name])
        args: list[Kind] = []
        names: list[str] = []
        numbers: list[int] = []
        members: list[str] = []
        zone = None
        if self.peek() == ("mark", "("):
            self.next()
            while self.peek() != ("mark", ")"):
                group, token = self.peek()
                if group == "number":
                    numbers.append(int(self.next()[1]))
                elif group == "text":
                    self.next()
                    text = _unescaped(token)
                    if self.peek() == ("mark", "="):
                        self.next(), self.next()
                        members.append(text)
                    else:
                        zone = text
                elif name in ("Tuple", "Nested") and (
                    group == "name" or self.peek(1)[0] in ("word", "name")
                ):
                    self.next()
                    names.append(_unescaped(token) if group == "name" else token)
                    args.append(self.kind())
                elif name == "SimpleAggregateFunction" and not args:
                    args.append(Kind(self.next()[1]))
                    if self.peek() == ("mark", "("):
                        raise ValueError(name)
                else:
                    args.append(self.kind())
                if self.peek() == ("mark", ","):
                    self.next()
                elif self.peek() != ("mark", ")"):
                    raise ValueError(name)
            self.next()
        if name in _DIGITS:
            name, numbers = "Decimal", [_DIGITS[name], *numbers]
        return Kind(name, tuple(args), tuple(names), tuple(numbers), tuple(members), zone)


def _unescaped(token: str) -> str:
    inner = token[1:-1].replace("''", "'") if token[0] == "'" else token[1:-1]
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), inner)


def escaped(text: str, quote: str = "`") -> str:
    """A name in backticks, or a text in quotes."""
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote


class Meaning(Struct, frozen=True):
    """How a type is read. type: DataFlare's. sent_as: the type in which the server is asked for it. keyed:
    whether its values can be compared with the text of one. checked: whether a value may not fit."""

    type: DataType
    sent_as: str
    keyed: bool = False


def meaning_of(kind: Kind) -> Meaning | None:
    """How a column is read; None if it cannot be."""
    bare = kind.bare
    inner = _meaning(bare)
    if inner is None or not kind.takes_null:
        return inner
    return Meaning(inner.type, f"Nullable({inner.sent_as})")


def _meaning(kind: Kind) -> Meaning | None:
    name = kind.name
    if name in _INTEGERS:
        return Meaning(DataType(_INTEGERS[name]), name, keyed=True)
    if name in _WIDE:
        return Meaning(types.STRING, "String")
    match name:
        case "Bool":
            return Meaning(types.BOOL, "Bool")
        case "Float32" | "Float64":
            return Meaning(DataType(name.lower()), name)
        case "BFloat16":
            return Meaning(types.FLOAT32, "Float32")
        case "Decimal":
            digits, scale = kind.numbers[0], kind.numbers[1] if len(kind.numbers) > 1 else 0
            if digits > types.DIGITS_MAX:
                return Meaning(types.STRING, "String")
            return Meaning(types.decimal(digits, scale), f"Decimal({digits}, {scale})", keyed=True)
        case "String":
            return Meaning(types.STRING, "String", keyed=True)
        case "FixedString":
            return Meaning(types.BINARY, f"FixedString({kind.numbers[0]})")
        case "UUID" | "IPv4" | "IPv6" | "Enum8" | "Enum16" | "Enum":
            return Meaning(types.STRING, "String")
        case "Date" | "Date32":
            return Meaning(types.DATE, "Date32", keyed=True)
        case "DateTime" | "DateTime64":
            nanos = kind.scale > 6 and name == "DateTime64"
            type_ = types.timestamp("ns" if nanos else "us", "UTC")
            return Meaning(type_, f"DateTime64({9 if nanos else 6}, 'UTC')", keyed=True)
        case "Time" | "Time64":
            return Meaning(types.TIME, "String")
        case "JSON" | "Object":
            return Meaning(types.JSON, "String")
        case "Nothing":
            return Meaning(types.NULL, "Nothing")
        case "Array" | "Map" | "Tuple" | "Nested":
            return _nested(kind)
    return None


def _nested(kind: Kind) -> Meaning | None:
    inner = [meaning_of(arg) for arg in kind.args]
    known = [each for each in inner if each is not None]
    # A Time of an array would have to be read from text.
    if len(known) < len(inner) or any(each.type == types.TIME for each in known) or not known:
        return None
    if kind.name == "Array":
        return Meaning(types.list_of(known[0].type), f"Array({known[0].sent_as})")
    names = kind.names or tuple(str(at) for at in range(1, len(known) + 1))
    if kind.name == "Map":
        names = ("key", "value")
    struct = types.struct_of({n: each.type for n, each in zip(names, known, strict=True)})
    inside = ", ".join(f"{escaped(n)} {k.sent_as}" for n, k in zip(names, known, strict=True))
    if kind.name == "Tuple":
        return Meaning(struct, f"Tuple({inside})")
    return Meaning(types.list_of(struct), f"Array(Tuple({inside}))")


_PRECISION = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def declared(type_: DataType, *, nullable: bool = True) -> str | None:
    """The declaration of a new column; None if ClickHouse has no type for it. nullable: outside keys."""
    if type_.name == "list":
        assert type_.item is not None
        item = declared(type_.item)
        return None if item is None else f"Array({item})"
    if type_.name == "struct":
        fields = [(f.name, declared(f.type)) for f in type_.fields]
        if not fields or any(text is None for _, text in fields):
            return None
        return f"Tuple({', '.join(f'{escaped(name)} {text}' for name, text in fields)})"
    text = _plain(type_)
    return f"Nullable({text})" if text is not None and nullable else text


def _plain(type_: DataType) -> str | None:
    if type_.is_integer:
        return next(theirs for theirs, ours in _INTEGERS.items() if ours == type_.name)
    match type_.name:
        case "bool":
            return "Bool"
        case "float32" | "float64":
            return type_.name.capitalize()
        case "decimal":
            return f"Decimal({type_.precision}, {type_.scale})"
        case "string" | "json" | "binary" | "null":
            return "String"
        case "date":
            return "Date32"
        case "time":
            return "Time64(9)"
        case "timestamp" if type_.timezone is not None:
            zone = "UTC" if type_.timezone[0] in "+-" else type_.timezone
            return f"DateTime64({_PRECISION[type_.unit or 'us']}, {escaped(zone, chr(39))})"
    return None
