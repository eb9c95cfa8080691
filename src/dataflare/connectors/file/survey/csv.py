"""Delimited text: each file's header and dialect, and types that hold for samples of all files."""

from __future__ import annotations

from pathlib import Path

from dataflare.connectors.file.listing import FoundFile
from dataflare.connectors.file.sampling import (
    HEAD_BYTES,
    HEADER_BYTES,
    PIECE_BYTES,
    compression_of,
    first_rows,
    head_of,
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
from dataflare.formats.compression import NONE, split_extension
from dataflare.formats.csv_read import CsvDialect
from dataflare.formats.records import cut
from dataflare.formats.text_types import TextColumn, with_contract
from dataflare.model.types import STRING, Schema


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
    for number, file in enumerate(files):
        dialect = CsvDialect(_delimiter(file.path, config), config.quote, tuple(config.null_values))
        packed = compression_of(file, config)
        size = HEAD_BYTES if number == 0 else PIECE_BYTES if number in chosen else HEADER_BYTES
        head, ended = head_of(file, packed, config, size)
        names, body = _names(head, dialect, file.path, config, contract)
        is_first = frozenset(names) not in kinds
        kinds.add(frozenset(names))
        headers.append(names)
        if number in chosen or is_first:
            rows = head[body:]
            end = cut(rows, dialect.quote, dialect.delimiter, ended=ended).end
            samples.append((names, first_rows(rows[:end], sample_rows(config, number))))
            if number == 0 and packed == NONE and not ended:
                samples += [
                    (names, csv_sniff.loose_lines(piece, dialect, len(names)))
                    for piece in later_pieces(file, config)
                ]
        facts[file.id] = {
            "compression": packed,
            "body": body,
            "dialect": dialect.to_json(),
            "own": names,
        }
    dialect = CsvDialect.from_json(facts[files[0].id]["dialect"])
    names = common_names([f.path for f in files], headers, contract, adds=adds_columns)
    columns = csv_sniff.types_of(samples, names, dialect)
    columns = _under_contract(columns, contract, files[0].path)
    by_name = {column.name: column for column in columns}
    for file, own in zip(files, headers, strict=True):
        facts[file.id]["columns"] = [
            by_name.get(name, TextColumn(name, STRING)).to_json() for name in own
        ]
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
