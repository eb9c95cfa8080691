"""Schemas and types, named as Arrow names them.

A `DataType` is pure data and needs no Polars; `to_polars` and `from_polars` import it when called.
Always true: `parse_type(str(t)) == t` for every type; two equal types have the same text.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dataflare.errors import DataError, WorkflowError, did_you_mean

if TYPE_CHECKING:
    import polars as pl

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float32", "float64")
_PLAIN = (*INTEGERS, *FLOATS, "bool", "string", "binary", "date", "time", "json", "null")
RESERVED = "__dataflare_"
"""Names of internal columns begin with this. A user's column must not."""

DIGITS_MAX = 38
"""The most digits that a decimal has."""
NESTED_MAX = 128
"""The most lists and structs inside each other. Values of JSON have the same bound."""
_UNITS = ("s", "ms", "us", "ns")
_SHOWN = 70
"""The most letters of a type that a message has."""


class DataType(Struct, frozen=True):
    """One column type. Use `parse_type`, or the constants and helpers below."""

    name: str
    unit: str | None = None
    timezone: str | None = None
    precision: int | None = None
    scale: int | None = None
    item: DataType | None = None
    fields: tuple[Field, ...] = ()

    def __str__(self) -> str:
        match self.name:
            case "timestamp":
                zone = f", {self.timezone}" if self.timezone else ""
                return f"timestamp[{self.unit}{zone}]"
            case "duration":
                return f"duration[{self.unit}]"
            case "decimal":
                return f"decimal({self.precision}, {self.scale})"
            case "list":
                return f"list<{self.item}>"
            case "struct":
                return f"struct<{', '.join(f'{_quoted(f.name)}: {f.type}' for f in self.fields)}>"
        return self.name

    @property
    def is_integer(self) -> bool:
        return self.name in INTEGERS

    @property
    def is_float(self) -> bool:
        return self.name in FLOATS

    @property
    def is_numeric(self) -> bool:
        return self.is_integer or self.is_float or self.name == "decimal"

    @property
    def is_text(self) -> bool:
        return self.name in ("string", "json")

    @property
    def is_temporal(self) -> bool:
        return self.name in ("date", "time", "timestamp", "duration")

    def to_polars(self) -> pl.DataType:
        """The Polars type that holds it. `json` is held as text."""
        return _to_polars(self)


class Field(Struct, frozen=True):
    """A named column."""

    name: str
    type: DataType


class Schema(Struct, frozen=True, dict=True):
    """Columns in order; names are unique."""

    fields: tuple[Field, ...]

    @classmethod
    def of(
        cls, columns: Mapping[str, DataType | str] | Iterable[tuple[str, DataType | str]]
    ) -> Schema:
        pairs = columns.items() if isinstance(columns, Mapping) else columns
        return cls(tuple(Field(n, parse_type(t) if isinstance(t, str) else t) for n, t in pairs))

    @classmethod
    def from_polars(cls, schema: Mapping[str, Any]) -> Schema:
        """Raises DataError (E0509) that names the first column of a type that cannot be held."""
        return cls(
            tuple(Field(name, _type_of_column(name, dtype)) for name, dtype in schema.items())
        )

    def to_polars(self) -> pl.Schema:
        import polars as pl

        return pl.Schema({field.name: field.type.to_polars() for field in self.fields})

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    @cached_property
    def _types(self) -> dict[str, DataType]:
        # A loop over `fields` would be quadratic: callers look up each column of tables with 20,000 columns.
        return {field.name: field.type for field in self.fields}

    def __contains__(self, name: object) -> bool:
        return name in self._types

    def __getitem__(self, name: str) -> DataType:
        return self._types[name]

    def select(self, names: Iterable[str]) -> Schema:
        """The named columns, in the order of `names`."""
        return Schema(tuple(Field(name, self[name]) for name in names))

    def to_json(self) -> dict[str, str]:
        return {field.name: str(field.type) for field in self.fields}


NULL = DataType("null")
BOOL = DataType("bool")
INT8, INT16, INT32, INT64 = (DataType(n) for n in INTEGERS[:4])
UINT8, UINT16, UINT32, UINT64 = (DataType(n) for n in INTEGERS[4:])
FLOAT32, FLOAT64 = DataType("float32"), DataType("float64")
STRING, BINARY, DATE, TIME, JSON = (
    DataType(n) for n in ("string", "binary", "date", "time", "json")
)


def timestamp(unit: str = "us", timezone: str | None = None) -> DataType:
    return DataType("timestamp", unit=unit, timezone=timezone)


def duration(unit: str = "us") -> DataType:
    return DataType("duration", unit=unit)


def decimal(precision: int, scale: int) -> DataType:
    return DataType("decimal", precision=precision, scale=scale)


def list_of(item: DataType) -> DataType:
    return DataType("list", item=item)


def struct_of(fields: Mapping[str, DataType]) -> DataType:
    return DataType("struct", fields=tuple(Field(n, t) for n, t in fields.items()))


TIMESTAMP = timestamp("us")
TIMESTAMP_UTC = timestamp("us", "UTC")
DURATION = duration("us")

_TOKEN = re.compile(
    r"""\s*(?:(?P<word>[A-Za-z_][A-Za-z0-9_/+\-]*)|(?P<number>\d+)|(?P<mark>[<>\[\](),:])"""
    r"""|'(?P<single>(?:[^']|'')*)'|"(?P<double>(?:[^"]|"")*)")"""
)
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _quoted(name: str) -> str:
    """A field's name as it is written in the text of a type."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    return '"' + name.replace('"', '""') + '"'


@lru_cache(maxsize=1024)
def parse_type(text: str) -> DataType:
    """Read a type by its Arrow name, for example `list<struct<a: int64, at: timestamp[us, UTC]>>`.

    A field's name may stand in quotes. Raises WorkflowError (E0112) naming the nearest type, also for
    a type that is nested deeper than NESTED_MAX.
    """
    parser = _TypeParser(text)
    type_ = parser.type()
    if parser.tokens:
        raise _unknown_type(text)
    return type_


class _TypeParser:
    """tokens: (kind, text) of each unread token; kinds are word, number, mark and quoted. depth: how
    many lists and structs are open."""

    def __init__(self, text: str) -> None:
        self.text, self.depth = text, 0
        self.tokens: deque[tuple[str, str]] = deque()
        stripped, place = text.strip(), 0
        while place < len(stripped):
            match = _TOKEN.match(stripped, place)
            if match is None:
                raise _unknown_type(text)
            kind, token = match.lastgroup or "", match.group(match.lastgroup or 0)
            if kind in ("single", "double"):
                quote = "'" if kind == "single" else '"'
                kind, token = "quoted", token.replace(quote * 2, quote)
            self.tokens.append((kind, token))
            place = match.end()

    def take(self, *kinds: str) -> str:
        """The next token, which must be of one of these kinds."""
        if not self.tokens or self.tokens[0][0] not in kinds:
            raise _unknown_type(self.text)
        return self.tokens.popleft()[1]

    def mark(self, *expected: str) -> str:
        """The next token, which must be one of these marks."""
        token = self.take("mark")
        if token not in expected:
            raise _unknown_type(self.text)
        return token

    def skips(self, mark: str) -> bool:
        """Whether the next token is this mark. If it is, it is taken."""
        if self.tokens and self.tokens[0] == ("mark", mark):
            self.tokens.popleft()
            return True
        return False

    def type(self) -> DataType:
        name = self.take("word")
        if name in _PLAIN:
            return DataType(name)
        match name:
            case "timestamp":
                return self.timestamp()
            case "duration":
                return self.duration()
            case "decimal":
                return self.decimal()
            case "list":
                self.mark("<")
                item = self.inner()
                self.mark(">")
                return list_of(item)
            case "struct":
                return self.struct()
        raise _unknown_type(self.text, name)

    def inner(self) -> DataType:
        """The type of a list's items or of a struct's field."""
        self.depth += 1
        if self.depth > NESTED_MAX:
            raise WorkflowError(
                f"the type '{_shown(self.text)}' is nested deeper than {NESTED_MAX} lists and structs",
                code="E0112",
                help="type the column as json",
            )
        type_ = self.type()
        self.depth -= 1
        return type_

    def timestamp(self) -> DataType:
        if not self.skips("["):
            return timestamp()
        unit, zone = self.unit(), None
        if self.mark(",", "]") == ",":
            zone = self.take("word", "quoted")
            if not _is_zone(zone):
                raise _unknown_type(self.text)
            self.mark("]")
        return timestamp(unit, zone)

    def duration(self) -> DataType:
        if not self.skips("["):
            return duration()
        unit = self.unit()
        self.mark("]")
        return duration(unit)

    def unit(self) -> str:
        unit = self.take("word")
        if unit not in _UNITS:
            raise _unknown_type(self.text)
        return unit

    def decimal(self) -> DataType:
        self.mark("(")
        precision, scale = int(self.take("number")), 0
        if self.mark(",", ")") == ",":
            scale = int(self.take("number"))
            self.mark(")")
        if not (1 <= precision <= DIGITS_MAX and scale <= precision):
            raise _unknown_type(self.text)
        return decimal(precision, scale)

    def struct(self) -> DataType:
        self.mark("<")
        fields: dict[str, DataType] = {}
        while True:
            name = self.take("word", "quoted")
            self.mark(":")
            if name in fields:
                raise _unknown_type(self.text)
            fields[name] = self.inner()
            if self.mark(",", ">") == ">":
                return struct_of(fields)


def _is_zone(name: str) -> bool:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def _shown(text: str) -> str:
    """The beginning of a text that may be long, for a message."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _unknown_type(text: str, name: str | None = None) -> WorkflowError:
    type_names = [
        *_PLAIN,
        "timestamp[us]",
        "duration[us]",
        "decimal(18, 2)",
        "list<int64>",
        "struct<a: int64>",
    ]
    return WorkflowError(
        f"unknown type '{_shown(text)}'",
        code="E0112",
        notes=[
            "a type is written with its Arrow name: int64, string, timestamp[us, UTC], decimal(10, 2), list<string>, ..."
        ],
        help=did_you_mean(name or text, type_names),
    )


def from_polars(dtype: Any) -> DataType:
    """The DataFlare type of a Polars column.

    Some Polars types have no counterpart. `foreign.to_held_types` converts such columns to the type that
    this function returns: text for categories, float32 for half floats, decimals for 128-bit integers,
    lists of entries for maps, the storage type for extension types. Raises DataError (E0509) for a type
    that DataFlare cannot hold, such as one that is nested deeper than NESTED_MAX.
    """
    return _from_polars(dtype, NESTED_MAX)


def _from_polars(dtype: Any, levels: int) -> DataType:
    """levels: how many more lists and structs there may be inside each other."""
    import polars as pl

    if levels < 0:
        raise unheld(str(dtype))
    simple = _simple_polars(pl)
    base = dtype.base_type() if hasattr(dtype, "base_type") else dtype
    if base in simple:
        return simple[base]
    if base is pl.Datetime:
        return timestamp(dtype.time_unit or "us", dtype.time_zone)
    if base is pl.Duration:
        return duration(dtype.time_unit or "us")
    if base is pl.Decimal and (dtype.precision or 38) <= DIGITS_MAX:
        return decimal(dtype.precision or DIGITS_MAX, dtype.scale or 0)
    if base in (pl.List, pl.Array):
        return list_of(_from_polars(dtype.inner, levels - 1))
    if base is pl.Struct:
        return struct_of({f.name: _from_polars(f.dtype, levels - 1) for f in dtype.fields})
    if base is pl.Map:
        key, value = _from_polars(dtype.key, levels - 2), _from_polars(dtype.value, levels - 2)
        return list_of(struct_of({"key": key, "value": value}))
    if isinstance(dtype, pl.BaseExtension):
        return _EXTENSIONS.get(dtype.ext_name()) or _from_polars(dtype.ext_storage(), levels)
    raise unheld(str(dtype))


_EXTENSIONS = {"arrow.json": JSON, "arrow.bool8": BOOL}


def unheld(type_: str, column: str | None = None, file: object = None) -> DataError:
    """The error for values that no DataFlare type holds. type_: its name in the other system."""
    place = f"{file}: " if file is not None else ""
    subject = f"column '{column}' has" if column is not None else "a column has"
    return DataError(
        f"{place}{subject} the type {_shown(type_)}, which DataFlare cannot hold",
        code="E0509",
        notes=[f"types may be nested {NESTED_MAX} deep"] if len(type_) > _SHOWN else [],
        help="leave the column out, or store it as another type, such as text",
    )


def _type_of_column(name: str, dtype: Any) -> DataType:
    try:
        return from_polars(dtype)
    except DataError as error:
        raise unheld(str(dtype), name) from error


@lru_cache(maxsize=1)
def _simple_polars(pl: Any) -> dict[Any, DataType]:
    return {
        pl.Null: NULL,
        pl.Boolean: BOOL,
        pl.Int8: INT8,
        pl.Int16: INT16,
        pl.Int32: INT32,
        pl.Int64: INT64,
        pl.Int128: decimal(DIGITS_MAX, 0),
        pl.UInt128: decimal(DIGITS_MAX, 0),
        pl.UInt8: UINT8,
        pl.UInt16: UINT16,
        pl.UInt32: UINT32,
        pl.UInt64: UINT64,
        pl.Float16: FLOAT32,
        pl.Float32: FLOAT32,
        pl.Float64: FLOAT64,
        pl.String: STRING,
        pl.Categorical: STRING,
        pl.Enum: STRING,
        pl.Binary: BINARY,
        pl.Date: DATE,
        pl.Time: TIME,
    }


@lru_cache(maxsize=1024)
def _to_polars(type_: DataType) -> pl.DataType:
    import polars as pl

    match type_.name:
        case "timestamp" | "duration":
            # Polars has no seconds: milliseconds hold them without loss.
            unit: Any = "ms" if type_.unit == "s" else type_.unit
            if type_.name == "duration":
                return pl.Duration(unit)
            return pl.Datetime(unit, type_.timezone)
        case "decimal":
            return pl.Decimal(type_.precision, type_.scale or 0)
        case "list":
            assert type_.item is not None
            return pl.List(_to_polars(type_.item))
        case "struct":
            return pl.Struct([pl.Field(f.name, _to_polars(f.type)) for f in type_.fields])
        case "json":
            return pl.String()
    table: dict[str, Any] = {
        "null": pl.Null,
        "bool": pl.Boolean,
        "string": pl.String,
        "binary": pl.Binary,
        "date": pl.Date,
        "time": pl.Time,
        "int8": pl.Int8,
        "int16": pl.Int16,
        "int32": pl.Int32,
        "int64": pl.Int64,
        "uint8": pl.UInt8,
        "uint16": pl.UInt16,
        "uint32": pl.UInt32,
        "uint64": pl.UInt64,
        "float32": pl.Float32,
        "float64": pl.Float64,
    }
    dtype: pl.DataType = table[type_.name]()
    return dtype
