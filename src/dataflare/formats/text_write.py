"""Rows to CSV, NDJSON and JSON text, columnar.

Always true: timestamps become RFC 3339 (without an offset if they have no zone; a year beyond 9999
has a sign), decimals text, binary base64; NaN and NULL are null, and so is infinity in JSON, which
cannot express it. In CSV an empty cell is NULL, `""` is the empty string, and lists and structs are
JSON text.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec
import polars as pl
from msgspec import Struct

from dataflare.errors import DataError
from dataflare.formats.far_times import (
    beyond_python,
    far_columns,
    finer_than_python,
    near_only,
    text_of,
)
from dataflare.model.batch import few_rows, private
from dataflare.model.types import RESERVED, DataType, Schema

_ALIKE = (
    pl.String,
    pl.Boolean,
    pl.Int64,
    pl.Int32,
    pl.Int16,
    pl.Int8,
    pl.UInt64,
    pl.UInt32,
    pl.UInt16,
    pl.UInt8,
)
_ALIKE_MAX = 1e15
_SECONDS = "%Y-%m-%dT%H:%M:%S%.f"


class CsvText(Struct, frozen=True):
    """How to write CSV. null: the text of NULL. step: the writing one, for errors."""

    delimiter: str = ","
    null: str = ""
    step: str | None = None
    between: ClassVar[bytes] = b""
    end: ClassVar[bytes] = b""

    def header(self, schema: Schema) -> bytes:
        if any("\0" in name for name in schema.names):
            raise DataError(
                "the name of a column contains a NUL character, which CSV cannot hold",
                code="E0504",
                step=self.step,
                help="rename the column, or write NDJSON or Parquet",
            )
        return self._write(pl.DataFrame(schema=dict.fromkeys(schema.names, pl.String)), True)

    def encode(self, frame: pl.DataFrame) -> bytes:
        schema = Schema.from_polars(frame.schema)
        far = far_columns(frame, schema)
        cells = frame.select(_as_cells(f.name, f.type, far=f.name in far) for f in schema)
        data = self._write(cells, False)
        if b"\0" in data:
            raise _nul_character(cells, self.step)
        return data

    def _write(self, frame: pl.DataFrame, header: bool) -> bytes:
        out = io.BytesIO()
        private(frame).write_csv(
            out, include_header=header, separator=self.delimiter, null_value=self.null or None
        )
        return out.getvalue()


def _nul_character(cells: pl.DataFrame, step: str | None) -> DataError:
    """The error for the first column with NUL: readers of CSV take it for a broken or a binary file."""
    texts = cells.select(pl.selectors.string())
    name = next((c.name for c in texts if c.str.contains("\0", literal=True).any()), None)
    return DataError(
        f"a text in column '{name}' contains a NUL character, which CSV cannot hold",
        code="E0504",
        step=step,
        help=f"take it out before: replace({name}, chr(0), ''); or write NDJSON or Parquet, which hold it",
    )


class NdjsonText:
    """One JSON object a line."""

    between = end = b""

    def header(self, schema: Schema) -> bytes:
        return b""

    def encode(self, frame: pl.DataFrame) -> bytes:
        out = io.BytesIO()
        self._plain(frame).sink_ndjson(out)  # a fifth less work than write_ndjson
        return out.getvalue()

    def objects(self, frame: pl.DataFrame) -> list[bytes]:
        """The same objects, byte for byte, of few rows, most often without what a query costs."""
        plain_frame = frame
        if not all(map(_is_same_in_python, frame.iter_columns())):
            plain_frame = few_rows(self._plain(frame))
            if not all(map(_is_same_in_python, plain_frame.iter_columns())):
                return self.encode(frame).split(b"\n")[: frame.height]
        return [_as_json(row) for row in plain_frame.iter_rows(named=True)]

    def _plain(self, frame: pl.DataFrame) -> pl.LazyFrame:
        schema = Schema.from_polars(frame.schema)
        far = far_columns(frame, schema)
        cells = (plain(pl.col(f.name), f.type, far=f.name in far).alias(f.name) for f in schema)
        return frame.lazy().select(cells)


class JsonText:
    """One array of objects, each on a line of its own."""

    between, end = b",\n", b"\n]\n"

    def header(self, schema: Schema) -> bytes:
        return b"[\n"

    def encode(self, frame: pl.DataFrame) -> bytes:
        # Inside a text a line feed is escaped as \\n, so each line feed here ends a row.
        return NdjsonText().encode(frame)[:-1].replace(b"\n", self.between)


_as_json = msgspec.json.Encoder().encode


def _is_same_in_python(column: pl.Series) -> bool:
    """Whether Polars and msgspec write its values alike. Large floats have another exponent."""
    dtype = column.dtype
    if dtype == pl.Float64:
        # Told without a query: a sum is finite only if all numbers are.
        least: Any = column.min()
        most: Any = column.max()
        if least is None:
            return True
        return math.isfinite(column.sum()) and max(-least, most) < _ALIKE_MAX
    return dtype in _ALIKE


def _as_cells(name: str, type_: DataType, *, far: bool) -> pl.Expr:
    value = plain(pl.col(name), type_, far=far)
    if type_.name not in ("list", "struct"):
        return value.alias(name)
    return json_text(value).alias(name)


def json_text(value: pl.Expr) -> pl.Expr:
    """Lists and structs as JSON, NULL as NULL."""
    wrapped = pl.struct(value.alias("v")).struct.json_encode()
    return pl.when(value.is_not_null()).then(wrapped.str.slice(5, wrapped.str.len_chars() - 6))


def plain(value: pl.Expr, type_: DataType, *, far: bool = False, keep_nan: bool = False) -> pl.Expr:
    """The value in the few types that JSON has, at every depth. far: some dates or times are
    outside of the range that Polars formats; if false, there must be none. keep_nan: NaN stays, which JSON lacks."""
    match type_.name:
        case "float64" | "float32":
            return value if keep_nan else value.fill_nan(None)
        case "date" | "timestamp" | "duration":
            if far:
                return text_of(value, type_, _formatted(near_only(value, type_), type_))
            return _formatted(value, type_)
        case "time":
            return value.dt.to_string("%H:%M:%S%.f")
        case "decimal":
            return value.cast(pl.String)
        case "binary":
            return value.bin.encode("base64")
        case "null":
            return value.cast(pl.String)
        case "list":
            assert type_.item is not None
            item = plain(pl.element(), type_.item, far=far, keep_nan=keep_nan)
            return value if _is_plain(type_.item) else value.list.eval(item)
        case "struct":
            odd = [f for f in type_.fields if not _is_plain(f.type)]
            if not odd:
                return value
            return value.struct.with_fields(
                plain(pl.field(f.name), f.type, far=far, keep_nan=keep_nan).alias(f.name)
                for f in odd
            )
    return value if type_.name != "json" else value.cast(pl.String)


def _formatted(value: pl.Expr, type_: DataType) -> pl.Expr:
    if type_.name == "date":
        return value.dt.to_string("%Y-%m-%d")
    return value.dt.to_string("iso" if type_.name == "duration" else _stamp_format(type_))


def for_python(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows with values that Python can represent: columns with nanoseconds, or with a date or time
    outside of the years 1 to 9999, become text."""
    schema = Schema.from_polars(
        {name: dtype for name, dtype in frame.schema.items() if not name.startswith(RESERVED)}
    )
    far = beyond_python(frame, schema) | finer_than_python(frame, schema)
    return frame.with_columns(
        plain(pl.col(f.name), f.type, far=True, keep_nan=True).alias(f.name)
        for f in schema
        if f.name in far
    )


def python_rows(frame: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows as `for_python` gives them. Rows go through Python only this way, because `iter_rows` of Polars cuts
    nanoseconds."""
    return for_python(frame).iter_rows(named=True)


def python_row(frame: pl.DataFrame, row: int = 0) -> dict[str, Any]:
    """One row as `for_python` gives it."""
    return for_python(frame[[row]]).row(0, named=True)


def _is_plain(type_: DataType) -> bool:
    if type_.name == "list":
        return type_.item is not None and _is_plain(type_.item)
    if type_.name == "struct":
        return all(_is_plain(f.type) for f in type_.fields)
    return type_.is_text or type_.is_integer or type_.name == "bool"


def _stamp_format(type_: DataType) -> str:
    if type_.timezone is None:
        return _SECONDS
    return _SECONDS + ("Z" if type_.timezone == "UTC" else "%:z")


TextFormat = CsvText | NdjsonText | JsonText
"""between: the bytes before rows that are not the first; end: the last bytes of a file."""
