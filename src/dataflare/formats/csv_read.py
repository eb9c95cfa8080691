"""Delimited text to rows: one lazy query per chunk of whole records.

Always true: in a chunk that the quick query accepts, each row has the right number of fields, and
each field of the columns read fits its type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import polars as pl
from msgspec import Struct

from dataflare.formats.csv_rewrite import Rewriting
from dataflare.formats.layout import FIELDS, PROBLEM, Layout, Lines, layout_of
from dataflare.formats.misread import SortedRows, misfits, raw_text
from dataflare.formats.neighbours import neighbours
from dataflare.formats.number_marks import has_marks
from dataflare.formats.number_text import altered, marked
from dataflare.formats.records import Regular
from dataflare.formats.records import regular as find_regular
from dataflare.formats.text_types import TextColumn, loose, strict, tolerant
from dataflare.model.bad_rows import BadRows


class CsvDialect(Struct, frozen=True):
    """The characters that separate fields and rows. quote None: quotes are ordinary characters.
    escape and comment: `csv_rewrite` replaces them before the text is parsed. row_width: see there."""

    delimiter: str = ","
    quote: str | None = '"'
    null_values: tuple[str, ...] = ()
    escape: str | None = None
    comment: str | None = None
    row_width: int | None = None

    def to_json(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CsvDialect:
        return cls(**{**value, "null_values": tuple(value["null_values"])})

    @property
    def rewriting(self) -> Rewriting | None:
        """How the text is rewritten; None if that is not needed."""
        if self.escape is None and self.comment is None:
            return None
        return Rewriting(self.delimiter, self.quote, self.escape, self.comment, self.row_width)

    def quotes(self, data: bytes) -> bool:
        """Whether there is a quote in the text."""
        return self.quote is not None and self.quote.encode() in data

    def scan(self, data: bytes, schema: Mapping[str, Any], **options: Any) -> pl.LazyFrame:
        return pl.scan_csv(
            data,
            has_header=False,
            schema=dict(schema),
            separator=self.delimiter,
            quote_char=self.quote if self.quotes(data) else None,
            null_values=list(self.null_values) or None,
            glob=False,
            **options,
        )


class CsvPlan(Struct, frozen=True):
    """columns: the file's, in the file's order. output: the names of the columns to return, in
    order."""

    dialect: CsvDialect
    columns: tuple[TextColumn, ...]
    output: tuple[str, ...]

    @property
    def _read(self) -> list[TextColumn]:
        output_names = set(self.output)
        return [column for column in self.columns if column.name in output_names]

    @property
    def blank_rows(self) -> bool:
        """Whether a blank line is a row: only if there is one column, and no comments (they become
        blank)."""
        return len(self.columns) == 1 and self.dialect.comment is None

    @property
    def numbers(self) -> tuple[int, ...]:
        """The places of the columns read whose numbers must keep all characters of their texts."""
        output_names = set(self.output)
        return tuple(
            place
            for place, column in enumerate(self.columns)
            if column.name in output_names and column.checked and not has_marks(column.format)
        )

    def scan(self, data: bytes, *, regular: Regular | None = None) -> pl.LazyFrame:
        """The quick way. Raises a Polars error, here or when collected, for a chunk with bad rows.

        regular: of the chunk's records, if it was computed already.
        """
        dialect = self.dialect
        if b"\0" in data:
            raise pl.exceptions.ComputeError("a row contains a NUL byte")
        regular = regular or self._regular(data)
        if regular is None:
            data = self._repaired(data)
            regular = self._regular(data)
        if (regular is None or regular.doubtful) and self._has_marks(data):
            raise pl.exceptions.ComputeError("a number has a leading zero or plus")
        if self._has_blank_numbers(data):
            raise pl.exceptions.ComputeError("a number is only white space")
        frame = dialect.scan(data, {column.name: column.native for column in self.columns})
        typed = {c.name: expr for c in self._read if (expr := strict(c)) is not None}
        return frame.with_columns(**typed).select(self.output)

    def _regular(self, data: bytes) -> Regular | None:
        dialect = self.dialect
        if len(self.columns) == 1 and not self.blank_rows and _BLANK.search(data):
            return None
        return find_regular(data, dialect.delimiter, dialect.quote, len(self.columns), self.numbers)

    def _has_marks(self, data: bytes) -> bool:
        return any(column.any() for column in self._marks(data).iter_columns())

    def _has_blank_numbers(self, data: bytes) -> bool:
        """Whether a field of a declared number is white space alone, which Polars reads as NULL."""
        names = [c.name for c in self._read if c.declared and c.native.is_numeric()]
        if not names or not _blank_field(self.dialect.delimiter, self.dialect.quote)(data):
            return False
        texts = self.dialect.scan(data, {column.name: pl.String() for column in self.columns})
        is_blank = [(pl.col(n) != "") & (pl.col(n).str.strip_chars(" \t") == "") for n in names]
        found = texts.select(pl.any_horizontal(is_blank).any()).collect(engine="streaming")
        return bool(found.item())

    def _marks(self, data: bytes) -> pl.DataFrame:
        """For each checked column of numbers: which fields have a leading zero or plus."""
        schema = {column.name: pl.String() for column in self.columns}
        return (
            self.dialect.scan(data, schema)
            .select(
                marked(pl.col(column.name)).alias(column.name)
                for column in self._read
                if column.checked and not has_marks(column.format)
            )
            .collect(engine="streaming")
        )

    def _layout(self, data: bytes) -> Layout:
        dialect = self.dialect
        return layout_of(data, dialect.delimiter, dialect.quote, blank_rows=self.blank_rows)

    def _repaired(self, data: bytes) -> bytes:
        """The chunk without blank lines and with stray quotes quoted, if nothing else is wrong."""
        layout = self._layout(data)
        sound = layout.sound(len(self.columns))
        if not sound.all():
            raise pl.exceptions.ComputeError("a row has too few or too many fields")
        return layout.joined(sound)

    def text_of(self, data: bytes, row: int) -> str:
        """The text of one record of a chunk."""
        (text,) = self.texts(data, [row])
        return raw_text(text)

    def texts(self, data: bytes, rows: Sequence[int]) -> Sequence[bytes]:
        """The texts of some records of a chunk."""
        return self._layout(data).texts(rows)

    def lines(self, data: bytes, count: int | None = None) -> Sequence[int]:
        """The line of the chunk in which each row begins; the first is 0. count: as for `salvage`."""
        if count is not None and not self.dialect.quotes(data):
            return range(count)
        layout = self._layout(data)
        return layout.lines(range(layout.records.height))

    def salvage(
        self, data: bytes, place_of: Callable[[int], str], count: int | None = None
    ) -> SortedRows:
        """The slow way: every row that can be read, and an error for every bad one.

        place_of: what a line of the chunk is called. count: how many rows there are, if all have the
        right number of fields.
        """
        clean, bad = _is_clean(data), dict[int, tuple[str, str]]()
        layout: Layout | Lines
        if count is not None and clean and not self.dialect.quotes(data):
            layout = Lines(data, count)
            sound = layout.sound(len(self.columns))
        else:
            layout = self._layout(data)
            sound = layout.sound(len(self.columns))
            bad = {row: self._misshapen(layout, row) for row in (~sound).arg_true()}
            if not clean:
                bad |= _unclean(layout, sound)
            if bad:
                sound = sound.scatter(list(bad), False)
        good, misfit = self._sorted_out(layout, sound)
        misshapen = pl.DataFrame(
            {
                "row": list(bad),
                "code": [code for code, _ in bad.values()],
                "message": [message for _, message in bad.values()],
            },
            schema=_BAD_ROWS,
        )
        bad_rows = pl.concat([misshapen, misfit]).sort("row") if bad else misfit
        rows = bad_rows["row"].to_list()
        texts = [raw_text(text) for text in layout.texts(rows)]
        places = [place_of(line) for line in layout.lines(rows)]
        sources = (
            pl.Series("raw", texts, pl.String),
            pl.Series("place", places, pl.String),
            neighbours(bad_rows["row"], good[_ROW], layout.texts),
        )
        return SortedRows(
            good=good.select(self.output),
            good_rows=good[_ROW],
            bad=BadRows(bad_rows.with_columns(sources)),
        )

    def _misshapen(self, layout: Layout, row: int) -> tuple[str, str]:
        problem = layout.records[PROBLEM][row]
        if problem is not None:
            return "E0506", problem
        fields = layout.records[FIELDS][row]
        unit = "field" if fields == 1 else "fields"
        return "E0502", f"{fields} {unit} where {len(self.columns)} were expected"

    def _sorted_out(
        self, layout: Layout | Lines, sound: pl.Series
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Sound records as typed rows, and an error for each record with a field that does not fit.
        The quick way reads them all; the slow way reads again only fields that became NULL."""
        text, rows, read = layout.joined(sound), sound.arg_true().cast(pl.Int64), self._read
        rows, none = rows.alias(_ROW), pl.DataFrame(schema=_BAD_ROWS)
        if not read:
            return rows.to_frame(), none
        tolerated = [expr for column in read if (expr := tolerant(column)) is not None]
        if len(tolerated) < len(read):
            return self._cast(text, rows, read)
        schema = {column.name: column.native for column in self.columns}
        quick = (
            self.dialect.scan(text, schema, ignore_errors=True)
            .select(tolerated)
            .collect(engine="streaming")
        )
        regular = self._regular(text)
        if regular is None or regular.doubtful:
            quick = quick.with_columns(
                pl.when(~each).then(quick[each.name]).alias(each.name)
                for each in self._marks(text).iter_columns()
            )
        doubted = [c for c in read if not c.type.is_text and quick[c.name].null_count()]
        quick = quick.with_columns(rows)
        if not doubted:
            return quick, none
        doubtful = quick.select(
            pl.any_horizontal(pl.col(c.name).is_null() for c in doubted)
        ).to_series()
        some = pl.repeat(False, len(sound), eager=True).scatter(rows.filter(doubtful), True)
        reread, misfit = self._cast(layout.joined(some), rows.filter(doubtful), doubted)
        places = rows.search_sorted(reread[_ROW])
        for name in (column.name for column in doubted):
            has_value = reread[name].is_not_null()
            if has_value.any():
                values = reread[name].filter(has_value)
                quick = quick.with_columns(quick[name].scatter(places.filter(has_value), values))
        return quick.filter(~rows.is_in(misfit["row"].implode())), misfit

    def _cast(
        self, data: bytes, rows: pl.Series, columns: Sequence[TextColumn]
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """These columns of sound records with their rows, and the rows with fields that do not
        fit."""
        schema = {column.name: pl.String() for column in self.columns}
        typed = [loose(column).alias(f"{_TYPED}{i}") for i, column in enumerate(columns)]
        misses = [_missed(column, f"{_TYPED}{i}") for i, column in enumerate(columns)]
        misfit_column = pl.coalesce(pl.when(miss).then(pl.lit(i)) for i, miss in enumerate(misses))
        table = (
            self.dialect.scan(data, schema)
            .select(*(column.name for column in columns), *typed)
            .with_columns(rows, misfit_column.alias(_MISSED))
            .collect(engine="streaming")
        )
        messages = pl.coalesce(
            pl.when(pl.col(_MISSED) == i).then(misfits(c.name, c.type, pl.col(c.name), _changed(c)))
            for i, c in enumerate(columns)
        )
        failed = table.filter(pl.col(_MISSED).is_not_null()).select(
            pl.col(_ROW).alias("row"), pl.lit("E0501").alias("code"), messages.alias("message")
        )
        names = [column.name for column in columns]
        good = table.filter(pl.col(_MISSED).is_null()).select(
            *(pl.col(f"{_TYPED}{i}").alias(name) for i, name in enumerate(names)), _ROW
        )
        return good, failed


@lru_cache(maxsize=16)
def _blank_field(delimiter: str, quote: str | None) -> Callable[[bytes], object]:
    """Finds a field of white space alone in a text, perhaps also where there is none."""
    space = re.escape(" \t".replace(delimiter, "")).encode()
    edge = re.escape(delimiter + (quote or "")).encode()
    return re.compile(
        b"(?:\\A|[\n" + edge + b"])[" + space + b"]+(?:\\Z|[\r\n" + edge + b"])"
    ).search


_BLANK = re.compile(rb"(?:^|\n)\r?\n")
_BAD_ROWS = {"row": pl.Int64, "code": pl.String, "message": pl.String}
_ROW = "__dataflare_row"
_TYPED = "__dataflare_typed"
_MISSED = "__dataflare_missed"


def _missed(column: TextColumn, typed: str) -> pl.Expr:
    """Whether a field has text that does not fit its column, which is in column `typed`."""
    text = pl.col(column.name)
    has_text = text.is_not_null() if column.type.is_text else (text != "").fill_null(False)
    return has_text & pl.col(typed).is_null()


def _changed(column: TextColumn) -> pl.Expr | None:
    """Which texts of a checked column are numbers that would change when parsed."""
    if not column.checked:
        return None
    text = pl.col(column.name)
    is_number = text.cast(column.type.to_polars(), strict=False).is_not_null()
    return is_number & altered(text, is_float=column.type.is_float)


def _is_clean(data: bytes) -> bool:
    """Whether the data is UTF-8 without NUL bytes."""
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
    """Which of the sound records are not UTF-8 text or contain a NUL byte. Slow: one record at a
    time."""
    bad: dict[int, tuple[str, str]] = {}
    rows = sound.arg_true().to_list()
    for row, text in zip(rows, layout.texts(rows), strict=True):
        error = _utf8_error(text)
        if b"\0" in text:
            bad[row] = "E0504", "contains a NUL byte"
        elif error is not None:
            bad[row] = "E0504", f"not valid UTF-8 at byte {error.start + 1} of the row"
    return bad
