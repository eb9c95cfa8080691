"""Columns as Kafka Connect and Debezium write their values in JSON, and the schemas that say what these mean. Pure.

Always true: a value that is written is read back exactly by its schema (see `connect_types`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from dataflare.errors import ConfigError
from dataflare.model.types import DataType, Schema, decimal

_PLAIN = {
    "bool": "boolean", "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64", "uint8": "int16",
    "uint16": "int32", "uint32": "int64", "float32": "float", "float64": "double", "string": "string",
    "binary": "bytes", "null": "string",
}  # fmt: skip
_UNSIGNED = decimal(20, 0)
_TIMESTAMPS = {"s": "Timestamp", "ms": "Timestamp", "us": "MicroTimestamp", "ns": "NanoTimestamp"}


def check_columns(schema: Schema, step: str) -> None:
    """Raises ConfigError (E0423) for a column that has no type there."""
    for field in schema:
        if field.type.name == "duration" and field.type.unit == "ns":
            raise ConfigError(
                f"column '{field.name}' is {field.type}, and durations are written in microseconds",
                code="E0423",
                step=step,
                help=f"cast it in a map step: cast: {{{field.name}: 'duration[us]'}}",
            )


def struct_schema(
    schema: Schema, name: str | None = None, *, optional: bool = True
) -> dict[str, Any]:
    """The schema of a row."""
    fields = [{**type_schema(f.type), "field": f.name} for f in schema]
    named = {} if name is None else {"name": name}
    return {"type": "struct", "fields": fields, "optional": optional, **named}


def type_schema(type_: DataType) -> dict[str, Any]:
    plain = _PLAIN.get(type_.name)
    if plain is not None:
        return {"type": plain, "optional": True}
    match type_.name:
        case "list":
            assert type_.item is not None
            return {"type": "array", "items": type_schema(type_.item), "optional": True}
        case "struct":
            return struct_schema(Schema(type_.fields))
        case "decimal" | "uint64":
            digits = _UNSIGNED if type_.name == "uint64" else type_
            parameters = {
                "scale": str(digits.scale),
                "connect.decimal.precision": str(digits.precision),
            }
            return _named("bytes", "org.apache.kafka.connect.data.Decimal", parameters)
        case "date":
            return _named("int32", "io.debezium.time.Date")
        case "time":
            return _named("int64", "io.debezium.time.NanoTime")
        case "duration":
            return _named("int64", "io.debezium.time.MicroDuration")
        case "timestamp" if type_.timezone:
            return _named("string", "io.debezium.time.ZonedTimestamp")
        case "timestamp":
            return _named("int64", f"io.debezium.time.{_TIMESTAMPS[type_.unit or 'us']}")
    return _named("string", "io.debezium.data.Json")


def _named(type_: str, name: str, parameters: Mapping[str, str] | None = None) -> dict[str, Any]:
    more = {} if parameters is None else {"parameters": parameters}
    return {"type": type_, "optional": True, "name": name, "version": 1, **more}


def written_type(type_: DataType) -> DataType:
    """What a value of a type is in JSON."""
    frame = pl.DataFrame(schema={"v": type_.to_polars()})
    return Schema.from_polars(frame.select(written(pl.col("v"), type_)).schema).fields[0].type


def written(value: pl.Expr, type_: DataType) -> pl.Expr:
    """A value as it stands in JSON."""
    match type_.name:
        case "uint8":
            return value.cast(pl.Int16)
        case "uint16":
            return value.cast(pl.Int32)
        case "uint32":
            return value.cast(pl.Int64)
        case "uint64":
            return written(value.cast(_UNSIGNED.to_polars()), _UNSIGNED)
        case "decimal":
            return value.map_batches(_unscaled, return_dtype=pl.Binary).bin.encode("base64")
        case "binary":
            return value.bin.encode("base64")
        case "date":
            return value.cast(pl.Int32)
        case "time":
            return value.cast(pl.Int64)
        case "duration":
            return value.dt.total_microseconds()
        case "timestamp" if type_.timezone:
            digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[type_.unit or "us"]
            pattern = "%Y-%m-%dT%H:%M:%S" + (f"%.{digits}f" if digits else "") + "Z"
            return value.dt.convert_time_zone("UTC").dt.strftime(pattern)
        case "timestamp":
            unit = "ms" if type_.unit == "s" else type_.unit or "us"
            return value.dt.cast_time_unit(unit).cast(pl.Int64)  # type: ignore[arg-type]
        case "list":
            assert type_.item is not None
            return value.list.eval(written(pl.element(), type_.item))
        case "struct":
            fields = [
                written(value.struct.field(f.name), f.type).alias(f.name) for f in type_.fields
            ]
            return pl.when(value.is_not_null()).then(pl.struct(fields))
    return value


def _unscaled(values: pl.Series) -> pl.Series:
    """Of decimals, the unscaled integers: two's complement, the highest byte first."""
    numbers: Sequence[int | None] = values.to_physical().to_list()
    data = [
        None
        if n is None
        else n.to_bytes((n if n >= 0 else ~n).bit_length() // 8 + 1, "big", signed=True)
        for n in numbers
    ]
    return pl.Series(values.name, data, dtype=pl.Binary)
