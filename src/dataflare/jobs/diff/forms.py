"""Forms in which values of two columns are compared. Pure.

Always true: two values have equal forms exactly if they are equal; NULL stays NULL and equals NULL alone. All NaN are
one value, and -0.0 is another value than 0.0. Two columns without a common form are not compared, and that is told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.formats.text_write import json_text
from dataflare.model.types import DataType

_FLOAT_DIGITS = {"float64": 15, "float32": 6}
"""Decimals of at most so many digits are different floats."""
_INTEGER_DIGITS = {"int8": 3, "uint8": 3, "int16": 5, "uint16": 5, "int32": 10, "uint32": 10}
_TICKS_NS = {"s": 1_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
"""Polars has no seconds: they are milliseconds."""
_INT128_MAX = float(2**126)
_NAN = 0x7FF8 << 48

Value = Callable[[pl.Expr], pl.Expr]


class Form(Struct, frozen=True):
    """left, right: a value of the left and of the right column in the common form."""

    left: Value
    right: Value


def form_of(left: DataType, right: DataType, digits: int | None = None) -> Form | None:
    """The form in which the columns are compared, or None. digits: floats of the columns themselves are equal if so many
    of their digits are."""
    if digits is not None and left.is_float and right.is_float:
        return _both(lambda value: _bits(value.cast(pl.Float64).round_sig_figs(digits) + 0.0))
    for each in _FORMS:
        found = each(left, right) or _turned(each(right, left))
        if found is not None:
            return found
    return None


def _turned(form: Form | None) -> Form | None:
    return None if form is None else Form(form.right, form.left)


def _both(value: Value) -> Form:
    return Form(value, value)


def _same(left: DataType, right: DataType) -> Form | None:
    """Types whose values Polars compares exactly."""
    exact = left.is_integer or left.name in (
        *("bool", "string", "binary", "date", "time", "decimal", "null"),
        *("timestamp", "duration"),
    )
    if left != right or not exact:
        return None
    return _both(lambda value: value)


def _null(left: DataType, right: DataType) -> Form | None:
    """A column without values against any other."""
    if left.name != "null":
        return None
    other = form_of(right, right)
    if other is None:
        return None
    inner, dtype = other.right, right.to_polars()
    return Form(lambda value: inner(value.cast(dtype)), inner)


def _integers(left: DataType, right: DataType) -> Form | None:
    if not (_is_whole(left) and _is_whole(right)):
        return None
    wide = pl.Int128 if "uint64" in (left.name, right.name) else pl.Int64
    return _both(lambda value: value.cast(wide))


def _decimals(left: DataType, right: DataType) -> Form | None:
    """Decimals against decimals and integers, whatever their scale."""
    if left.name != "decimal" or not (right.name == "decimal" or _is_whole(right)):
        return None
    return Form(_number_of(left), _number_of(right))


def _floats(left: DataType, right: DataType) -> Form | None:
    """A float against a float, and against numbers of which no two are one float."""
    if not left.is_float:
        return None
    if right.is_float:
        return _both(lambda value: _bits(value.cast(pl.Float64)))
    digits = right.precision if right.name == "decimal" else _INTEGER_DIGITS.get(right.name)
    if digits is None or digits > _FLOAT_DIGITS[left.name]:
        return None
    narrow = left.to_polars()
    return Form(
        lambda value: _bits(value.cast(pl.Float64)),
        lambda value: _bits(value.cast(pl.Float64).cast(narrow).cast(pl.Float64)),
    )


def _whole_floats(left: DataType, right: DataType) -> Form | None:
    """A float against integers of any size: equal if the float is that integer."""
    if not (left.is_float and right.is_integer):
        return None
    return Form(lambda value: _whole_text(value.cast(pl.Float64)), lambda v: v.cast(pl.String))


def _ticks(left: DataType, right: DataType) -> Form | None:
    """Timestamps of other units or zones, and durations."""
    clocks = ("timestamp", "duration")
    same = left.name == right.name and left.name in clocks
    if not same or (left.timezone is None) != (right.timezone is None):
        return None
    if _TICKS_NS[left.unit or "us"] == _TICKS_NS[right.unit or "us"]:
        return _both(lambda value: value.cast(pl.Int64))
    return Form(_nanoseconds(left), _nanoseconds(right))


def _spans(left: DataType, right: DataType) -> Form | None:
    """A time of day against a duration, as which some databases read it."""
    if (left.name, right.name) != ("time", "duration"):
        return None
    return Form(lambda v: v.cast(pl.Int64).cast(pl.Int128), _nanoseconds(right))


def _jsons(left: DataType, right: DataType) -> Form | None:
    """JSON against JSON, text, lists and structs: as values of JSON, whatever their spelling."""
    if left.name != "json":
        return None
    if right.is_text:
        return _both(_json)
    if not _plain_in_json(right):
        return None
    return Form(_json, lambda value: _json(json_text(value)))


def _lists(left: DataType, right: DataType) -> Form | None:
    if left.name != "list" or right.name != "list":
        return None
    assert left.item is not None
    assert right.item is not None
    item = form_of(left.item, right.item)
    if item is None:
        return None
    inner_left, inner_right = item.left, item.right
    return Form(
        lambda value: value.list.eval(inner_left(pl.element())),
        lambda value: value.list.eval(inner_right(pl.element())),
    )


def _structs(left: DataType, right: DataType) -> Form | None:
    """Structs with the same fields, in any order."""
    if left.name != "struct" or right.name != "struct":
        return None
    types = {field.name: field.type for field in right.fields}
    if sorted(types) != sorted(field.name for field in left.fields):
        return None
    names = [field.name for field in left.fields]
    forms = [form_of(field.type, types[field.name]) for field in left.fields]
    found = [form for form in forms if form is not None]
    if len(found) < len(names):
        return None
    return Form(
        _struct_of(names, [form.left for form in found]),
        _struct_of(names, [form.right for form in found]),
    )


def _struct_of(names: Sequence[str], values: Sequence[Value]) -> Value:
    def value_of(value: pl.Expr) -> pl.Expr:
        parts = [
            inner(value.struct.field(name)).alias(str(at))
            for at, (name, inner) in enumerate(zip(names, values, strict=True))
        ]
        return pl.when(value.is_not_null()).then(pl.struct(parts))

    return value_of


_FORMS = (
    *(_same, _null, _integers, _decimals, _floats, _whole_floats),
    *(_ticks, _spans, _jsons, _lists, _structs),
)


def _is_whole(type_: DataType) -> bool:
    return type_.is_integer or type_.name == "bool"


def _bits(value: pl.Expr) -> pl.Expr:
    bits = value.reinterpret(dtype=pl.UInt64)
    return pl.when(value.is_nan()).then(pl.lit(_NAN, pl.UInt64)).otherwise(bits)


def _whole_text(value: pl.Expr) -> pl.Expr:
    """The digits of a float that is a whole number, other text for any other."""
    negative_zero = (value == 0) & (_bits(value) != 0)
    whole = value.is_finite() & (value.floor() == value) & (value.abs() < _INT128_MAX)
    near = pl.when(whole & ~negative_zero).then(value)
    other = pl.concat_str(pl.lit("~"), _bits(value).cast(pl.String))
    digits = near.cast(pl.Int128).cast(pl.String)
    return pl.when(value.is_not_null()).then(pl.coalesce(digits, other))


def _number_of(type_: DataType) -> Value:
    """The digits of a number without zeros behind the point."""
    if type_.name == "bool":
        return lambda value: value.cast(pl.Int64).cast(pl.String)
    if type_.is_integer:
        return lambda value: value.cast(pl.String)

    def digits(value: pl.Expr) -> pl.Expr:
        return value.cast(pl.String).str.replace(r"(\.\d*?)0+$", "${1}").str.strip_suffix(".")

    return digits


def _nanoseconds(type_: DataType) -> Value:
    factor = _TICKS_NS[type_.unit or "us"]
    return lambda value: value.cast(pl.Int64).cast(pl.Int128) * factor


def _plain_in_json(type_: DataType) -> bool:
    """Whether JSON holds each value of a list or struct as it is."""
    match type_.name:
        case "list":
            assert type_.item is not None
            return _held_by_json(type_.item)
        case "struct":
            return all(_held_by_json(field.type) for field in type_.fields)
    return False


def _held_by_json(type_: DataType) -> bool:
    return type_.is_integer or type_.name in ("bool", "string") or _plain_in_json(type_)


def _json(value: pl.Expr) -> pl.Expr:
    return value.map_batches(_canonical_texts, return_dtype=pl.String, is_elementwise=True)


def _canonical_texts(texts: pl.Series) -> pl.Series:
    """Each distinct text is read once."""
    texts = texts.cast(pl.String)
    distinct = texts.drop_nulls().unique()
    if not len(distinct):
        return texts
    canonical = pl.Series([_canonical(text) for text in distinct], dtype=pl.String)
    return texts.replace_strict(distinct, canonical, default=None)


def _canonical(text: str) -> str:
    """One spelling of a JSON value: names in order, numbers by their value. A text that is not JSON is itself."""
    try:
        value = json.loads(text, parse_float=Decimal, parse_int=Decimal)
        return _spelled(value)
    except (ValueError, RecursionError):
        return f"?{text}"


def _spelled(value: Any) -> str:
    match value:
        case Decimal():
            return _digits(value)
        case dict():
            names = sorted(value)
            return "{" + ",".join(f"{json.dumps(n)}:{_spelled(value[n])}" for n in names) + "}"
        case list():
            return "[" + ",".join(map(_spelled, value)) + "]"
    return json.dumps(value)


def _digits(number: Decimal) -> str:
    sign, digits, exponent = number.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    bare = text.rstrip("0")
    if not bare:
        return "0"
    return f"{'-' if sign else ''}{bare}e{int(exponent) + len(text) - len(bare)}"
