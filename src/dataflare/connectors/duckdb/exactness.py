"""Find values that a column of DuckDB would round or truncate without an error, so that they are
refused before they are written."""

from __future__ import annotations

import re

from dataflare.connectors.duckdb.types import declared
from dataflare.model.types import DataType

_DECIMAL = re.compile(r"DECIMAL\(\d+,\s*(\d+)\)")
_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")  # fmt: skip
_FRACTION_DIGITS = {
    "TIMESTAMP_S": 0,
    "TIMESTAMP_MS": 3,
    "TIMESTAMP": 6,
    "TIMESTAMP WITH TIME ZONE": 6,
    "TIMESTAMP_NS": 9,
}
_OFFSET = r":\d{2}(?:\.\d*)?\s*(?:[zZ]|[+-]\d{1,2}(?::?\d{2})*|[A-Za-z]{3,}\S*)\s*$"


def loss(value: str, type_: DataType, into: str) -> str | None:
    """SQL that is true if a column would change the value; None if it changes no value. value: SQL
    of the value. into: the column's declared type."""
    source = declared(type_)
    if into in (source, "VARCHAR", "JSON") or type_.name in (
        "list",
        "struct",
        "json",
        "binary",
        "null",
    ):
        return None
    if type_.name == "string":
        match = _DECIMAL.fullmatch(into)
        if match or into in _WHOLE:
            scale = int(match.group(1)) if match else 0
            return f"regexp_matches({value}, '^\\s*[+-]?\\d*\\.\\d{{{scale}}}\\d*[1-9]')"
        if into in _FRACTION_DIGITS:
            cut = rf":\d{{2}}\.\d{{{_FRACTION_DIGITS[into]}}}\d*[1-9]"
            lost = cut if into == "TIMESTAMP WITH TIME ZONE" else f"{cut}|{_OFFSET}"
            return f"regexp_matches({value}, '{lost}')"
        if into == "DATE":
            return f"try_cast({value} as TIMESTAMP) <> cast(try_cast({value} as DATE) as TIMESTAMP)"
        return None
    converted = f"try_cast({value} as {into})"
    return (
        f"({converted} is not null and try_cast({converted} as {source}) is distinct from {value})"
    )
