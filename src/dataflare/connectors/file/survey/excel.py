"""Workbooks: the names in the sheets' headers, and types that fit all cells of a column."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.names import FoundFile
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.connectors.file.survey.shared import Facts, Survey, check_contract, common_names
from dataflare.errors import ConfigError, DataError
from dataflare.formats.any_file import AnyFile
from dataflare.formats.excel_book import SheetTable, read_book
from dataflare.formats.excel_cells import type_of
from dataflare.model.types import STRING, DataType, Schema
from dataflare.sdk.stores.local_copy import on_disk
from dataflare.sdk.stores.stored_file import RemoteFile


def survey_excel(
    files: list[FoundFile],
    config: FileSourceConfig,
    contract: Schema | None,
    *,
    adds_columns: bool,
) -> Survey:
    """All cells are checked: a sample cannot give the type of a column."""
    kinds: dict[str, frozenset[str]] = {}
    headers: list[list[str]] = []
    labels: list[AnyFile] = []
    facts: dict[str, Facts] = {}
    for file in files:
        own: dict[str, None] = {}
        for table in load_tables(file.path, config, contract):
            labels.append(Path(f"{file.path} sheet '{table.sheet}'"))
            headers.append(table.names)
            own |= dict.fromkeys(table.names)
            for name, more_kinds in table.kinds().items():
                kinds[name] = kinds.get(name, frozenset()) | more_kinds
        facts[file.id] = {"own": _added([*own], config)}
    names = _added(common_names(labels, headers, contract, adds=adds_columns), config)
    if contract is not None:
        check_contract(names, contract, labels[0])
    return Survey(files, "excel", _schema(names, kinds, contract), facts)


def load_tables(
    path: AnyFile, config: FileSourceConfig, contract: Schema | None
) -> list[SheetTable]:
    """The tables of a workbook, at least one. Without a header, the contract names the columns."""
    key = _key(path, config, contract)
    tables = _recent.pop(key, None)
    if tables is None:
        tables = _load(path, config, contract)
        _recent.clear()
        _recent[key] = tables
    return tables


_recent: dict[tuple[Any, ...], list[SheetTable]] = {}
"""A cache of one workbook, the last that was loaded: a run reads it right after its survey."""


def _key(path: AnyFile, config: FileSourceConfig, contract: Schema | None) -> tuple[Any, ...]:
    names = contract.names if contract is not None else None
    if isinstance(path, RemoteFile):
        return path, config.model_dump_json(), names
    state = os.stat(str(path))
    return str(path), state.st_size, state.st_mtime_ns, config.model_dump_json(), names


def _load(path: AnyFile, config: FileSourceConfig, contract: Schema | None) -> list[SheetTable]:
    with file_errors(path), on_disk(path) as here:
        tables = read_book(here, config.book)
    if not tables:
        raise DataError(
            f"{path} has no cells with values" + (f" in {config.range}" if config.range else ""),
            code="E0507",
            help="choose what to read with 'sheet' and 'range', or leave the file out of 'path'",
        )
    for table in tables:
        if config.sheet_column in table.names:
            raise ConfigError(
                f"'sheet_column' is '{config.sheet_column}', and {path} has such a column",
                code="E0404",
                help="give it a name that the sheets do not have",
            )
        if not config.has_header and contract is not None:
            _rename(table, [n for n in contract.names if n != config.sheet_column], path)
    return tables


def _rename(table: SheetTable, names: Sequence[str], path: AnyFile) -> None:
    if len(names) != len(table.names):
        raise ConfigError(
            f"the schema has {len(names)} columns, {path} has {len(table.names)}",
            code="E0404",
            help="name as many columns in 'schema' as the rows have cells",
        )
    new = dict(zip(table.names, names, strict=True))
    table.names = list(names)
    table.errors = {new[name]: marks for name, marks in table.errors.items()}
    table.codes = {new[name]: marks for name, marks in table.codes.items()}


def _added(names: Sequence[str], config: FileSourceConfig) -> list[str]:
    return [*names, config.sheet_column] if config.sheet_column is not None else list(names)


def _schema(
    names: Sequence[str], kinds: Mapping[str, frozenset[str]], contract: Schema | None
) -> Schema:
    types: dict[str, DataType] = dict.fromkeys(names, STRING)
    types.update({name: type_of(each) for name, each in kinds.items()})
    types.update({each.name: each.type for each in contract or ()})
    return Schema.of({name: types[name] for name in names})
