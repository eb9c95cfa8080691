"""Literals as Polars values of exactly their type."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from dataflare.errors import InternalError
from dataflare.expr.sqltypes import INTERVAL
from dataflare.model.types import DataType

_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_PER_MICROSECOND = {"s": (1, 1000), "ms": (1, 1000), "us": (1, 1), "ns": (1000, 1)}


def literals(values: Sequence[Any], type_: DataType) -> pl.Series:
    """Literals of one scalar type, none of them NULL."""
    dtype = type_.to_polars()
    match type_.name:
        case "timestamp":
            ticks = [_ticks(value, type_.unit or "us") for value in values]
            return pl.Series(ticks, dtype=pl.Int64).cast(dtype)
        case "duration":
            up, down = _PER_MICROSECOND[type_.unit or "us"]
            ticks = [value // _MICROSECOND * up // down for value in values]
            return pl.Series(ticks, dtype=pl.Int64).cast(dtype)
        case "decimal":
            return pl.Series([Decimal(value) for value in values], dtype=dtype)
    return pl.Series(values, dtype=dtype)


def literal(value: Any, type_: DataType) -> pl.Expr:
    """The literal as a Polars expression of exactly that type. An interval has no such expression; only
    its operator reads the value."""
    if type_ == INTERVAL:
        return pl.lit(None)
    dtype = type_.to_polars()
    if value is None:
        return pl.lit(None, dtype=dtype)
    match type_.name:
        case "timestamp":
            return pl.lit(_ticks(value, type_.unit or "us"), dtype=pl.Int64).cast(dtype)
        case "duration":
            assert isinstance(value, timedelta)
            up, down = _PER_MICROSECOND[type_.unit or "us"]
            return pl.lit(value // _MICROSECOND * up // down, dtype=pl.Int64).cast(dtype)
        case "decimal":
            return pl.lit(Decimal(value), dtype=dtype)
        case "list" | "struct":
            return pl.lit(pl.Series([value], dtype=dtype)).first()
    if isinstance(value, bool | int | float | str | bytes | date | time):
        return pl.lit(value, dtype=dtype)
    raise InternalError(f"no literal of type {type_} for a {type(value).__name__}")


def _ticks(value: Any, unit: str) -> int:
    if isinstance(value, datetime):
        moment = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    else:
        moment = datetime.combine(value, time())
    up, down = _PER_MICROSECOND[unit]
    return (moment - _EPOCH) // _MICROSECOND * up // down
