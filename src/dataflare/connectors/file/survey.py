"""What the files of a source hold, found out before anything runs: columns, types, dialect.

Always true: all files of a source have the same columns by name; a file's own order of them is
kept with its split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import Struct, field

from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.listing import FoundFile, list_files, one_format
from dataflare.connectors.file.sampling import (
    HEAD_BYTES,
    PIECE_BYTES,
    compression_of,
    first_rows,
    head_of,
    later_pieces,
    tasters,
)
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.errors import ConfigError, DataError, InternalError, did_you_mean
from dataflare.formats import csv_sniff, ndjson_read
from dataflare.formats.compression import NONE, open_stream, split_extension
from dataflare.formats.csv_read import CsvDialect
from dataflare.formats.records import cut
from dataflare.formats.table_read import json_rows, read_sheet
from dataflare.formats.text_types import TextColumn, with_contract
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext

Facts = dict[str, Any]
"""What `open` must know about a file: JSON, part of its split."""


class Survey(Struct, frozen=True):
    """schema: the columns of every file. facts: for each file, by its id."""

    files: list[FoundFile]
    format: str
    schema: Schema
    facts: dict[str, Facts] = field(default_factory=dict)


def survey(config: FileSourceConfig, context: ConnectorContext, contract: Schema | None) -> Survey:
    """Look at the files. Raises SystemError_, DataError or ConfigError for what cannot be read."""
    files = list_files(config.paths, context, config.format)
    format_ = one_format(files, config.format)
    match format_:
        case "csv":
            return _csv(files, config, contract)
        case "ndjson":
            return _ndjson(files, config, contract)
        case "json":
            return _json(files, config, contract)
        case _:
            return _tables(files, format_, config, contract)


def _csv(files: list[FoundFile], config: FileSourceConfig, contract: Schema | None) -> Survey:
    headers: list[list[str]] = []
    facts: dict[str, Facts] = {}
    samples: list[bytes] = []
    chosen = tasters(len(files))
    for number, file in enumerate(files):
        dialect = CsvDialect(_delimiter(file.path, config), config.quote, tuple(config.null_values))
        packed = compression_of(file, config)
        head, ended = head_of(file, packed, config, HEAD_BYTES if number == 0 else PIECE_BYTES)
        names, body = _names(head, dialect, file.path, config, contract)
        headers.append(names)
        _same_columns(headers[0], names, files[0].path, file.path)
        if number in chosen and names == headers[0]:
            rows = head[body:]
            end = cut(rows, dialect.quote, dialect.delimiter, ended=ended).end
            samples.append(first_rows(rows[:end], config.schema_sample_rows))
            if number == 0 and packed == NONE and not ended:
                samples += [
                    csv_sniff.loose_lines(piece, dialect, len(names))
                    for piece in later_pieces(file, config)
                ]
        facts[file.id] = {"compression": packed, "body": body, "dialect": dialect.to_json()}
    dialect = CsvDialect.from_json(facts[files[0].id]["dialect"])
    columns = csv_sniff.types_of(samples, headers[0], dialect)
    columns = _under_contract(columns, contract, files[0].path)
    by_name = {column.name: column for column in columns}
    for file, names in zip(files, headers, strict=True):
        facts[file.id]["columns"] = [by_name[name].to_json() for name in names]
    return Survey(files, "csv", _schema(columns), facts)


def _ndjson(files: list[FoundFile], config: FileSourceConfig, contract: Schema | None) -> Survey:
    facts: dict[str, Facts] = {}
    samples: list[bytes] = []
    chosen = tasters(len(files))
    for number, file in enumerate(files):
        packed = compression_of(file, config)
        size = HEAD_BYTES if number == 0 else PIECE_BYTES if number in chosen else 16
        head, ended = head_of(file, packed, config, size)
        body = len(csv_sniff.BOM) if head.startswith(csv_sniff.BOM) else 0
        facts[file.id] = {"compression": packed, "body": body}
        if number not in chosen:
            continue
        head = head[body:]
        samples.append(
            first_rows(head[: cut(head, None, ",", ended=ended).end], config.schema_sample_rows)
        )
        if number == 0 and packed == NONE and not ended:
            samples += [
                b"\n".join(piece.split(b"\n")[1:-1]) for piece in later_pieces(file, config)
            ]
    columns = _json_columns(samples, files[0].path, contract)
    for file in files:
        facts[file.id]["columns"] = [column.to_json() for column in columns]
    return Survey(files, "ndjson", _schema(columns), facts)


def _json(files: list[FoundFile], config: FileSourceConfig, contract: Schema | None) -> Survey:
    samples = [b"\n".join(load_json(f.path, compression_of(f, config), config)) for f in files]
    columns = _json_columns(samples, files[0].path, contract)
    facts: dict[str, Facts] = {
        file.id: {
            "compression": compression_of(file, config),
            "columns": [column.to_json() for column in columns],
        }
        for file in files
    }
    return Survey(files, "json", _schema(columns), facts)


def _json_columns(
    samples: Sequence[bytes], path: Path, contract: Schema | None
) -> list[TextColumn]:
    """What the samples have, and after that what only the contract names: keys may be absent."""
    columns = ndjson_read.sniff(samples)
    if contract is not None:
        known = {column.name for column in columns}
        absent = [
            TextColumn(f.name, f.type, declared=True) for f in contract if f.name not in known
        ]
        columns = with_contract([*columns, *absent], contract)
    if not columns:
        raise DataError(
            f"{path} has no rows to find columns in",
            code="E0507",
            help="give the columns in 'schema', or leave the file out of 'path'",
        )
    return columns


def _tables(
    files: list[FoundFile], format_: str, config: FileSourceConfig, contract: Schema | None
) -> Survey:
    first: Schema | None = None
    for file in files:
        with file_errors(file.path):
            found = _normal(_table_schema(file, format_, config))
        if first is None:
            first = found
            continue
        _same_columns(first.names, found.names, files[0].path, file.path)
        for column in first:
            if found[column.name] != column.type:
                raise DataError(
                    f"column '{column.name}' is {column.type} in {files[0].path} "
                    f"and {found[column.name]} in {file.path}",
                    code="E0508",
                    help="say the column's type in 'schema', or read the files in two sources",
                )
    assert first is not None
    if contract is not None:
        _check_contract(first.names, contract, files[0].path)
        named = {field_.name: field_.type for field_ in contract}
        first = Schema.of({f.name: named.get(f.name, f.type) for f in first})
    return Survey(files, format_, first, {file.id: {} for file in files})


def _table_schema(file: FoundFile, format_: str, config: FileSourceConfig) -> Schema:
    match format_:
        case "parquet":
            return Schema.from_polars(pl.read_parquet_schema(file.path))
        case "arrow":
            return Schema.from_polars(pl.scan_ipc(file.path, glob=False).collect_schema())
        case "excel":
            return Schema.from_polars(read_sheet(file.path, config.sheet, config.has_header).schema)
    raise InternalError(f"no reader for format {format_}")


def load_json(path: Path, packed: str, config: FileSourceConfig) -> list[bytes]:
    """A whole JSON file as a line of text for each row."""
    with file_errors(path):
        stream = open_stream(path, packed, encoding=config.encoding)
        try:
            parts = iter(lambda: stream.read(1 << 20), b"")
            return json_rows(b"".join(parts).removeprefix(csv_sniff.BOM), path)
        finally:
            stream.close()


def _normal(schema: Schema) -> Schema:
    """Columns that hold nothing but NULL are text: other files may have values there."""
    return Schema.of({f.name: "string" if f.type.name == "null" else f.type for f in schema})


def _delimiter(path: Path, config: FileSourceConfig) -> str:
    if config.delimiter is not None:
        return config.delimiter
    return "\t" if split_extension(path)[0] in (".tsv", ".tab") else ","


def _names(
    head: bytes, dialect: CsvDialect, path: Path, config: FileSourceConfig, contract: Schema | None
) -> tuple[list[str], int]:
    if config.has_header:
        return csv_sniff.header_of(head, dialect, path)
    width, body = csv_sniff.width_of(head, dialect, path)
    if contract is not None:
        if len(contract) != width:
            raise ConfigError(
                f"the schema has {len(contract)} columns, {path} has {width}",
                code="E0404",
                help="name as many columns in 'schema' as the rows have fields",
            )
        return list(contract.names), body
    return [f"column_{number}" for number in range(1, width + 1)], body


def _same_columns(first: Sequence[str], names: Sequence[str], first_path: Path, path: Path) -> None:
    if set(first) == set(names):
        return
    lacks = [name for name in first if name not in names]
    adds = [name for name in names if name not in first]
    parts = [f"lacks {', '.join(lacks)}"] if lacks else []
    parts += [f"has also {', '.join(adds)}"] if adds else []
    raise DataError(
        f"{path} {' and '.join(parts)}, unlike {first_path}",
        code="E0508",
        help="files of one source have the same columns; read them in a source each",
    )


def _under_contract(
    columns: list[TextColumn], contract: Schema | None, path: Path
) -> list[TextColumn]:
    if contract is None:
        return columns
    _check_contract([column.name for column in columns], contract, path)
    return with_contract(columns, contract)


def _check_contract(names: Sequence[str], contract: Schema, path: Path) -> None:
    for field_ in contract:
        if field_.name not in names:
            raise DataError(
                f"{path} has no column '{field_.name}', which 'schema' names",
                code="E0508",
                notes=[f"it has: {', '.join(names)}"],
                help=did_you_mean(field_.name, names),
            )


def _schema(columns: Sequence[TextColumn]) -> Schema:
    return Schema.of([(column.name, column.type) for column in columns])
