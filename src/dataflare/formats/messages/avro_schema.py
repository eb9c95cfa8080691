"""Avro schemas: parsed, named types put in their places, and the columns that hold their values.

Always true: a parsed schema is a finite tree, because one that contains itself is refused; an item of an
array takes at least one byte, so a claimed number of items cannot cost more than the message has bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from dataflare.errors import ConfigError
from dataflare.model.types import (
    BINARY,
    BOOL,
    DATE,
    DIGITS_MAX,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    NESTED_MAX,
    NULL,
    STRING,
    TIME,
    DataType,
    Schema,
    decimal,
    list_of,
    parse_type,
    struct_of,
    timestamp,
)

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TIMES = {
    ("int", "date"): DATE,
    ("int", "time-millis"): TIME,
    ("long", "time-micros"): TIME,
    ("long", "timestamp-millis"): timestamp("ms", "UTC"),
    ("long", "timestamp-micros"): timestamp("us", "UTC"),
    ("long", "timestamp-nanos"): timestamp("ns", "UTC"),
    ("long", "local-timestamp-millis"): timestamp("ms"),
    ("long", "local-timestamp-micros"): timestamp("us"),
    ("long", "local-timestamp-nanos"): timestamp("ns"),
}
_PLAIN = {
    "null": NULL,
    "boolean": BOOL,
    "int": INT32,
    "long": INT64,
    "float": FLOAT32,
    "double": FLOAT64,
    "bytes": BINARY,
    "string": STRING,
    "fixed": BINARY,
    "enum": STRING,
}
DURATION = parse_type("struct<months: int64, days: int64, millis: int64>")


class AvroField(Struct, frozen=True):
    """default: the JSON of its default value, None if it has none."""

    name: str
    type: AvroType
    default: str | None = None
    aliases: tuple[str, ...] = ()


class AvroType(Struct, frozen=True):
    """kind: a primitive, record, enum, fixed, array, map or union. logical: the logical type, if it is one
    that means something here. name: the full name of a named type. branches: of a union, without null;
    null_at: where null stands among them, None where it does not. item: of an array or a map."""

    kind: str
    logical: str | None = None
    name: str = ""
    fields: tuple[AvroField, ...] = ()
    symbols: tuple[str, ...] = ()
    default: str | None = None
    size: int = 0
    item: AvroType | None = None
    branches: tuple[AvroType, ...] = ()
    null_at: int | None = None
    precision: int = 0
    scale: int = 0
    aliases: tuple[str, ...] = ()

    @property
    def is_optional(self) -> bool:
        """Whether it is a union of null and one type."""
        return self.kind == "union" and self.null_at is not None and len(self.branches) == 1

    @property
    def column(self) -> DataType:
        """The type of the column that holds its values."""
        if self.logical == "decimal":
            return decimal(self.precision, self.scale)
        if self.logical == "duration":
            return DURATION
        if self.logical is not None and (time := _TIMES.get((self.kind, self.logical))) is not None:
            return time
        match self.kind:
            case "array":
                assert self.item is not None
                return list_of(self.item.column)
            case "map":
                assert self.item is not None
                return list_of(struct_of({"key": STRING, "value": self.item.column}))
            case "record":
                return struct_of({field.name: field.type.column for field in self.fields})
            case "union" if len(self.branches) == 1:
                return self.branches[0].column
            case "union":
                return struct_of(dict(zip(self.branch_names, self.branch_columns, strict=True)))
        return _PLAIN[self.kind]

    @property
    def branch_columns(self) -> list[DataType]:
        return [branch.column for branch in self.branches]

    @property
    def branch_names(self) -> list[str]:
        """The names of the fields that hold a union's branches: that of a named type, else of its kind."""
        short = [b.name.rpartition(".")[2] or b.kind for b in self.branches]
        full = [b.name or b.kind for b in self.branches]
        return short if len({*short}) == len(short) else full

    @property
    def is_empty(self) -> bool:
        """Whether its values may take no bytes."""
        if self.kind == "record":
            return all(field.type.is_empty for field in self.fields)
        return self.kind == "null" or (self.kind == "fixed" and self.size == 0)

    def schema(self) -> Schema:
        """The columns of a record."""
        return Schema.of([(field.name, field.type.column) for field in self.fields])


def parse(text: str, references: Sequence[str] = (), *, where: str = "the schema") -> AvroType:
    """A schema of a record. references: schemas whose named types it uses, each after those that it uses
    itself. where: what the schema is called in errors. Raises ConfigError (E0421)."""
    parser = _Parser(where)
    for reference in references:
        parser.top(reference)
    found = parser.top(text)
    if found.kind != "record":
        raise parser.error(
            "its type is not record", "messages have fields: write a record around it"
        )
    return found


class _Parser:
    """types: the named types that were read, by full name; None while one is being read."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.types: dict[str, AvroType | None] = {}
        self.depth = 0

    def error(self, problem: str, help: str | None = None) -> ConfigError:
        return ConfigError(
            f"{self.where} is not an Avro schema that can be used: {problem}",
            code="E0421",
            help=help or "look at the Avro specification",
        )

    def top(self, text: str) -> AvroType:
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            if _NAME.fullmatch(text.strip()):
                data = text.strip()
            else:
                raise self.error(f"it is not JSON: {error}") from None
        return self.type(data, "")

    def type(self, data: Any, space: str) -> AvroType:
        self.depth += 1
        if self.depth > NESTED_MAX:
            raise self.error(f"it is nested deeper than {NESTED_MAX}")
        try:
            if isinstance(data, str):
                return self.named(data, space)
            if isinstance(data, list):
                return self.union(data, space)
            if isinstance(data, dict):
                return self.complex(data, space)
        finally:
            self.depth -= 1
        raise self.error(f"{json.dumps(data)} is not a type")

    def named(self, name: str, space: str) -> AvroType:
        if name in PRIMITIVES:
            return AvroType(name)
        for full in (name,) if "." in name else (f"{space}.{name}" if space else name, name):
            if full in self.types:
                found = self.types[full]
                if found is None:
                    raise self.error(
                        f"'{full}' contains itself, and columns have a fixed depth",
                        "read the messages with format: raw",
                    )
                return found
        raise self.error(f"unknown type '{name}'", "a type has to be defined before it is used")

    def union(self, data: list[Any], space: str) -> AvroType:
        types = [self.type(each, space) for each in data]
        kinds = [each.name or each.kind for each in types]
        if len({*kinds}) < len(kinds):
            raise self.error("a union has a type twice")
        if any(each.kind == "union" for each in types):
            raise self.error("a union is in a union")
        nulls = [at for at, each in enumerate(types) if each.kind == "null"]
        branches = tuple(each for each in types if each.kind != "null")
        if not branches:
            return AvroType("null") if types else self._empty_union()
        return AvroType("union", branches=branches, null_at=nulls[0] if nulls else None)

    def _empty_union(self) -> AvroType:
        raise self.error("a union has no types")

    def complex(self, data: Mapping[str, Any], space: str) -> AvroType:
        kind = data.get("type")
        if isinstance(kind, dict | list):
            return self.type(kind, space)
        match kind:
            case "record" | "error":
                return self.record(data, space)
            case "enum":
                return self.enum(data, space)
            case "fixed":
                return self.fixed(data, space)
            case "array" | "map":
                item = self.type(data.get("items" if kind == "array" else "values"), space)
                if kind == "array" and item.is_empty:
                    raise self.error("the items of an array take no bytes")
                return AvroType(kind, item=item)
            case str() if kind in PRIMITIVES:
                return self.logical(AvroType(kind), data)
            case str():
                return self.named(kind, space)
        raise self.error(f"{json.dumps(data)[:80]} has no type")

    def logical(self, plain: AvroType, data: Mapping[str, Any]) -> AvroType:
        """The type with its logical type. One that is unknown, or wrong for it, is ignored, as the
        specification says."""
        logical = data.get("logicalType")
        if logical == "decimal" and plain.kind in ("bytes", "fixed"):
            precision, scale = data.get("precision"), data.get("scale", 0)
            if not isinstance(precision, int) or not isinstance(scale, int):
                return plain
            if not 0 <= scale <= precision or precision < 1:
                return plain
            if precision > DIGITS_MAX:
                raise self.error(
                    f"a decimal has {precision} digits, and columns have up to {DIGITS_MAX}",
                    "leave out its logicalType: the column then has bytes",
                )
            return _with(plain, logical="decimal", precision=precision, scale=scale)
        if logical == "duration" and plain.kind == "fixed" and plain.size == 12:
            return _with(plain, logical="duration")
        return _with(plain, logical=logical) if (plain.kind, logical) in _TIMES else plain

    def name(self, data: Mapping[str, Any], space: str) -> tuple[str, str]:
        """The full name of a named type, and its namespace. The type is being read from now on."""
        name = data.get("name")
        if not isinstance(name, str) or not all(map(_NAME.fullmatch, name.split("."))):
            raise self.error(f"a {data.get('type')} has the name {json.dumps(name)}")
        own = data.get("namespace")
        inside = name.rpartition(".")[0] or (own if isinstance(own, str) else space)
        full = f"{inside}.{name.rpartition('.')[2]}" if inside else name
        if full in self.types:
            raise self.error(f"'{full}' is defined twice")
        self.types[full] = None
        return full, inside

    def record(self, data: Mapping[str, Any], space: str) -> AvroType:
        full, inside = self.name(data, space)
        given = data.get("fields")
        if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
            raise self.error(f"the record '{full}' has no list of fields")
        fields: list[AvroField] = []
        for each in given:
            name = each.get("name")
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise self.error(
                    f"the record '{full}' has a field with the name {json.dumps(name)}"
                )
            if any(name == field.name for field in fields):
                raise self.error(f"the record '{full}' has the field '{name}' twice")
            default = json.dumps(each["default"]) if "default" in each else None
            try:
                type_ = self.type(each.get("type"), inside)
            except ConfigError as error:
                error.notes.append(f"in the field '{name}' of the record '{full}'")
                raise
            fields.append(AvroField(name, type_, default, _texts(each.get("aliases"))))
        made = AvroType(
            "record", name=full, fields=tuple(fields), aliases=_texts(data.get("aliases"))
        )
        if made.is_empty:
            raise self.error(f"the record '{full}' has no field with a value", "add a field")
        self.types[full] = made
        return made

    def enum(self, data: Mapping[str, Any], space: str) -> AvroType:
        full, _ = self.name(data, space)
        symbols = _texts(data.get("symbols"))
        if not symbols or len({*symbols}) < len(symbols):
            raise self.error(f"the enum '{full}' has no symbols, or one of them twice")
        default = data.get("default")
        made = AvroType(
            "enum",
            name=full,
            symbols=symbols,
            default=default if default in symbols else None,
            aliases=_texts(data.get("aliases")),
        )
        self.types[full] = made
        return made

    def fixed(self, data: Mapping[str, Any], space: str) -> AvroType:
        full, _ = self.name(data, space)
        size = data.get("size")
        if not isinstance(size, int) or size < 0:
            raise self.error(f"the fixed '{full}' has the size {json.dumps(size)}")
        plain = AvroType("fixed", name=full, size=size, aliases=_texts(data.get("aliases")))
        self.types[full] = made = self.logical(plain, data)
        return made


def _texts(data: Any) -> tuple[str, ...]:
    return tuple(each for each in data if isinstance(each, str)) if isinstance(data, list) else ()


def _with(type_: AvroType, **changes: Any) -> AvroType:
    from msgspec.structs import replace

    return replace(type_, **changes)
