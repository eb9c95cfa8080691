"""Lines of JSON objects to rows: one lazy query per chunk of whole lines.

Always true: a key a line lacks is NULL; a key that no sampled line had is left out; the first of
two equal keys in a line counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
import polars as pl

from dataflare.formats.misread import RAW_MAX, Misread, Sorted, misfit
from dataflare.formats.text_types import TextColumn, infer, strict
from dataflare.model.types import BOOL, FLOAT64, INT64, STRING, DataType, Field, Schema

_PLAIN = {"int64": pl.Int64, "uint64": pl.UInt64, "float64": pl.Float64, "bool": pl.Boolean}


@dataclass(frozen=True, slots=True)
class NdjsonPlan:
    """columns: the sample's. output: names wanted, in the order wanted."""

    columns: tuple[TextColumn, ...]
    output: tuple[str, ...]

    @property
    def _read(self) -> list[TextColumn]:
        wanted = set(self.output)
        return [column for column in self.columns if column.name in wanted]

    def scan(self, data: bytes, *, regular: bool = False) -> pl.LazyFrame:
        """The quick way. Raises a Polars error when collected, for a chunk with bad rows."""
        schema = {column.name: _parsed(column.type) for column in self._read}
        frame = pl.scan_ndjson(data, schema=schema)
        made = {c.name: expr for c in self._read if (expr := _convert(c)) is not None}
        return frame.with_columns(**made).select(self.output)

    def start_of_row(self, data: bytes, row: int) -> int:
        """Where in the chunk row `row` begins."""
        return self._lines(data)[row][0]

    def _lines(self, data: bytes) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        place = 0
        for line in data.split(b"\n"):
            if line.strip():
                found.append((place, line))
            place += len(line) + 1
        return found

    def salvage(self, data: bytes, place_at: Callable[[int], str]) -> Sorted:
        """The patient way, line by line: every row that can be read, every bad one named."""
        lines = self._lines(data)
        bad: dict[int, tuple[str, str]] = {}
        for row, (_, line) in enumerate(lines):
            problem = self._problem(line)
            if problem is not None:
                bad[row] = problem
        kept = [row for row in range(len(lines)) if row not in bad]
        good, kept = self._sort_out(lines, kept, bad)
        return Sorted(
            good=good,
            good_rows=pl.Series("row", kept, dtype=pl.Int64),
            bad=[
                Misread(
                    row,
                    code,
                    message,
                    lines[row][1].rstrip(b"\r")[:RAW_MAX].decode(errors="replace"),
                    place_at(lines[row][0]),
                )
                for row, (code, message) in sorted(bad.items())
            ],
        )

    def _sort_out(
        self, lines: Sequence[tuple[int, bytes]], kept: list[int], bad: dict[int, tuple[str, str]]
    ) -> tuple[pl.DataFrame, list[int]]:
        """The kept lines as rows. Lines that pass our check and fail Polars' are found by halving."""
        if not kept:
            return self.scan(b"").collect(), []
        try:
            return self.scan(b"\n".join(lines[row][1] for row in kept)).collect(), kept
        except pl.exceptions.PolarsError as error:
            if len(kept) == 1:
                bad[kept[0]] = ("E0501", str(error).splitlines()[0])
                return self.scan(b"").collect(), []
        half = len(kept) // 2
        first, first_kept = self._sort_out(lines, kept[:half], bad)
        second, second_kept = self._sort_out(lines, kept[half:], bad)
        return pl.concat([first, second]), first_kept + second_kept

    def _problem(self, line: bytes) -> tuple[str, str] | None:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if not _is_utf8(line):
                return "E0504", "not valid UTF-8"
            return "E0503", f"not valid JSON: {error.msg} at character {error.pos + 1}"
        if not isinstance(row, dict):
            return "E0503", f"not a JSON object but {_said(row)}"
        for column in self._read:
            value = row.get(column.name)
            if value is not None and not fits(value, column.type):
                return "E0501", misfit(column.name, column.type, value)
        return None


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _said(value: object) -> str:
    if value is None:
        return "null"
    return "a list" if isinstance(value, list) else f"{value!r}"


def fits(value: Any, type_: DataType) -> bool:
    """Whether a JSON value can be of this type, as far as its kind tells."""
    if value is None:
        return True
    match type_.name:
        case "string" | "json":
            return True
        case "bool":
            return isinstance(value, bool)
        case "list":
            assert type_.item is not None
            return isinstance(value, list) and all(fits(item, type_.item) for item in value)
        case "struct":
            return isinstance(value, dict) and all(
                fits(value.get(inner.name), inner.type) for inner in type_.fields
            )
        case "float64" | "float32":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "decimal":
            return isinstance(value, int | float | str) and not isinstance(value, bool)
    if type_.is_integer:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and _in_range(value, type_)
    return isinstance(value, str)


def _in_range(value: int, type_: DataType) -> bool:
    bits = int(type_.name.lstrip("uint"))
    if type_.name.startswith("u"):
        return 0 <= value < 1 << bits
    return -(1 << bits - 1) <= value < 1 << bits - 1


def _parsed(type_: DataType) -> pl.DataType:
    """What the JSON parser is asked for: it knows few types, and fails badly on others."""
    if type_.name in _PLAIN:
        return _PLAIN[type_.name]()
    if type_.is_integer:
        return pl.UInt64() if type_.name.startswith("u") else pl.Int64()
    if type_.is_float:
        return pl.Float64()
    if type_.name == "list":
        assert type_.item is not None
        return pl.List(_parsed(type_.item))
    if type_.name == "struct":
        return pl.Struct([pl.Field(f.name, _parsed(f.type)) for f in type_.fields])
    return pl.String()


def _convert(column: TextColumn) -> pl.Expr | None:
    type_ = column.type
    if type_.is_text or type_.name in _PLAIN:
        return None
    if type_.is_numeric and type_.name != "decimal":
        return pl.col(column.name).cast(type_.to_polars(), strict=True)
    if type_.name in ("list", "struct"):
        if _parsed(type_) == type_.to_polars():
            return None
        return pl.col(column.name).cast(type_.to_polars(), strict=True)
    return strict(column, native=False)


def sniff(samples: Sequence[bytes]) -> list[TextColumn]:
    """The columns of a sample of whole lines. Broken lines are passed over."""
    rows: list[bytes] = []
    for sample in samples:
        for line in sample.split(b"\n"):
            try:
                row = orjson.loads(line) if line.strip() else None
            except orjson.JSONDecodeError:
                continue
            if isinstance(row, dict) and row:
                rows.append(line)
    if not rows:
        return []
    frame = pl.read_ndjson(b"\n".join(rows), infer_schema_length=None)
    return [_column(name, frame[name]) for name in frame.columns]


def _column(name: str, values: pl.Series) -> TextColumn:
    if values.dtype == pl.String:
        found = infer(values.to_frame())[0]
        # Numbers and truth in quotes stay the text that they are.
        return found if found.type.is_temporal else replace(found, type=STRING, format=None)
    return TextColumn(name, _kept(Schema.from_polars({name: values.dtype})[name]))


def _kept(type_: DataType) -> DataType:
    """The inferred type, in the few types that JSON has."""
    if type_.name == "list":
        assert type_.item is not None
        return DataType("list", item=_kept(type_.item))
    if type_.name == "struct":
        return DataType("struct", fields=tuple(Field(f.name, _kept(f.type)) for f in type_.fields))
    if type_.is_integer:
        return INT64
    if type_.is_numeric:
        return FLOAT64
    return BOOL if type_.name == "bool" else STRING
