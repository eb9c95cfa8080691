"""Type names as SQL writes them, and the common type of two types.

Always true: `unify` is symmetric except for the zone of zoned timestamps, and its result holds every value
of both types.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dataflare.errors import DataFlareError
from dataflare.model import types as t
from dataflare.model.types import DataType, Field

INTERVAL = DataType("interval")
"""A literal with months. It can only be added to or subtracted from a date or timestamp."""

RANGES = {
    "int8": (-(2**7), 2**7 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint8": (0, 2**8 - 1),
    "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
DIGITS = {
    "int8": 3, "int16": 5, "int32": 10, "int64": 19,
    "uint8": 3, "uint16": 5, "uint32": 10, "uint64": 20,
}  # fmt: skip

_SQL_NAMES = {
    "tinyint": t.INT8, "smallint": t.INT16, "short": t.INT16, "int1": t.INT8, "int2": t.INT16,
    "integer": t.INT32, "int": t.INT32, "int4": t.INT32, "signed": t.INT32,
    "bigint": t.INT64, "long": t.INT64,
    "utinyint": t.UINT8, "usmallint": t.UINT16, "uinteger": t.UINT32, "ubigint": t.UINT64,
    "real": t.FLOAT32, "float": t.FLOAT32, "float4": t.FLOAT32,
    "double": t.FLOAT64, "double precision": t.FLOAT64, "float8": t.FLOAT64,
    "varchar": t.STRING, "char": t.STRING, "text": t.STRING, "bpchar": t.STRING,
    "boolean": t.BOOL, "logical": t.BOOL,
    "blob": t.BINARY, "bytea": t.BINARY, "varbinary": t.BINARY,
    "timestamp": t.TIMESTAMP, "datetime": t.TIMESTAMP, "timestamp without time zone": t.TIMESTAMP,
    "timestamptz": t.TIMESTAMP_UTC, "timestamp with time zone": t.TIMESTAMP_UTC,
    "timestamp_s": t.timestamp("s"), "timestamp_ms": t.timestamp("ms"),
    "timestamp_us": t.TIMESTAMP, "timestamp_ns": t.timestamp("ns"),
    "decimal": t.decimal(18, 3), "numeric": t.decimal(18, 3),
    "interval": t.DURATION,
    "hugeint": t.decimal(38, 0),
}  # fmt: skip


def type_named(text: str, levels: int = t.NESTED_MAX) -> DataType | None:
    """The type of an SQL or Arrow name, or None. `int8` has 8 bits, as in Arrow. levels: how many brackets
    may follow the name."""
    name = re.sub(r"\s+", " ", text.strip()).lower()
    array = re.fullmatch(r"(.*)\[\d*\]", name)
    if array is not None and not re.match(r"(timestamp|duration)\[", name):
        item = type_named(text.strip()[: array.end(1)], levels - 1) if levels else None
        return None if item is None else t.list_of(item)
    if name in _SQL_NAMES:
        return _SQL_NAMES[name]
    sized = re.fullmatch(r"(decimal|numeric|varchar|char|dec) ?\( ?(\d+)(?: ?, ?(\d+))? ?\)", name)
    if sized is not None:
        if "char" in sized[1]:
            return t.STRING
        precision, scale = int(sized[2]), int(sized[3] or 0)
        return t.decimal(precision, scale) if 1 <= precision <= 38 and scale <= precision else None
    try:
        return t.parse_type(text.strip() if "<" in name or "[" in name else name)
    except (DataFlareError, ValueError):
        return None


def as_decimal(type_: DataType) -> tuple[int, int]:
    """Digits and scale of an integer or decimal."""
    if type_.name == "decimal":
        return type_.precision or 38, type_.scale or 0
    return DIGITS[type_.name], 0


def unify(left: DataType, right: DataType) -> DataType | None:
    """The common type for values of both types, or None."""
    if left == right or right.name == "null":
        return left
    if left.name == "null":
        return right
    if left.is_numeric and right.is_numeric:
        return _unify_numbers(left, right)
    if left.is_text and right.is_text:
        return t.STRING
    if left.name == "duration" == right.name:
        return t.duration(finer(left.unit, right.unit))
    if left.name in ("date", "timestamp") and right.name in ("date", "timestamp"):
        return _unify_times(left, right)
    if left.name == "list" == right.name and left.item is not None and right.item is not None:
        item = unify(left.item, right.item)
        return None if item is None else t.list_of(item)
    if left.name == "struct" == right.name and [f.name for f in left.fields] == [
        f.name for f in right.fields
    ]:
        fields = [
            (a.name, unify(a.type, b.type)) for a, b in zip(left.fields, right.fields, strict=True)
        ]
        common_fields = tuple(Field(name, type_) for name, type_ in fields if type_ is not None)
        return (
            DataType("struct", fields=common_fields) if len(common_fields) == len(fields) else None
        )
    return None


def unify_all(types: Iterable[DataType]) -> DataType | None:
    """`unify` over any number of types. Null for no types."""
    common: DataType | None = t.NULL
    for each in types:
        if common is None:
            return None
        common = unify(common, each)
    return common


def _unify_numbers(left: DataType, right: DataType) -> DataType:
    if left.is_float or right.is_float:
        return t.FLOAT64 if "float64" in (left.name, right.name) else t.FLOAT32
    if left.is_integer and right.is_integer:
        low = min(RANGES[left.name][0], RANGES[right.name][0])
        high = max(RANGES[left.name][1], RANGES[right.name][1])
        for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
            if RANGES[name][0] <= low and high <= RANGES[name][1]:
                return DataType(name)
        return t.decimal(20, 0)
    (digits, scale), (digits2, scale2) = as_decimal(left), as_decimal(right)
    scale_max = max(scale, scale2)
    return t.decimal(min(38, max(digits - scale, digits2 - scale2) + scale_max), scale_max)


def _unify_times(left: DataType, right: DataType) -> DataType | None:
    if left.name == "date":
        return right if right.timezone is None else None
    if right.name == "date":
        return left if left.timezone is None else None
    if (left.timezone is None) != (right.timezone is None):
        return None
    return t.timestamp(finer(left.unit, right.unit), left.timezone)


def finer(one: str | None, two: str | None) -> str:
    order = ("s", "ms", "us", "ns")
    return max(one or "us", two or "us", key=order.index)


def fits(value: int, type_: DataType) -> bool:
    """Whether the integer is in the integer type's range."""
    low, high = RANGES[type_.name]
    return low <= value <= high
