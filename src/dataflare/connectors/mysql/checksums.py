"""The texts of MySQL's and MariaDB's values of which checksums are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dataflare.connectors.mysql.relation import Column, backticked
from dataflare.sdk.sql.checksums import Digests


def _concat(parts: Sequence[str]) -> str:
    return f"concat({', '.join(parts)})"


DIGESTS = Digests(
    concat=_concat,
    length="char_length({})",
    md5="md5({})",
    number="cast(conv({}, 16, 10) as unsigned)",
    wide="cast({} as signed)",
    divided="{} div {}",
    text_of="cast({} as char)",
)


def texts(column: Column) -> Mapping[str, str]:
    """SQL by form; see `sdk.sql.checksums`. A text is told from NULL by itself: `is null` is true for the date
    0000-00-00. Floats have no text with all digits."""
    if column.as_text:
        return {}
    name, type_ = backticked(column.name), column.type
    plain = f"cast({name} as char)"
    if type_.is_integer or type_.name == "bool":
        return {"int": f"cast({column.selected()} as char)"}
    match type_.name:
        case "decimal":
            return {f"decimal {type_.scale}" if type_.scale else "int": plain}
        case "date":
            return {"date": plain}
        case "timestamp":
            stamp = f"date_format({name}, '%Y-%m-%d %H:%i:%s.%f')"
            return {"instant" if type_.timezone else "timestamp": stamp}
        case "binary":
            return {"bytes": f"lower(hex({name}))"}
        case "string":
            return {"text": f"convert({name} using utf8mb4)"}
    return {}
