"""How DataFlare's types are stored in Delta, and how Delta's types are read.

| DataFlare | Delta | read as |
| --- | --- | --- |
| bool, string, binary, date | boolean, string, binary, date | the same |
| int8, int16, int32, int64 | byte, short, integer, long | the same |
| uint8, uint16, uint32 | short, integer, long | int16, int32, int64 |
| uint64 | decimal(20,0) | decimal(20, 0) |
| float32, float64 | float, double | the same |
| decimal(p, s) | decimal(p,s) | the same |
| json, null | string | string |
| timestamp[s, ms, us] | timestamp_ntz | timestamp[us] |
| timestamp[s, ms, us, zone] | timestamp | timestamp[us, UTC] |
| list<T>, struct<..> | array, struct | the same |
| | map | list<struct<key, value>> |
| timestamp[ns], time, duration | refused | |
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from dataflare.errors import DataError
from dataflare.model import types
from dataflare.model.types import DataType, Schema

_DECIMAL = re.compile(r"decimal\((\d+),\s*(-?\d+)\)")
_STORED = {
    "bool": "boolean", "int8": "byte", "int16": "short", "int32": "integer", "int64": "long",
    "uint8": "short", "uint16": "integer", "uint32": "long", "uint64": "decimal(20,0)",
    "float32": "float", "float64": "double", "string": "string", "json": "string", "null": "string",
    "binary": "binary", "date": "date",
}  # fmt: skip
_READ = {
    "boolean": types.BOOL, "byte": types.INT8, "short": types.INT16, "integer": types.INT32,
    "long": types.INT64, "float": types.FLOAT32, "double": types.FLOAT64, "string": types.STRING,
    "binary": types.BINARY, "date": types.DATE, "timestamp": types.TIMESTAMP_UTC,
    "timestamp_ntz": types.TIMESTAMP,
}  # fmt: skip
_HELP = {
    "time": 'store it as text with map: set: {NAME: "string(NAME)"}',
    "duration": "store it as a number or as text with map",
    "timestamp": "Delta has microseconds: round it with map, or store it as text or as an integer",
}


def stored(type_: DataType, column: str) -> Any:
    """The type in Delta's JSON. Raises DataError (E0511) for a type that Delta does not have."""
    match type_.name:
        case "decimal":
            return f"decimal({type_.precision},{type_.scale})"
        case "timestamp" if type_.unit != "ns":
            return "timestamp_ntz" if type_.timezone is None else "timestamp"
        case "list":
            assert type_.item is not None
            item = stored(type_.item, column)
            return {"type": "array", "elementType": item, "containsNull": True}
        case "struct":
            return {
                "type": "struct",
                "fields": [field_json(f.name, f.type, column) for f in type_.fields],
            }
    if type_.name in _STORED:
        return _STORED[type_.name]
    raise DataError(
        f"column '{column}' has the type {type_}, which Delta Lake does not have",
        code="E0511",
        help=_HELP[type_.name].replace("NAME", column),
    )


def field_json(name: str, type_: DataType, column: str) -> dict[str, Any]:
    return {"name": name, "type": stored(type_, column), "nullable": True, "metadata": {}}


def schema_json(schema: Schema) -> str:
    """The schema of a new table."""
    fields = [field_json(f.name, f.type, f.name) for f in schema]
    return json.dumps({"type": "struct", "fields": fields})


def read_type(type_: Any, column: str) -> DataType:
    """The type for one of Delta's. Raises DataError (E0509) for one that DataFlare cannot hold."""
    if isinstance(type_, str):
        if type_ in _READ:
            return _READ[type_]
        if match := _DECIMAL.fullmatch(type_):
            return types.decimal(int(match[1]), int(match[2]))
    elif isinstance(type_, Mapping):
        match type_["type"]:
            case "array":
                return types.list_of(read_type(type_["elementType"], column))
            case "struct":
                return types.struct_of(
                    {f["name"]: read_type(f["type"], column) for f in type_["fields"]}
                )
            case "map":
                key, value = (read_type(type_[n], column) for n in ("keyType", "valueType"))
                return types.list_of(types.struct_of({"key": key, "value": value}))
    raise types.unheld(str(type_), column)
