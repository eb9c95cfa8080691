"""Infer the type of a column of text, and convert the text to that type.

Always true: a text that the quick expression (`strict`) accepts has the same value in the slow one
(`loose`); the slow one never raises, it gives NULL. So a chunk is parsed the quick way, and the
slow way decides which rows of a failing chunk are bad.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.expr.calendar import NS_RANGE_US, existing, rounded_unit
from dataflare.expr.casttext import from_text
from dataflare.formats.iso_durations import ticks_of
from dataflare.formats.json_cells import json_cells
from dataflare.formats.number_marks import has_marks, plain
from dataflare.formats.number_text import altered, is_unusual, loses_digits
from dataflare.model.types import (
    BOOL,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    TIMESTAMP_UTC,
    DataType,
    Schema,
    parse_type,
    timestamp,
)

_INTEGER = r"^[+-]?\d{1,19}$"
_FLOAT = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"
_SPECIAL_FLOAT = r"^(?i)[+-]?(inf|infinity|nan)$"
_BOOL = r"^(true|false|True|False|TRUE|FALSE)$"
_SIXTY = ":60"
_CLOCK = "%H:%M:%S"
_SPECIFIER = re.compile(r"(%[-_0]?[.:#]*[0-9]?[A-Za-z+%])")
_SECOND = re.compile(r"%[-_0]?S$")
_PARTS = {
    "Y": r"[+-]?\d+?",
    "m": r"\d?\d",
    "d": r"[ \d]?\d",
    "H": r"[ \d]?\d",
    "M": r"[0-5]?\d",
    "%": "%",
}
"""The texts of some parts of a time format, as expressions."""
_NANOSECONDS = r"\.\d{6}\d*[1-9]"
_DATE = r"^\d{4}-\d{2}-\d{2}$"
_STAMP = (
    r"^\d{4}-\d{2}-\d{2}(?P<sep>[T ])\d{2}:\d{2}(?P<sec>:\d{2})?(?P<frac>\.\d{1,9})?"
    r"(?P<zone>Z|[+-]\d{2}:?\d{2})?$"
)
MANY_DIGITS = "many digits"
"""The format of floats that have more digits than their shortest text."""
WORDS = "words"
"""The format of declared booleans that are written in other words than true and false."""
_NATIVE = ("int64", "int32", "uint64", "uint32", "float64", "float32", "bool", "string")
_STAMP_SHAPES = tuple(f"%Y-%m-%d{sep}%H:%M{sec}" for sep in "T " for sec in (":%S%.f", ""))


class TextColumn(Struct, frozen=True):
    """A column of a text file. format: of its timestamps in the sample, or `MANY_DIGITS` for its
    floats; for the quick way. blanks: the sample had quoted empty cells, which are NULL in every
    type except text. declared: the type is the user's; then timestamps may lack a zone, or have one
    that the type lacks."""

    name: str
    type: DataType
    format: str | None = None
    blanks: bool = False
    declared: bool = False

    def to_json(self) -> list[Any]:
        return [self.name, str(self.type), self.format, self.blanks, self.declared]

    @classmethod
    def from_json(cls, value: list[Any]) -> TextColumn:
        return cls(value[0], parse_type(value[1]), *value[2:])

    @property
    def checked(self) -> bool:
        """Whether a number must keep all characters of its text: true if its type was inferred, not
        declared."""
        return not self.declared and (self.type.is_integer or self.type.is_float)

    @property
    def native(self) -> pl.DataType:
        """The type to request from the CSV parser: types for which it is quick and strict, else
        text."""
        if (self.checked and self.type.is_float) or self.format == WORDS or has_marks(self.format):
            return pl.String()
        return self.type.to_polars() if self.type.name in _NATIVE else pl.String()


class Spelling(Struct, frozen=True):
    """How a file writes numbers and dates. marks: the format of its numbers, see `number_marks`.
    date_format: of its dates or timestamps, as `strptime` has it."""

    marks: str | None = None
    date_format: str | None = None

    @property
    def has_time(self) -> bool:
        """Whether the format of dates has a time of day too."""
        return self.date_format is not None and bool(re.search("%[HIMSTRXcsf+]", self.date_format))


PLAIN = Spelling()


def infer(texts: pl.DataFrame, spelling: Spelling = PLAIN) -> list[TextColumn]:
    """A type for each column of a sample of text, in columnar passes."""
    return [_infer_column(name, texts[name], spelling) for name in texts.columns]


def _infer_column(name: str, texts: pl.Series, spelling: Spelling) -> TextColumn:
    blanks = bool((texts == "").any())
    text = texts.drop_nulls().unique()
    text = text.filter(text != "")
    if not text.len():
        return TextColumn(name, STRING)

    def all_match(pattern: str) -> bool:
        return bool(text.str.contains(pattern).all())

    if all_match(_BOOL):
        return TextColumn(name, BOOL, blanks=blanks)
    if all_match(_DATE):
        good = text.str.to_date("%Y-%m-%d", strict=False).null_count() == 0
        return TextColumn(name, DATE if good else STRING, blanks=blanks)
    if all_match(_STAMP):
        return _infer_stamp(name, text, blanks)
    if spelling.date_format is not None:
        type_ = TIMESTAMP if spelling.has_time else DATE
        if spelling.date_format.endswith(("%z", "Z")):
            type_ = TIMESTAMP_UTC
        column = _if_kept(TextColumn(name, type_, spelling.date_format, blanks), text)
        if column.type != STRING:
            return column
    if spelling.marks is not None:
        return _infer_marked(name, text, blanks, spelling.marks)
    if all_match(_INTEGER):
        return _if_kept(TextColumn(name, INT64, blanks=blanks), text)
    if all_match(f"{_FLOAT}|{_SPECIAL_FLOAT}") and text.str.contains(_FLOAT).any():
        unusual = text.to_frame("text").select(is_unusual(pl.col("text"), _float("text")).any())
        format_ = MANY_DIGITS if unusual.item() else None
        return _if_kept(TextColumn(name, FLOAT64, format_, blanks), text)
    return TextColumn(name, STRING)


def _infer_marked(name: str, text: pl.Series, blanks: bool, marks: str) -> TextColumn:
    """A column of numbers that may have other marks than the point."""
    numbers = text.to_frame("text").select(plain(pl.col("text"), marks))["text"]
    if numbers.null_count():
        return TextColumn(name, STRING)
    type_ = _infer_column(name, numbers, PLAIN).type
    return TextColumn(name, type_, marks if type_.is_numeric else None, blanks and type_.is_numeric)


def _if_kept(column: TextColumn, text: pl.Series) -> TextColumn:
    """The column, if its type keeps all that each text says; else text."""
    read = text.to_frame(column.name).select(loose(column))[column.name]
    return column if read.null_count() == 0 else TextColumn(column.name, STRING)


def _float(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Float64, strict=False)


def _infer_stamp(name: str, text: pl.Series, blanks: bool) -> TextColumn:
    """A timestamp when separator, seconds and zone are the same everywhere; else text."""
    shape = stamp_format(text)
    if shape is None:
        return TextColumn(name, STRING)
    format_, zoned = shape
    if text.str.contains(_NANOSECONDS).any():
        type_ = timestamp("ns", "UTC" if zoned else None)
    else:
        type_ = TIMESTAMP_UTC if zoned else TIMESTAMP
    return _if_kept(TextColumn(name, type_, format_, blanks), text)


def stamp_format(text: pl.Series) -> tuple[str, bool] | None:
    """The one ISO format of these texts and whether it has a zone; None when they differ.

    Formats on Polars' quick path are preferred: `.%6f` takes a quarter of the time of `%.f`.
    """
    parts = text.str.extract_groups(_STAMP).struct.unnest()
    if parts["sep"].n_unique() > 1 or parts["sec"].is_null().n_unique() > 1:
        return None
    zones = parts["zone"].unique().to_list()
    if None in zones and len(zones) > 1:
        return None
    format_ = f"%Y-%m-%d{parts['sep'][0]}%H:%M"
    if parts["sec"][0] is not None:
        format_ += ":%S"
        lengths = parts["frac"].str.len_bytes().unique().to_list()
        if lengths != [None]:
            quick = len(lengths) == 1 and lengths[0] in (4, 7)
            format_ += f".%{lengths[0] - 1}f" if quick else "%.f"
    elif parts["frac"].null_count() < text.len():
        return None
    if zones == [None]:
        return format_, False
    return format_ + (zones[0] if zones in (["Z"], ["+00:00"]) else "%#z"), True


def with_contract(
    columns: Sequence[TextColumn], contract: Schema, spelling: Spelling = PLAIN
) -> list[TextColumn]:
    """The columns with the sample's formats, and the contract's types if it names them."""
    typed_columns: list[TextColumn] = []
    for column in columns:
        if column.name not in contract:
            typed_columns.append(column)
            continue
        type_ = contract[column.name]
        format_ = column.format if type_.name == "timestamp" else None
        if type_.name == "bool" and column.type.name != "bool":
            format_ = WORDS
        if type_.is_numeric:
            format_ = spelling.marks
        if spelling.date_format and type_.name == ("timestamp" if spelling.has_time else "date"):
            format_ = spelling.date_format
        typed_columns.append(TextColumn(column.name, type_, format_, column.blanks, declared=True))
    return typed_columns


def strict(column: TextColumn, *, native: bool = True) -> pl.Expr | None:
    """The expression that turns the parsed column into its type, raising on the first text that
    does not fit; None if the parser's own value is right. native: the parser returned the type
    `native`; else text."""
    value = pl.col(column.name)
    if has_marks(column.format):
        read = loose(column)
        return _refuse(read.is_null() & (value != ""), read).alias(column.name)
    if column.checked and column.type.is_float:
        text = pl.when(value != "").then(value) if column.blanks else value
        number = text.cast(value_type(column), strict=True)
        lossy = loses_digits if column.format == MANY_DIGITS else is_unusual
        return _unless(column, number.is_infinite() | lossy(text, number), number)
    if column.type.is_float and native:
        # The parser reads 1e999999 as infinity.
        return _unless(column, value.is_infinite(), value)
    if column.type.name in _NATIVE and native and column.format != WORDS:
        return None
    if column.blanks:
        value = pl.when(value != "").then(value)
    return converted(column, value, lenient=False)


def _unless(column: TextColumn, is_wrong: pl.Expr, number: pl.Expr) -> pl.Expr:
    """The floats; raises if `is_wrong` is true for one. Costs nothing if the column is not read."""
    wide, narrow = pl.lit(1000, dtype=pl.Int16), pl.lit(0, dtype=pl.Int16)
    overflow = pl.when(is_wrong).then(wide).otherwise(narrow).cast(pl.Int8, strict=True)
    return number - overflow.cast(value_type(column))


def tolerant(column: TextColumn) -> pl.Expr | None:
    """Like `strict`, and as fast, but NULL where that would raise, and perhaps in a few more rows;
    None if there is no such expression."""
    value = pl.col(column.name)
    if has_marks(column.format):
        return loose(column)
    if column.checked and column.type.is_float:
        number = value.cast(value_type(column), strict=False)
        is_wrong = number.is_infinite() | is_unusual(value, number)
        return pl.when(~is_wrong).then(number).alias(column.name)
    if column.type.is_float:
        return pl.when(~value.is_infinite()).then(value).alias(column.name)
    if column.format == WORDS:
        return from_text(value, column.type).value.alias(column.name)
    if column.type.name in _NATIVE:
        return value
    if column.type.name == "timestamp" and column.format is not None:
        return _read_stamp(column, value, column.format, must=False).alias(column.name)
    if column.type.name in ("date", "time", "binary"):
        return converted(column, value, lenient=True)
    return None


def loose(column: TextColumn) -> pl.Expr:
    """The expression that turns text into the column's type, NULL where it does not fit."""
    value = pl.col(column.name)
    if not column.type.is_text and column.type.name != "binary":
        value = pl.when(value != "").then(value)
    return converted(column, value, lenient=True)


def value_type(column: TextColumn) -> pl.DataType:
    return column.type.to_polars()


def converted(column: TextColumn, value: pl.Expr, *, lenient: bool) -> pl.Expr:
    """Text as the column's type. value: any expression for the text."""
    name, kind = column.name, column.type.name
    must = not lenient
    if column.type.is_text:
        return value.alias(name)
    if column.format is not None and has_marks(column.format):
        value = plain(value, column.format)
    if kind == "date":
        day = value.str.to_date(column.format or "%Y-%m-%d", strict=must)
        if column.declared and lenient:
            unread = pl.when(day.is_null()).then(value)
            day = pl.coalesce(day, from_text(unread, column.type).value)
        return day.alias(name)
    if kind == "timestamp":
        return _stamp(column, value, lenient).alias(name)
    if kind == "time":
        if column.declared and lenient:
            return from_text(value, column.type).value.alias(name)
        return value.str.to_time("%H:%M:%S%.f", strict=must).alias(name)
    if kind == "bool" and column.declared:
        truth = from_text(value, column.type).value
        return (truth if lenient else _refuse(truth.is_null() & value.is_not_null(), truth)).alias(
            name
        )
    if kind == "bool":
        lower = value.str.to_lowercase()
        table: Mapping[str, bool] = {"true": True, "false": False}
        if lenient:
            return lower.replace_strict(table, default=None, return_dtype=pl.Boolean).alias(name)
        return lower.replace_strict(table, return_dtype=pl.Boolean).alias(name)
    if kind == "binary":
        return value.str.decode("base64", strict=must).alias(name)
    if kind == "duration":
        dtype = value_type(column)
        assert isinstance(dtype, pl.Duration)
        ticks = pl.coalesce(
            value.cast(pl.Int64, strict=False), ticks_of(value, dtype.time_unit)
        ).cast(dtype)
        return (ticks if lenient else _refuse(ticks.is_null() & value.is_not_null(), ticks)).alias(
            name
        )
    if kind in ("list", "struct"):
        values = value.map_batches(
            partial(json_cells, column.type), return_dtype=value_type(column), is_elementwise=True
        )
        return (
            values if lenient else _refuse(values.is_null() & value.is_not_null(), values)
        ).alias(name)
    if kind == "decimal" or (column.declared and lenient and column.type.is_numeric):
        number = from_text(value, column.type).value
        if column.type.is_float:
            number = pl.when(number.is_finite() | value.str.contains(_SPECIAL_FLOAT)).then(number)
        return (
            number if lenient else _refuse(number.is_null() & value.is_not_null(), number)
        ).alias(name)
    if column.type.is_numeric and lenient:
        number = value.str.strip_chars_start(" \t").cast(value_type(column), strict=False)
        if column.type.is_float:
            special = value.str.contains(_SPECIAL_FLOAT)
            number = pl.when(number.is_infinite() & ~special).then(None).otherwise(number)
        if column.checked:
            number = pl.when(~altered(value, is_float=column.type.is_float)).then(number)
        return number.alias(name)
    return value.cast(value_type(column), strict=must).alias(name)


def _stamp(column: TextColumn, value: pl.Expr, lenient: bool) -> pl.Expr:
    """Quick: only the sample's format. Slow: every ISO format, one after the other."""
    zone = column.type.timezone

    def read(text: pl.Expr, format_: str, must: bool) -> pl.Expr:
        return _read_stamp(column, text, format_, must=must)

    if not lenient and column.format is not None:
        return read(value, column.format, True)
    formats: list[str] = []
    if zone is not None or column.declared:
        formats += [shape + "%#z" for shape in _STAMP_SHAPES]
    if zone is None or column.declared:
        formats += _STAMP_SHAPES
    stamps = read(value, column.format or formats[0], False)
    # The other formats are tried on unread texts only, so they cost little if all texts are read.
    unread = pl.when(stamps.is_null()).then(value)
    tries = [read(unread, format_, False) for format_ in formats]
    if zone is None or column.declared:
        tries.append(_midnight(unread, column.type))
    stamps = pl.coalesce(stamps, *tries)
    if lenient:
        return stamps
    return pl.coalesce(stamps, read(pl.when(stamps.is_null()).then(value), _STAMP_SHAPES[0], True))


def _read_stamp(column: TextColumn, text: pl.Expr, format_: str, *, must: bool) -> pl.Expr:
    """Text of one format as the column's timestamps. must: raise if a text does not fit."""
    type_ = column.type
    zoned = format_.endswith(("%#z", "%z", "Z", "+00:00"))
    # Most timestamps are distinct, so on the quick path the cache costs more than it saves.
    quick = not format_.endswith("z") and "%.f" not in format_

    def read(unit: Any) -> pl.Expr:
        zone = "UTC" if zoned else None
        return text.str.to_datetime(
            format_, time_unit=unit, time_zone=zone, strict=must, cache=not quick
        )

    stamps = read("ns" if type_.unit == "ns" else "us")
    if (leap := _leap_second(format_, exactly=not must)) is not None:
        # No type holds the second 60, and Polars reads it as the next minute.
        stamps = _without(text.str.contains(leap, literal=leap == _SIXTY), stamps, must)
    if type_.unit == "ns":
        # Polars wraps around if a time does not fit into nanoseconds.
        is_wrong = ~read("us").to_physical().is_between(-NS_RANGE_US, NS_RANGE_US)
        stamps = _without(is_wrong, stamps, must)
    elif not column.declared and "%.f" in format_:
        stamps = _without(text.str.contains(_NANOSECONDS), stamps, must)
    if zoned:
        stamps = stamps.dt.convert_time_zone(type_.timezone or "UTC")
        stamps = stamps if type_.timezone else stamps.dt.replace_time_zone(None)
    elif type_.timezone is not None:
        clock, stamps = stamps, existing(stamps, type_.timezone)
        if must and type_.timezone != "UTC":
            stamps = _refuse(stamps.is_null() & clock.is_not_null(), stamps)
    return rounded_unit(stamps, type_) if type_.unit in ("s", "ms") else stamps


@lru_cache(maxsize=256)
def _leap_second(format_: str, *, exactly: bool) -> str | None:
    """What a text of this format contains if its second is 60; None if the format has no seconds. exactly:
    a text of the format contains it only then; else perhaps in other cases, but it is found in a tenth of
    the time."""
    parts = _SPECIFIER.split(format_.replace("%T", _CLOCK).replace("%X", _CLOCK))
    if not any(_SECOND.match(part) for part in parts):
        return None
    if not exactly and (":%S" in format_ or "%T" in format_):
        return _SIXTY
    return "^" + "".join(
        "60"
        if _SECOND.match(part)
        else _PARTS.get(part[-1:], ".*?")
        if part[:1] == "%"
        else re.escape(part)
        for part in parts
    )


def _without(is_wrong: pl.Expr, value: pl.Expr, must: bool) -> pl.Expr:
    return _refuse(is_wrong, value) if must else pl.when(~is_wrong).then(value)


def _refuse(is_wrong: pl.Expr, value: pl.Expr) -> pl.Expr:
    """The values; raises if `is_wrong` is true for one."""
    wide, narrow = pl.lit(1000, dtype=pl.Int16), pl.lit(0, dtype=pl.Int16)
    return pl.when(
        pl.when(is_wrong).then(wide).otherwise(narrow).cast(pl.Int8, strict=True) == 0
    ).then(value)


def _midnight(value: pl.Expr, type_: DataType) -> pl.Expr:
    naive = timestamp("ms" if type_.unit == "s" else type_.unit or "us").to_polars()
    stamps = value.str.to_date("%Y-%m-%d", strict=False).cast(naive, strict=False)
    return stamps if type_.timezone is None else existing(stamps, type_.timezone)
