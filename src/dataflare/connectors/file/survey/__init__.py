"""What the files of a source hold, found before anything runs: columns, types, dialect.

Always true: all files of a source have the same columns by name; a file's own order of them is
kept with its split.
"""

from __future__ import annotations

from dataflare.connectors.file.listing import list_files, one_format
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.connectors.file.survey.csv import survey_csv
from dataflare.connectors.file.survey.excel import load_tables, survey_excel
from dataflare.connectors.file.survey.json import load_json, survey_json
from dataflare.connectors.file.survey.ndjson import survey_ndjson
from dataflare.connectors.file.survey.shared import Survey
from dataflare.connectors.file.survey.tables import survey_tables
from dataflare.model.new_fields import Columns
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext

__all__ = ["Survey", "load_json", "load_tables", "survey"]


def survey(
    config: FileSourceConfig,
    context: ConnectorContext,
    contract: Schema | None,
    learned: Columns,
) -> Survey:
    """Look at the files. learned: columns that earlier reads found beyond the samples. Raises
    SystemError_, DataError or ConfigError for what cannot be read."""
    files = list_files(config.paths, context, config.format)
    format_ = one_format(files, config.format)
    match format_:
        case "csv":
            return survey_csv(files, config, contract)
        case "ndjson":
            return survey_ndjson(files, config, contract, learned)
        case "json":
            return survey_json(files, config, contract, learned)
        case "excel":
            return survey_excel(files, config, contract)
        case _:
            return survey_tables(files, format_, config, contract)
