"""The names and types of a delimited file's columns, found in a sample."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress

import polars as pl

from dataflare.errors import DataError
from dataflare.formats.any_file import AnyFile
from dataflare.formats.csv_read import CsvDialect
from dataflare.formats.names import unique_names
from dataflare.formats.records import Record, is_blank, regular_rows, requote, scan_records
from dataflare.formats.text_types import Spelling, TextColumn, infer

BOM = b"\xef\xbb\xbf"


def header_of(data: bytes, dialect: CsvDialect, path: AnyFile) -> tuple[list[str], int]:
    """The column names in the first record, and where the rows begin.

    Empty names become `column_N`; a name seen before gets a number.
    """
    start = len(BOM) if data.startswith(BOM) else 0
    body = data[start:]
    for record in scan_records(body, dialect.delimiter, dialect.quote):
        if is_blank(body, record.start, record.end):
            continue
        text = body[record.start : record.end]
        if record.problem:
            raise DataError(
                f"the header of {path} cannot be read: {record.problem}",
                code="E0506",
                help="set 'quote', 'escape' or 'delimiter' to those of the file, or fix its first line",
            )
        try:
            names = _fields(text.decode(), dialect)
        except csv.Error as error:
            raise DataError(
                f"the header of {path} cannot be read: it contains a carriage return outside quotes",
                code="E0506",
                help="lines end in LF or CRLF: convert the line ends of the file",
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"the header of {path} is not UTF-8",
                code="E0504",
                help="it begins like UTF-16: set 'encoding' to utf-16"
                if body.startswith((b"\xff\xfe", b"\xfe\xff"))
                else "set 'encoding' to the encoding of the file, such as latin-1",
            ) from error
        return unique_names(names), start + record.end
    raise DataError(
        f"{path} is empty: it has no header line",
        code="E0507",
        help="write the header line, or leave the file out of 'path'",
    )


def width_of(data: bytes, dialect: CsvDialect, path: AnyFile) -> tuple[int, int]:
    """For files without header: how many fields the first row has, and where rows begin."""
    start = len(BOM) if data.startswith(BOM) else 0
    for record in scan_records(data[start:], dialect.delimiter, dialect.quote):
        return record.fields, start
    raise DataError(
        f"{path} is empty", code="E0507", help="put rows into it, or leave it out of 'path'"
    )


Sample = tuple[Sequence[str], bytes, CsvDialect]
"""Text that begins and ends between records, and its columns."""


def texts_of(samples: Sequence[Sample], names: Sequence[str]) -> pl.DataFrame:
    """The columns as text, of the samples that have them. Broken rows are skipped: reading will
    report them."""
    frames = [_texts(sample, own, dialect) for own, sample, dialect in samples if sample]
    empty = pl.DataFrame(schema=dict.fromkeys(names, pl.String))
    return pl.concat([empty, *frames], how="diagonal").select(names)


def types_of(texts: pl.DataFrame, spelling: Spelling) -> list[TextColumn]:
    """Types of the columns that fit all their texts."""
    return infer(texts, spelling)


def loose_lines(data: bytes, dialect: CsvDialect, width: int) -> bytes:
    """Lines from the middle of a file that are certainly whole records. It is not known whether
    they are inside quotes, so only lines that are complete records are returned."""
    lines = data.split(b"\n")[1:-1]
    comma = dialect.delimiter.encode()
    mark = dialect.quote.encode() if dialect.quote else None
    whole = [
        line
        for line in lines
        if line.count(comma) == width - 1 and (mark is None or mark not in line)
    ]
    return b"\n".join([*whole, b""])


def _texts(data: bytes, names: Sequence[str], dialect: CsvDialect) -> pl.DataFrame:
    schema = {name: pl.String() for name in names}
    if regular_rows(data, dialect.delimiter, dialect.quote, len(names)) is not None:
        with suppress(pl.exceptions.PolarsError):
            return dialect.scan(data, schema).collect(engine="streaming")
    records = [
        r
        for r in scan_records(data, dialect.delimiter, dialect.quote)
        if r.fields == len(names) and not r.problem
    ]
    clean = b"".join(_text(data, record, dialect) for record in records)
    return dialect.scan(clean, schema, encoding="utf8-lossy").collect(engine="streaming")


def _text(data: bytes, record: Record, dialect: CsvDialect) -> bytes:
    text = data[record.start : record.end]
    if record.stray and dialect.quote:
        return requote(text, dialect.delimiter, dialect.quote)
    return text if text.endswith(b"\n") else text + b"\n"


def _fields(text: str, dialect: CsvDialect) -> list[str]:
    line = text.rstrip("\r\n")
    if dialect.quote is None:
        return line.split(dialect.delimiter)
    reader = csv.reader(io.StringIO(line), delimiter=dialect.delimiter, quotechar=dialect.quote)
    return next(reader)
