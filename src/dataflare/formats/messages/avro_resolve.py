"""From the values of a writer's Avro schema to the columns of a reader's, and from columns to values.

The rules are those of schema resolution in the Avro specification: fields by name or alias, defaults,
promotions, symbols. What they allow and would change a value is refused here: a long that a double would
round, a NULL where the reader has no null. Each conversion gives a value, and a condition for each place
where it can fail, as expressions over whole columns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.errors import ConfigError
from dataflare.formats.messages.avro_schema import AvroField, AvroType
from dataflare.formats.messages.avro_wire import wire_type

_INT32 = 1 << 31
_UNIT_NS = {"millis": 1_000_000, "micros": 1_000, "nanos": 1}
_DAY_NS = 86_400 * 10**9
_NUMBERS = ("int", "long", "float", "double")
_PROMOTED = {
    ("int", "long"),
    ("int", "float"),
    ("int", "double"),
    ("long", "float"),
    ("long", "double"),
    ("float", "double"),
    ("string", "bytes"),
    ("bytes", "string"),
}


class Resolved(Struct):
    """value: the column. faults: what can go wrong, in words, and where it does (Boolean, never NULL)."""

    value: pl.Expr
    faults: list[tuple[str, pl.Expr]]


class _CannotBe(ValueError):
    """Why no value of one type can become one of the other."""


def resolved(writer: AvroType, reader: AvroType, *, where: str) -> list[tuple[str, Resolved]]:
    """The columns of the reader's record from the wire columns of the writer's, by name. Raises ConfigError
    (E0422) where the schemas do not fit."""
    try:
        return [(f.name, _field(f, writer, pl.col)) for f in reader.fields]
    except _CannotBe as error:
        raise ConfigError(
            f"{where} cannot be read with the reader's schema: {error}",
            code="E0422",
            help="give the missing field a default in the reader's schema, or read with a newer one",
        ) from None


def unread_fields(writer: AvroType, reader: AvroType, prefix: str = "") -> list[str]:
    """The paths of the writer's fields that the reader lacks."""
    if writer.kind == "union" and len(writer.branches) == 1:
        writer = writer.branches[0]
    if reader.kind == "union" and len(reader.branches) == 1:
        reader = reader.branches[0]
    if writer.item is not None and reader.item is not None:
        return unread_fields(writer.item, reader.item, prefix)
    if writer.kind != "record" or reader.kind != "record":
        return []
    names = {name: f for f in reader.fields for name in (f.name, *f.aliases)}
    missing = [prefix + f.name for f in writer.fields if f.name not in names]
    for field in writer.fields:
        if field.name in names:
            inner = names[field.name].type
            missing += unread_fields(field.type, inner, f"{prefix}{field.name}.")
    return missing


def _field(field: AvroField, writer: AvroType, column: Callable[[str], pl.Expr]) -> Resolved:
    """The column of a reader's field."""
    written = {each.name: each for each in writer.fields}
    for name in (field.name, *field.aliases):
        if name in written:
            try:
                made = _convert(column(name), written[name].type, field.type)
            except _CannotBe as error:
                raise _CannotBe(f"field '{field.name}': {error}") from None
            return Resolved(made.value, [(f"field '{field.name}': {t}", b) for t, b in made.faults])
    if field.default is None:
        raise _CannotBe(f"it has no field '{field.name}', which has no default")
    return Resolved(pl.lit(default_value(field), dtype=field.type.column.to_polars()), [])


def _convert(value: pl.Expr, writer: AvroType, reader: AvroType) -> Resolved:
    if writer.kind == "null":
        if reader.kind != "null" and (reader.kind != "union" or reader.null_at is None):
            raise _CannotBe("it is null there, and null is not among its types here")
        return Resolved(pl.lit(None, dtype=reader.column.to_polars()), [])
    if writer.kind == "union":
        return _from_union(value, writer, reader)
    if reader.kind == "union":
        at = _branch_for(writer, reader)
        made = _convert(value, writer, reader.branches[at])
        if len(reader.branches) == 1:
            return made
        return Resolved(_chosen(value, reader, {at: made.value}), made.faults)
    return _same_kind(value, writer, reader)


def _from_union(value: pl.Expr, writer: AvroType, reader: AvroType) -> Resolved:
    if len(writer.branches) == 1:
        made = _convert(value, writer.branches[0], reader)
        if writer.null_at is not None and (reader.kind != "union" or reader.null_at is None):
            made.faults.append(("it is null, and null is not among its types", value.is_null()))
        return made
    values: dict[int, pl.Expr] = {}
    faults: list[tuple[str, pl.Expr]] = []
    branches = zip(writer.branch_names, writer.branches, strict=True)
    for name, branch in branches:
        inner = value.struct.field(name)
        try:
            at = _branch_for(branch, reader) if reader.kind == "union" else 0
            into = reader.branches[at] if reader.kind == "union" else reader
            made = _convert(inner, branch, into)
        except _CannotBe:
            faults.append((f"it is of type {name}, which it has not here", inner.is_not_null()))
            continue
        faults += made.faults
        earlier = values.get(at)
        values[at] = made.value if earlier is None else pl.coalesce(earlier, made.value)
    if not values:
        raise _CannotBe("none of its types there is one of its types here")
    if reader.kind != "union" or reader.null_at is None:
        faults.append(("it is null, and null is not among its types", value.is_null()))
    if reader.kind != "union" or len(reader.branches) == 1:
        return Resolved(values[0], faults)
    return Resolved(_chosen(value, reader, values), faults)


def _chosen(value: pl.Expr, reader: AvroType, values: dict[int, pl.Expr]) -> pl.Expr:
    """A struct with a field for each branch."""
    parts = []
    for at, (name, branch) in enumerate(zip(reader.branch_names, reader.branches, strict=True)):
        none = pl.lit(None, dtype=branch.column.to_polars())
        parts.append(values.get(at, none).alias(name))
    return pl.when(value.is_not_null()).then(pl.struct(parts))


def _branch_for(writer: AvroType, reader: AvroType) -> int:
    """The branch of a reader's union for a writer's type: one of the same name, else the first that fits."""
    fits = []
    for at, branch in enumerate(reader.branches):
        try:
            _convert(pl.lit(None, dtype=wire_type(writer)), writer, branch)
        except _CannotBe:
            continue
        fits.append(at)
    same = [at for at in fits if _name(reader.branches[at]) == _name(writer)]
    if not fits:
        raise _CannotBe(f"it is {_shown(writer)} there, which is not among its types here")
    return (same or fits)[0]


def _name(type_: AvroType) -> tuple[str, str]:
    return type_.kind, type_.name.rpartition(".")[2]


def _shown(type_: AvroType) -> str:
    return f"{type_.kind} '{type_.name}'" if type_.name else type_.kind


def _same_kind(value: pl.Expr, writer: AvroType, reader: AvroType) -> Resolved:
    pair = (writer.kind, reader.kind)
    if writer.logical == "decimal" or reader.logical == "decimal":
        return _decimal(value, writer, reader)
    if pair in _PROMOTED or (writer.kind == reader.kind and not writer.name and not writer.item):
        return _plain(value, writer, reader)
    if writer.kind != reader.kind:
        raise _CannotBe(f"it is {_shown(writer)} there and {_shown(reader)} here")
    match writer.kind:
        case "array" | "map":
            assert writer.item is not None
            assert reader.item is not None
            return _items(value, writer, reader)
        case "record":
            parts = [(f.name, _field(f, writer, value.struct.field)) for f in reader.fields]
            made = pl.struct(each.value.alias(name) for name, each in parts)
            faults = [fault for _, each in parts for fault in each.faults]
            return Resolved(pl.when(value.is_not_null()).then(made), faults)
        case "enum":
            return _enum(value, writer, reader)
        case "fixed" if writer.size != reader.size:
            raise _CannotBe(f"it has {writer.size} bytes there and {reader.size} here")
        case "fixed" if reader.logical == "duration":
            parts_ = [
                value.bin.slice(4 * at, 4)
                .bin.reinterpret(dtype=pl.UInt32, endianness="little")
                .cast(pl.Int64)
                .alias(name)
                for at, name in enumerate(("months", "days", "millis"))
            ]
            return Resolved(pl.when(value.is_not_null()).then(pl.struct(parts_)), [])
    return Resolved(value, [])


def _items(value: pl.Expr, writer: AvroType, reader: AvroType) -> Resolved:
    assert writer.item is not None
    assert reader.item is not None
    element = pl.element()
    if writer.kind == "array":
        made = _convert(element, writer.item, reader.item)
        inner = made.value
    else:
        made = _convert(element.struct.field("value"), writer.item, reader.item)
        inner = pl.struct(element.struct.field("key"), made.value.alias("value"))
    faults = [(text, value.list.eval(bad).list.any().fill_null(False)) for text, bad in made.faults]
    return Resolved(value.list.eval(inner), faults)


def _plain(value: pl.Expr, writer: AvroType, reader: AvroType) -> Resolved:
    faults: list[tuple[str, pl.Expr]] = []
    if writer.kind == "int":
        wide = (value < -_INT32) | (value >= _INT32)
        faults.append(("it is not an int", wide.fill_null(False)))
    dtype = reader.column.to_polars()
    if reader.kind in ("float", "double") and writer.kind in ("int", "long"):
        made = value.cast(dtype)
        back = made.cast(pl.Int64, strict=False)
        faults.append((f"it is a number that a {reader.kind} would round", back.ne_missing(value)))
        return Resolved(made, faults)
    if reader.logical is None:
        if (writer.kind, reader.kind) == ("bytes", "string"):
            raise _CannotBe("it is bytes there and string here")
        return Resolved(value.cast(dtype, strict=False), faults)
    if writer.kind not in ("int", "long"):
        raise _CannotBe(f"it is {writer.kind} there and {reader.logical} here")
    unit = reader.logical.rpartition("-")[2]
    if reader.logical.startswith("time-"):
        size = _UNIT_NS[unit]
        wrong = (value < 0) | (value >= _DAY_NS // size)
        faults.append(("it is not a time of a day", wrong.fill_null(False)))
        return Resolved((value * size).cast(pl.Time, strict=False), faults)
    physical = value.cast(pl.Int32, strict=False) if reader.logical == "date" else value
    return Resolved(physical.cast(dtype), faults)


def _decimal(value: pl.Expr, writer: AvroType, reader: AvroType) -> Resolved:
    same = (writer.precision, writer.scale) == (reader.precision, reader.scale)
    if not same or writer.logical != reader.logical:
        raise _CannotBe(
            f"it is {writer.column} there and {reader.column} here, and decimals are not rounded"
        )
    limit = pl.lit(10**writer.precision, pl.Int128)
    whole = value.to_physical()
    wide = ((whole >= limit) | (whole <= pl.lit(-(10**writer.precision), pl.Int128))).fill_null(
        False
    )
    return Resolved(value, [(f"it has more than {writer.precision} digits", wide)])


def _enum(value: pl.Expr, writer: AvroType, reader: AvroType) -> Resolved:
    symbols: list[str | None] = [
        each if each in reader.symbols else reader.default for each in writer.symbols
    ]
    made = value.replace_strict(
        [*range(len(symbols))], symbols, default=None, return_dtype=pl.String
    )
    lost = [at for at, each in enumerate(symbols) if each is None]
    outside = (value < 0) | (value >= len(symbols))
    faults = [("it is not a symbol of the enum", outside.fill_null(False))]
    if lost:
        is_lost = value.is_in(lost).fill_null(False)
        faults.append(("it is a symbol that the reader's enum lacks", is_lost))
    return Resolved(made, faults)


def default_value(field: AvroField) -> Any:
    """A reader's default, as a value of its column."""
    assert field.default is not None
    return _json_value(json.loads(field.default), field.type)


def _json_value(data: Any, type_: AvroType) -> Any:
    if type_.kind == "union":
        if data is None and type_.null_at is not None:
            return None
        first = type_.branches[0]
        inner = _json_value(data, first)
        return inner if len(type_.branches) == 1 else {type_.branch_names[0]: inner}
    match type_.kind:
        case "record":
            given = data if isinstance(data, dict) else {}
            return {
                f.name: _json_value(given[f.name], f.type) if f.name in given else default_value(f)
                for f in type_.fields
            }
        case "array":
            assert type_.item is not None
            return [_json_value(each, type_.item) for each in data]
        case "map":
            assert type_.item is not None
            item = type_.item
            return [{"key": k, "value": _json_value(v, item)} for k, v in data.items()]
        case "bytes" | "fixed":
            raw = str(data).encode("latin-1")
            if type_.logical == "decimal":
                return Decimal(int.from_bytes(raw, "big", signed=True)).scaleb(-type_.scale)
            if type_.logical == "duration":
                whole = [int.from_bytes(raw[at : at + 4], "little") for at in (0, 4, 8)]
                return dict(zip(("months", "days", "millis"), whole, strict=True))
            return raw
    if type_.logical is None or data is None:
        return data
    made = _plain(pl.lit(data, dtype=pl.Int64), type_, type_).value
    return pl.select(made).item()


def faulty(faults: Sequence[tuple[str, pl.Expr]]) -> pl.Expr:
    """The first fault of each row, in words; NULL for a good one."""
    texts = [pl.when(condition).then(pl.lit(text)) for text, condition in faults]
    return pl.coalesce(*texts, pl.lit(None, dtype=pl.String))
