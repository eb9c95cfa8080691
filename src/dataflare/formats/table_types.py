"""Convert columns from their types in the file to the types of the source's schema.

`schema` is a CAST: a value is converted to the contract's type, with CAST's rounding; if that
fails, its row is bad. Text is read as in CSV if CAST does not define a conversion (lists, structs,
durations, base64).

Always true: `value` never raises. It is undefined where `misfit` is true, and right elsewhere.
"""

from __future__ import annotations

from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.expr.casts import lower_cast
from dataflare.expr.conversions import castable
from dataflare.formats.column_notes import Meaning
from dataflare.formats.text_types import TextColumn, converted
from dataflare.model.foreign import as_held, has_wide_integers
from dataflare.model.types import JSON, STRING, DataType, from_polars, list_of, struct_of

_AS_CSV = ("list", "struct", "duration", "binary")
_UUID_PARTS = ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))


class Fitted(Struct, frozen=True):
    """misfit: where the value does not fit its type; None if all values fit."""

    value: pl.Expr
    misfit: pl.Expr | None = None

    def strict(self) -> pl.Expr:
        """The value, raising a Polars error if any does not fit."""
        if self.misfit is None:
            return self.value
        wide, narrow = pl.lit(1000, dtype=pl.Int16), pl.lit(0, dtype=pl.Int16)
        guard = pl.when(self.misfit).then(wide).otherwise(narrow).cast(pl.Int8, strict=True)
        return pl.when(guard == 0).then(self.value)


def may_fit(type_: DataType, to: DataType) -> bool:
    """Whether any values of one type can be converted to the other."""
    return castable(type_, to) or (type_.is_text and to.name in _AS_CSV)


def held_type(dtype: Any, meaning: Meaning | None = None) -> DataType:
    """The type of a file's column. meaning: from the file's own schema."""
    if isinstance(meaning, str) and dtype in (pl.Binary, pl.String):
        return STRING if meaning == "uuid" else JSON
    if not isinstance(meaning, dict):
        return from_polars(dtype)
    if isinstance(dtype, pl.Struct):
        inside = meaning["fields"]
        return struct_of({f.name: held_type(f.dtype, inside.get(f.name)) for f in dtype.fields})
    return list_of(held_type(_item(dtype), meaning["item"]))


def _item(dtype: Any) -> Any:
    """What a list holds; of a map its entries."""
    if isinstance(dtype, pl.Map):
        return pl.Struct({"key": dtype.key, "value": dtype.value})
    return dtype.inner


def fitted(name: str, dtype: Any, to: DataType, meaning: Meaning | None = None) -> Fitted:
    """The file's column `name`, which has this Polars type, as `to`. The caller checked
    `may_fit`."""
    type_, raw = held_type(dtype, meaning), pl.col(name)
    if dtype == to.to_polars():
        return Fitted(raw)
    if isinstance(meaning, str) and dtype == pl.Binary:
        return _cast(_as_meant(raw, dtype, meaning), type_, to)
    if isinstance(meaning, dict):
        raw, dtype = _as_meant(raw, dtype, meaning), _meant_dtype(dtype, meaning)
    value = as_held(raw, dtype, strict=False)
    misfits: list[pl.Expr] = []
    if has_wide_integers(dtype):
        misfits.append(
            _is_changed(value, dtype, raw) if dtype.is_nested() else _is_lost(value, raw)
        )
    result = _cast(value, type_, to)
    if result.misfit is not None:
        misfits.append(result.misfit)
    return Fitted(result.value.alias(name), pl.any_horizontal(misfits) if misfits else None)


def _as_meant(value: pl.Expr, dtype: Any, meaning: Meaning | None) -> pl.Expr:
    """The value with text in place of bytes, at any depth."""
    if meaning is None:
        return value
    if isinstance(meaning, str):
        if dtype != pl.Binary:
            return value
        return _uuid_text(value) if meaning == "uuid" else value.cast(pl.String)
    if isinstance(dtype, pl.Struct):
        inside = meaning["fields"]
        return value.struct.with_fields(
            _as_meant(pl.field(f.name), f.dtype, inside[f.name]).alias(f.name)
            for f in dtype.fields
            if f.name in inside
        )
    if isinstance(dtype, pl.Map):
        value = value.cast(pl.List(_item(dtype)))
    elif isinstance(dtype, pl.Array):
        value = value.arr.to_list()
    return value.list.eval(_as_meant(pl.element(), _item(dtype), meaning["item"]))


def _meant_dtype(dtype: Any, meaning: Meaning | None) -> Any:
    """The Polars type of what `_as_meant` gives."""
    if meaning is None:
        return dtype
    if isinstance(meaning, str):
        return pl.String() if dtype == pl.Binary else dtype
    if isinstance(dtype, pl.Struct):
        inside = meaning["fields"]
        return pl.Struct({f.name: _meant_dtype(f.dtype, inside.get(f.name)) for f in dtype.fields})
    return pl.List(_meant_dtype(_item(dtype), meaning["item"]))


def _uuid_text(value: pl.Expr) -> pl.Expr:
    """16 bytes as text, as in 123e4567-e89b-12d3-a456-426614174000."""
    digits = value.bin.encode("hex")
    parts = [digits.str.slice(start, size) for start, size in _UUID_PARTS]
    return pl.concat_str(parts, separator="-")


def _cast(value: pl.Expr, type_: DataType, to: DataType) -> Fitted:
    if type_.to_polars() == to.to_polars():
        return Fitted(value)
    if type_.is_text and to.name in _AS_CSV:
        text = pl.when(value != "").then(value)
        read = converted(TextColumn("text", to, declared=True), text, lenient=True)
        return Fitted(read, _is_lost(read, text))
    if type_.item is not None and to.item is not None:
        item = _cast(pl.element(), type_.item, to.item)
        if item.misfit is None:
            return Fitted(value.list.eval(item.value))
        return Fitted(value.list.eval(item.value), value.list.eval(item.misfit).list.any())
    if type_.name == "struct" == to.name:
        parts = [
            (f.name, _cast(value.struct.field(f.name), f.type, into.type))
            for f, into in zip(type_.fields, to.fields, strict=True)
        ]
        whole = pl.struct(part.value.alias(name) for name, part in parts)
        misfits = [part.misfit for _, part in parts if part.misfit is not None]
        return Fitted(
            pl.when(value.is_not_null()).then(whole),
            pl.any_horizontal(misfits) if misfits else None,
        )
    lowered = lower_cast(value, type_, to)
    return Fitted(lowered.value, None if lowered.error is None else lowered.error.is_not_null())


def _is_lost(result: pl.Expr, value: pl.Expr) -> pl.Expr:
    return result.is_null() & value.is_not_null()


def _is_changed(result: pl.Expr, dtype: Any, value: pl.Expr) -> pl.Expr:
    return result.cast(dtype, strict=False).ne_missing(value)
