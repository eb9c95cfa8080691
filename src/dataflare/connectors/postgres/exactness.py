"""Refuse values that a column of PostgreSQL would round or truncate without an error, before they
are sent.

Always true: a value that passes here, and that the server accepts, is in the table with all its digits.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from msgspec import Struct

from dataflare.connectors.postgres.catalog import Table
from dataflare.connectors.postgres.types import PgType
from dataflare.errors import DataError
from dataflare.formats.json_values import repeated_key
from dataflare.model.types import DataType
from dataflare.sdk.sql.exactness import beyond_float, fraction_of, loses_scale

_OFFSET = r":\d{2}(?:\.\d*)?\s*(?:[zZ]|[+-]\d{1,2}(?::?\d{2})*|[A-Za-z]{3,}\S*)\s*$"
"""An offset or the name of a zone; AM, PM, BC and AD have two letters."""
_TIME_OF_DAY = r"[T\s]\d*[1-9]\d*:|:\d*[1-9]|:\d{2}\.\d*[1-9]"


_JSON_KEY = r'"(?:[^"\\]|\\.)*"\s*:'


class Limit(Struct, frozen=True):
    """The precision of a column.

    kind: numeric, timestamp, time, date, float4, float8, jsonb, varchar
    or name. digits: after the point; of a
    varchar, its characters; of a name, its bytes.
    """

    kind: str
    digits: int
    label: str


def limits(table: Table) -> dict[str, Limit]:
    """The limits of the columns that may round or truncate."""
    limits_ = {n: _limit(c.type, c.modifier, c.label) for n, c in table.columns.items()}
    return {name: limit for name, limit in limits_.items() if limit is not None}


def _limit(type_: PgType, modifier: int, label: str) -> Limit | None:
    inner, digits = type_.resolved(modifier)
    name = inner.item.name if inner.item is not None else inner.name
    match name:
        case "numeric" if digits >= 4:
            scale = (digits - 4) & 0x7FF
            return Limit("numeric", scale - 2048 if scale >= 1024 else scale, label)
        case "timestamp" | "timestamptz" | "time" | "timetz":
            kind = "timestamp" if name == "timestamp" else "time"
            return Limit(kind, digits if digits >= 0 else 6, label)
        case "date":
            return Limit("date", 0, label)
        case "jsonb":
            return Limit("jsonb", 0, label)
        case "varchar" if digits >= 4:
            return Limit("varchar", digits - 4, label)
        case "name" | "char":
            return Limit("name", 63 if name == "name" else 1, label)
        case "interval" if digits >= 0 and digits & 0xFFFF <= 6:
            return Limit("time", digits & 0xFFFF, label)
        case "float4" | "float8":
            return Limit(name, 0, label)
    return None


def refuse_loss(
    frame: pl.DataFrame, types: Mapping[str, DataType], limits: Mapping[str, Limit]
) -> None:
    """Raises DataError (E0511) for the first value that would be rounded or cut."""
    for name, type_ in types.items():
        limit = limits.get(name)
        if limit is None:
            continue
        values = frame[name]
        while type_.name == "list" and type_.item is not None:
            values, type_ = values.explode(), type_.item
        is_lossy = _is_lossy(pl.col(values.name), type_, limit)
        if is_lossy is None:
            continue
        places = values.to_frame().select(is_lossy.alias("lost"))["lost"].arg_true()
        if places.len():
            at = int(places[0])
            value_text = (
                values[[at]].cast(pl.String)[0] if values.dtype != pl.Duration else values[at]
            )
            verb = "cut" if type_.is_text and limit.kind != "numeric" else "round"
            value_text = repr(value_text) if verb == "cut" else value_text
            raise DataError(
                f"column '{name}' is {limit.label}, which would {verb} {value_text}",
                code="E0511",
                help=f"round it with map: derive: {{{name}: round({name}, {max(limit.digits, 0)})}}, or "
                "declare the column wider"
                if limit.kind == "numeric"
                else "declare the column as json, which keeps the text, or give each key once"
                if limit.kind == "jsonb"
                else f"convert it with map: cast: {{{name}: ...}}, or declare the column wider",
            )


def _is_lossy(value: pl.Expr, type_: DataType, limit: Limit) -> pl.Expr | None:
    """Which values would be rounded or cut; None where none can be."""
    if type_.is_text and limit.kind != "numeric":
        return _cut(value, limit)
    match limit.kind:
        case "numeric":
            return loses_scale(value, type_, limit.digits)
        case "time" | "timestamp" if type_.is_temporal and type_.name != "date":
            # `encode` refuses nanoseconds.
            return None if limit.digits >= 6 else fraction_of(value, type_, limit.digits)
        case "float4" | "float8":
            return beyond_float(value, type_, limit.kind)
    return None


def _cut(value: pl.Expr, limit: Limit) -> pl.Expr | None:
    """Which text would lose a part: the server reads it as the column's type, and drops the rest."""
    match limit.kind:
        case "varchar":  # longer text is an error of the server, except for blanks at its end
            bare = value.str.strip_chars_end(" ").str.len_chars()
            return (value.str.len_chars() > limit.digits) & (bare <= limit.digits)
        case "jsonb":  # the server keeps the last value of a repeated key
            keys = value.str.extract_all(_JSON_KEY)
            keys = keys.list.eval(pl.element().str.replace(r"\s*:$", ""))
            doubtful = pl.when(keys.list.len() != keys.list.n_unique()).then(value)
            return doubtful.map_batches(_repeats_a_key, return_dtype=pl.Boolean)
        case "name":
            return value.str.len_bytes() > limit.digits
        case "date":
            return value.str.contains(_TIME_OF_DAY)
        case "time" | "timestamp":
            cut = value.str.contains(rf":\d{{2}}\.\d{{{limit.digits}}}\d*[1-9]")
            return cut | value.str.contains(_OFFSET) if limit.kind == "timestamp" else cut
    return None


def _repeats_a_key(texts: pl.Series) -> pl.Series:
    """Whether an object has a key twice. Objects beside each other may have the same keys."""
    if texts.null_count() == texts.len():
        return pl.Series(texts.name, [False], dtype=pl.Boolean).new_from_index(0, texts.len())
    found = [text is not None and repeated_key(text.encode()) is not None for text in texts]
    return pl.Series(texts.name, found, dtype=pl.Boolean)
