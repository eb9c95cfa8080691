"""DuckDB as the judge: the same expression over the same rows, there and here."""

from __future__ import annotations

import math
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
}  # fmt: skip
SCHEMA = Schema.of(COLUMNS)

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
    database.register("rows", data.to_arrow())
    made = pl.from_arrow(database.sql(f"SELECT {text} AS x FROM rows").to_arrow_table())
    assert isinstance(made, pl.DataFrame)
    return made["x"].to_list()


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
        for value, error in zip(out["x"].to_list(), out["e"].to_list(), strict=True)
    ]


def same(ours: Any, theirs: Any) -> bool:
    """Equal, floats nearly. DuckDB shows the sign of a NaN, which means nothing."""
    if ours is None or theirs is None:
        return ours is theirs
    if isinstance(ours, str) or isinstance(theirs, str):
        return bool(ours == theirs) or (
            isinstance(theirs, str) and ours == theirs.replace("-nan", "nan")
        )
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    if isinstance(ours, float) or isinstance(theirs, float):
        return _close(float(ours), float(theirs))
    return bool(ours == theirs)


def _close(a: float, b: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    if math.isinf(a) or math.isinf(b):
        return a == b
    return math.isclose(a, b, rel_tol=1e-8, abs_tol=1e-12)


def differences(text: str, data: pl.DataFrame, *, lenient: bool = False) -> list[str]:
    """A line for each row that differs.

    lenient: DuckDB does not evaluate the other arguments of an operation when the first is NULL for
    the whole vector, so for single rows its NULL may stand against our error.
    """
    ours, theirs = our_values(text, data), duckdb_values(text, data)
    if lenient and ERROR in ours:
        theirs = [a if b is None and a == ERROR else b for a, b in zip(ours, theirs, strict=True)]
    return [
        f"{text}\n  row {row}\n  here {a!r}, DuckDB {b!r}"
        for a, b, row in zip(ours, theirs, data.to_dicts(), strict=True)
        if not same(a, b)
    ]
