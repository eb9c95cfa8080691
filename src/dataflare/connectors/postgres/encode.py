"""Encode rows as CSV for COPY: columnar; the server parses each value by the type of its column.

Always true: NULL is an empty cell and empty text is `""`; a value that PostgreSQL would truncate without
an error is refused here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Literal

import polars as pl

from dataflare.connectors.postgres.types import PgType
from dataflare.errors import DataError
from dataflare.model.batch import private
from dataflare.model.types import DataType

_AD = (-719_162, 2_932_896)
"""0001-01-01 and 9999-12-31 in days: outside of these, years have a sign or an era."""
_DAY_US = 86_400_000_000


def encoded(
    frame: pl.DataFrame, types: Mapping[str, DataType], targets: Mapping[str, PgType]
) -> pl.DataFrame:
    """The columns in types for write_csv: text, numbers and bools. types: of the columns. targets:
    the types of the table's columns. Raises DataError (E0511) for nanoseconds."""
    columns = []
    for name, type_ in types.items():
        if type_.unit == "ns" or type_.name == "time":
            _refuse_nanoseconds(frame[name], type_)
        if frame.schema[name] != type_.to_polars():  # categories, arrays, narrower numbers
            frame = frame.with_columns(pl.col(name).cast(type_.to_polars()))
        columns.append(_text(pl.col(name), frame[name], type_, targets.get(name)).alias(name))
    return frame.select(columns)


def csv_bytes(frame: pl.DataFrame) -> memoryview:
    """The cells of an encoded frame."""
    out = io.BytesIO()
    # A line with only \\. would end the data; that is possible only with one column.
    style: Literal["necessary", "non_numeric"] = "non_numeric" if frame.width == 1 else "necessary"
    private(frame).write_csv(out, include_header=False, quote_style=style)
    return out.getbuffer()


def row_of_line(frame: pl.DataFrame, line: int) -> int:
    """The row of an encoded frame for a line of its CSV, both counted from 0."""
    breaks = pl.repeat(0, pl.len(), dtype=pl.UInt32)
    for name, dtype in frame.schema.items():
        if dtype == pl.String:
            breaks = breaks + pl.col(name).str.count_matches("\n", literal=True).fill_null(0)
    ends = frame.select((breaks + 1).cast(pl.Int64).cum_sum().alias("ends"))["ends"]
    return min(int((ends <= line).sum()), frame.height - 1)


def _text(column: pl.Expr, values: pl.Series, type_: DataType, target: PgType | None) -> pl.Expr:
    into = target.resolved(-1)[0].name if target is not None else ""
    match type_.name:
        case "date":
            return _era(column, values, "%Y-%m-%d", "")
        case "timestamp":
            text = "%Y-%m-%d %H:%M:%S%.6f"
            if type_.timezone is None:
                return _era(column, values, text, "")
            zoned = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
            return _era(zoned, values, text, "+00")
        case "time":
            return column.dt.to_string("%H:%M:%S%.6f")
        case "duration":
            return _clock(column.dt.cast_time_unit("us").to_physical())
        case "binary":
            return pl.lit("\\x") + column.bin.encode("hex")
        case "struct":
            return pl.when(column.is_not_null()).then(column.struct.json_encode())
        case "list":
            assert type_.item is not None
            if type_.item.name == "json" and into in ("json", "jsonb", ""):
                items = column.list.eval(pl.element().fill_null("null")).list.join(",")
                return pl.lit("[") + items + pl.lit("]")
            if into in ("json", "jsonb") or type_.item.name in ("list", "struct", "null"):
                return _json_list(column)
            return _array(column, type_.item)
        case "null":
            return column.cast(pl.String)
        case "string":
            return column.cast(pl.String)
    return column


def _era(column: pl.Expr, values: pl.Series, pattern: str, zone: str) -> pl.Expr:
    """A date or time as text; before the year 1 with BC, after 9999 without a sign."""
    usual = column.dt.to_string(pattern) + zone if zone else column.dt.to_string(pattern)
    present = values.drop_nulls()
    if not present.len():
        return usual
    days = present.dt.date().cast(pl.Int32)
    low, high = days.min(), days.max()
    assert isinstance(low, int)
    assert isinstance(high, int)
    if low >= _AD[0] and high <= _AD[1]:
        return usual
    year = column.dt.year()
    rest = column.dt.to_string(pattern.removeprefix("%Y"))
    before = pl.when(year <= 0).then(1 - year).otherwise(year)
    text = before.cast(pl.String).str.zfill(4) + rest + zone
    return pl.when(year <= 0).then(text + " BC").otherwise(text)


def _clock(us: pl.Expr) -> pl.Expr:
    """Microseconds as hours, minutes and seconds: an interval without days."""
    size = us.abs()
    seconds = size // 1_000_000
    parts = [
        pl.when(us < 0).then(pl.lit("-")).otherwise(pl.lit("")),
        (seconds // 3600).cast(pl.String),
        pl.lit(":"),
        (seconds // 60 % 60).cast(pl.String).str.zfill(2),
        pl.lit(":"),
        (seconds % 60).cast(pl.String).str.zfill(2),
        pl.lit("."),
        (size % 1_000_000).cast(pl.String).str.zfill(6),
    ]
    return pl.concat_str(parts)


def _array(column: pl.Expr, item: DataType) -> pl.Expr:
    """`{...}` with every value in quotes, except NULL."""
    element = pl.element()
    match item.name:
        case "date" | "time" | "duration" | "timestamp" | "binary":
            text = _item_text(element, item)
        case _:
            text = element.cast(pl.String)
    if item.is_text or item.name in ("null", "binary"):
        text = text.str.replace_all("\\", "\\\\", literal=True).str.replace_all(
            '"', '\\"', literal=True
        )
    quoted = pl.lit('"') + text + pl.lit('"')
    items = column.list.eval(quoted.fill_null("NULL")).list.join(",")
    return pl.lit("{") + items + pl.lit("}")


def _item_text(element: pl.Expr, item: DataType) -> pl.Expr:
    # Years outside 1 to 9999 in arrays are not handled here: the server refuses the row.
    match item.name:
        case "date":
            return element.dt.to_string("%Y-%m-%d")
        case "time":
            return element.dt.to_string("%H:%M:%S%.6f")
        case "duration":
            return _clock(element.dt.cast_time_unit("us").to_physical())
        case "binary":
            return pl.lit("\\x") + element.bin.encode("hex")
    pattern = "%Y-%m-%d %H:%M:%S%.6f"
    if item.timezone is None:
        return element.dt.to_string(pattern)
    return element.dt.convert_time_zone("UTC").dt.to_string(pattern) + "+00"


def _json_list(column: pl.Expr) -> pl.Expr:
    # Polars encodes only structs, so the list is wrapped in one.
    text = pl.struct(column.alias("v")).struct.json_encode()
    return pl.when(column.is_not_null()).then(text.str.slice(5).str.strip_suffix("}"))


def _refuse_nanoseconds(values: pl.Series, type_: DataType) -> None:
    if type_.name == "list":
        return
    odd = values.to_physical() % 1_000 != 0
    if odd.any():
        row = odd.arg_true()[0]
        value_text = (
            values[[row]].cast(pl.String)[0] if type_.name != "duration" else values[[row]][0]
        )
        raise DataError(
            f"column '{values.name}' has a value with nanoseconds, {value_text}, and PostgreSQL keeps "
            "microseconds",
            code="E0511",
            help=f"cut them with map: derive: {{{values.name}: date_trunc('microseconds', "
            f"{values.name})}}"
            if type_.name == "timestamp"
            else None,
        )
