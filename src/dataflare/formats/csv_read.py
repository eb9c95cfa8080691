"""Delimited text to rows: one lazy query per chunk of whole records.

Always true: a chunk that the quick query accepts has no row too short or too long and no field
that does not fit, among the columns that are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from dataflare.formats.layout import FIELDS, PROBLEM, Layout, layout_of
from dataflare.formats.misread import RAW_MAX, Misread, Sorted, misfit
from dataflare.formats.records import regular_rows
from dataflare.formats.text_types import TextColumn, loose, strict, tolerant


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

    def _layout(self, data: bytes, ends: pl.Series | None = None) -> Layout:
        return layout_of(data, self.dialect.delimiter, self.dialect.quote, len(self.columns), ends)

    def _repaired(self, data: bytes) -> bytes:
        """The chunk without blank lines and with stray quotes quoted, if nothing else is wrong."""
        layout = self._layout(data)
        sound = layout.sound(len(self.columns))
        if not sound.all():
            raise pl.exceptions.ComputeError("a row has too few or too many fields")
        return layout.joined(sound)

    def starts(self, data: bytes, ends: pl.Series | None = None) -> list[int]:
        """Where in the chunk each row begins. ends: as for `salvage`."""
        return self._layout(data, ends).starts()

    def salvage(
        self, data: bytes, place_at: Callable[[int], str], ends: pl.Series | None = None
    ) -> Sorted:
        """The patient way: every row that can be read, and every bad one named.

        place_at: what a place in the chunk is called. ends: the line ends, if each line is a
        record of the right width.
        """
        layout = self._layout(data, ends)
        sound = layout.sound(len(self.columns))
        bad = {row: self._misshapen(layout, row) for row in (~sound).arg_true()}
        if not _is_clean(data):
            bad |= _unclean(layout, sound)
            if bad:
                sound = sound.scatter(list(bad), False)
        good = self._sorted_out(layout, sound, bad)
        named = sorted(bad.items())
        texts = layout.texts([row for row, _ in named])
        return Sorted(
            good=good.select(self.output),
            good_rows=good[_ROW],
            bad=[
                Misread(
                    row, code, message, text[:RAW_MAX].decode(errors="replace"), place_at(start)
                )
                for (row, (code, message)), (start, text) in zip(named, texts, strict=True)
            ],
        )

    def _misshapen(self, layout: Layout, row: int) -> tuple[str, str]:
        problem = layout.records[PROBLEM][row]
        if problem is not None:
            return "E0506", problem
        fields = layout.records[FIELDS][row]
        many = "field" if fields == 1 else "fields"
        return "E0502", f"{fields} {many} where {len(self.columns)} were expected"

    def _sorted_out(
        self, layout: Layout, sound: pl.Series, bad: dict[int, tuple[str, str]]
    ) -> pl.DataFrame:
        """Sound records as typed rows. Most are read at the quick way's speed; those where a field
        came out as NULL are looked at with patience, and bad ones added to `bad`."""
        text, kept = layout.joined(sound), sound.arg_true()
        tolerated = {column.name: tolerant(column) for column in self._read}
        made = {name: expr for name, expr in tolerated.items() if expr is not None}
        if not made or len(made) < len(tolerated):
            return self._cast(text, kept, bad)
        schema = {column.name: column.native for column in self.columns}
        quick = self.dialect.scan(text, schema, ignore_errors=True).select(**made).collect()
        quick = quick.with_columns(kept.cast(pl.Int64).alias(_ROW))
        typed = [column.name for column in self._read if not column.type.is_text]
        doubtful = quick.select(pl.any_horizontal(pl.col(typed).is_null())).to_series()
        rows = kept.filter(doubtful)
        some = pl.repeat(False, len(sound), eager=True).scatter(rows, True)
        patient = self._cast(layout.joined(some), rows, bad)
        sure = quick.filter(~doubtful)
        return pl.concat([sure, patient]).sort(_ROW) if patient.height else sure

    def _cast(self, data: bytes, kept: pl.Series, bad: dict[int, tuple[str, str]]) -> pl.DataFrame:
        """Sound records as typed rows; rows with fields that do not fit are added to `bad`."""
        rows, read = kept.cast(pl.Int64).alias(_ROW), self._read
        if not read:
            return rows.to_frame()
        schema = {column.name: pl.String() for column in self.columns}
        typed = [loose(column).alias(f"{_TYPED}{i}") for i, column in enumerate(read)]
        misses = [_missed(column, f"{_TYPED}{i}") for i, column in enumerate(read)]
        which = pl.coalesce(pl.when(miss).then(pl.lit(i)) for i, miss in enumerate(misses))
        made = (
            self.dialect.scan(data, schema)
            .select(*(column.name for column in read), *typed)
            .with_columns(rows, which.alias(_MISSED))
            .collect()
        )
        failed = made.filter(pl.col(_MISSED).is_not_null())
        for row, place, *values in failed.select(
            _ROW, _MISSED, *(c.name for c in read)
        ).iter_rows():
            column = read[place]
            bad.setdefault(row, ("E0501", misfit(column.name, column.type, values[place])))
        return made.filter(pl.col(_MISSED).is_null()).select(
            *(pl.col(f"{_TYPED}{i}").alias(column.name) for i, column in enumerate(read)), _ROW
        )


_ROW = "__dataflare_row"
_TYPED = "__dataflare_typed"
_MISSED = "__dataflare_missed"


def _missed(column: TextColumn, typed: str) -> pl.Expr:
    """Whether a field has text that does not fit its column, which is in column `typed`."""
    text = pl.col(column.name)
    has_text = text.is_not_null() if column.type.is_text else (text != "").fill_null(False)
    return has_text & pl.col(typed).is_null()


def _is_clean(data: bytes) -> bool:
    """Whether it is UTF-8 without NUL bytes."""
    return b"\0" not in data and _utf8_error(data) is None


def _utf8_error(text: bytes) -> UnicodeDecodeError | None:
    if text.isascii():
        return None
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error
    return None


def _unclean(layout: Layout, sound: pl.Series) -> dict[int, tuple[str, str]]:
    """Which of the sound records are no text, one by one."""
    bad: dict[int, tuple[str, str]] = {}
    rows = sound.arg_true().to_list()
    for row, (_, text) in zip(rows, layout.texts(rows), strict=True):
        error = _utf8_error(text)
        if b"\0" in text:
            bad[row] = "E0504", "holds a NUL byte"
        elif error is not None:
            bad[row] = "E0504", f"not valid UTF-8 at byte {error.start + 1} of the row"
    return bad
