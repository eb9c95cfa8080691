"""Examine the files of a source before the run: columns, types, dialect.

Always true: a column that a file lacks is NULL in its rows; a file's own columns and their order are
kept with its split. The code of a format is imported when a file has it.
"""

from __future__ import annotations

from dataflare.connectors.file.listing import list_files, one_format
from dataflare.connectors.file.names import FoundFile
from dataflare.connectors.file.sampling import without_empty
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.connectors.file.survey.shared import Survey
from dataflare.errors import ConfigError
from dataflare.model.new_fields import Columns
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext

__all__ = ["Survey", "survey", "survey_files"]


def survey(
    config: FileSourceConfig,
    context: ConnectorContext,
    contract: Schema | None,
    learned: Columns,
    *,
    adds_columns: bool,
) -> Survey:
    """Examine the files. learned: columns that earlier reads found after the samples. adds_columns:
    whether columns that only later files have belong to the source. Raises SystemError_, DataError
    or ConfigError if a file cannot be read."""
    files = list_files(config.paths, context, config.format, config.storage)
    format_ = one_format(files, config.format)
    _check_options(config, format_)
    files = without_empty(files, config)
    return survey_files(
        files, format_, config, context, contract, learned, adds_columns=adds_columns
    )


def survey_files(
    files: list[FoundFile],
    format_: str,
    config: FileSourceConfig,
    context: ConnectorContext,
    contract: Schema | None,
    learned: Columns,
    *,
    adds_columns: bool,
) -> Survey:
    """Examine these files, at least one."""
    match format_:
        case "csv":
            from dataflare.connectors.file.survey.csv import survey_csv

            return survey_csv(files, config, contract, adds_columns=adds_columns)
        case "ndjson":
            from dataflare.connectors.file.survey.ndjson import survey_ndjson

            return survey_ndjson(files, config, contract, learned)
        case "json":
            from dataflare.connectors.file.survey.json import survey_json

            return survey_json(files, config, contract, learned, context.record_bytes_max)
        case "excel":
            from dataflare.connectors.file.survey.excel import survey_excel

            return survey_excel(files, config, contract, adds_columns=adds_columns)
        case _:
            from dataflare.connectors.file.survey.tables import survey_tables

            return survey_tables(files, format_, config, contract, adds_columns=adds_columns)


def _check_options(config: FileSourceConfig, format_: str) -> None:
    """Raises ConfigError (E0405) for an option that files of the format do not have."""
    unused = config.unused_by(format_)
    if unused:
        names = " and ".join(f"'{name}'" for name in unused)
        raise ConfigError(
            f"{names} {'has' if len(unused) == 1 else 'have'} no meaning for {format_} files",
            code="E0405",
            help="leave it out, or set 'format' to the format of the files",
        )
