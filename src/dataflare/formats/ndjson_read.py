"""Lines of JSON objects to rows: one lazy query per chunk of whole lines.

Always true: a key a line lacks is NULL; a key that no sampled line had is left out; the first of
two equal keys in a line counts; blank lines are no rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
import polars as pl
from msgspec import Struct

from dataflare.formats.json_types import columns_of, fits
from dataflare.formats.misread import RAW_MAX, Sorted, misfit
from dataflare.formats.text_types import TextColumn, converted, infer, loose, strict
from dataflare.model.bad_rows import BadRow, BadRows
from dataflare.model.types import DataType

_PLAIN = {"int64": pl.Int64, "uint64": pl.UInt64, "float64": pl.Float64, "bool": pl.Boolean}


class NdjsonPlan(Struct, frozen=True):
    """columns: the sample's. output: names wanted, in the order wanted."""

    columns: tuple[TextColumn, ...]
    output: tuple[str, ...]

    @property
    def _read(self) -> list[TextColumn]:
        wanted = set(self.output)
        return [column for column in self.columns if column.name in wanted]

    def scan(self, data: bytes, *, regular: bool | None = None) -> pl.LazyFrame:
        """The quick way. Raises a Polars error when collected, for a chunk with bad rows."""
        return self._query(data, patient=False)

    def _query(self, data: bytes, *, patient: bool) -> pl.LazyFrame:
        schema = {column.name: _parsed(column.type) for column in self._read}
        frame = pl.scan_ndjson(data, schema=schema)
        pairs = [(column.name, _convert(column, patient)) for column in self._read]
        made = {name: expr for name, expr in pairs if expr is not None}
        return frame.with_columns(**made).select(self.output)

    def lines(self, data: bytes, count: int | None = None) -> Sequence[int]:
        """The line of the chunk in which each row stands; the first is 0."""
        return [number for number, _ in _lines(data)]

    def salvage(
        self, data: bytes, place_of: Callable[[int], str], count: int | None = None
    ) -> Sorted:
        """The patient way, line by line: every row that can be read, every bad one named.

        place_of: what a line of the chunk is called.
        """
        lines = _lines(data)
        bad: dict[int, tuple[str, str]] = {}
        rows: dict[int, Any] = {}
        for row, (_, text) in enumerate(lines):
            problem, rows[row] = self._problem(text)
            if problem is not None:
                bad[row] = problem
                del rows[row]
        bad |= self._misfits(rows)
        kept = [row for row in rows if row not in bad]
        good, kept = self._sort_out(lines, kept, bad)
        return Sorted(
            good=good,
            good_rows=pl.Series("row", kept, dtype=pl.Int64),
            bad=BadRows.of(
                [
                    BadRow(
                        row,
                        *bad[row],
                        lines[row][1].rstrip(b"\r")[:RAW_MAX].decode(errors="replace"),
                        place_of(lines[row][0]),
                    )
                    for row in sorted(bad)
                ]
            ),
        )

    def _problem(self, line: bytes) -> tuple[tuple[str, str] | None, Any]:
        """What is wrong with a line as far as its JSON tells, and what it holds."""
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if not _is_utf8(line):
                return ("E0504", "not valid UTF-8"), None
            where = f"{error.msg} at character {error.pos + 1}"
            return ("E0503", f"not valid JSON: {where}"), None
        if not isinstance(row, dict):
            return ("E0503", f"not a JSON object but {_said(row)}"), None
        for column in self._read:
            value = row.get(column.name)
            if value is not None and not fits(value, column.type):
                return ("E0501", misfit(column.name, column.type, value)), None
        return None, row

    def _misfits(self, rows: dict[int, Any]) -> dict[int, tuple[str, str]]:
        """Rows whose texts are no timestamps, dates or whatever their columns are."""
        bad: dict[int, tuple[str, str]] = {}
        for column in self._read:
            if column.type.is_text or _parsed(column.type) != pl.String():
                continue
            texts = [
                None if (v := row.get(column.name)) is None else str(v) for row in rows.values()
            ]
            frame = pl.DataFrame({column.name: texts}, schema={column.name: pl.String})
            made = frame.select(loose(column))[column.name]
            missed = made.is_null() & (frame[column.name] != "").fill_null(False)
            for number, text, is_bad in zip(rows, texts, missed, strict=True):
                if is_bad:
                    bad.setdefault(number, ("E0501", misfit(column.name, column.type, text)))
        return bad

    def _sort_out(
        self, lines: Sequence[tuple[int, bytes]], kept: list[int], bad: dict[int, tuple[str, str]]
    ) -> tuple[pl.DataFrame, list[int]]:
        """The kept lines as rows. Lines that pass our check and fail Polars' are found by halving."""
        text = b"\n".join(lines[number][1] for number in kept)
        try:
            return self._query(text, patient=True).collect(), kept
        except pl.exceptions.PolarsError as error:
            if len(kept) == 1:
                bad[kept[0]] = ("E0501", str(error).splitlines()[0])
                return self._query(b"", patient=True).collect(), []
        half = len(kept) // 2
        first, first_kept = self._sort_out(lines, kept[:half], bad)
        second, second_kept = self._sort_out(lines, kept[half:], bad)
        return pl.concat([first, second]), first_kept + second_kept


def _lines(data: bytes) -> list[tuple[int, bytes]]:
    """Each line that is not blank, with its number; the first is 0."""
    return [(number, line) for number, line in enumerate(data.split(b"\n")) if line.strip()]


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


def _convert(column: TextColumn, patient: bool) -> pl.Expr | None:
    """From what the parser gives to the column's type; None when that is it already."""
    parsed, wanted = _parsed(column.type), column.type.to_polars()
    if parsed == wanted:
        return None
    if parsed == pl.String():
        return loose(column) if patient else strict(column, native=False)
    return _deep(pl.col(column.name), column.type)


def _deep(value: pl.Expr, type_: DataType) -> pl.Expr:
    """The conversion at every depth of lists and structs. It raises on what does not fit: such
    rows are found by halving."""
    if _parsed(type_) == type_.to_polars():
        return value
    if type_.name == "list":
        assert type_.item is not None
        return value.list.eval(_deep(pl.element(), type_.item))
    if type_.name == "struct":
        odd = [field for field in type_.fields if _parsed(field.type) != field.type.to_polars()]
        return value.struct.with_fields(
            _deep(pl.field(field.name), field.type).alias(field.name) for field in odd
        )
    if _parsed(type_) == pl.String():
        return converted(TextColumn("", type_, declared=True), value, patient=False)
    return value.cast(type_.to_polars(), strict=True)


def sniff(samples: Sequence[bytes]) -> list[TextColumn]:
    """The columns of a sample of whole lines. Broken lines are passed over."""
    rows = [row for sample in samples for row in _objects(sample)]
    return [_column(name, type_, rows) for name, type_ in columns_of(rows).items()]


def _objects(sample: bytes) -> Iterator[dict[str, Any]]:
    for line in sample.split(b"\n"):
        try:
            row = orjson.loads(line) if line.strip() else None
        except orjson.JSONDecodeError:
            continue
        if isinstance(row, dict):
            yield row


def _column(name: str, type_: DataType, rows: list[dict[str, Any]]) -> TextColumn:
    if type_.name == "string":
        values = [row.get(name) for row in rows]
        if all(value is None or isinstance(value, str) for value in values):
            found = infer(pl.DataFrame({name: values}, schema={name: pl.String}))[0]
            # Numbers and truth in quotes stay the text that they are.
            if found.type.is_temporal:
                return found
    return TextColumn(name, type_)
