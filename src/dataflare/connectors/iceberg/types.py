"""How DataFlare's types are stored in Iceberg, and how Iceberg's types are read.

| DataFlare | Iceberg | read as |
| --- | --- | --- |
| bool, string, binary, date | boolean, string, binary, date | the same |
| int8, int16, int32, uint8, uint16 | int | int32 |
| int64, uint32 | long | int64 |
| uint64 | decimal(20, 0) | decimal(20, 0) |
| float32, float64 | float, double | the same |
| decimal(p, s) | decimal(p, s) | the same |
| json, null | string | string |
| time | time (microseconds) | time |
| timestamp[s, ms, us] | timestamp | timestamp[us] |
| timestamp[s, ms, us, zone] | timestamptz | timestamp[us, UTC] |
| list<T>, struct<..> | list, struct | the same |
| | uuid | string |
| | fixed(n) | binary |
| | map | list<struct<key, value>> |
| timestamp[ns], duration | refused | |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyiceberg import types as iceberg
from pyiceberg.schema import Schema as IcebergSchema
from pyiceberg.types import NestedField

from dataflare.errors import DataError
from dataflare.model import types
from dataflare.model.types import DataType, Schema

_STORED: dict[str, Any] = {
    "bool": iceberg.BooleanType, "int8": iceberg.IntegerType, "int16": iceberg.IntegerType,
    "int32": iceberg.IntegerType, "int64": iceberg.LongType, "uint8": iceberg.IntegerType,
    "uint16": iceberg.IntegerType, "uint32": iceberg.LongType, "float32": iceberg.FloatType,
    "float64": iceberg.DoubleType, "string": iceberg.StringType, "json": iceberg.StringType,
    "null": iceberg.StringType, "binary": iceberg.BinaryType, "date": iceberg.DateType,
    "time": iceberg.TimeType,
}  # fmt: skip
_READ: dict[Any, DataType] = {
    iceberg.BooleanType: types.BOOL, iceberg.IntegerType: types.INT32, iceberg.LongType: types.INT64,
    iceberg.FloatType: types.FLOAT32, iceberg.DoubleType: types.FLOAT64, iceberg.StringType: types.STRING,
    iceberg.BinaryType: types.BINARY, iceberg.FixedType: types.BINARY, iceberg.DateType: types.DATE,
    iceberg.TimeType: types.TIME, iceberg.TimestampType: types.TIMESTAMP, iceberg.UUIDType: types.STRING,
    iceberg.TimestamptzType: types.TIMESTAMP_UTC, iceberg.TimestampNanoType: types.timestamp("ns"),
    iceberg.TimestamptzNanoType: types.timestamp("ns", "UTC"),
}  # fmt: skip
_HELP = {
    "duration": "store it as a number or as text with map",
    "timestamp": "round it to microseconds with map, or store it as text or as an integer",
}


def stored(type_: DataType, column: str, ids: Iterator[int]) -> Any:
    """The type in Iceberg. ids: numbers for fields inside, which a catalogue assigns again. Raises DataError
    (E0511) for a type that Iceberg does not have."""
    match type_.name:
        case "decimal":
            return iceberg.DecimalType(type_.precision or 38, type_.scale or 0)
        case "uint64":
            return iceberg.DecimalType(20, 0)
        case "timestamp" if type_.unit != "ns":
            return iceberg.TimestampType() if type_.timezone is None else iceberg.TimestamptzType()
        case "list":
            assert type_.item is not None
            number = next(ids)
            item = stored(type_.item, column, ids)
            return iceberg.ListType(element_id=number, element_type=item, element_required=False)
        case "struct":
            return iceberg.StructType(*(_field(f.name, f.type, column, ids) for f in type_.fields))
    if type_.name in _STORED:
        return _STORED[type_.name]()
    raise DataError(
        f"column '{column}' has the type {type_}, which Iceberg does not have",
        code="E0511",
        help=_HELP[type_.name],
    )


def _field(name: str, type_: DataType, column: str, ids: Iterator[int]) -> NestedField:
    number = next(ids)
    return NestedField(number, name, stored(type_, column, ids), required=False)


def iceberg_schema(schema: Schema) -> IcebergSchema:
    """The schema of a new table."""
    ids = iter(range(1, 1_000_000))
    return IcebergSchema(*(_field(f.name, f.type, f.name, ids) for f in schema))


def read_type(type_: Any, column: str) -> DataType:
    """The type for one of Iceberg's. Raises DataError (E0509) for one that DataFlare cannot hold."""
    match type_:
        case iceberg.DecimalType():
            return types.decimal(type_.precision, type_.scale)
        case iceberg.ListType():
            return types.list_of(read_type(type_.element_type, column))
        case iceberg.StructType():
            return types.struct_of({f.name: read_type(f.field_type, column) for f in type_.fields})
        case iceberg.MapType():
            key, value = read_type(type_.key_type, column), read_type(type_.value_type, column)
            return types.list_of(types.struct_of({"key": key, "value": value}))
    if type(type_) in _READ:
        return _READ[type(type_)]
    raise types.unheld(str(type_), column)


def unwritable(type_: Any) -> str | None:
    """The part of a column's type that rows are not written to."""
    match type_:
        case iceberg.ListType():
            return unwritable(type_.element_type)
        case iceberg.StructType():
            return next((each for f in type_.fields if (each := unwritable(f.field_type))), None)
        case iceberg.MapType() | iceberg.UUIDType() | iceberg.FixedType():
            return str(type_)
        case iceberg.TimestampNanoType() | iceberg.TimestamptzNanoType():
            return str(type_)
    return None


def wider(stored_type: Any, arriving: DataType) -> Any | None:
    """The type that a column is changed to, so that it holds the values that arrive; None if it stays."""
    new = stored(arriving, "", iter(range(1, 1_000_000)))
    match stored_type, new:
        case iceberg.IntegerType(), iceberg.LongType():
            return new
        case iceberg.FloatType(), iceberg.DoubleType():
            return new
        case iceberg.DecimalType(), iceberg.DecimalType():
            if new.scale == stored_type.scale and new.precision > stored_type.precision:
                return new
    return None
