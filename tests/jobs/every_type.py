"""A column of each Polars type, with its limits and NULL, and what it is in JSON text."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import polars as pl

INT64_MAX = 2**63 - 1
DIGITS = 10**38 - 1
INF, NAN = float("inf"), float("nan")


def _ticks(values: list[int | None], unit: Any, zone: str | None = None) -> pl.Series:
    return pl.Series(values, dtype=pl.Int64).cast(pl.Datetime(unit, zone))


def _integers(dtype: Any, low: int, high: int) -> tuple[pl.Series, list[Any]]:
    return pl.Series([low, high, None], dtype=dtype), [low, high, None]


COLUMNS: dict[str, tuple[pl.Series, list[Any]]] = {
    "bool": (pl.Series([True, False, None]), [True, False, None]),
    "int8": _integers(pl.Int8, -(2**7), 2**7 - 1),
    "int16": _integers(pl.Int16, -(2**15), 2**15 - 1),
    "int32": _integers(pl.Int32, -(2**31), 2**31 - 1),
    "int64": _integers(pl.Int64, -(2**63), INT64_MAX),
    "uint8": _integers(pl.UInt8, 0, 2**8 - 1),
    "uint16": _integers(pl.UInt16, 0, 2**16 - 1),
    "uint32": _integers(pl.UInt32, 0, 2**32 - 1),
    "uint64": _integers(pl.UInt64, 0, 2**64 - 1),
    "int128": (pl.Series([DIGITS, -DIGITS, None], dtype=pl.Int128), [str(DIGITS), str(-DIGITS), None]),
    "uint128": (pl.Series([DIGITS, 0, None], dtype=pl.UInt128), [str(DIGITS), "0", None]),
    "float16": (pl.Series([65504.0, -1.5, None], dtype=pl.Float16), [65504.0, -1.5, None]),
    "float32": (pl.Series([3.4028234663852886e38, NAN, None], dtype=pl.Float32), [3.4028235e38, None, None]),
    "float64": (pl.Series([1.7976931348623157e308, 5e-324, -INF]), [1.7976931348623157e308, 5e-324, None]),
    "string": (pl.Series(['ä€😀\n"\t,', "", None]), ['ä€😀\n"\t,', "", None]),
    "binary": (pl.Series([b"\x00\xff", b"", None]), ["AP8=", "", None]),
    "categorical": (pl.Series(["a", "b", None], dtype=pl.Categorical), ["a", "b", None]),
    "enum": (pl.Series(["a", "b", None], dtype=pl.Enum(["a", "b"])), ["a", "b", None]),
    "date": (pl.Series([dt.date(1, 1, 1), dt.date(9999, 12, 31), None]), ["0001-01-01", "9999-12-31", None]),
    "far_date": (
        pl.Series([2**31 - 1, -(2**31), None], dtype=pl.Int32).cast(pl.Date),
        ["+5881580-07-11", "-5877641-06-23", None],
    ),
    "time": (
        pl.Series([dt.time(0), dt.time(23, 59, 59, 999_999), None]),
        ["00:00:00", "23:59:59.999999", None],
    ),
    "time_ns": (
        pl.Series([86_399_999_999_999, 1, None], dtype=pl.Int64).cast(pl.Time),
        ["23:59:59.999999999", "00:00:00.000000001", None],
    ),
    "stamp_ms": (_ticks([-62_135_596_800_000, 253_402_300_799_999, None], "ms"), ["0001-01-01T00:00:00", "9999-12-31T23:59:59.999", None]),
    "stamp_us": (_ticks([-1, 253_402_300_799_999_999, None], "us"), ["1969-12-31T23:59:59.999999", "9999-12-31T23:59:59.999999", None]),
    "stamp_ns": (_ticks([INT64_MAX - 1, -INT64_MAX + 1, None], "ns"), ["2262-04-11T23:47:16.854775806", "1677-09-21T00:12:43.145224194", None]),
    "far_stamp": (_ticks([INT64_MAX, -INT64_MAX, None], "us"), ["+294247-01-10T04:00:54.775807", "-290308-12-21T19:59:05.224193", None]),
    "stamp_utc": (_ticks([0, 253_402_300_799_999_999, None], "us", "UTC"), ["1970-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", None]),
    "stamp_zone": (
        _ticks([1_711_846_800_000_000, 1_729_990_800_000_000, None], "us", "Europe/Berlin"),
        ["2024-03-31T03:00:00+02:00", "2024-10-27T02:00:00+01:00", None],
    ),
    "span_us": (
        pl.Series([dt.timedelta(microseconds=-1), dt.timedelta(days=999_999), None]),
        ["-PT0.000001S", "P999999D", None],
    ),
    "span_ns": (
        pl.Series([INT64_MAX, -INT64_MAX, None], dtype=pl.Int64).cast(pl.Duration("ns")),
        ["P106751DT23H47M16.854775807S", "-P106751DT23H47M16.854775807S", None],
    ),
    "decimal": (
        pl.Series([Decimal("9999999999999999.99"), Decimal("-0.01"), None], dtype=pl.Decimal(18, 2)),
        ["9999999999999999.99", "-0.01", None],
    ),
    "wide_decimal": (
        pl.Series([Decimal(DIGITS), Decimal(-DIGITS), None], dtype=pl.Decimal(38, 0)),
        [str(DIGITS), str(-DIGITS), None],
    ),
    "fraction": (
        pl.Series([Decimal("0." + "9" * 38), Decimal("-0." + "0" * 37 + "1"), None], dtype=pl.Decimal(38, 38)),
        ["0." + "9" * 38, "-0." + "0" * 37 + "1", None],
    ),
    "list": (pl.Series([[1, None], [], None], dtype=pl.List(pl.Int64)), [[1, None], [], None]),
    "array": (pl.Series([[1, 2], [3, None], None], dtype=pl.Array(pl.Int64, 2)), [[1, 2], [3, None], None]),
    "list_list": (pl.Series([[["a"], None], [], None]), [[["a"], None], [], None]),
    "struct": (
        pl.Series([{"a": 1, "b": "x"}, {"a": None, "b": ""}, None]),
        [{"a": 1, "b": "x"}, {"a": None, "b": ""}, None],
    ),
    "list_struct": (pl.Series([[{"a": dt.date(2024, 1, 1)}], [], None]), [[{"a": "2024-01-01"}], [], None]),
    "map": (
        pl.Series([{"k": 1}, {}, None], dtype=pl.Map(pl.String, pl.Int64)),
        [[{"key": "k", "value": 1}], [], None],
    ),
    "null": (pl.Series([None, None, None], dtype=pl.Null), [None, None, None]),
}  # fmt: skip
