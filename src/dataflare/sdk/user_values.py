"""The values that a user's Python code gives, as the types that were promised.

Always true: a value comes through as itself, or an error names it. Frames and single rows follow one
rule: numbers may come in another width, times in another unit, instants in another zone, as long as no
value changes. A change of kind, such as a number for a date or a text for a number, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from dataflare.errors import DataError
from dataflare.model.types import DataType, from_polars

if TYPE_CHECKING:
    import polars as pl

_SHOWN_MAX = 60


class WrongValue(DataError):
    """Some rows of a result have a value that their type does not hold; other rows may be right."""

    default_code = "E0521"


def may_become(given: DataType, promised: DataType) -> bool:
    """Whether values of one type may stand in a column of another, each as long as it is the same
    there."""
    if given.name == "null" or given == promised:
        return True
    if given.is_integer:
        return promised.is_numeric
    if given.name == "string":
        return promised.is_text
    if promised.name != given.name and not (given.is_float and promised.is_float):
        return False
    match given.name:
        case "list":
            assert given.item is not None
            assert promised.item is not None
            return may_become(given.item, promised.item)
        case "struct":
            pairs = zip(given.fields, promised.fields, strict=False)
            return len(given.fields) == len(promised.fields) and all(
                one.name == other.name and may_become(one.type, other.type) for one, other in pairs
            )
        case "timestamp":
            return (given.timezone is None) == (promised.timezone is None)
    return True


def as_promised(values: pl.Series, promised: DataType, what: str) -> pl.Series:
    """The column in the promised type. what: begins the message. Raises DataError (E0521)."""
    dtype = promised.to_polars()
    if values.dtype == dtype:
        return values
    given = from_polars(values.dtype)
    if not may_become(given, promised):
        raise DataError(
            f"{what} returned {given} in the column '{values.name}', which is {promised}",
            code="E0521",
            help=f"return {promised} there: "
            f"frame.with_columns(pl.col({values.name!r}).cast(...)), or name the type {given}",
        )
    made = values.cast(dtype, strict=False)
    changed = ~made.cast(values.dtype, strict=False).eq_missing(values)
    if changed.any():
        from dataflare.formats.text_write import for_python

        first = for_python(values.filter(changed).head(1).to_frame())
        raise _wrong(first.item(), values.name, promised, what)
    return made


def column_of(name: str, values: Sequence[Any], promised: DataType, what: str) -> pl.Series:
    """Single values as a column of the promised type. Raises WrongValue."""
    import polars as pl

    made = []
    for value in values:
        try:
            made.append(_exact(value, promised))
        except (TypeError, ValueError, OverflowError) as error:
            raise _wrong(value, name, promised, what) from error
    return pl.Series(name, made, dtype=promised.to_polars(), strict=True)


def _wrong(value: Any, name: str, promised: DataType, what: str) -> WrongValue:
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN_MAX else shown[:_SHOWN_MAX] + "..."
    return WrongValue(
        f"{what} returned {shown} in the column '{name}', which is {promised} and cannot hold it "
        "unchanged",
        help=f"return a value that {promised} holds, or name another type for the column",
    )


def _exact(value: Any, type_: DataType) -> Any:
    """The value as Polars takes it for the type. Raises TypeError, ValueError or OverflowError."""
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    if value is None:
        return None
    if type_.is_integer:
        return _integer(value, type_)
    return _EXACT[type_.name](value, type_)


def _given(value: Any, *kinds: type[Any]) -> Any:
    """The value, which must be of one of these classes. A bool counts as a number in Python only."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError
    return value


def _integer(value: Any, type_: DataType) -> int:
    number: int = _given(value, int)
    bits = int(type_.name.lstrip("uint"))
    low, high = (0, 1 << bits) if type_.name[0] == "u" else (-(1 << bits - 1), 1 << bits - 1)
    if not low <= number < high:
        raise ValueError
    return number


def _float(value: Any, type_: DataType) -> float:
    import polars as pl

    number = float(_given(value, int, float))
    if type_.name == "float32":
        number = pl.Series([number], dtype=pl.Float32).to_list()[0]
    if number != value and not math.isnan(value):
        raise ValueError
    return number


def _decimal(value: Any, type_: DataType) -> Decimal:
    number = Decimal(_given(value, int, Decimal))
    scaled = number.scaleb(type_.scale or 0)
    if not number.is_finite() or scaled != scaled.to_integral_value():
        raise ValueError
    if abs(int(scaled)) >= 10 ** (type_.precision or 38):
        raise ValueError
    return Decimal(int(scaled)).scaleb(-(type_.scale or 0))


def _timestamp(value: Any, type_: DataType) -> datetime:
    moment: datetime = _given(value, datetime)
    if (moment.tzinfo is None) != (type_.timezone is None):
        raise TypeError
    if moment.microsecond % _SMALLEST_US[type_.unit or "us"]:
        raise ValueError
    return moment if moment.tzinfo is None else moment.astimezone(UTC)


def _duration(value: Any, type_: DataType) -> timedelta:
    span: timedelta = _given(value, timedelta)
    if span.microseconds % _SMALLEST_US[type_.unit or "us"]:
        raise ValueError
    return span


_SMALLEST_US = {"s": 1_000, "ms": 1_000, "us": 1, "ns": 1}
"""The microseconds of one tick; seconds are held in milliseconds."""


def _date(value: Any, type_: DataType) -> date:
    if isinstance(value, datetime):
        raise TypeError
    day: date = _given(value, date)
    return day


def _time(value: Any, type_: DataType) -> time:
    clock: time = _given(value, time)
    if clock.tzinfo is not None:
        raise TypeError
    return clock


def _list(value: Any, type_: DataType) -> list[Any]:
    assert type_.item is not None
    return [_exact(each, type_.item) for each in _given(value, list, tuple)]


def _struct(value: Any, type_: DataType) -> dict[str, Any]:
    fields: Mapping[str, Any] = _given(value, Mapping)
    if set(fields) - {field.name for field in type_.fields}:
        raise ValueError
    return {field.name: _exact(fields.get(field.name), field.type) for field in type_.fields}


def _nothing(value: Any, type_: DataType) -> None:
    raise TypeError


_EXACT: Mapping[str, Callable[[Any, DataType], Any]] = {
    "null": _nothing,
    "bool": lambda value, type_: _given(value, bool),
    "string": lambda value, type_: str(_given(value, str)),
    "json": lambda value, type_: str(_given(value, str)),
    "binary": lambda value, type_: bytes(_given(value, bytes, bytearray, memoryview)),
    "float32": _float,
    "float64": _float,
    "decimal": _decimal,
    "date": _date,
    "time": _time,
    "timestamp": _timestamp,
    "duration": _duration,
    "list": _list,
    "struct": _struct,
}
