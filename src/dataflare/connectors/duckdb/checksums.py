"""The texts of DuckDB's values of which checksums are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dataflare.connectors.duckdb.relation import Column
from dataflare.sdk.sql.checksums import Digests
from dataflare.sdk.sql.names import quoted

_OWN = ("FLOAT", "DOUBLE", "TIME", "TIME_NS", "TIMESTAMP_NS", "INTERVAL", "UUID", "JSON")
_STAMPS = ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS")


def _concat(parts: Sequence[str]) -> str:
    return " || ".join(parts)


DIGESTS = Digests(
    concat=_concat,
    length="length({})",
    md5="md5({})",
    number="('0x' || {})::UBIGINT",
    wide="{}::HUGEINT",
    divided="{} // {}",
    text_of="({})::VARCHAR",
)


def texts(column: Column) -> Mapping[str, str]:
    """SQL by form; see `sdk.sql.checksums`."""
    if column.cast:
        return {}
    name, type_ = quoted(column.name), column.type
    plain = f"{name}::VARCHAR"
    if type_.is_integer:
        return {"int": plain}
    match type_.name:
        case "bool":
            return {"int": f"{name}::INTEGER::VARCHAR"}
        case "decimal":
            return {f"decimal {type_.scale}" if type_.scale else "int": plain}
        case "date":
            return {"date": plain}
        case "timestamp" if column.declared in _STAMPS:
            return {"timestamp": f"strftime({name}::TIMESTAMP, '%Y-%m-%d %H:%M:%S.%f')"}
        case "timestamp" if type_.timezone:
            stamp = f"strftime(make_timestamp(epoch_us({name})), '%Y-%m-%d %H:%M:%S.%f')"
            return {"instant": f"case when isfinite({name}) then {stamp} else {plain} end"}
        case "binary":
            return {"bytes": f"lower(hex({name}))"}
        case "string" if column.declared in ("VARCHAR", "UUID") or column.declared.startswith(
            "ENUM"
        ):
            return {"text": plain}
    return {f"duckdb {column.declared}": plain} if column.declared in _OWN else {}
