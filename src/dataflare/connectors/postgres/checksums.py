"""The texts of PostgreSQL's values of which checksums are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dataflare.connectors.postgres.relation import Column
from dataflare.sdk.sql.checksums import Digests
from dataflare.sdk.sql.names import quoted

_STAMP = (
    "case when {0} >= '0001-01-01' and {0} < '10000-01-01' "
    "then to_char({0}, 'YYYY-MM-DD HH24:MI:SS.US') else ({0})::text end"
)


def _concat(parts: Sequence[str]) -> str:
    return " || ".join(parts)


DIGESTS = Digests(
    concat=_concat,
    length="char_length({})",
    md5="md5({})",
    number="('x0' || {})::bit(64)::bigint",
    wide="{}::bigint",
    divided="{} / {}",
    text_of="({})::text",
    once=" offset 0",
    own=("hashtextextended(m, 0)", "hashtextextended(m, 1)"),
)


def texts(column: Column) -> Mapping[str, str]:
    """SQL by form; see `sdk.sql.checksums`. Text of the transaction's settings: ISO dates, floats with all digits."""
    if column.as_text:
        return {}
    name = quoted(column.name)
    own = {f"postgres {column.pg}": f"{name}::text"}
    match column.base:
        case "bool":
            return {"int": f"{name}::int::text"}
        case "int2" | "int4" | "int8" | "oid":
            return {"int": f"{name}::text"}
        case "date":
            return {"date": f"{name}::text"}
        case "timestamp":
            return {"timestamp": _STAMP.format(name)}
        case "timestamptz":
            return {"instant": _STAMP.format(f"({name} at time zone 'UTC')")}
        case "bytea":
            return {"bytes": f"encode({name}, 'hex')"}
        case "numeric":
            # Of a column without a scale, equal numbers have different texts: they are read.
            return {**_decimal(column, name), **own}
        case "bpchar":
            return {}
    if column.type.name == "string":
        return {"text": f"{name}::text"}
    return own


def own_text(columns: Sequence[Column]) -> tuple[str, str] | None:
    """The text of a row as PostgreSQL writes it, which quotes each value; the same for the same types."""
    if any(column.as_text for column in columns):
        return None
    names = ", ".join(quoted(column.name) for column in columns)
    return f"row({names})::text", ", ".join(column.pg for column in columns)


def _decimal(column: Column, name: str) -> Mapping[str, str]:
    if not column.exact:
        return {}
    form = "int" if not column.type.scale else f"decimal {column.type.scale}"
    return {form: f"{name}::text"}
