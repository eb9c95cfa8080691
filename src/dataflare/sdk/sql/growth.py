"""Which columns of a table are too narrow for rows, and which types hold both. Pure.

Always true: each value that a column can hold now is the same in the new type. Only a value that does not fit makes a
column wider, so a table does not change because of a type that no value needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import polars as pl
from msgspec import Struct

from dataflare.model.types import DIGITS_MAX, FLOAT64, DataType, decimal
from dataflare.sdk.sql.exactness import beyond_float, loses_scale

_INTEGERS = {
    name: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for name, bits in (("int16", 16), ("int32", 32), ("int64", 64))
} | {"uint64": (0, 2**64 - 1)}


class Room(Struct, frozen=True):
    """What a column holds. int: from least to most. decimal: so many digits, scale of them behind the point. text: so
    many characters (digits)."""

    kind: Literal["int", "float32", "decimal", "text"]
    least: int = 0
    most: int = 0
    digits: int = 0
    scale: int = 0

    @classmethod
    def of_integer(cls, bits: int, *, unsigned: bool = False) -> Room:
        if unsigned:
            return cls("int", 0, 2**bits - 1)
        return cls("int", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


Wider = DataType | int
"""The type that a column must have, or how many characters."""


def outgrown(
    frame: pl.DataFrame,
    types: Mapping[str, DataType],
    rooms: Mapping[str, Room],
    folded: Callable[[str], str] = str,
) -> dict[str, Wider]:
    """The columns with a value that does not fit, and what they must become. rooms: of the table's columns. folded:
    a name as the database compares it with others."""
    found: dict[str, Wider] = {}
    by_name = {folded(name): room for name, room in rooms.items()}
    for name, type_ in types.items():
        room = by_name.get(folded(name))
        if room is None or name not in frame.columns:
            continue
        wider = _wider(frame[name], type_, room)
        if wider is not None:
            found[name] = wider
    return found


def _wider(values: pl.Series, type_: DataType, room: Room) -> Wider | None:
    match room.kind:
        case "int" if type_.is_integer:
            return _integer(values, room)
        case "float32" if type_.is_float or type_.is_integer:
            lossy = beyond_float(pl.col(values.name), type_, "float4")
            return FLOAT64 if lossy is not None and _any(values, lossy) else None
        case "decimal" if type_.is_integer or type_.name == "decimal":
            return _decimal(values, type_, room)
        case "text" if type_.name == "string":
            longest = values.cast(pl.String).str.len_chars().max()
            return int(longest) if isinstance(longest, int) and longest > room.digits else None
    return None


def _any(values: pl.Series, condition: pl.Expr) -> bool:
    return bool(values.to_frame().select(condition.fill_null(False).any()).item())


def _integer(values: pl.Series, room: Room) -> DataType | None:
    low, high = values.min(), values.max()
    if not isinstance(low, int) or not isinstance(high, int):
        return None
    if room.least <= low and high <= room.most:
        return None
    least, most = min(low, room.least), max(high, room.most)
    for name, (first, last) in _INTEGERS.items():
        if first <= least and most <= last:
            return DataType(name)
    return decimal(20, 0)


def _decimal(values: pl.Series, type_: DataType, room: Room) -> DataType | None:
    present = values.drop_nulls()
    if not present.len():
        return None
    most = max(abs(int(present.min() or 0)), abs(int(present.max() or 0)))  # type: ignore[arg-type]
    whole = len(str(most)) if most else 0
    lossy = loses_scale(pl.col(values.name), type_, room.scale)
    scale = (type_.scale or 0) if lossy is not None and _any(values, lossy) else room.scale
    if whole <= room.digits - room.scale and scale == room.scale:
        return None
    scale = max(scale, room.scale)
    digits = max(whole, room.digits - room.scale) + scale
    return decimal(digits, scale) if digits <= DIGITS_MAX else None


def characters(needed: int) -> int:
    """How many characters a column gets, so that it does not grow with every row."""
    return max(16, 1 << (needed - 1).bit_length())
