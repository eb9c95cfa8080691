"""DuckDB as the judge: the same expression over the same rows, there and here."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

import duckdb
import polars as pl

from dataflare.expr import check
from dataflare.model.types import Schema

ERROR = "ERROR"

COLUMNS = {
    "i8": "int8", "j8": "int8", "u8": "uint8", "i32": "int32", "j32": "int32", "i64": "int64",
    "j64": "int64", "f": "float64", "g": "float64", "h": "float32", "dec": "decimal(10, 2)",
    "dek": "decimal(18, 4)", "s": "string", "r": "string", "p": "bool", "q": "bool", "d": "date",
    "e": "date", "ts": "timestamp[us]", "tt": "timestamp[us]", "tz": "timestamp[us, UTC]",
    "i16": "int16", "u16": "uint16", "u32": "uint32", "u64": "uint64", "b": "binary", "tm": "time",
    "js": "json", "li": "list<int64>", "lt": "list<string>", "st": "struct<a: int64, b: string>",
    "t3": "timestamp[ms]", "t9": "timestamp[ns]", "du": "duration[us]", "nu": "null",
}  # fmt: skip
SCHEMA = Schema.of(COLUMNS)

_RETYPED = "CAST(js AS JSON) AS js, CAST(tm AS TIME) AS tm"
"""Types that Arrow gives DuckDB in another way."""

NEARLY = (
    "exp", "ln", "log", "log10", "log2", "cbrt", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh",
    "cosh", "tanh", "power", "list_avg",
)  # fmt: skip
"""Functions whose last digits depend on the library that computes them. All others are compared
exactly."""
_NEARLY = re.compile(rf"\b({'|'.join(NEARLY)})\(")

_connection: Any = None


def connection() -> Any:
    global _connection
    if _connection is None:
        _connection = duckdb.connect()
        _connection.execute("SET TimeZone = 'UTC'")
        names = _connection.execute("SELECT name FROM duckdb_optimizers()").fetchall()
        off = ",".join(name for (name,) in names)
        _connection.execute(f"SET disabled_optimizers = '{off}'")
        _connection.execute("SET threads = 1")
    return _connection


def close() -> None:
    global _connection
    if _connection is not None:
        _connection.close()
        _connection = None


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA.to_polars(), orient="row")


def duckdb_values(text: str, data: pl.DataFrame) -> list[Any]:
    """DuckDB's answer for each row; ERROR for a row that it refuses."""
    try:
        return _duckdb(text, data)
    except (duckdb.Error, UnicodeDecodeError) as error:  # the latter from a cut error message
        if isinstance(
            error, duckdb.BinderException | duckdb.CatalogException | duckdb.ParserException
        ):
            raise
        if data.height == 1:
            return [ERROR]
        half = data.height // 2
        return duckdb_values(text, data[:half]) + duckdb_values(text, data[half:])


def _duckdb(text: str, data: pl.DataFrame) -> list[Any]:
    database = connection()
    database.register("given", data.to_arrow())
    rows = f"(SELECT * REPLACE ({_RETYPED}) FROM given)"
    made = pl.from_arrow(database.sql(f"SELECT {text} AS x FROM {rows}").to_arrow_table())
    assert isinstance(made, pl.DataFrame)
    return _values(made["x"])


def _values(column: pl.Series) -> list[Any]:
    """The values; of times that Python does not reach, the ticks."""
    try:
        return column.to_list()
    except (ValueError, OverflowError, pl.exceptions.PanicException):
        return [_value(column[[row]]) for row in range(column.len())]


def _value(one: pl.Series) -> Any:
    try:
        return one.item()
    except (ValueError, OverflowError, pl.exceptions.PanicException):
        return one.to_physical().item()


def our_values(text: str, data: pl.DataFrame) -> list[Any]:
    """Our answer for each row; ERROR where the mask is set. Checks the promised type as well."""
    typed = check(text, SCHEMA)
    lowered = typed.lower()
    none = pl.lit(None, dtype=pl.UInt8)
    out = (
        data.lazy()
        .select(
            [
                pl.lit(0).alias("__length"),
                lowered.value.alias("x"),
                (none if lowered.error is None else lowered.error).alias("e"),
            ]
            if data.height == 1
            else [
                pl.int_range(pl.len()).alias("__length"),
                lowered.value.alias("x"),
                (none if lowered.error is None else lowered.error).alias("e"),
            ]
        )
        .collect()
    )
    assert out["x"].dtype == typed.type.to_polars(), f"{text}: {out['x'].dtype} is not {typed.type}"
    assert out["e"].dtype == pl.UInt8
    return [
        ERROR if error is not None else value
        for value, error in zip(_values(out["x"]), out["e"].to_list(), strict=True)
    ]


def same(ours: Any, theirs: Any, *, nearly: bool = False) -> bool:
    """Equal; with `nearly`, floats may differ in their last digits. DuckDB shows the sign of a NaN,
    which means nothing."""
    if ours is None or theirs is None:
        return ours is theirs
    if isinstance(ours, str) or isinstance(theirs, str):
        return bool(ours == theirs) or (
            isinstance(theirs, str) and ours == theirs.replace("-nan", "nan")
        )
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(
            same(a, b, nearly=nearly) for a, b in zip(ours, theirs, strict=True)
        )
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(
            same(ours[k], theirs[k], nearly=nearly) for k in ours
        )
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    if isinstance(ours, float) and isinstance(theirs, float):
        return _same_float(ours, theirs, nearly=nearly)
    if isinstance(theirs, Decimal) and isinstance(ours, int):  # DuckDB's integers of 128 bits
        return ours == theirs
    return type(ours) is type(theirs) and bool(ours == theirs)


def _same_float(a: float, b: float, *, nearly: bool) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    if nearly:
        return a == b or math.isclose(a, b, rel_tol=1e-8, abs_tol=1e-12)
    return a == b and math.copysign(1, a) == math.copysign(1, b)


def differences(text: str, data: pl.DataFrame, *, lenient: bool = False) -> list[str]:
    """A line for each row that differs.

    lenient: DuckDB does not evaluate the other arguments of an operation when the first is NULL for
    the whole vector, so for single rows its NULL may stand against our error.
    """
    ours, theirs = our_values(text, data), duckdb_values(text, data)
    nearly = _NEARLY.search(text) is not None
    if lenient and ERROR in ours:
        theirs = [a if b is None and a == ERROR else b for a, b in zip(ours, theirs, strict=True)]
    named = set(re.findall(r"\w+", text))
    shown = data.select(name for name in data.columns if name in named)
    rows = shown.to_dicts() if shown.width else [{}] * data.height
    return [
        f"{text}\n  row {row}\n  here {a!r}, DuckDB {b!r}"
        for a, b, row in zip(ours, theirs, rows, strict=True)
        if not same(a, b, nearly=nearly)
    ]
