"""Encode rows as CSV for LOAD DATA, or as the lists of values of INSERT: columnar; the server parses each value by the
type of its column, and has the same text for it in both.

Always true: in CSV NULL is the bare word NULL, and text is in quotes, so the text "NULL" is a text; there is no
character that escapes another, except a doubled quote in quotes. In an INSERT text is written in hexadecimal digits.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import polars as pl

from dataflare.connectors.mysql.types import Declared
from dataflare.model.batch import private
from dataflare.model.types import DataType
from dataflare.sdk.sql.names import quoted

FORM = (
    "character set utf8mb4 fields terminated by ',' optionally enclosed by '\"' escaped by '' "
    "lines terminated by '\\n'"
)


def csv_bytes(frame: pl.DataFrame, types: Mapping[str, DataType]) -> memoryview:
    """The rows as the server reads them. types: of the columns, in the order of the statement."""
    out = io.BytesIO()
    private(_cells(frame, types)).write_csv(
        out, include_header=False, quote_style="non_numeric", null_value="NULL"
    )
    return out.getbuffer()


def value_lists(frame: pl.DataFrame, types: Mapping[str, DataType]) -> pl.Series:
    """For each row, its values in the form of INSERT. types: of the columns, in the order of the statement."""
    cells = _cells(frame, types)
    values = [_literal(pl.col(n), cells.schema[n], t) for n, t in types.items()]
    return cells.select(pl.format("({})", pl.concat_str(values, separator=",")).alias("row"))["row"]


def _literal(cell: pl.Expr, dtype: pl.DataType, type_: DataType) -> pl.Expr:
    """Whole numbers as they are; bytes and text in hexadecimal digits, as the text that LOAD DATA would send."""
    if dtype.is_integer():
        text = cell.cast(pl.String)
    elif type_.name == "binary":
        text = pl.format("x'{}'", cell)
    else:
        text = pl.format("_utf8mb4 x'{}'", cell.cast(pl.String).str.encode("hex"))
    return text.fill_null("null")


def _cells(frame: pl.DataFrame, types: Mapping[str, DataType]) -> pl.DataFrame:
    return frame.select(_cell(pl.col(n), frame.schema[n], t).alias(n) for n, t in types.items())


def into(types: Mapping[str, DataType], columns: Mapping[str, Declared]) -> str:
    """The columns of LOAD DATA, with SET for those that need a function. columns: of the table, by their
    folded names."""
    names, sets = [], []
    for at, (name, type_) in enumerate(types.items()):
        declared = columns.get(name.casefold())
        if type_.name == "binary":
            names.append(f"@v{at}")
            sets.append(f"{quoted(name)} = unhex(@v{at})")
        elif declared is not None and declared.name == "bit":
            names.append(f"@v{at}")
            sets.append(f"{quoted(name)} = cast(@v{at} as unsigned)")
        else:
            names.append(quoted(name))
    return f"({', '.join(names)})" + (f" set {', '.join(sets)}" if sets else "")


def _cell(column: pl.Expr, dtype: pl.DataType, type_: DataType) -> pl.Expr:
    if dtype != type_.to_polars():  # categories, arrays, narrower numbers
        column = column.cast(type_.to_polars())
    match type_.name:
        case "bool":
            return column.cast(pl.UInt8)
        case "date":
            return column.dt.to_string("%Y-%m-%d")
        case "timestamp":
            if type_.timezone is not None:
                column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
            return column.dt.to_string("%Y-%m-%d %H:%M:%S%.6f")
        case "time":
            return column.dt.to_string("%H:%M:%S%.6f")
        case "duration":
            return clock(column.dt.cast_time_unit("us").to_physical())
        case "binary":
            return column.bin.encode("hex")
        case "decimal" | "null":
            return column.cast(pl.String)
        case "struct":
            return pl.when(column.is_not_null()).then(column.struct.json_encode())
        case "list":
            # Polars encodes only structs, so the list is wrapped in one.
            text = pl.struct(column.alias("v")).struct.json_encode()
            return pl.when(column.is_not_null()).then(text.str.slice(5).str.strip_suffix("}"))
    return column


def clock(us: pl.Expr) -> pl.Expr:
    """Microseconds as hours, minutes and seconds."""
    size = us.abs()
    seconds = size // 1_000_000
    return pl.concat_str(
        pl.when(us < 0).then(pl.lit("-")).otherwise(pl.lit("")),
        (seconds // 3600).cast(pl.String).str.zfill(2), pl.lit(":"),
        (seconds // 60 % 60).cast(pl.String).str.zfill(2), pl.lit(":"),
        (seconds % 60).cast(pl.String).str.zfill(2), pl.lit("."),
        (size % 1_000_000).cast(pl.String).str.zfill(6),
    )  # fmt: skip
