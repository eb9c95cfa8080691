"""Values that a column of DuckDB would round or cut without a word: refused before they are written."""

from __future__ import annotations

import re

from dataflare.connectors.duckdb.types import declared
from dataflare.model.types import DataType

_DECIMAL = re.compile(r"DECIMAL\(\d+,\s*(\d+)\)")
_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")  # fmt: skip


def loss(value: str, type_: DataType, into: str) -> str | None:
    """SQL that is true where a value changes on its way into a column; None where none does. value:
    SQL of the value. into: the column's declared type."""
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
        found = _DECIMAL.fullmatch(into)
        if found or into in _WHOLE:
            scale = int(found.group(1)) if found else 0
            return f"regexp_matches({value}, '^\\s*[+-]?\\d*\\.\\d{{{scale}}}\\d*[1-9]')"
        if into == "DATE":
            return f"try_cast({value} as TIMESTAMP) <> cast(try_cast({value} as DATE) as TIMESTAMP)"
        return None
    made = f"try_cast({value} as {into})"
    return f"({made} is not null and try_cast({made} as {source}) is distinct from {value})"
