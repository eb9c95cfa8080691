"""Types of Kafka Connect and Debezium, as the schema in a message of JSON names them, and their values as ours.

Values are written as numbers, texts and base64 whose meaning the schema alone says: a day since 1970, microseconds, the
unscaled integer of a decimal.

Always true: a value comes out exactly, or is NULL where it does not fit, and then the message is bad.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.model import types
from dataflare.model.types import DataType

PRECISION_MAX = 38
_DAY_US = 86_400_000_000
_PLAIN: Mapping[str, DataType] = {
    "int8": types.INT8,
    "int16": types.INT16,
    "int32": types.INT32,
    "int64": types.INT64,
    "float": types.FLOAT32,
    "double": types.FLOAT64,
    "boolean": types.BOOL,
    "string": types.STRING,
}


class ConnectColumn(Struct, frozen=True):
    """written: the type of the value in JSON. type: what it is. convert: a column of the one as a column of the other,
    with NULL for what does not fit; None where they are the same."""

    name: str
    written: DataType
    type: DataType
    convert: Callable[[pl.Series], pl.Series] | None = None


def columns_of(fields: Sequence[Mapping[str, Any]]) -> list[ConnectColumn]:
    """The columns of a struct's fields whose type the schema tells. Others (bytes, arrays, structs) are as their JSON."""
    found = (_column(field) for field in fields)
    return [column for column in found if column is not None]


def _column(field: Mapping[str, Any]) -> ConnectColumn | None:
    name = str(field.get("field"))
    made = _MEANINGS.get(str(field.get("name")))
    written = _PLAIN.get(str(field.get("type")))
    if made is not None:
        type_, convert = made
        return ConnectColumn(name, written or types.STRING, type_, convert)
    if field.get("name") == "org.apache.kafka.connect.data.Decimal":
        return _decimal(name, field.get("parameters") or {})
    return None if written is None else ConnectColumn(name, written, written)


def _decimal(name: str, parameters: Mapping[str, Any]) -> ConnectColumn | None:
    try:
        scale = int(parameters["scale"])
        precision = int(parameters.get("connect.decimal.precision", PRECISION_MAX))
    except (KeyError, ValueError):
        return None
    if not 0 <= scale <= precision <= PRECISION_MAX or precision == 0:
        return None  # as base64: no type holds all of its values
    type_ = types.decimal(precision, scale)

    def convert(values: pl.Series) -> pl.Series:
        bound = 10**precision
        numbers = [_unscaled(text) for text in values]
        return pl.Series(
            values.name,
            [
                Decimal(n).scaleb(-scale) if n is not None and abs(n) < bound else None
                for n in numbers
            ],
            dtype=type_.to_polars(),
        )

    return ConnectColumn(name, types.STRING, type_, convert)


def _unscaled(text: str | None) -> int | None:
    """The integer that base64 of its bytes means: two's complement, the highest byte first."""
    if text is None:
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return int.from_bytes(data, "big", signed=True) if data else None


def _cast(type_: DataType) -> tuple[DataType, Callable[[pl.Series], pl.Series]]:
    return type_, lambda values: values.cast(type_.to_polars(), strict=False)


def _time(unit_ns: int) -> tuple[DataType, Callable[[pl.Series], pl.Series]]:
    """A time of the day. One that is negative or beyond a day, as MySQL has them, does not fit."""
    day = _DAY_US * 1_000 // unit_ns

    def convert(values: pl.Series) -> pl.Series:
        fits = values.is_between(0, day - 1)
        nanoseconds = values.cast(pl.Int64) * unit_ns
        return pl.select(
            pl.when(fits).then(nanoseconds).cast(pl.Time).alias(values.name)
        ).to_series()

    return types.TIME, convert


_DATE = _cast(types.DATE)
_MILLISECONDS = _cast(types.timestamp("ms"))
_MEANINGS: Mapping[str, tuple[DataType, Callable[[pl.Series], pl.Series] | None]] = {
    "io.debezium.time.Date": _DATE,
    "org.apache.kafka.connect.data.Date": _DATE,
    "io.debezium.time.Timestamp": _MILLISECONDS,
    "org.apache.kafka.connect.data.Timestamp": _MILLISECONDS,
    "io.debezium.time.MicroTimestamp": _cast(types.timestamp("us")),
    "io.debezium.time.NanoTimestamp": _cast(types.timestamp("ns")),
    "io.debezium.time.ZonedTimestamp": (types.timestamp("us", "UTC"), None),
    "io.debezium.time.Time": _time(1_000_000),
    "org.apache.kafka.connect.data.Time": _time(1_000_000),
    "io.debezium.time.MicroTime": _time(1_000),
    "io.debezium.time.NanoTime": _time(1),
    "io.debezium.time.MicroDuration": _cast(types.duration("us")),
}
"""By the name of a type: what it is, and how its values become so; None where their text is read so."""
