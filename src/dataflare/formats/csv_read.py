"""Delimited text to rows: one lazy query per chunk of whole records.

Always true: a chunk that the quick query accepts has no row too short or too long and no field
that does not fit, among the columns that are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from dataflare.formats.misread import RAW_MAX, Misread, Sorted, misfit
from dataflare.formats.records import Record, is_blank, regular_rows, requote, scan_records
from dataflare.formats.text_types import TextColumn, loose, strict


@dataclass(frozen=True, slots=True)
class CsvDialect:
    """How fields and rows are marked. quote None: quotes are ordinary characters."""

    delimiter: str = ","
    quote: str | None = '"'
    null_values: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"delimiter": self.delimiter, "quote": self.quote, "null_values": self.null_values}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CsvDialect:
        return cls(value["delimiter"], value["quote"], tuple(value["null_values"]))

    def scan(self, data: bytes, schema: Mapping[str, Any], **more: Any) -> pl.LazyFrame:
        quoted = self.quote is not None and self.quote.encode() in data
        return pl.scan_csv(
            data,
            has_header=False,
            schema=dict(schema),
            separator=self.delimiter,
            quote_char=self.quote if quoted else None,
            null_values=list(self.null_values) or None,
            glob=False,
            **more,
        )


@dataclass(frozen=True, slots=True)
class CsvPlan:
    """columns: the file's, in the file's order. output: names wanted, in the order wanted."""

    dialect: CsvDialect
    columns: tuple[TextColumn, ...]
    output: tuple[str, ...]

    @property
    def _read(self) -> list[TextColumn]:
        wanted = set(self.output)
        return [column for column in self.columns if column.name in wanted]

    def scan(self, data: bytes, *, regular: bool | None = None) -> pl.LazyFrame:
        """The quick way. Raises a Polars error, here or when collected, for a chunk with bad rows.

        regular: whether all rows have the right number of fields, if that is known.
        """
        dialect = self.dialect
        if b"\0" in data:
            raise pl.exceptions.ComputeError("a row holds a NUL byte")
        if regular is None:
            width = len(self.columns)
            regular = regular_rows(data, dialect.delimiter, dialect.quote, width) is not None
        if not regular:
            data = self._repaired(data)
        frame = dialect.scan(data, {column.name: column.native for column in self.columns})
        made = {c.name: expr for c in self._read if (expr := strict(c)) is not None}
        return frame.with_columns(**made).select(self.output)

    def _repaired(self, data: bytes) -> bytes:
        """The chunk without blank lines and with stray quotes quoted, if nothing else is wrong."""
        records = self._records(data)
        width = len(self.columns)
        if any(record.problem or record.fields != width for record in records):
            raise pl.exceptions.ComputeError("a row has too few or too many fields")
        return self._joined(data, records)

    def _records(self, data: bytes) -> list[Record]:
        """All but blank lines, which are rows only where there is one column."""
        found = scan_records(data, self.dialect.delimiter, self.dialect.quote)
        if len(self.columns) == 1:
            return list(found)
        return [r for r in found if r.fields > 1 or not is_blank(data, r)]

    def _joined(self, data: bytes, records: Sequence[Record]) -> bytes:
        """The text of these records; neighbours are copied in one piece."""
        parts: list[bytes] = []
        start = end = 0
        for record in records:
            if record.stray and self.dialect.quote is not None:
                parts += [data[start:end], self._text(data, record)]
                start = end = record.end
            elif record.start != end:
                parts.append(data[start:end])
                start, end = record.start, record.end
            else:
                end = record.end
        parts.append(data[start:end])
        return b"".join(parts)

    def _text(self, data: bytes, record: Record) -> bytes:
        assert self.dialect.quote is not None
        return requote(data[record.start : record.end], self.dialect.delimiter, self.dialect.quote)

    def start_of_row(self, data: bytes, row: int) -> int:
        """Where in the chunk row `row` begins."""
        return self._records(data)[row].start

    def salvage(self, data: bytes, place_at: Callable[[int], str]) -> Sorted:
        """The patient way: every row that can be read, and every bad one named.

        place_at: what a place in the chunk is called.
        """
        records = self._records(data)
        bad: dict[int, tuple[str, str]] = {}
        for row, record in enumerate(records):
            problem = self._problem(data, record)
            if problem is not None:
                bad[row] = problem
        kept = [row for row in range(len(records)) if row not in bad]
        good = self._cast(self._joined(data, [records[row] for row in kept]), kept, bad)
        return Sorted(
            good=good.select(self.output),
            good_rows=good[_ROW],
            bad=[
                self._bad_row(row, code, message, data, records[row], place_at)
                for row, (code, message) in sorted(bad.items())
            ],
        )

    def _problem(self, data: bytes, record: Record) -> tuple[str, str] | None:
        if record.problem:
            return "E0506", record.problem
        width = len(self.columns)
        if record.fields != width:
            many = "field" if record.fields == 1 else "fields"
            return "E0502", f"{record.fields} {many} where {width} were expected"
        text = data[record.start : record.end]
        if b"\0" in text:
            return "E0504", "holds a NUL byte"
        if not text.isascii():
            try:
                text.decode()
            except UnicodeDecodeError as error:
                return "E0504", f"not valid UTF-8 at byte {error.start + 1} of the row"
        return None

    def _cast(self, data: bytes, kept: list[int], bad: dict[int, tuple[str, str]]) -> pl.DataFrame:
        """Sound records as typed rows; rows with fields that do not fit are added to `bad`."""
        schema = {column.name: pl.String() for column in self.columns}
        texts = self.dialect.scan(data, schema).select(c.name for c in self._read).collect()
        if not self._read:
            texts = pl.DataFrame(height=len(kept))
        texts = texts.with_columns(pl.Series(_ROW, kept, dtype=pl.Int64))
        typed = texts.with_columns(loose(column) for column in self._read)
        failed = pl.repeat(False, texts.height, eager=True)
        for column in self._read:
            text = texts[column.name]
            missed = typed[column.name].is_null() & text.is_not_null()
            if not column.type.is_text:
                missed &= (text != "").fill_null(False)
            for row, value in zip(texts[_ROW].filter(missed), text.filter(missed), strict=True):
                bad.setdefault(row, ("E0501", misfit(column.name, column.type, value)))
            failed |= missed
        return typed.filter(~failed)

    def _bad_row(
        self,
        row: int,
        code: str,
        message: str,
        data: bytes,
        record: Record,
        place_at: Callable[[int], str],
    ) -> Misread:
        raw = data[record.start : record.end].rstrip(b"\r\n")[:RAW_MAX]
        place = place_at(record.start)
        return Misread(row, code, message, raw.decode(errors="replace"), place)


_ROW = "__row"
