"""Lines of JSON objects to rows: one lazy query per chunk of whole lines.

Always true: a key that a line lacks is NULL; a key that no sampled line had is left out; the first
of two equal keys in a line is used; blank lines are not rows. Numbers in a column of text stay as
they were written, and a number that its column would round makes a bad row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.expr.casttext import from_text
from dataflare.formats import json_loss
from dataflare.formats.json_types import columns_of, fitting, readable
from dataflare.formats.json_values import BadJson, Number, decode, line_of, text_of
from dataflare.formats.misread import SortedRows, misfit, raw_text
from dataflare.formats.neighbours import neighbours
from dataflare.formats.text_types import (
    TextColumn,
    converted,
    infer,
    loose,
    strict,
)
from dataflare.model.bad_rows import BadRow, BadRows
from dataflare.model.batch import few_rows
from dataflare.model.types import DataType
from dataflare.model.width import check_width, field_count

_PLAIN = {"int64": pl.Int64, "uint64": pl.UInt64, "float64": pl.Float64, "bool": pl.Boolean}
OF_FILES = "; a file that is one list of objects has the format json"
"""The end of the message for a list, where there is a file."""


_COMPRESSED = (b"\x1f", b"\x28", b"\x78")
"""No JSON begins with these bytes. gzip, zstd and zlib do, and Polars would take the data for a compressed file."""


class NdjsonPlan(Struct, frozen=True):
    """columns: the sample's. output: the names of the columns to return, in order."""

    columns: tuple[TextColumn, ...]
    output: tuple[str, ...]

    @property
    def _read(self) -> list[TextColumn]:
        output_names = set(self.output)
        return [column for column in self.columns if column.name in output_names]

    def scan(self, data: bytes, *, regular: bool | None = None) -> pl.LazyFrame:
        """The quick way. Raises a Polars error, here or when collected, for a chunk with bad rows
        or with values that only the slow way reads exactly."""
        return self.converted(self._parsed(self._read, data))

    def parse(self, data: bytes) -> pl.DataFrame:
        """All columns as the parser returns them; `converted` gives them the types that `scan`
        returns. Raises what `scan` raises."""
        return self._parsed(self.columns, data).collect(engine="streaming")

    def _parsed(self, columns: Sequence[TextColumn], data: bytes) -> pl.LazyFrame:
        json_loss.check_surrogates(data)
        schema = {column.name: _parsed(column.type) for column in columns}
        if data[:1] in _COMPRESSED:
            data = b"\n" + data
        return json_loss.checked(pl.scan_ndjson(data, schema=schema), self._read, data)

    def _exact(self, data: bytes) -> pl.DataFrame:
        """The rows of lines that were checked one by one."""
        schema = {column.name: _parsed(column.type) for column in self._read}
        return self.converted(pl.scan_ndjson(data, schema=schema), lenient=True).collect(
            engine="streaming"
        )

    def converted(self, frame: pl.LazyFrame, *, lenient: bool = False) -> pl.LazyFrame:
        """The output columns with their types, from the parser's columns."""
        pairs = [(column.name, _convert(column, lenient)) for column in self._read]
        typed = {name: expr for name, expr in pairs if expr is not None}
        return frame.with_columns(**typed).select(self.output)

    def typed(self, parsed: pl.DataFrame) -> pl.DataFrame:
        """As `converted`, of few rows."""
        if parsed.columns == list(self.output) and not any(
            _convert(column, False) is not None for column in self._read
        ):
            return parsed
        return few_rows(self.converted(parsed.lazy()))

    def lines(self, data: bytes, count: int | None = None) -> Sequence[int]:
        """The line of the chunk in which each row stands; the first is 0."""
        return [number for number, _ in _lines(data)]

    def salvage(
        self, data: bytes, place_of: Callable[[int], str], count: int | None = None
    ) -> SortedRows:
        """The slow way, line by line: every row that can be read, and an error for every bad one.

        place_of: what a line of the chunk is called.
        """
        lines = _lines(data)
        texts = [text for _, text in lines]
        bad: dict[int, tuple[str, str]] = {}
        rows: dict[int, dict[str, Any]] = {}
        checks = [(column, column.name, _check(column)) for column in self._read]
        names = [column.name for column in self._read]
        changes = [
            (column.name, change)
            for column in self._read
            if (change := readable(column.type)) is not None
        ]
        bytes_ = json_loss.ChunkBytes(data)
        compact, extreme = bytes_.is_compact, bytes_.has_extreme_number
        for place, text in enumerate(texts):
            problem, row = _problem(text, checks, compact)
            if problem is not None:
                bad[place] = problem
            else:
                rows[place] = row
        was_cast = self._cast(rows, bad)
        for place, row in rows.items():
            changed = {
                name: value
                for name, change in changes
                if (value := change(was := row.get(name))) is not was
            }
            # A line that Polars would not read exactly is written again in a form that it does.
            if changed or extreme or place in was_cast:
                texts[place] = line_of({n: changed.get(n, row.get(n)) for n in names})
        bad |= self._misfits(rows)
        good_places = [place for place in rows if place not in bad]
        good, good_places = self._sort_out(texts, good_places, bad)
        good_rows = pl.Series("row", good_places, dtype=pl.Int64)
        bad_rows = pl.Series("row", sorted(bad), dtype=pl.Int64)

        def rows_of(rows: Iterable[int]) -> list[bytes]:
            return [_text(lines[row]) for row in rows]

        beside = neighbours(bad_rows, good_rows, rows_of)
        return SortedRows(
            good=good,
            good_rows=good_rows,
            bad=BadRows.of(
                [
                    BadRow(row, *bad[row], raw_text(text), place_of(lines[row][0]), near)
                    for row, text, near in zip(bad_rows, rows_of(bad_rows), beside, strict=True)
                ]
            ),
        )

    def texts(self, data: bytes, rows: Sequence[int]) -> Sequence[bytes]:
        """The texts of some rows of a chunk."""
        lines = _lines(data)
        return [_text(lines[row]) for row in rows]

    def _cast(self, rows: dict[int, dict[str, Any]], bad: dict[int, tuple[str, str]]) -> set[int]:
        """Cast values of another kind than their declared type, as CSV does: "7" and 7.4 under int64 are
        7, "yes" under bool is true. Moves rows whose value cannot be cast to `bad`. Returns the places of
        rows that changed."""
        changed: set[int] = set()
        for column in self._read:
            kinds, fit, name = _kinds_to_cast(column), fitting(column.type), column.name
            places = [
                place
                for place, row in rows.items()
                if type(value := row.get(name)) in kinds and not fit(value)
            ]
            if not places:
                continue
            texts = pl.DataFrame({name: [str(rows[place][name]) for place in places]})
            values = texts.select(from_text(pl.col(name), column.type).value)[name]
            for place, value in zip(places, values, strict=True):
                if value is None or not math.isfinite(value):
                    bad[place] = ("E0501", _misfit(column, rows.pop(place)[name]))
                else:
                    rows[place] = {**rows[place], name: value}
                    changed.add(place)
        return changed

    def _misfits(self, rows: dict[int, Any]) -> dict[int, tuple[str, str]]:
        """Rows with texts that do not fit their columns, such as bad timestamps and dates."""
        bad: dict[int, tuple[str, str]] = {}
        for column in self._read:
            if column.type.is_text or _parsed(column.type) != pl.String():
                continue
            values = [row.get(column.name) for row in rows.values()]
            texts = [None if value is None else text_of(value) for value in values]
            frame = pl.DataFrame({column.name: texts}, schema={column.name: pl.String})
            typed = frame.select(loose(column))[column.name]
            is_misfit = typed.is_null() & (frame[column.name] != "").fill_null(False)
            for number, text, is_bad in zip(rows, texts, is_misfit, strict=True):
                if is_bad:
                    bad.setdefault(number, ("E0501", _misfit(column, text)))
        return bad

    def _sort_out(
        self, texts: Sequence[bytes], places: list[int], bad: dict[int, tuple[str, str]]
    ) -> tuple[pl.DataFrame, list[int]]:
        """The lines at these places as rows. Lines that pass our checks but fail in Polars are
        found by halving."""
        try:
            return self._exact(b"\n".join(texts[place] for place in places)), places
        except pl.exceptions.PolarsError as error:
            if len(places) == 1:
                bad[places[0]] = ("E0501", str(error).splitlines()[0])
                return self._exact(b""), []
        half = len(places) // 2
        first, first_places = self._sort_out(texts, places[:half], bad)
        second, second_places = self._sort_out(texts, places[half:], bad)
        return pl.concat([first, second]), first_places + second_places


def _problem(
    line: bytes, checks: Sequence[tuple[TextColumn, str, Callable[[Any], bool]]], compact: bool
) -> tuple[tuple[str, str] | None, dict[str, Any]]:
    """The problem of a line, as far as its JSON shows it, and the line's object."""
    try:
        row = decode(line, compact=compact)
    except BadJson as error:
        message = str(error)
        return ("E0504" if "UTF-8" in message else "E0503", message), {}
    if type(row) is not dict:
        return ("E0503", f"not a JSON object but {_description(row)}"), {}
    for column, name, fit in checks:
        value = row.get(name)
        if value is not None and not fit(value):
            return ("E0501", _misfit(column, value)), {}
    return None, row


def _kinds_to_cast(column: TextColumn) -> tuple[type, ...]:
    """The kinds of JSON values that are cast to the column's type. A number is never made a float that
    differs from it."""
    if not column.declared:
        return ()
    if column.type.name == "bool":
        return (str, int)
    if column.type.is_integer:
        return (str, Number)
    return (str,) if column.type.is_float else ()


def _check(column: TextColumn) -> Callable[[Any], bool]:
    """A function that checks whether a value fits the column, or may fit when it is cast."""
    fit = fitting(column.type, declared=column.declared)
    kinds = _kinds_to_cast(column)
    return (lambda value: type(value) in kinds or fit(value)) if kinds else fit


def _lines(data: bytes) -> list[tuple[int, bytes]]:
    """Each line that is not blank, with its number; the first is 0."""
    return [(number, line) for number, line in enumerate(data.split(b"\n")) if line.strip()]


def _text(line: tuple[int, bytes]) -> bytes:
    return line[1].rstrip(b"\r")


def _description(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"a list{OF_FILES}"
    return text_of(value) if not isinstance(value, str) else repr(value)


def _misfit(column: TextColumn, value: Any) -> str:
    """The message for a value that does not fit, with advice if the type was inferred from the
    sample."""
    message = misfit(column.name, column.type, value)
    if column.declared:
        return message
    return f"{message}, the type found in the sample; 'schema' can name another, such as string"


def _parsed(type_: DataType) -> pl.DataType:
    """The type to request from the JSON parser: it supports few types, and fails badly on
    others."""
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


def _convert(column: TextColumn, lenient: bool) -> pl.Expr | None:
    """Convert the parser's column to the column's type; None if the types are the same."""
    parsed, dtype = _parsed(column.type), column.type.to_polars()
    if parsed == dtype:
        return None
    if parsed == pl.String():
        return loose(column) if lenient else strict(column, native=False)
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
        return converted(TextColumn("", type_, declared=True), value, lenient=False)
    return value.cast(type_.to_polars(), strict=True)


def sniff(samples: Sequence[bytes]) -> list[TextColumn]:
    """The columns of a sample of whole lines. Broken lines are skipped. Raises DataError (E0561) for too many columns."""
    rows = [row for sample in samples for row in _objects(sample)]
    types = columns_of(rows)
    check_width(field_count(types.values()))
    return [_column(name, type_, rows) for name, type_ in types.items()]


def _objects(sample: bytes) -> Iterator[dict[str, Any]]:
    compact = json_loss.ChunkBytes(sample).is_compact
    for line in sample.split(b"\n"):
        try:
            row = decode(line, compact=compact) if line.strip() else None
        except BadJson:
            continue
        if isinstance(row, dict):
            yield row


def _column(name: str, type_: DataType, rows: list[dict[str, Any]]) -> TextColumn:
    if type_.name == "string":
        values = [row.get(name) for row in rows]
        if all(value is None or type(value) is str for value in values):
            inferred = infer(pl.DataFrame({name: values}, schema={name: pl.String}))[0]
            # Numbers and booleans in quotes stay text.
            if inferred.type.is_temporal:
                return inferred
    return TextColumn(name, type_)
