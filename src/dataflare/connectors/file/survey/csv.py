"""Delimited text: each file's header and dialect, and types that hold for samples of all files."""

from __future__ import annotations

from pathlib import Path

from dataflare.connectors.file.listing import FoundFile
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
from dataflare.connectors.file.survey.shared import (
    Facts,
    Survey,
    check_contract,
    check_same_columns,
    schema_of,
)
from dataflare.errors import ConfigError
from dataflare.formats import csv_sniff
from dataflare.formats.compression import NONE, split_extension
from dataflare.formats.csv_read import CsvDialect
from dataflare.formats.records import cut
from dataflare.formats.text_types import TextColumn, with_contract
from dataflare.model.types import Schema


def survey_csv(files: list[FoundFile], config: FileSourceConfig, contract: Schema | None) -> Survey:
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
        check_same_columns(headers[0], names, files[0].path, file.path)
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
    return Survey(files, "csv", schema_of(columns), facts)


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


def _under_contract(
    columns: list[TextColumn], contract: Schema | None, path: Path
) -> list[TextColumn]:
    if contract is None:
        return columns
    check_contract([column.name for column in columns], contract, path)
    return with_contract(columns, contract)
