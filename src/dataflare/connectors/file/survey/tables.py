"""Parquet and Arrow files: the types in the files' own schemas."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.names import FoundFile
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.connectors.file.survey.shared import (
    Facts,
    Survey,
    check_contract,
    common_names,
)
from dataflare.connectors.file.table_files import schema_copy
from dataflare.errors import ConfigError, DataError, InternalError
from dataflare.formats.any_file import AnyFile
from dataflare.formats.column_notes import ColumnNote, Notes, column_notes
from dataflare.formats.day_times import UnknownTimes, beyond_a_day
from dataflare.formats.table_types import held_type, may_fit
from dataflare.model.types import DataType, Schema, unheld
from dataflare.sdk.stores.stored_file import fetched


def survey_tables(
    files: list[FoundFile],
    format_: str,
    config: FileSourceConfig,
    contract: Schema | None,
    *,
    adds_columns: bool,
) -> Survey:
    schemas: list[Schema] = []
    facts: dict[str, Facts] = {}
    for file in fetched(files, lambda each: each.path, tails=True):
        with file_errors(file.path), schema_copy(file.path, format_) as path:
            notes = column_notes(path, format_)
            schemas.append(_normal(_table_schema(file, path, format_, config, notes)))
            _refuse_odd_times(file, path, format_, schemas[-1], config)
        meanings = {name: note.meaning for name, note in notes.items() if note.meaning is not None}
        facts[file.id] = {"own": schemas[-1].names}
        if meanings:
            facts[file.id]["meanings"] = meanings
    names = common_names(
        [f.path for f in files], [s.names for s in schemas], contract, adds=adds_columns
    )
    if contract is not None:
        check_contract(names, contract, files[0].path)
    schema = _joined(names, schemas, files, contract or Schema(()))
    return Survey(files, format_, schema, facts)


def _joined(
    names: Sequence[str], schemas: Sequence[Schema], files: Sequence[FoundFile], contract: Schema
) -> Schema:
    """The columns with the type that they have in all files, or the contract's. Raises DataError
    (E0508) if the types in the files differ."""
    types: dict[str, DataType] = {}
    places: dict[str, AnyFile] = {}
    for schema, file in zip(schemas, files, strict=True):
        if contract:
            schema = _under_contract(schema, contract, file.path)
        for column in schema:
            type_ = types.setdefault(column.name, column.type)
            first = places.setdefault(column.name, file.path)
            if type_ != column.type and column.name in names:
                raise DataError(
                    f"column '{column.name}' is {type_} in {first} and {column.type} in {file.path}",
                    code="E0508",
                    help="set the column's type in 'schema', or read the files in two sources",
                )
    return Schema.of({name: types[name] for name in names})


def _under_contract(schema: Schema, contract: Schema, path: AnyFile) -> Schema:
    types = {field.name: field.type for field in contract}
    for field in schema:
        to = types.get(field.name, field.type)
        if not may_fit(field.type, to):
            raise ConfigError(
                f"column '{field.name}' is {field.type} in {path}, and 'schema' says {to}",
                code="E0405",
                notes=[f"a value of the type {field.type} cannot be cast to {to}"],
                help="give the column's own type in 'schema', and derive the other in a step 'map'",
            )
    return Schema.of({f.name: types.get(f.name, f.type) for f in schema})


def _table_schema(
    file: FoundFile, path: Path, format_: str, config: FileSourceConfig, notes: Notes
) -> Schema:
    """The columns of supported types. Raises DataError (E0509) for an unsupported one, unless the
    option `columns` leaves it out and Polars can read the rest."""
    for name, note in notes.items():
        if note.unreadable is not None and (note.blocks or _is_selected(name, config)):
            raise _refused(note.unreadable, name, file, can_skip=not note.blocks)
    types: dict[str, DataType] = {}
    for name, dtype in _polars_schema(path, format_).items():
        try:
            types[name] = held_type(dtype, notes.get(name, ColumnNote()).meaning)
        except DataError as error:
            if _is_selected(name, config):
                raise _refused(str(dtype), name, file, can_skip=True) from error
    return Schema.of(types)


def _refuse_odd_times(
    file: FoundFile, path: Path, format_: str, schema: Schema, config: FileSourceConfig
) -> None:
    """Raises DataError (E0509) for a column with 24:00:00 in it, which Polars makes NULL."""
    times = [f.name for f in schema if "time" in re.findall(r"\w+", str(f.type))]
    wanted = [name for name in times if _is_selected(name, config)]
    try:
        name = beyond_a_day(path, format_, wanted) if wanted else None
    except UnknownTimes as error:
        raise DataError(
            f"{file.path}: column '{error.column}' has NULLs, and each may be a time outside of a day, such as "
            "24:00:00; the file does not tell",
            code="E0509",
            help="install pyarrow, which tells them apart; or name the other columns in 'columns'",
        ) from None
    if name is not None:
        raise DataError(
            f"{file.path}: column '{name}' has a time outside of a day, such as 24:00:00",
            code="E0509",
            help="name the other columns in 'columns', or have it written as text",
        )


def _is_selected(name: str, config: FileSourceConfig) -> bool:
    return config.columns is None or name in config.columns


def _refused(type_: str, column: str, file: FoundFile, *, can_skip: bool) -> DataError:
    error = unheld(type_, column, file.path)
    if "unknown zone" in type_:
        error.help = "write the column in UTC or in a zone of the time zone database, as pandas' "
        error.help += "tz_convert('UTC') does; the instants stay the same"
    elif can_skip:
        error.help = "name the other columns in 'columns', or have it written as text"
    return error


def _polars_schema(path: Path, format_: str) -> Mapping[str, Any]:
    match format_:
        case "parquet":
            return pl.read_parquet_schema(path)
        case "arrow":
            return pl.scan_ipc(path, glob=False).collect_schema()
    raise InternalError(f"no reader for format {format_}")


def _normal(schema: Schema) -> Schema:
    """Columns with only NULL are text: other files may have values there."""
    return Schema.of({f.name: "string" if f.type.name == "null" else f.type for f in schema})
