"""Parquet, Arrow and Excel files: the types that the files themselves name."""

from __future__ import annotations

import polars as pl

from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.listing import FoundFile
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.connectors.file.survey.shared import Survey, check_contract, check_same_columns
from dataflare.errors import DataError, InternalError
from dataflare.formats.table_read import read_sheet
from dataflare.model.types import Schema


def survey_tables(
    files: list[FoundFile], format_: str, config: FileSourceConfig, contract: Schema | None
) -> Survey:
    first: Schema | None = None
    for file in files:
        with file_errors(file.path):
            found = _normal(_table_schema(file, format_, config))
        if first is None:
            first = found
            continue
        check_same_columns(first.names, found.names, files[0].path, file.path)
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
        check_contract(first.names, contract, files[0].path)
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


def _normal(schema: Schema) -> Schema:
    """Columns that hold nothing but NULL are text: other files may have values there."""
    return Schema.of({f.name: "string" if f.type.name == "null" else f.type for f in schema})
