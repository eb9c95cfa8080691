"""Rows to Avro messages.

Always true: a row is encoded exactly or is bad: a NULL where the schema has no null, a number or a time that
its type does not hold, a symbol that an enum lacks. A column that the schema lacks is an error before any
row is encoded, so no column is lost.
"""

from __future__ import annotations

import json
import re
from typing import Any

import polars as pl

from dataflare.errors import ConfigError
from dataflare.formats.messages.avro_resolve import Resolved, faulty
from dataflare.formats.messages.avro_schema import AvroField, AvroType
from dataflare.formats.messages.avro_wire import WireWriter, wire_type
from dataflare.formats.messages.contract import Encoded, Encoder, bad_messages, no_bad
from dataflare.formats.messages.framing import with_head
from dataflare.model.types import INTEGERS, DataType, Schema

_FAULT = "__dataflare_fault"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_LOGICAL = {"millis": "ms", "micros": "us", "nanos": "ns"}


class AvroEncoder(Encoder):
    """schema: of the rows. type_: of the messages. id_: is written before each message, if it has one.
    Raises ConfigError (E0423) for columns that the schema lacks or that cannot have its types."""

    def __init__(self, schema: Schema, type_: AvroType, *, id_: int | None = None) -> None:
        self._id = id_
        self._writer = WireWriter(type_)
        columns = {field.name: field.type for field in schema}
        try:
            self._columns = _record(columns, type_, pl.col)
        except _CannotBe as error:
            raise ConfigError(
                f"the rows do not fit the Avro schema: {error}",
                code="E0423",
                help="change the columns with a map step, or the schema",
            ) from None
        self._faults = [fault for _, each in self._columns for fault in each.faults]

    def encode(self, rows: pl.DataFrame) -> Encoded:
        columns = [each.value.alias(name) for name, each in self._columns]
        fault = [faulty(self._faults).alias(_FAULT)] if self._faults else []
        names = [name for name, _ in self._columns]
        wire = (
            rows.lazy()
            .with_columns(*columns, *fault)
            .select(*names, *([_FAULT] if fault else []))
            .collect(engine="in-memory")
        )
        if not fault or wire[_FAULT].null_count() == rows.height:
            return Encoded(self._framed(self._writer.write(wire.select(names))), no_bad())
        is_bad = wire[_FAULT].is_not_null()
        good = self._writer.write(wire.filter(~is_bad).select(names))
        index = pl.repeat(None, rows.height, dtype=pl.UInt32, eager=True)
        if good.len():
            places = (~is_bad).arg_true()
            index = index.scatter(places, pl.int_range(good.len(), dtype=pl.UInt32, eager=True))
        none = pl.repeat(None, rows.height, dtype=pl.Binary, eager=True)
        texts = wire[_FAULT].drop_nulls().to_list()
        bad = bad_messages(none, is_bad.arg_true().cast(pl.UInt32), "E0572", texts)
        return Encoded(self._framed(good.gather(index)), bad)

    def _framed(self, values: pl.Series) -> pl.Series:
        return values if self._id is None else with_head(values, self._id)


class _CannotBe(ValueError):
    """Why no value of a column can be one of the schema."""


def _record(
    columns: dict[str, DataType], type_: AvroType, column: Any
) -> list[tuple[str, Resolved]]:
    """A wire column for each field that has bytes."""
    names = {field.name for field in type_.fields}
    for name in columns:
        if name not in names:
            raise _CannotBe(f"it has no field '{name}', and the rows have such a column")
    made: list[tuple[str, Resolved]] = []
    for field in type_.fields:
        if field.name not in columns:
            made += _absent(field)
            continue
        try:
            each = _to_wire(column(field.name), columns[field.name], field.type)
        except _CannotBe as error:
            raise _CannotBe(f"column '{field.name}': {error}") from None
        if field.type.kind == "null":
            continue
        faults = [(f"column '{field.name}': {text}", bad) for text, bad in each.faults]
        made.append((field.name, Resolved(each.value, faults)))
    return made


def _absent(field: AvroField) -> list[tuple[str, Resolved]]:
    """A field that the rows lack is null, where it may be."""
    if field.type.kind == "null":
        return []
    if field.type.kind == "union" and field.type.null_at is not None:
        return [(field.name, Resolved(pl.lit(None, dtype=wire_type(field.type)), []))]
    raise _CannotBe(f"its field '{field.name}' is not among the columns, and may not be null")


def _to_wire(value: pl.Expr, given: DataType, type_: AvroType) -> Resolved:
    if type_.kind == "null":
        if given.name != "null":
            raise _CannotBe(f"the schema has null there, and the column is {given}")
        return Resolved(value, [])
    if type_.kind == "union":
        made = _to_union(value, given, type_)
        if type_.null_at is None:
            made.faults.append((_NOT_NULL, value.is_null()))
        return made
    made = _to_plain(value, given, type_)
    made.faults.append((_NOT_NULL, value.is_null()))
    return made


_NOT_NULL = "it is NULL, and the schema has no null there"


def _to_union(value: pl.Expr, given: DataType, type_: AvroType) -> Resolved:
    if given.name == "null":
        return Resolved(pl.lit(None, dtype=wire_type(type_)), [])
    if len(type_.branches) == 1:
        return _to_plain(value, given, type_.branches[0])
    names = type_.branch_names
    if given.name == "struct" and [f.name for f in given.fields] == names:
        parts = []
        faults: list[tuple[str, pl.Expr]] = []
        for field, branch in zip(given.fields, type_.branches, strict=True):
            made = _to_plain(value.struct.field(field.name), field.type, branch)
            parts.append(made.value.alias(field.name))
            faults += made.faults
        count = pl.sum_horizontal(
            value.struct.field(name).is_not_null().cast(pl.UInt8) for name in names
        )
        wrong = value.is_not_null() & (count != 1)
        faults.append(("it has not exactly one type of the union", wrong.fill_null(False)))
        return Resolved(pl.when(value.is_not_null()).then(pl.struct(parts)), faults)
    for at, branch in enumerate(type_.branches):
        try:
            made = _to_plain(value, given, branch)
        except _CannotBe:
            continue
        parts = []
        for each, (name, other) in enumerate(zip(names, type_.branches, strict=True)):
            none = pl.lit(None, dtype=wire_type(other))
            parts.append((made.value if each == at else none).alias(name))
        return Resolved(pl.when(value.is_not_null()).then(pl.struct(parts)), made.faults)
    raise _CannotBe(f"it is {given}, which no type of the union {', '.join(names)} holds")


def _to_plain(value: pl.Expr, given: DataType, type_: AvroType) -> Resolved:
    """The wire column of values that are not NULL; NULL stays NULL."""
    if type_.logical == "decimal":
        return _to_decimal(value, given, type_)
    if type_.logical == "duration":
        return _to_duration(value, given, type_)
    if type_.logical is not None:
        return _to_time(value, given, type_)
    match type_.kind:
        case "boolean" if given.name == "bool":
            return Resolved(value, [])
        case "int" | "long" if given.name in INTEGERS:
            bits = 31 if type_.kind == "int" else 63
            made = value.cast(pl.Int64, strict=False)
            limit = 1 << bits
            wide = (made < -limit) | (made > limit - 1) if bits < 63 else pl.lit(False)
            lost = (value.is_not_null() & made.is_null()) | wide.fill_null(False)
            holds = given.name in _SMALL[type_.kind]
            return Resolved(made, [] if holds else [(f"it is not {_article(type_.kind)}", lost)])
        case "float" | "double" if given.is_float or given.name in INTEGERS:
            return _to_float(value, given, type_)
        case "string" if given.is_text:
            return Resolved(value, [])
        case "bytes" if given.name == "binary":
            return Resolved(value, [])
        case "fixed" if given.name == "binary":
            wrong = (value.bin.size() != type_.size).fill_null(False)
            return Resolved(value, [(f"it has not {type_.size} bytes", wrong)])
        case "enum" if given.is_text:
            made = value.replace_strict(
                list(type_.symbols),
                [*range(len(type_.symbols))],
                default=None,
                return_dtype=pl.Int64,
            )
            lost = value.is_not_null() & made.is_null()
            return Resolved(made, [(f"it is not a symbol of the enum {type_.name}", lost)])
        case "array" if given.name == "list":
            assert given.item is not None
            assert type_.item is not None
            return _to_items(value, _to_wire(pl.element(), given.item, type_.item))
        case "map" if _is_map(given):
            return _to_map(value, given, type_)
        case "record" if given.name == "struct":
            columns = {field.name: field.type for field in given.fields}
            parts = _record(columns, type_, value.struct.field)
            made = pl.struct(each.value.alias(name) for name, each in parts)
            there = value.is_not_null()
            faults = [(text, there & bad) for _, each in parts for text, bad in each.faults]
            return Resolved(pl.when(there).then(made), faults)
    raise _CannotBe(f"it is {given}, and the schema has {type_.kind} there")


_SMALL = {
    "int": ("int8", "int16", "int32", "uint8", "uint16"),
    "long": ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
}


def _article(kind: str) -> str:
    return f"an {kind}" if kind == "int" else f"a {kind}"


def _to_items(value: pl.Expr, item: Resolved) -> Resolved:
    faults = [
        (f"in its items, {text}", value.list.eval(bad).list.any().fill_null(False))
        for text, bad in item.faults
    ]
    return Resolved(value.list.eval(item.value), faults)


def _is_map(given: DataType) -> bool:
    item = given.item
    return item is not None and [f.name for f in item.fields] == ["key", "value"]


def _to_map(value: pl.Expr, given: DataType, type_: AvroType) -> Resolved:
    assert given.item is not None
    assert type_.item is not None
    key, held = given.item.fields
    element = pl.element()
    if not key.type.is_text:
        raise _CannotBe(f"the keys of its map are {key.type}, and those of Avro are text")
    inner = _to_wire(element.struct.field("value"), held.type, type_.item)
    pair = pl.struct(element.struct.field("key"), inner.value.alias("value"))
    no_key = (_NOT_NULL, element.struct.field("key").is_null())
    return _to_items(value, Resolved(pair, [*inner.faults, no_key]))


def _to_float(value: pl.Expr, given: DataType, type_: AvroType) -> Resolved:
    dtype = pl.Float32() if type_.kind == "float" else pl.Float64()
    made = value.cast(dtype, strict=False)
    if given.is_float:
        if given.name == "float32" or type_.kind == "double":
            return Resolved(made, [])
        changed = (made.cast(pl.Float64) != value).fill_null(False) & value.is_not_nan()
        return Resolved(made, [("a float would round it", changed.fill_null(False))])
    back = made.cast(given.to_polars(), strict=False)
    return Resolved(made, [(f"a {type_.kind} would round it", back.ne_missing(value))])


def _to_decimal(value: pl.Expr, given: DataType, type_: AvroType) -> Resolved:
    if given.name != "decimal" and given.name not in INTEGERS:
        raise _CannotBe(f"it is {given}, and the schema has {type_.column} there")
    made = value.cast(type_.column.to_polars(), strict=False)
    changed = value.is_not_null() & made.cast(given.to_polars(), strict=False).ne_missing(value)
    faults = [] if given == type_.column else [(f"it does not fit {type_.column}", changed)]
    if type_.kind == "fixed":
        limit = pl.lit(1 << min(8 * type_.size - 1, 126), pl.Int128)
        whole = made.to_physical()
        wide = ((whole >= limit) | (whole < pl.lit(0, pl.Int128) - limit)).fill_null(False)
        faults.append((f"it does not fit {type_.size} bytes", wide))
    return Resolved(made, faults)


def _to_time(value: pl.Expr, given: DataType, type_: AvroType) -> Resolved:
    column = type_.column
    same_zone = given.timezone is None if column.timezone is None else given.timezone is not None
    if given.name != column.name or (column.name == "timestamp" and not same_zone):
        raise _CannotBe(f"it is {given}, and the schema has {type_.logical} there")
    if column.name == "date":
        return Resolved(value.cast(pl.Int32).cast(pl.Int64), [])
    assert type_.logical is not None
    unit = _LOGICAL[type_.logical.rpartition("-")[2]]
    held = "ns" if given.name == "time" else (given.unit or "us")
    held = "ms" if held == "s" else held
    ticks = value.cast(pl.Int64)
    if _NS[held] >= _NS[unit]:
        size = _NS[held] // _NS[unit]
        made, limit = ticks * size, (1 << 63) // size
        wide = ((ticks >= limit) | (ticks < -limit)).fill_null(False)
        return Resolved(made, [("it is too far away", wide)] if size > 1 else [])
    size = _NS[unit] // _NS[held]
    finer = (ticks % size != 0).fill_null(False)
    return Resolved(ticks // size, [(f"it is finer than {type_.logical}", finer)])


def _to_duration(value: pl.Expr, given: DataType, type_: AvroType) -> Resolved:
    raise _CannotBe(
        f"it is {given}, and durations of months, days and milliseconds are not written"
    )


# --- a schema for rows ----------------------------------------------------------------------------

_PRIMITIVE = {
    **dict.fromkeys(("int8", "int16", "int32", "uint8", "uint16"), "int"),
    **dict.fromkeys(("int64", "uint32"), "long"),
    "bool": "boolean",
    "float32": "float",
    "float64": "double",
    "string": "string",
    "json": "string",
    "binary": "bytes",
}


def schema_of(schema: Schema, name: str) -> str:
    """An Avro schema, as JSON, that holds rows with these columns; each may be null. Raises ConfigError
    (E0423) for a type or a name that Avro has not."""
    names = iter(range(1, 1 << 30))
    fields = [_field_of(field.name, field.type, names) for field in schema]
    return json.dumps({"type": "record", "name": name, "fields": fields})


def _field_of(name: str, type_: DataType, names: Any) -> dict[str, Any]:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"column '{name}' has a name that Avro does not take",
            code="E0423",
            help="rename it with a map step: letters, digits and underscores, not a digit first",
        )
    return {"name": name, "type": ["null", _avro(type_, names, name)], "default": None}


def _avro(type_: DataType, names: Any, column: str) -> Any:
    if type_.name in _PRIMITIVE:
        return _PRIMITIVE[type_.name]
    match type_.name:
        case "date":
            return {"type": "int", "logicalType": "date"}
        case "time":
            return {"type": "long", "logicalType": "time-micros"}
        case "timestamp":
            word = {"s": "millis", "ms": "millis", "us": "micros", "ns": "nanos"}[
                type_.unit or "us"
            ]
            local = "" if type_.timezone else "local-"
            return {"type": "long", "logicalType": f"{local}timestamp-{word}"}
        case "decimal":
            return {
                "type": "bytes",
                "logicalType": "decimal",
                "precision": type_.precision,
                "scale": type_.scale,
            }
        case "uint64":
            return {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 0}
        case "list":
            assert type_.item is not None
            return {"type": "array", "items": ["null", _avro(type_.item, names, column)]}
        case "struct":
            fields = [_field_of(field.name, field.type, names) for field in type_.fields]
            return {"type": "record", "name": f"Record{next(names)}", "fields": fields}
    raise ConfigError(
        f"column '{column}' is {type_}, which Avro has no type for",
        code="E0423",
        help="convert it with a map step, to text or to a number",
    )
