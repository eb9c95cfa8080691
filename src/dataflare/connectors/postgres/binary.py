"""Encode rows in the binary form of COPY: columnar, for the types whose byte format is implemented.

Always true: the binary form has the same meaning as the CSV of the same rows; if that is not
certain (another type, a value that may be out of PostgreSQL's range), CSV is sent. The server needs
half the time for the binary form, because it parses no text.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from dataflare.connectors.postgres.types import PgType, declared
from dataflare.model.batch import private
from dataflare.model.types import DataType

_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TAIL = b"\xff\xff"
_EPOCH_DAYS = 10_957
"""From 1970, the start of Polars' dates, to 2000, the start of PostgreSQL's."""
_AD_DAYS = (-719_162, 2_932_896)
_DAY_US = 86_400_000_000
_DIGITS_MAX = 18
_LENGTH_MAX = 2**30
_BUILT_IN = 16_384
"""Types from this number on are user-defined, with any name."""
_UUID = "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"
_INTEGERS = {"smallint": 2, "integer": 4, "bigint": 8}
_WIDTHS = {"int8": 2, "int16": 2, "uint8": 2, "int32": 4, "uint16": 4, "int64": 8, "uint32": 8}
_OF_WIDTH = {2: pl.Int16(), 4: pl.Int32(), 8: pl.Int64()}
_NAMES = {
    "int2": "smallint", "int4": "integer", "int8": "bigint", "bool": "boolean", "float4": "real",
    "float8": "double precision",
}  # fmt: skip


def binary(
    frame: pl.DataFrame, types: Mapping[str, DataType], targets: Mapping[str, PgType]
) -> memoryview | None:
    """The columns of `types` for COPY with `format binary`; None if CSV must be sent. types: of the
    columns. targets: the types of the table's columns."""
    import pyarrow.compute as pc

    if not frame.height or not types:
        return None
    # A field is four bytes of length and the value; NULL has the length -1 and no value.
    owned = private(frame)
    pieces: list[Any] = [_scalar(len(types).to_bytes(2, "big"))]
    for name, type_ in types.items():
        values = owned[name]
        if values.dtype != type_.to_polars():  # categories, arrays, narrower numbers
            values = values.cast(type_.to_polars())
        field = _field(values, type_, _into(type_, targets.get(name)))
        if field is None:
            return None
        pieces += field
    rows = pc.binary_join_element_wise(*pieces, _scalar(b""))
    data = memoryview(rows.buffers()[2])[: _ends(rows)]
    return memoryview(b"".join((_HEAD, data, _TAIL)))


def _into(type_: DataType, target: PgType | None) -> str:
    """The SQL name of the type that the server reads."""
    if target is None:
        return declared(type_)
    resolved, _ = target.resolved(-1)
    return _NAMES.get(resolved.name, resolved.name) if resolved.oid < _BUILT_IN else ""


def _field(values: pl.Series, type_: DataType, into: str) -> list[Any] | None:
    """The bytes of the column in a row, piece by piece; None if CSV must be sent."""
    match type_.name:
        case "bool" if into == "boolean":
            bits = values.to_frame("v").select(
                pl.when("v").then(pl.lit(b"\1")).when(~pl.col("v")).then(pl.lit(b"\0"))
            )
            return _varying(bits.to_series())
        case "float64" if into == "double precision":
            return _words(values.fill_nan(float("nan")), 8)
        case "float32" if into == "real":
            return _words(values.fill_nan(float("nan")), 4)
        case "date" if into == "date":
            return _since_2000(values.cast(pl.Int32).cast(pl.Int64), 1, 4)
        case "timestamp" if type_.unit != "ns" and into == (
            "timestamptz" if type_.timezone else "timestamp"
        ):
            return _moments(values, type_)
        case "time" if into == "time":
            ns = values.to_physical()
            return _words(ns // 1_000, 8) if not (ns % 1_000 != 0).any() else None
        case "decimal" if into.startswith("numeric"):
            return _numeric(values, type_)
        case "string" | "json" if into in ("text", "varchar", "bpchar", "json"):
            return _varying(values.cast(pl.Binary))
        case "string" | "json" if into == "jsonb":
            # The version of jsonb precedes the text.
            return _varying(("\1" + values).cast(pl.Binary))
        case "string" if into == "uuid":
            return _uuid(values)
        case "binary" if into == "bytea":
            return _varying(values)
    width = _INTEGERS.get(into, 0)
    if _WIDTHS.get(type_.name, 9) <= width:
        return _words(values.cast(_OF_WIDTH[width]), width)
    return None


def _moments(values: pl.Series, type_: DataType) -> list[Any] | None:
    ticks = values.to_physical()
    if type_.unit == "us":
        return _since_2000(ticks, _DAY_US, 8)
    if _beyond(ticks, _DAY_US // 1_000):
        return None
    return _words((ticks - _EPOCH_DAYS * _DAY_US // 1_000) * 1_000, 8)


def _uuid(values: pl.Series) -> list[Any] | None:
    """PostgreSQL accepts other formats too: these are sent as CSV."""
    if values.str.contains(_UUID).all():
        return _varying(values.str.replace_all("-", "", literal=True).str.decode("hex"))
    return None


def _since_2000(values: pl.Series, day: int, width: int) -> list[Any] | None:
    if _beyond(values, day):
        return None
    return _words((values - _EPOCH_DAYS * day).cast(_OF_WIDTH[width]), width)


def _beyond(values: pl.Series, day: int) -> bool:
    """Whether a value is outside the years 1 to 9999. There the largest and smallest numbers would
    mean infinity, so CSV is sent."""
    low, high = values.min(), values.max()
    first, behind = _AD_DAYS[0] * day, (_AD_DAYS[1] + 1) * day
    return isinstance(low, int) and isinstance(high, int) and (low < first or high >= behind)


def _numeric(values: pl.Series, type_: DataType) -> list[Any] | None:
    """Digits in base 10,000, four decimal digits in a word, the same number of words for each row:
    the server removes zeros at both ends."""
    precision, scale = type_.precision or 38, type_.scale or 0
    behind = -(-scale // 4)
    before = -(-(precision - scale) // 4)
    shift = 4 * behind - scale
    if precision + shift > _DIGITS_MAX:
        return None
    whole = values.to_physical()
    low, high = whole.min(), whole.max()
    if isinstance(low, int) and isinstance(high, int) and max(-low, high) >= 10**precision:
        return None  # more digits than its type says
    behind += -(before + behind) % 4
    if 4 * behind - scale + precision <= _DIGITS_MAX:
        shift = 4 * behind - scale
        fill = 0
    else:
        fill = -(before + -(-scale // 4)) % 4
    count = before + behind
    v = pl.col("v")
    digits_left = v.abs() * 10**shift
    # The last `fill` digits are zeros that do not fit into the number.
    digits = [
        digits_left // 10_000 ** (count - fill - 1 - place) % 10_000
        if place < count - fill
        else pl.lit(0)
        for place in range(count)
    ]
    head = (count << 48) + ((before - 1 & 0xFFFF) << 32) + scale
    words = [pl.lit(head, pl.Int64) + pl.when(v < 0).then(0x4000 << 16).otherwise(0)]
    for at in range(0, count, 4):
        words.append(
            pl.sum_horizontal(d * 2 ** (48 - 16 * i) for i, d in enumerate(digits[at : at + 4]))
        )
    wide = whole.cast(pl.Int64).to_frame("v")
    pieces = wide.select(
        pl.when(v.is_not_null()).then(word.cast(pl.Int64)).alias(str(i))
        for i, word in enumerate(words)
    )
    return [
        _lengths(wide["v"], 8 * len(words)),
        *(_swapped(pieces[name], 8) for name in pieces.columns),
    ]


def _words(values: pl.Series, width: int) -> list[Any]:
    return [_lengths(values, width), _swapped(values, width)]


def _lengths(values: pl.Series, width: int) -> Any:
    if not values.null_count():
        return _scalar(width.to_bytes(4, "big"))
    is_set = values.is_not_null().to_numpy()
    return _of_equal_size(np.where(is_set, width, -1).astype(np.int32), 4)


def _varying(values: pl.Series) -> list[Any] | None:
    import pyarrow as pa

    has_null = values.null_count() > 0
    filled = values.fill_null(b"") if has_null else values
    array = filled.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.large_binary())
    edges = np.frombuffer(array.buffers()[1], np.int64)[array.offset :][: len(array) + 1]
    sizes = np.diff(edges)
    if sizes.size and sizes.max() > _LENGTH_MAX:
        return None  # the server's error is clearer than one for a truncated length
    if has_null:
        sizes[values.is_null().to_numpy()] = -1
    return [_of_equal_size(sizes.astype(np.int32), 4), array]


def _scalar(data: bytes) -> Any:
    import pyarrow as pa

    return pa.scalar(data, pa.large_binary())


def _swapped(values: pl.Series, width: int) -> Any:
    """The bytes of numbers, the high byte first; no bytes for NULL."""
    if not values.null_count():
        return _of_equal_size(values.to_numpy(), width)
    is_set = values.is_not_null().to_numpy()
    return _of_numbers(values.drop_nulls().to_numpy(), is_set * width)


def _of_equal_size(numbers: npt.NDArray[Any], width: int) -> Any:
    return _of_numbers(numbers, np.full(numbers.size, width))


def _of_numbers(numbers: npt.NDArray[Any], sizes: npt.NDArray[np.int64]) -> Any:
    """sizes: of each value in bytes; 0 for one that is not among the numbers."""
    import pyarrow as pa

    data = numbers if sys.byteorder == "big" else numbers.byteswap()
    ends = np.concatenate([[0], np.cumsum(sizes)])
    buffers = [None, pa.py_buffer(ends.astype(np.int64)), pa.py_buffer(data.tobytes())]
    return pa.Array.from_buffers(pa.large_binary(), sizes.size, buffers)


def _ends(rows: Any) -> int:
    """How many bytes all of them have."""
    import pyarrow.compute as pc

    return int(pc.sum(pc.binary_length(rows)).as_py())
