"""Delimited text: each file's header and dialect, and types that fit samples of all files."""

from __future__ import annotations

import polars as pl
from msgspec import Struct, structs

from dataflare.connectors.file.names import FoundFile
from dataflare.connectors.file.sampling import (
    HEAD_BYTES,
    HEADER_BYTES,
    PIECE_BYTES,
    compression_of,
    csv_encoding,
    first_rows,
    head_of,
    is_utf8,
    later_pieces,
    sample_rows,
    tasters,
)
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.connectors.file.survey.shared import (
    Facts,
    Survey,
    check_contract,
    common_names,
    schema_of,
)
from dataflare.errors import ConfigError
from dataflare.formats import csv_sniff
from dataflare.formats.any_file import AnyFile
from dataflare.formats.checksum import checksum
from dataflare.formats.compression import NONE, split_extension
from dataflare.formats.csv_find import AUTO, DialectOptions, SniffedDialect, find_dialect
from dataflare.formats.csv_read import CsvDialect
from dataflare.formats.number_marks import marks_format, marks_of, number_texts
from dataflare.formats.records import cut
from dataflare.formats.text_types import Spelling, TextColumn, with_contract
from dataflare.model.types import STRING, Schema
from dataflare.model.width import check_width
from dataflare.sdk.stores.stored_file import fetched


class _Head(Struct, frozen=True):
    """The beginning of a file as text, its dialect and names, and where its rows begin."""

    text: bytes
    ended: bool
    dialect: CsvDialect
    sniffed: SniffedDialect
    names: list[str]
    body: int
    encoding: str


def survey_csv(
    files: list[FoundFile],
    config: FileSourceConfig,
    contract: Schema | None,
    *,
    adds_columns: bool,
) -> Survey:
    headers: list[list[str]] = []
    facts: dict[str, Facts] = {}
    samples: list[csv_sniff.Sample] = []
    kinds: set[frozenset[str]] = set()
    chosen = tasters(len(files))
    first: _Head | None = None
    doubts: list[str] = []
    for number, file in enumerate(fetched(files, lambda each: each.path)):
        packed = compression_of(file, config)
        size = HEAD_BYTES if number == 0 else PIECE_BYTES if number in chosen else HEADER_BYTES
        head = _head(file, packed, config, contract, size, first)
        first = first or head
        doubts += _doubts(file, head, config)
        is_new = frozenset(head.names) not in kinds
        kinds.add(frozenset(head.names))
        headers.append(head.names)
        if number in chosen or is_new:
            rows = head.text[head.body :]
            dialect = head.dialect
            end = cut(rows, dialect.quote, dialect.delimiter, ended=head.ended).end
            samples.append(
                (head.names, first_rows(rows[:end], sample_rows(config, number)), dialect)
            )
            plain = packed == NONE and is_utf8(head.encoding) and dialect.rewriting is None
            if number == 0 and plain and not head.ended:
                samples += [
                    (head.names, csv_sniff.loose_lines(piece, dialect, len(head.names)), dialect)
                    for piece in later_pieces(file)
                ]
        facts[file.id] = {
            "compression": packed,
            "body": head.body,
            "head": checksum(head.text[: head.body]),
            "dialect": head.dialect.to_json(),
            "own": head.names,
            "encoding": head.encoding,
        }
    assert first is not None
    names = common_names([f.path for f in files], headers, contract, adds=adds_columns)
    texts = csv_sniff.texts_of(samples, names)
    spelling, marks = _spelling(texts, config, contract)
    columns = csv_sniff.types_of(texts, spelling)
    columns = _under_contract(columns, contract, files[0].path, spelling)
    by_name = {column.name: column for column in columns}
    for file, own in zip(files, headers, strict=True):
        facts[file.id]["columns"] = [
            by_name.get(name, TextColumn(name, STRING)).to_json() for name in own
        ]
    findings = {**first.sniffed.findings, **marks}
    if config.encoding == AUTO and not is_utf8(first.encoding):
        findings["encoding"] = first.encoding
    return Survey(files, "csv", schema_of(columns), facts, findings, doubts)


def _head(
    file: FoundFile,
    packed: str,
    config: FileSourceConfig,
    contract: Schema | None,
    size: int,
    first: _Head | None,
) -> _Head:
    """The beginning of a file. first: of the source's first file. The others have its dialect too,
    unless their columns match its columns only with another dialect."""
    encoding = csv_encoding(file, packed, config, size)
    raw, ended = head_of(file.path, packed, encoding, size)
    if first is not None:
        options = DialectOptions(
            first.dialect.delimiter,
            first.dialect.quote,
            first.dialect.escape,
            first.dialect.comment,
            config.has_header and bool(first.sniffed.titles),
            first.dialect.row_width,
        )
        head = _read(file.path, raw, ended, encoding, config, contract, options)
        if set(head.names) == set(first.names) or config.csv == options:
            return head
        own = _read(file.path, raw, ended, encoding, config, contract, config.csv)
        return own if set(own.names) == set(first.names) else head
    return _read(file.path, raw, ended, encoding, config, contract, config.csv)


def _read(
    path: AnyFile,
    raw: bytes,
    ended: bool,
    encoding: str,
    config: FileSourceConfig,
    contract: Schema | None,
    options: DialectOptions,
) -> _Head:
    start = len(csv_sniff.BOM) if raw.startswith(csv_sniff.BOM) else 0
    titles = config.header_row - 1 if config.header_row is not None else config.skip_rows
    start = _line(raw, start, titles)
    if config.header_row is not None:
        options = structs.replace(options, has_header=False)
    default = "\t" if split_extension(path)[0] in (".tsv", ".tab") else ","
    at_start = config.header_row is None and not titles
    sniffed = find_dialect(raw[start:], options, default, at_start=at_start)
    dialect = CsvDialect(
        sniffed.delimiter,
        sniffed.quote,
        tuple(config.null_values),
        sniffed.escape,
        sniffed.comment,
        sniffed.row_width,
    )
    if dialect.rewriting is not None:
        raw = dialect.rewriting.whole(raw)
        start = _line(raw, len(csv_sniff.BOM) if raw.startswith(csv_sniff.BOM) else 0, titles)
    start = _line(raw, start, sniffed.titles)
    if titles and "header_row" in sniffed.findings:
        line = str(titles + sniffed.titles + 1)
        sniffed = structs.replace(sniffed, findings={**sniffed.findings, "header_row": line})
    names, body = _names(raw[start:], dialect, path, config, contract)
    return _Head(raw, ended, dialect, sniffed, names, start + body, encoding)


def _line(text: bytes, start: int, lines: int) -> int:
    """Where the line begins that is `lines` lines after the one at `start`."""
    for _ in range(lines):
        newline = text.find(b"\n", start)
        if newline < 0:
            return len(text)
        start = newline + 1
    return start


def _doubts(file: FoundFile, head: _Head, config: FileSourceConfig) -> list[str]:
    doubts = []
    if head.sniffed.doubt is not None:
        doubts.append(f"{file.id} {head.sniffed.doubt}")
    if config.encoding == AUTO and head.encoding == "cp1252":
        doubts.append(f"{file.id} is not UTF-8 and is read as cp1252: set 'encoding' to what it is")
    return doubts


def _spelling(
    texts: pl.DataFrame, config: FileSourceConfig, contract: Schema | None
) -> tuple[Spelling, dict[str, str]]:
    """How numbers and dates are written, and which of it was detected. A text in a column that the
    contract declares as a number is not asked if it is not a number: one bad cell says nothing of how
    the others are written."""
    decimal: str | None = None if config.decimal == AUTO else config.decimal
    thousands = None if config.thousands == AUTO else config.thousands
    findings: dict[str, str] = {}
    if AUTO in (config.decimal, config.thousands):
        declared = {field.name for field in contract or () if field.type.is_numeric}
        columns = [
            number_texts(column) if column.name in declared else column
            for column in texts.get_columns()
        ]
        marks = marks_of(columns, decimal, thousands)
        if config.decimal == AUTO:
            decimal = marks[0]
            findings |= {"decimal": decimal} if decimal != "." else {}
        if config.thousands == AUTO and marks[1] is not None:
            thousands = marks[1]
            findings["thousands"] = thousands
    return Spelling(marks_format(decimal or ".", thousands), config.date_format), findings


def _names(
    head: bytes,
    dialect: CsvDialect,
    path: AnyFile,
    config: FileSourceConfig,
    contract: Schema | None,
) -> tuple[list[str], int]:
    if config.has_header:
        names, body = csv_sniff.header_of(head, dialect, path)
        check_width(len(names), f"the rows of {path}")
        return names, body
    width, body = csv_sniff.width_of(head, dialect, path)
    check_width(width, f"the rows of {path}")
    if contract is not None:
        if len(contract) != width:
            raise ConfigError(
                f"the schema has {len(contract)} columns, {path} has {width}",
                code="E0404",
                help="name as many columns in 'schema' as the rows have fields",
            )
        return list(contract.names), body
    return [f"column_{number}" for number in range(1, width + 1)], body


def _under_contract(
    columns: list[TextColumn], contract: Schema | None, path: AnyFile, spelling: Spelling
) -> list[TextColumn]:
    if contract is None:
        return columns
    check_contract([column.name for column in columns], contract, path)
    return with_contract(columns, contract, spelling)
