"""Rows as the Arrow stream of an INSERT, in the types of the table's columns, and the values that these columns
would change.

Always true: the server gets each value in a type from which its column takes it unchanged. It converts numbers
without an error when they overflow, and cuts times, so nothing is left for it to convert.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from dataflare.connectors.clickhouse.addresses import IPV4, IPV6
from dataflare.connectors.clickhouse.types import Kind
from dataflare.errors import DataError
from dataflare.model.batch import private
from dataflare.model.types import TIME, DataType
from dataflare.sdk.bisection import Refusal
from dataflare.sdk.sql.exactness import beyond_float, first_lost, fraction_of, loses_scale
from dataflare.sdk.sql.names import HELP

_BITS = {"Int": True, "UInt": False}
_UUID = r"(?i)^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_PATTERNS = {"UUID": _UUID, "IPv4": IPV4, "IPv6": IPV6}
_DATES = {"Date": (date(1970, 1, 1), date(2149, 6, 6)),
          "Date32": (date(1900, 1, 1), date(2299, 12, 31))}  # fmt: skip
_ENUMS = ("Enum8", "Enum16", "Enum")


def _whole(kind: Kind) -> tuple[int, int] | None:
    """The least and the greatest value of a type of whole numbers."""
    for prefix, signed in _BITS.items():
        bits = kind.name.removeprefix(prefix)
        if kind.name.startswith(prefix) and bits.isdigit():
            size = int(bits)
            return (-(2 ** (size - 1)), 2 ** (size - 1) - 1) if signed else (0, 2**size - 1)
    return None


def fits(type_: DataType, kind: Kind) -> bool:
    """Whether values of a type may be written to a column. `refused` finds the single values that do not fit."""
    into = kind.bare
    if type_.name == "null":
        return True
    if (_whole(into)) is not None:
        return type_.is_integer or (type_.name == "decimal" and not type_.scale and _small(into))
    match into.name:
        case "Float32" | "Float64":
            return type_.is_numeric
        case "Decimal":
            return type_.is_integer or type_.name == "decimal"
        case "Bool":
            return type_.name == "bool"
        case "String" | "FixedString":
            return type_.is_text or type_.name == "binary"
        case "UUID" | "IPv4" | "IPv6" | "Enum8" | "Enum16" | "Enum":
            return type_.name == "string"
        case "Date" | "Date32":
            return type_.name == "date"
        case "DateTime" | "DateTime64":
            return type_.name == "timestamp" and type_.timezone is not None
        case "Time" | "Time64":
            return type_ == TIME
        case "Array":
            return type_.item is not None and fits(type_.item, into.args[0])
        case "Tuple":
            given = {field.name: field.type for field in type_.fields}
            return set(given) == set(_names(into)) and all(
                fits(given[n], arg) for n, arg in zip(_names(into), into.args, strict=True)
            )
        case "Map":
            item = type_.item
            pair = Kind("Tuple", into.args, ("key", "value"))
            return item is not None and item.name == "struct" and fits(item, pair)
    return False


def _names(kind: Kind) -> tuple[str, ...]:
    return kind.names or tuple(str(at) for at in range(1, len(kind.args) + 1))


def _small(kind: Kind) -> bool:
    """Whether its values fit into 64 bits."""
    bounds = _whole(kind)
    return bounds is not None and bounds[1] < 2**64


def refused(
    frame: pl.DataFrame, types: Mapping[str, DataType], columns: Mapping[str, Kind], table: str
) -> list[Refusal]:
    """The rows with a value that a column would change, in order."""
    masks = {n: list(_masks(pl.col(n), type_, columns[n])) for n, type_ in types.items()}
    return [
        Refusal(row, _error(frame[name][[row]], columns[name], table))
        for row, name in first_lost(frame, masks)
    ]


def _error(value: pl.Series, kind: Kind, table: str) -> DataError:
    bare = kind.bare
    inside = ", ".join(map(str, bare.numbers))
    shown = f"{bare.name}({inside})" if inside else bare.name
    if value.null_count():
        message = (
            f"column '{value.name}' of table '{table}' is {shown} without NULL, and NULL arrives"
        )
    else:
        nested = isinstance(value.dtype, pl.List | pl.Struct | pl.Binary)
        text = str(value[0]) if nested else str(value.cast(pl.String, strict=False)[0])
        message = (
            f"column '{value.name}' of table '{table}' is {shown}, and would change {text[:80]!r}"
        )
    is_missing = value.null_count() and isinstance(value.dtype, pl.List)
    help_ = f"no array of ClickHouse is NULL: map it to coalesce({value.name}, [])"
    return DataError(message, code="E0511", help=help_ if is_missing else HELP)


def _masks(value: pl.Expr, type_: DataType, kind: Kind) -> Iterator[pl.Expr]:
    """Which values the column would change."""
    into = kind.bare
    if not kind.takes_null:
        yield value.is_null()
    if type_.name == "null":
        return
    bounds = _whole(into)
    if bounds is not None:
        if type_.name == "decimal" or not _contains(bounds, type_):
            low, high = (max(-(2**126), bounds[0]), min(2**126, bounds[1]))
            number = value.cast(pl.Int128)
            yield (number < pl.lit(low, pl.Int128)) | (number > pl.lit(high, pl.Int128))
        return
    match into.name:
        case "Float32" | "Float64":
            lost = beyond_float(value, type_, "float4" if into.name == "Float32" else "float8")
            if lost is not None:
                yield lost
        case "Decimal":
            yield from _decimal_masks(value, type_, into)
        case "FixedString":
            size = value.str.len_bytes() if type_.is_text else value.bin.size()
            yield size != into.numbers[0]
        case "UUID" | "IPv4" | "IPv6":
            yield ~value.str.contains(_PATTERNS[into.name])
        case "Enum8" | "Enum16" | "Enum":
            yield ~value.is_in(list(into.members))
        case "Date" | "Date32":
            low_day, high_day = _DATES[into.name]
            yield (value < low_day) | (value > high_day)
        case "DateTime" | "DateTime64":
            yield from _moment_masks(value, type_, into)
        case "Time" | "Time64":
            lost = fraction_of(value, type_, into.scale if into.name == "Time64" else 0)
            if lost is not None:
                yield lost
        case "Array":
            assert type_.item is not None
            inner = list(_masks(pl.element(), type_.item, into.args[0]))
            if inner:
                yield value.list.eval(_any(inner)).list.any()
        case "Map":
            assert type_.item is not None
            pair = Kind("Tuple", into.args, ("key", "value"))
            yield value.list.eval(_any(list(_masks(pl.element(), type_.item, pair)))).list.any()
            keys = value.list.eval(pl.element().struct.field("key"))
            yield keys.list.n_unique() != keys.list.len()
        case "Tuple":
            given = {field.name: field.type for field in type_.fields}
            for name, arg in zip(_names(into), into.args, strict=True):
                for mask in _masks(value.struct.field(name), given[name], arg):
                    yield mask & value.is_not_null()


def _any(masks: list[pl.Expr]) -> pl.Expr:
    return pl.any_horizontal(mask.fill_null(False) for mask in masks)


def _contains(bounds: tuple[int, int], type_: DataType) -> bool:
    own = _whole(Kind(type_.name.replace("uint", "UInt").replace("int", "Int")))
    assert own is not None
    return bounds[0] <= own[0] and own[1] <= bounds[1]


def _decimal_masks(value: pl.Expr, type_: DataType, into: Kind) -> Iterator[pl.Expr]:
    digits, scale = into.numbers[0], into.numbers[1] if len(into.numbers) > 1 else 0
    room = min(digits - scale, 38)
    if type_.is_integer:
        if room < 20:
            yield value.cast(pl.Int128).abs() >= pl.lit(10**room, pl.Int128)
        return
    lost = loses_scale(value, type_, scale)
    if lost is not None:
        yield lost
    own = (type_.precision or 38) - (type_.scale or 0)
    if own > room:
        edge = 10 ** (room + (type_.scale or 0))
        if edge < 2**127:
            yield value.to_physical().abs() >= pl.lit(edge, pl.Int128)


def _moment_masks(value: pl.Expr, type_: DataType, into: Kind) -> Iterator[pl.Expr]:
    scale = into.scale if into.name == "DateTime64" else 0
    lost = fraction_of(value, type_, scale)
    if lost is not None:
        yield lost
    if into.name == "DateTime":
        low, high = datetime(1970, 1, 1, tzinfo=UTC), datetime(2106, 2, 7, 6, 28, 15, tzinfo=UTC)
    else:
        high = datetime(2299, 12, 31, 23, 59, 59, tzinfo=UTC)
        if scale == 9:
            high = datetime(2262, 4, 11, 23, 47, 16, tzinfo=UTC)
        low = datetime(1900, 1, 1, tzinfo=UTC)
    seconds = value.dt.epoch("s")
    yield (seconds < int(low.timestamp())) | (seconds > int(high.timestamp()))


def sent_type(type_: DataType, kind: Kind) -> pl.DataType:
    """The type in which values are sent to a column."""
    into = kind.bare
    if type_.name == "null":
        return pl.String()
    bounds = _whole(into)
    if bounds is not None:
        whole: pl.DataType = getattr(pl, into.name)() if _small(into) else type_.to_polars()
        return whole
    match into.name:
        case "Float32" | "Float64":
            found: pl.DataType = getattr(pl, into.name)()
            return found
        case "Decimal" if into.numbers[0] <= 38:
            return pl.Decimal(into.numbers[0], into.numbers[1] if len(into.numbers) > 1 else 0)
        case "Array":
            assert type_.item is not None
            return pl.List(sent_type(type_.item, into.args[0]))
        case "Map":
            assert type_.item is not None
            inner = {field.name: field.type for field in type_.item.fields}
            return pl.Map(
                *(sent_type(inner[n], a) for n, a in zip(("key", "value"), into.args, strict=True))
            )
        case "Time":
            return pl.String()
        case "Tuple":
            given = {field.name: field.type for field in type_.fields}
            return pl.Struct(
                [pl.Field(n, sent_type(given[n], arg))
                 for n, arg in zip(_names(into), into.args, strict=True)]
            )  # fmt: skip
    return type_.to_polars()


def arrow_stream(
    frame: pl.DataFrame, types: Mapping[str, DataType], columns: Mapping[str, Kind]
) -> bytes:
    """The rows as one record batch."""
    casts: list[Any] = []
    for name, type_ in types.items():
        dtype = sent_type(type_, columns[name])
        casts.append(_sent(pl.col(name), frame.schema[name], dtype).alias(name))
    made = frame.select(casts).rechunk()
    stream = io.BytesIO()
    private(made).write_ipc_stream(stream, compat_level=pl.CompatLevel.oldest())
    return stream.getvalue()


def _sent(value: pl.Expr, dtype: pl.DataType, to: pl.DataType) -> pl.Expr:
    if dtype == to:
        return value
    if dtype == pl.Time:
        return value.dt.to_string("%H:%M:%S")
    if isinstance(dtype, pl.Struct) and isinstance(to, pl.Struct):
        # A cast matches the fields by their places.
        inner = {field.name: field.dtype for field in dtype.fields}
        fields = (
            _sent(value.struct.field(f.name), _dtype(inner[f.name]), _dtype(f.dtype)).alias(f.name)
            for f in to.fields
        )
        return pl.when(value.is_not_null()).then(pl.struct(fields))
    return value.cast(to)


def _dtype(dtype: Any) -> pl.DataType:
    made: pl.DataType = dtype() if isinstance(dtype, type) else dtype
    return made
