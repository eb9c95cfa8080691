"""Convert rows written by hand (mappings of plain values) to a frame.

Always true: a value is converted to its column's type without loss, or the error names row and
column. These rows are few; each is converted once, in Python.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal, InvalidOperation
from functools import reduce
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
from msgspec import Struct

from dataflare.errors import ConfigError
from dataflare.formats.iso_durations import ticks_of
from dataflare.formats.text_types import infer
from dataflare.model.types import (
    BINARY,
    BOOL,
    DATE,
    DURATION,
    FLOAT64,
    INT64,
    NULL,
    STRING,
    TIME,
    TIMESTAMP,
    TIMESTAMP_UTC,
    DataType,
    Schema,
    decimal,
    list_of,
    struct_of,
)
from dataflare.model.units import duration_us

_EPOCH = datetime(1970, 1, 1)
_MICROSECOND, _MILLISECOND = timedelta(microseconds=1), timedelta(milliseconds=1)
_BEYOND_US = re.compile(r"^[^.,+]*[.,][0-9]{6}([0-9]+)")
"""The digits of a time in ISO 8601 behind its microseconds, which Python would drop."""
_NS_DIGITS = 3
_PARTS = {"ms": "milliseconds", "us": "microseconds"}
_WIDE = Context(prec=80)
"""Of Decimal: its own has 28 digits, and columns up to 38."""
_MISFITS = (ValueError, TypeError, OverflowError, InvalidOperation)
_EXPECTED = {
    "bool": "true or false",
    "string": "text",
    "binary": "base64 text",
    "date": "a date such as 2024-01-31",
    "time": "a time such as 12:30:00",
    "timestamp": "a time such as 2024-01-31T12:30:00Z, with no more digits than its type has",
    "duration": "a duration such as 5m or PT5M, with no more digits than its type has",
    "decimal": "a number",
    "list": "a list",
    "struct": "a mapping",
}


def frame_of(rows: Sequence[Mapping[str, Any]], contract: Schema | None, step: str) -> pl.DataFrame:
    """The rows as a frame: the contract's columns first, then the others in order of appearance,
    with the types of their values. A key that a row lacks is NULL. Raises ConfigError (E0405)."""
    names = dict.fromkeys(
        [*(contract.names if contract else ()), *(n for row in rows for n in row)]
    )
    return pl.DataFrame(
        [_column(name, [row.get(name) for row in rows], contract, step) for name in names]
    )


class Sifted(Struct, frozen=True):
    """Rows by hand, with those apart that have a value which does not fit. numbers: which rows the frame has.
    wrong: number and message of the others."""

    frame: pl.DataFrame
    numbers: list[int]
    wrong: list[tuple[int, str]]


def sifted(rows: Sequence[Mapping[str, Any]], schema: Schema) -> Sifted:
    """The rows with the columns of the schema. A key that a row lacks is NULL."""
    columns: dict[str, list[Any]] = {field.name: [] for field in schema}
    numbers: list[int] = []
    wrong: list[tuple[int, str]] = []
    for number, row in enumerate(rows):
        values: list[Any] = []
        for field in schema:
            value = row.get(field.name)
            try:
                values.append(_converted(value, field.type))
            except _MISFITS:
                wrong.append((number, _misfit(value, field.name, field.type)))
                break
        else:
            numbers.append(number)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
    frame = pl.DataFrame(
        [
            pl.Series(field.name, columns[field.name], dtype=field.type.to_polars(), strict=True)
            for field in schema
        ]
    )
    return Sifted(frame, numbers, wrong)


def _misfit(value: Any, column: str, type_: DataType) -> str:
    value_text = json.dumps(value, default=str, ensure_ascii=False)
    return f"{value_text[:60]} in column '{column}', whose type is {type_}"


def schema_of(rows: Sequence[Mapping[str, Any]], step: str) -> Schema:
    """The types of the values; text stays text. Raises ConfigError (E0405) for a column whose
    values have no type in common."""
    names = dict.fromkeys(name for row in rows for name in row)
    return Schema.of({n: _common_type(n, [row.get(n) for row in rows], step) for n in names})


def _column(name: str, values: list[Any], contract: Schema | None, step: str) -> pl.Series:
    type_ = contract[name] if contract and name in contract else None
    if type_ is None:
        type_ = _inferred(name, values, step)
    converted = []
    for number, value in enumerate(values, 1):
        try:
            converted.append(_converted(value, type_))
        except _MISFITS as error:
            raise ConfigError(
                f"row {number} has {_misfit(value, name, type_)}",
                code="E0405",
                step=step,
                notes=[f"expected: {_EXPECTED.get(type_.name, 'a number that fits')}"],
                help="fix the value, or change the column's type in 'schema'",
            ) from error
    return pl.Series(name, converted, dtype=type_.to_polars(), strict=True)


def _inferred(name: str, values: list[Any], step: str) -> DataType:
    """The type of all values. If all texts are dates or times in one ISO format, it is that type,
    as in NDJSON files."""
    type_ = _common_type(name, values, step)
    if type_ == STRING and "" not in values:
        inferred = infer(pl.DataFrame({name: [None if v is None else str(v) for v in values]}))[
            0
        ].type
        return inferred if inferred.is_temporal else STRING
    return type_


def _common_type(name: str, values: list[Any], step: str) -> DataType:
    try:
        return reduce(_common, map(_type_of, values), NULL)
    except ValueError as error:
        raise ConfigError(
            f"the values of column '{name}' have no type in common: {error}",
            code="E0405",
            step=step,
            help="set its type in 'schema', or write values of one type",
        ) from error


def _type_of(value: Any) -> DataType:
    """The type of one value from YAML or Python."""
    match value:
        case None:
            return NULL
        case bool():
            return BOOL
        case int():
            return INT64
        case float():
            return FLOAT64
        case str():
            return STRING
        case bytes():
            return BINARY
        case datetime():
            return TIMESTAMP if value.tzinfo is None else TIMESTAMP_UTC
        case date():
            return DATE
        case time():
            return TIME
        case timedelta():
            return DURATION
        case Decimal():
            return decimal(38, max(0, -int(value.as_tuple().exponent)))
        case Mapping():
            return struct_of({str(name): _type_of(each) for name, each in value.items()})
        case Sequence():
            return list_of(reduce(_common, map(_type_of, value), NULL))
    raise ValueError(f"{type(value).__name__} is not a value of a row")


def _common(one: DataType, other: DataType) -> DataType:
    """The type that fits both; raises ValueError if there is none."""
    if one == other or other == NULL:
        return one
    if one == NULL:
        return other
    if {one.name, other.name} == {"int64", "float64"}:
        return FLOAT64
    if one.name == other.name == "decimal":
        return max(one, other, key=lambda each: each.scale or 0)
    if one.name == other.name == "list":
        assert one.item is not None and other.item is not None  # noqa: PT018
        return list_of(_common(one.item, other.item))
    if one.name == other.name == "struct":
        fields = {field.name: field.type for field in one.fields}
        for field in other.fields:
            fields[field.name] = _common(fields.get(field.name, NULL), field.type)
        return struct_of(fields)
    raise ValueError(f"{one} and {other}")


def _converted(value: Any, type_: DataType) -> Any:
    """The value in the form that Polars accepts for a column of the type. Raises ValueError or
    TypeError."""
    if value is None:
        return None
    if type_.is_integer:
        return _integer(value, type_)
    if type_.is_float:
        return _float(_checked(value, int, float, Decimal))
    if type_.name == "list":
        assert type_.item is not None
        return [_converted(each, type_.item) for each in _checked(value, list, tuple)]
    if type_.name == "struct":
        return _struct(_checked(value, Mapping), type_)
    return _SIMPLE[type_.name](value, type_)


def _checked(value: Any, *types: type[Any]) -> Any:
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise TypeError
    return value


def _integer(value: Any, type_: DataType) -> int:
    number: int = _checked(value, int)
    bits = int(type_.name.lstrip("uint"))
    low, high = (0, 1 << bits) if type_.name[0] == "u" else (-(1 << bits - 1), 1 << bits - 1)
    if not low <= number < high:
        raise ValueError
    return number


def _float(value: Any) -> float:
    """The number as a float; raises if a whole number would lose digits."""
    number = float(value)
    if isinstance(value, int) and number != value:
        raise ValueError
    return number


def _struct(value: Mapping[str, Any], type_: DataType) -> dict[str, Any]:
    if unknown := set(value) - {field.name for field in type_.fields}:
        raise ValueError(f"unknown fields: {unknown}")
    return {field.name: _converted(value.get(field.name), field.type) for field in type_.fields}


def _timestamp(value: Any, type_: DataType) -> datetime | int:
    """A time without a zone is in its column's zone; a time with a zone becomes UTC in a column
    without one."""
    rest_ns = _rest_ns(value)
    if isinstance(value, str):
        value = datetime.fromisoformat(value.strip())
    elif not isinstance(value, datetime):
        value = datetime.combine(_checked(value, date), time())
    moment: datetime = value
    if type_.timezone is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(type_.timezone))
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    since = moment - _EPOCH.replace(tzinfo=moment.tzinfo)
    exact = _exact(since, rest_ns, type_)
    if isinstance(exact, int):
        return exact
    return moment.replace(tzinfo=UTC if type_.timezone else None)


def _duration(value: Any, type_: DataType) -> timedelta | int:
    if isinstance(value, str):
        text = value.strip()
        if "P" in text:
            return _iso_duration(text, type_)
        return _exact(timedelta(microseconds=duration_us(text)), 0, type_)
    return _exact(_checked(value, timedelta), _rest_ns(value), type_)


def _iso_duration(text: str, type_: DataType) -> timedelta | int:
    unit = "ms" if type_.unit == "s" else type_.unit or "us"
    ticks: int | None = pl.select(ticks_of(pl.lit(text), unit)).item()
    if ticks is None:
        raise ValueError
    return ticks if unit == "ns" else timedelta(**{_PARTS[unit]: ticks})


def _time(value: Any, type_: DataType) -> time | int:
    """In nanoseconds since midnight, if it has some."""
    clock: time = (
        time.fromisoformat(value.strip()) if isinstance(value, str) else _checked(value, time)
    )
    rest_ns = _rest_ns(value)
    if not rest_ns:
        return clock
    seconds = (clock.hour * 60 + clock.minute) * 60 + clock.second
    return (seconds * 1_000_000 + clock.microsecond) * 1_000 + rest_ns


def _rest_ns(value: Any) -> int:
    """The nanoseconds of a value that Python's own types have no place for. Raises ValueError for more digits."""
    if not isinstance(value, str):
        # Values of pandas are datetimes and timedeltas with an attribute more.
        return int(getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0))
    match = _BEYOND_US.search(value)
    digits = match[1].rstrip("0") if match else ""
    if len(digits) > _NS_DIGITS:
        raise ValueError
    return int(digits.ljust(_NS_DIGITS, "0"))


def _exact(span: timedelta, rest_ns: int, type_: DataType) -> timedelta | int:
    """A span of time, as a number in a column of nanoseconds. Raises ValueError where the column would cut it."""
    if type_.unit == "ns":
        ticks = span // _MICROSECOND * 1_000 + rest_ns
        if not -(1 << 63) < ticks < 1 << 63:
            raise ValueError
        return ticks
    # Seconds are held in milliseconds.
    if rest_ns or (type_.unit != "us" and span % _MILLISECOND):
        raise ValueError
    return span


def _decimal(value: Any, type_: DataType) -> Decimal:
    number = Decimal(str(_checked(value, str, int, float, Decimal)).strip())
    exact = number.quantize(Decimal(1).scaleb(-(type_.scale or 0)), context=_WIDE)
    if exact != number or len(exact.as_tuple().digits) > (type_.precision or 38):
        raise ValueError
    return exact


def _binary(value: Any, type_: DataType) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(_checked(value, str), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


def _nothing(value: Any, type_: DataType) -> None:
    raise TypeError


def _from_text(kind: type[Any], read: Callable[[str], Any]) -> Callable[[Any, DataType], Any]:
    return lambda value, type_: (
        read(value.strip()) if isinstance(value, str) else _checked(value, kind)
    )


_SIMPLE: Mapping[str, Callable[[Any, DataType], Any]] = {
    "null": _nothing,
    "bool": lambda value, type_: _checked(value, bool),
    "string": lambda value, type_: str(_checked(value, str)),
    "json": lambda value, type_: str(value) if isinstance(value, str) else json.dumps(value),
    "binary": _binary,
    "date": _from_text(date, date.fromisoformat),
    "time": _time,
    "timestamp": _timestamp,
    "duration": _duration,
    "decimal": _decimal,
}


def plain_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows without the file positions of their texts, so that they are small when pickled."""
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    match value:
        case str():
            return str(value)
        case Mapping():
            return {str(name): _plain(each) for name, each in value.items()}
        case bytes():
            return value
        case Sequence():
            return [_plain(each) for each in value]
    return value
